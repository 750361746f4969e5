//! The client against a runtime in this process.

use std::time::Duration;

use api_types::runtime::v1::{
    ContainerConfig, ContainerMetadata, ContainerState as Wire, ExecSyncResponse, ImageSpec, LinuxContainerResources,
    PodSandboxConfig,
};
use cri::{Code, Cri, EventKind};
use futures::StreamExt;
use host::Clock;
use pod::{ContainerState, PodUid};
use testing::{FakeCollector, FakeCri, Flavor, Seeded, attribute, pod};

const TIMEOUT: Duration = Duration::from_secs(120);

fn connect(fake: &FakeCri) -> Cri {
    Cri::connect(&fake.endpoint(), "", TIMEOUT).unwrap()
}
fn seed(fake: &FakeCri, name: &str) -> (PodUid, Seeded) {
    let desired = pod(name).container("app", "nginx").container("log", "busybox").desired();
    (desired.uid.clone(), fake.seed(&desired))
}
fn status_calls(fake: &FakeCri) -> usize {
    fake.calls("container_status") + fake.calls("podsandbox_status")
}

#[tokio::test(start_paused = true)]
async fn an_unchanged_node_costs_two_calls() {
    let fake = FakeCri::start();
    for n in 0..10 {
        seed(&fake, &format!("web-{n}"));
    }
    let cri = connect(&fake);
    assert_eq!(cri.observe_all().await.unwrap().pods.len(), 10);
    assert_eq!(status_calls(&fake), 30);
    fake.forget_calls();
    assert_eq!(cri.observe_all().await.unwrap().pods.len(), 10);
    assert_eq!(fake.call_log().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn only_what_changed_is_asked_for() {
    let fake = FakeCri::start();
    let (_, web) = seed(&fake, "web");
    seed(&fake, "other");
    let cri = connect(&fake);
    cri.observe_all().await.unwrap();
    fake.exit(&web.containers["app"], 3);
    fake.forget_calls();
    let all = cri.observe_all().await.unwrap();
    assert_eq!(status_calls(&fake), 1);
    let pod = all.pods.iter().find(|p| p.uid.as_str() == "web-uid").unwrap();
    let app = pod.newest("app").unwrap();
    assert_eq!((app.state, app.exit_code, app.reason.as_str()), (ContainerState::Exited, 3, "Error"));
    assert_eq!(pod.newest("log").unwrap().state, ContainerState::Running);
}

#[tokio::test(start_paused = true)]
async fn one_pod_is_found_by_its_uid() {
    let fake = FakeCri::start();
    let (uid, web) = seed(&fake, "web");
    seed(&fake, "other");
    let pod = connect(&fake).observe_pod(&uid).await.unwrap();
    assert_eq!((pod.sandboxes.len(), pod.containers.len()), (1, 2));
    assert_eq!(pod.key.to_string(), "default/web");
    assert_eq!(pod.sandbox().unwrap().id, web.sandbox);
    assert_eq!(pod.sandbox().unwrap().ips.len(), 1);
    let nobody = connect(&fake).observe_pod(&"nobody".into()).await.unwrap();
    assert!(nobody.sandboxes.is_empty() && nobody.containers.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_container_that_cannot_be_read_hides_only_its_pod() {
    let fake = FakeCri::start();
    seed(&fake, "web");
    seed(&fake, "other");
    fake.fail_next("container_status", Code::Unknown, "shim is gone");
    let all = connect(&fake).observe_all().await.unwrap();
    assert_eq!((all.pods.len(), all.failed.len()), (1, 1));
    assert_eq!(all.failed[0].1.message, "shim is gone");
}

#[tokio::test(start_paused = true)]
async fn a_container_that_vanishes_between_list_and_status_is_left_out() {
    let fake = FakeCri::start();
    let (uid, _) = seed(&fake, "web");
    fake.fail_next("container_status", Code::NotFound, "gone");
    assert_eq!(connect(&fake).observe_pod(&uid).await.unwrap().containers.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn new_resources_are_seen_though_the_state_stays() {
    let fake = FakeCri::start();
    let (uid, web) = seed(&fake, "web");
    let cri = connect(&fake);
    cri.observe_pod(&uid).await.unwrap();
    let more = LinuxContainerResources { cpu_shares: 512, ..Default::default() };
    cri.update_container_resources(&web.containers["app"], more, Default::default()).await.unwrap();
    let pod = cri.observe_pod(&uid).await.unwrap();
    assert_eq!(pod.newest("app").unwrap().resources.as_ref().unwrap().cpu_shares, 512);
}

#[tokio::test(start_paused = true)]
async fn a_second_attempt_is_newer_than_the_first() {
    let fake = FakeCri::start();
    let (uid, web) = seed(&fake, "web");
    let first = &web.containers["app"];
    fake.exit(first, 1);
    let cri = connect(&fake);
    let labels = fake.container_config(first).unwrap().labels;
    let config = ContainerConfig {
        metadata: Some(ContainerMetadata { name: "app".into(), attempt: 1 }),
        image: Some(ImageSpec { image: "nginx".into(), ..Default::default() }),
        labels,
        ..Default::default()
    };
    let second = cri.create_container(&web.sandbox, config, PodSandboxConfig::default()).await.unwrap();
    cri.start_container(&second).await.unwrap();
    let pod = cri.observe_pod(&uid).await.unwrap();
    assert_eq!(pod.newest("app").unwrap().id, second);
    assert_eq!(&pod.previous("app").unwrap().id, first);
    assert_eq!(pod.newest("app").unwrap().restart_count, 1);
}

#[tokio::test(start_paused = true)]
async fn a_runtime_that_does_not_answer_is_given_up_in_time() {
    let fake = FakeCri::start();
    fake.delay("run_podsandbox", Duration::from_secs(3600));
    fake.delay("stop_container", Duration::from_secs(3600));
    let cri = connect(&fake);
    let started = tokio::time::Instant::now();
    let error = cri.run_pod_sandbox(PodSandboxConfig::default(), "").await.unwrap_err();
    assert!(error.is_deadline(), "{error}");
    assert_eq!(started.elapsed().as_secs(), 240);
    let started = tokio::time::Instant::now();
    let error = cri.stop_container(&"c1".into(), Duration::from_secs(30)).await.unwrap_err();
    assert!(error.is_deadline(), "{error}");
    assert_eq!(started.elapsed().as_secs(), 150);
}

#[tokio::test(start_paused = true)]
async fn a_restarted_runtime_is_found_again() {
    let fake = FakeCri::start();
    let cri = connect(&fake);
    cri.version().await.unwrap();
    fake.down();
    for _ in 0..3 {
        let error = cri.version().await.unwrap_err();
        assert!(error.is_unavailable(), "{error}");
    }
    assert!(cri.version().await.unwrap_err().message.contains("No such file"));
    fake.up();
    assert_eq!(cri.version().await.unwrap().runtime_name, "containerd");
}

#[tokio::test(start_paused = true)]
async fn an_old_runtime_lacks_calls_but_has_containerds_events() {
    let fake = FakeCri::start_as(Flavor::Containerd1_6);
    let (_, web) = seed(&fake, "web");
    let cri = connect(&fake);
    assert!(cri.runtime_config().await.unwrap_err().is_unimplemented());
    assert!(cri.container_events().next().await.unwrap().unwrap_err().is_unimplemented());
    let mut events = cri.containerd_events();
    let (event, ()) = tokio::join!(events.next(), async {
        while fake.open_streams() == 0 {
            tokio::task::yield_now().await;
        }
        fake.exit(&web.containers["app"], 0);
    });
    let event = event.unwrap().unwrap();
    assert_eq!((event.id, event.pod, event.kind), (web.containers["app"].clone(), None, EventKind::Stopped));
}

#[tokio::test(start_paused = true)]
async fn exec_returns_what_the_command_left() {
    let fake = FakeCri::start();
    let (_, web) = seed(&fake, "web");
    fake.on_exec(|container, command| ExecSyncResponse {
        stdout: format!("{container}: {}", command.join(" ")).into_bytes(),
        stderr: Vec::new(),
        exit_code: 7,
    });
    let output = connect(&fake)
        .exec_sync(&web.containers["app"], &["cat".into(), "/x".into()], Duration::from_secs(1))
        .await
        .unwrap();
    assert_eq!((output.stdout.as_slice(), output.exit_code), (b"app: cat /x".as_slice(), 7));
}

#[tokio::test(start_paused = true)]
async fn an_image_is_there_after_its_pull() {
    let fake = FakeCri::start();
    let cri = connect(&fake);
    assert_eq!(cri.image_status("nginx").await.unwrap(), None);
    let (uid, key) = ("u".into(), pod::PodKey::new("default", "web"));
    let pull = cri::PullRequest {
        image: "nginx",
        credentials: None,
        uid: &uid,
        key: &key,
        annotations: Default::default(),
        runtime_handler: "",
    };
    fake.fail_next("pull_image", Code::Unknown, "RegistryUnavailable: no route");
    let error = cri.pull_image(pull.clone()).await.unwrap_err();
    assert_eq!(error.class(), Some(cri::ErrorClass::RegistryUnavailable));
    let reference = cri.pull_image(pull).await.unwrap();
    assert_eq!(cri.image_status(&reference).await.unwrap().unwrap().repo_tags, ["nginx"]);
    cri.remove_image("nginx").await.unwrap();
    assert!(cri.list_images().await.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_late_oom_reason_is_noticed() {
    let fake = FakeCri::start();
    let (uid, web) = seed(&fake, "web");
    let app = &web.containers["app"];
    let cri = connect(&fake);
    fake.exit(app, 137);
    assert_eq!(cri.observe_pod(&uid).await.unwrap().newest("app").unwrap().reason, "Error");
    fake.edit_container(app, |c| c.reason = "OOMKilled".into());
    assert_eq!(fake.container_status(app).unwrap().state, Wire::ContainerExited as i32);
    assert_eq!(cri.observe_pod(&uid).await.unwrap().newest("app").unwrap().reason, "OOMKilled");
}

#[tokio::test(start_paused = true)]
async fn a_call_that_fails_or_is_given_up_is_a_failed_span() {
    let (collector, fake) = (FakeCollector::start(), FakeCri::start());
    let config = trace::Config {
        endpoint: collector.endpoint(),
        sampling_rate_per_million: 1_000_000,
        host_name: "node-1".to_owned(),
    };
    let exporter = tokio::spawn(trace::start(&config, Clock::start()).unwrap().run());
    let cri = connect(&fake);
    fake.fail_next("remove_image", Code::NotFound, "no such image");
    cri.remove_image("nginx").await.unwrap_err();
    fake.delay("image_fs_info", 2 * TIMEOUT);
    cri.image_fs_info().await.unwrap_err();
    let mut codes = Vec::new();
    while codes.len() < 2 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let failed = collector.spans().into_iter().map(|(_, span)| span).filter(|span| span.status.is_some());
        codes = failed
            .filter(|span| span.name.starts_with("runtime.v1.ImageService/"))
            .filter_map(|span| attribute(&span.attributes, "rpc.response.status_code").map(str::to_owned))
            .collect();
    }
    codes.sort();
    assert_eq!(codes, ["CANCELLED", "NOT_FOUND"]);
    exporter.abort();
}
