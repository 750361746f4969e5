//! A pod in the host's namespaces.

use std::fs;

use serde_json::{Value, json};

use super::{
    calls,
    pods::{Place, TestPod},
    report::{Checked, Report, unexpected},
};

fn spec() -> Value {
    let container = json!({"name": "main", "image": "any", "command": ["sh", "-c", "while :; do sleep 1; done"]});
    json!({"hostNetwork": true, "hostPID": true, "containers": [container]})
}

pub(super) async fn check(place: &Place, image: &str, report: &mut Report) -> anyhow::Result<()> {
    let pod = TestPod::new(place, "host", &spec())?;
    report.add(calls::HOST_NAMESPACES, namespaces(&pod, image).await);
    Ok(())
}

async fn namespaces(pod: &TestPod<'_>, image: &str) -> Checked {
    let sandbox = pod.run_sandbox().await?;
    let container = pod.create(&sandbox, "main", image, 0).await?;
    pod.start(&container).await?;
    for (kind, name) in [("net", "network"), ("pid", "PID")] {
        let link = format!("/proc/self/ns/{kind}");
        let theirs = pod.shell(&container, &format!("readlink {link}")).await?;
        let ours = fs::read_link(&link).map(|path| path.to_string_lossy().into_owned()).unwrap_or_default();
        if theirs != ours {
            return unexpected(format!("{name} namespace {theirs}, the host's is {ours}"));
        }
    }
    Ok("the pod is in both namespaces of the host".to_owned())
}
