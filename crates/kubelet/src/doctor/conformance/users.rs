//! A pod in a user namespace of its own.

use serde_json::{Value, json};

use super::{
    calls,
    pods::{OWN_USERS, Place, TestPod},
    report::{Checked, Report, unexpected},
};

/// Where the agent's own ranges do not begin: no pod of the node has these ids.
const FIRST_HOST_ID: u32 = 0x7000_0000;

fn spec() -> Value {
    let container = json!({"name": "main", "image": "any", "command": ["sh", "-c", "while :; do sleep 1; done"]});
    json!({"hostUsers": false, "containers": [container]})
}

pub(super) async fn check(place: &Place, image: &str, report: &mut Report) -> anyhow::Result<()> {
    let mut pod = TestPod::new(place, "users", &spec())?;
    pod.own_users = Some(FIRST_HOST_ID);
    let told = place.cri.status().await.is_ok_and(|status| status.handlers.iter().any(|h| h.user_namespaces));
    if told {
        report.add_rare(calls::USER_NAMESPACE, mapped(&pod, image).await);
    } else {
        report.not_tried(calls::USER_NAMESPACE, "the runtime does not say that it can");
    }
    Ok(())
}

async fn mapped(pod: &TestPod<'_>, image: &str) -> Checked {
    let sandbox = pod.run_sandbox().await?;
    let container = pod.create(&sandbox, "main", image, 0).await?;
    pod.start(&container).await?;
    let map = pod.shell(&container, "cat /proc/self/uid_map").await?;
    let found: Vec<&str> = map.split_whitespace().collect();
    let (host, length) = (FIRST_HOST_ID.to_string(), OWN_USERS.to_string());
    if found == ["0", &host, &length] {
        return Ok(format!("root is {host} on the host"));
    }
    unexpected(format!("uid_map is {map:?} instead of 0 {host} {length}"))
}
