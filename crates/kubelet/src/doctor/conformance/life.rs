//! A pod from its sandbox to its end: what is made, how it is seen, and how it goes away.

use std::time::Duration;

use cri::{Cri, Image};
use pod::{ContainerId, ContainerState, SandboxId};
use serde_json::{Value, json};

use super::{
    calls,
    events::Listener,
    node,
    pods::{OWN, Place, TestPod},
    report::{Checked, Report, unexpected},
    running::{self, Running},
};

const GRACE: Duration = Duration::from_secs(10);
/// What the main container ends with when it is asked to end; one that was killed would have another.
const ON_TERM: i32 = 7;
/// What the short container ends with by itself.
const BY_ITSELF: i32 = 5;

fn spec() -> Value {
    let main = format!("trap 'exit {ON_TERM}' TERM; echo first; while :; do echo again; sleep 1; done");
    let context = json!({
        "runAsUser": running::USER, "runAsGroup": running::GROUP, "readOnlyRootFilesystem": true,
        "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]},
    });
    let shell = |name: &str, script: &str| json!({"name": name, "image": "any", "command": ["sh", "-c", script]});
    let mut containers = [shell("main", &main), shell("short", &format!("exit {BY_ITSELF}")), shell("try", "exit 0")];
    containers[0]["securityContext"] = context;
    containers[0]["resources"] = json!({"limits": {"cpu": "100m", "memory": running::MEMORY_BEFORE}});
    json!({"containers": containers})
}

/// The image that was found to have a shell.
pub(super) async fn check(place: &Place, images: &[Image], report: &mut Report) -> anyhow::Result<Option<String>> {
    let pod = TestPod::new(place, "main", &spec())?;
    let listener = Listener::start(&place.cri);
    let sandbox = pod.run_sandbox().await;
    let sandbox = match sandbox {
        Ok(sandbox) => sandbox,
        Err(fault) => {
            report.add(calls::RUN_SANDBOX, Err::<&str, _>(fault));
            return Ok(None);
        }
    };
    report.add(calls::RUN_SANDBOX, Ok(sandbox.to_string().chars().take(12).collect::<String>()));
    report.add(calls::LIST_SANDBOX, sandbox_seen(&pod, &sandbox).await);
    let image = with_shell(&pod, &sandbox, images, report).await;
    if let Some(image) = &image
        && let Some(container) = containers(&pod, &sandbox, image, report).await
    {
        report.add(calls::EVENTS, listener.told(&container));
    }
    report.add(calls::STOP_SANDBOX, stop_sandbox(&pod, &sandbox).await);
    report.add(calls::REMOVE_SANDBOX, remove_sandbox(&pod, &sandbox).await);
    report.add(calls::AGAIN, sandbox_again(&place.cri, &sandbox).await);
    report.add(calls::UNKNOWN, unknown(&place.cri).await);
    Ok(image)
}

async fn sandbox_seen(pod: &TestPod<'_>, sandbox: &SandboxId) -> Checked {
    let seen = pod.observe().await?;
    let Some(found) = seen.sandboxes.iter().find(|s| &s.id == sandbox) else { return unexpected("it is not listed") };
    match (found.ready, found.ips.first()) {
        (false, _) => unexpected("it is not ready"),
        (true, None) => unexpected("it has no address"),
        (true, Some(ip)) => Ok(format!("ready, address {ip}")),
    }
}

/// The first image in which a shell starts; no image says of itself whether it has one.
async fn with_shell(pod: &TestPod<'_>, sandbox: &SandboxId, images: &[Image], report: &mut Report) -> Option<String> {
    let mut last: Checked = unexpected("no image here: name one with a shell by --image, say busybox");
    for (attempt, image) in (0..).zip(images) {
        match try_image(pod, sandbox, image, attempt).await {
            Ok(()) => {
                println!("the containers of this check run {}", node::name(image));
                return Some(image.id.clone());
            }
            Err(fault) => {
                let text = format!(
                    "no image with a shell here (name one by --image, say busybox); {}: {fault}",
                    node::name(image)
                );
                last = unexpected(text);
            }
        }
    }
    report.add(calls::START, last);
    None
}

async fn try_image(pod: &TestPod<'_>, sandbox: &SandboxId, image: &Image, attempt: u32) -> Checked<()> {
    let container = pod.create(sandbox, "try", &image.id, attempt).await?;
    pod.start(&container).await?;
    let ended = pod.until(&container, "at its end", |c| c.state == ContainerState::Exited).await?;
    if ended.exit_code == 0 { Ok(()) } else { unexpected(format!("`sh` exits {}", ended.exit_code)) }
}

