//! Volumes follow the pod while it lives.

use std::fs;

use serde_json::{Value, json};
use testing::{PodBuilder, pod};

use crate::bed::Machine;

fn with_volume(volume: Value) -> PodBuilder {
    pod("web").label("tier", "one").container("app", "nginx").spec(|spec| {
        spec.volumes = serde_json::from_value(json!([volume])).unwrap();
    })
}

#[tokio::test(start_paused = true)]
async fn a_label_that_changes_while_volumes_are_made_shows_in_them() {
    let machine = Machine::new();
    let agent = machine.agent().await;
    let labels = json!({"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}});
    let web =
        with_volume(json!({"name": "info", "downwardAPI": {"defaultMode": 420, "items": [labels]}})).with(|app| {
            app.volume_mounts = serde_json::from_value(json!([{"name": "info", "mountPath": "/info"}])).unwrap();
        });
    let web = machine.create(web);
    agent.set(&web).await;
    while agent.life(&web).is_none() {
        tokio::task::yield_now().await; // until its worker has begun
    }
    agent.set(&machine.changed(&web, |pod| pod["metadata"]["labels"]["tier"] = json!("two"))).await;
    agent.until_running(&web).await;
    let file = machine.pod_dir(&web.uid).join("volumes/kubernetes.io~downward-api/info/labels");
    agent.until("the file shows it", || fs::read_to_string(&file).is_ok_and(|text| text.contains("two"))).await;
}

#[tokio::test(start_paused = true)]
async fn an_ephemeral_container_may_be_the_first_to_mount_a_volume() {
    let machine = Machine::new();
    let agent = machine.agent().await;
    let web = machine.create(with_volume(json!({"name": "scratch", "emptyDir": {}})));
    agent.set(&web).await;
    agent.until_running(&web).await;
    let debug = json!([{"name": "debug", "image": "nginx", "imagePullPolicy": "IfNotPresent",
        "volumeMounts": [{"name": "scratch", "mountPath": "/scratch"}]}]);
    agent.set(&machine.changed(&web, |pod| pod["spec"]["ephemeralContainers"] = debug)).await;
    agent.until("it is made", || machine.cri.container(&web.uid, "debug").is_some()).await;
    assert_eq!(machine.cri.calls("start_container"), 2, "the other one runs on");
}

#[tokio::test(start_paused = true)]
async fn a_resize_shows_in_the_volume_that_tells_of_it() {
    let machine = Machine::new();
    let agent = machine.agent().await;
    agent.tell(pod_workers::PodCommand::SourcesReady).await;
    let resource = json!({"containerName": "app", "resource": "requests.cpu", "divisor": "1m"});
    let items = json!([{"path": "cpu", "resourceFieldRef": resource}]);
    let web = with_volume(json!({"name": "info", "downwardAPI": {"defaultMode": 420, "items": items}})).with(|app| {
        app.resources = serde_json::from_value(json!({"requests": {"cpu": "200m"}})).unwrap();
        app.volume_mounts = serde_json::from_value(json!([{"name": "info", "mountPath": "/info"}])).unwrap();
    });
    let web = machine.create(web);
    agent.set(&web).await;
    agent.until_running(&web).await;
    let file = machine.pod_dir(&web.uid).join("volumes/kubernetes.io~downward-api/info/cpu");
    assert_eq!(fs::read_to_string(&file).unwrap(), "200");
    let resized = machine.changed(&web, |pod| {
        pod["spec"]["containers"][0]["resources"]["requests"]["cpu"] = json!("500m");
        pod["metadata"]["generation"] = json!(2);
    });
    agent.set(&resized).await;
    agent.until("the file shows it", || fs::read_to_string(&file).is_ok_and(|text| text == "500")).await;
    assert_eq!(machine.cri.calls("create_container"), 1);
}