/// All that is checked of containers; the one that was stopped.
async fn containers(pod: &TestPod<'_>, sandbox: &SandboxId, image: &str, report: &mut Report) -> Option<ContainerId> {
    let id = match pod.create(sandbox, "main", image, 0).await {
        Ok(id) => id,
        Err(fault) => {
            report.add(calls::CREATE, Err::<&str, _>(fault));
            return None;
        }
    };
    report.add(calls::CREATE, created(pod, &id).await);
    if !report.add(calls::START, pod.start(&id).await.map(|()| "")) {
        return None;
    }
    let seen = pod.until(&id, "running", |c| c.state == ContainerState::Running && c.started_at.is_some()).await;
    report.add(calls::LIST, seen.map(|c| format!("running, image {}", c.image)));
    Running { pod, sandbox, id: &id }.check(report).await;
    report.add(calls::EXIT_CODE, exit_code(pod, sandbox, image).await);
    report.add(calls::STOP, stop(pod, &id).await);
    report.add(calls::REMOVE, remove(pod, &id).await);
    Some(id)
}

async fn created(pod: &TestPod<'_>, id: &ContainerId) -> Checked {
    pod.until(id, "created", |c| c.state == ContainerState::Created).await?;
    Ok(String::new())
}

async fn exit_code(pod: &TestPod<'_>, sandbox: &SandboxId, image: &str) -> Checked {
    let id = pod.create(sandbox, "short", image, 0).await?;
    pod.start(&id).await?;
    let ended = pod.until(&id, "at its end", |c| c.state == ContainerState::Exited).await?;
    match (ended.exit_code, ended.finished_at) {
        (BY_ITSELF, Some(_)) => Ok(format!("{BY_ITSELF}, reason {}", ended.reason)),
        (BY_ITSELF, None) => unexpected("the end has no time"),
        (other, _) => unexpected(format!("{other} instead of {BY_ITSELF}")),
    }
}

async fn stop(pod: &TestPod<'_>, id: &ContainerId) -> Checked {
    pod.cri().stop_container(id, GRACE).await?;
    let ended = pod.until(id, "at its end", |c| c.state == ContainerState::Exited).await?;
    match ended.exit_code {
        ON_TERM => Ok("ended by SIGTERM".to_owned()),
        other => unexpected(format!("exit code {other}: SIGTERM did not reach its process")),
    }
}

async fn remove(pod: &TestPod<'_>, id: &ContainerId) -> Checked {
    pod.cri().remove_container(id).await?;
    if pod.observe().await?.container(id).is_some() {
        return unexpected("it is still listed");
    }
    done(pod.cri().remove_container(id).await)?;
    Ok("twice".to_owned())
}

async fn stop_sandbox(pod: &TestPod<'_>, sandbox: &SandboxId) -> Checked {
    pod.cri().stop_pod_sandbox(sandbox).await?;
    let seen = pod.observe().await?;
    if seen.is_running() { unexpected("something of the pod still runs") } else { Ok("nothing of the pod runs".into()) }
}

async fn remove_sandbox(pod: &TestPod<'_>, sandbox: &SandboxId) -> Checked {
    pod.cri().remove_pod_sandbox(sandbox).await?;
    let seen = pod.observe().await?;
    match (seen.sandboxes.len(), seen.containers.len()) {
        (0, 0) => Ok("with its containers".into()),
        (sandboxes, containers) => unexpected(format!("{sandboxes} sandboxes and {containers} containers are listed")),
    }
}

async fn sandbox_again(cri: &Cri, sandbox: &SandboxId) -> Checked {
    done(cri.stop_pod_sandbox(sandbox).await)?;
    done(cri.remove_pod_sandbox(sandbox).await)?;
    Ok("of a sandbox that is gone".to_owned())
}

async fn unknown(cri: &Cri) -> Checked {
    let (container, sandbox) = (ContainerId::new(format!("{OWN}-none")), SandboxId::new(format!("{OWN}-none")));
    done(cri.stop_container(&container, Duration::ZERO).await)?;
    done(cri.remove_container(&container).await)?;
    done(cri.stop_pod_sandbox(&sandbox).await)?;
    done(cri.remove_pod_sandbox(&sandbox).await)?;
    Ok("no id is too strange".to_owned())
}

/// The agent takes "not found" for done.
fn done(result: cri::Result<()>) -> cri::Result<()> {
    result.or_else(|error| if error.is_not_found() { Ok(()) } else { Err(error) })
}
