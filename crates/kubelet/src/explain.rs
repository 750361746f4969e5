//! `kubelet explain pod NAME [-n NAMESPACE]`: what the agent on this node is doing for a pod, asked of the agent itself
//! over a socket that only its owner may use. It needs no API server.
//!
//! The question is one line, `NAMESPACE NAME`; the answer is text for people.

use std::{
    fmt::Write as _,
    io::{Read, Write as _},
    os::unix::{fs::PermissionsExt, net::UnixStream},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use host::Clock;
use k8s_openapi::api::core::v1::{ContainerStateTerminated, ContainerStatus};
use pod::{Life, Mono, PodKey, conditions};
use pod_workers::{PodView, PodsView};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::UnixListener,
    time::timeout,
};

const USAGE: &str = "usage: kubelet explain pod NAME [-n NAMESPACE] [--root-dir DIR]";
const PATIENCE: Duration = Duration::from_secs(5);

pub fn socket(root: &Path) -> PathBuf {
    root.join("explain.sock")
}

// ---- the one who asks

/// `args`: what follows `explain`.
pub fn ask(args: &[String]) -> Result<String> {
    let question = Question::parse(args)?;
    let path = socket(&question.root);
    let mut stream = UnixStream::connect(&path).with_context(|| {
        format!("no agent answers at {}: is it running, with this --root-dir, and are you its user?", path.display())
    })?;
    stream.set_read_timeout(Some(PATIENCE))?;
    writeln!(stream, "{} {}", question.namespace, question.name)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).context("the agent gave no answer")?;
    Ok(answer)
}

#[derive(Debug, PartialEq, Eq)]
struct Question {
    root: PathBuf,
    namespace: String,
    name: String,
}

impl Question {
    fn parse(args: &[String]) -> Result<Self> {
        let (mut root, mut namespace) = (PathBuf::from("/var/lib/kubelet"), "default".to_owned());
        let mut words = Vec::new();
        let mut args = args.iter().map(String::as_str);
        while let Some(arg) = args.next() {
            let (flag, inline) = arg.split_once('=').map_or((arg, None), |(flag, value)| (flag, Some(value)));
            match flag {
                "-n" | "--namespace" => namespace = inline.or_else(|| args.next()).context(USAGE)?.to_owned(),
                "--root-dir" => root = inline.or_else(|| args.next()).context(USAGE)?.into(),
                _ if arg.starts_with('-') => bail!("{USAGE}"),
                _ => words.push(arg),
            }
        }
        let ["pod" | "pods" | "po", name] = words[..] else { bail!("{USAGE}") };
        let (namespace, name) = name.split_once('/').map_or((namespace.as_str(), name), |parts| parts);
        Ok(Self { root, namespace: namespace.to_owned(), name: name.to_owned() })
    }
}

// ---- the one who answers

/// Binds the socket; whatever an earlier agent left there goes.
pub fn listen(root: &Path) -> std::io::Result<UnixListener> {
    let path = socket(root);
    match std::fs::remove_file(&path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let listener = UnixListener::bind(&path)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Runs until dropped; one question at a time, each with a deadline.
pub async fn serve(listener: UnixListener, view: PodsView, clock: Clock) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let _ = timeout(PATIENCE, answer(stream, &view, clock)).await;
            }
            Err(error) => {
                tracing::warn!(%error, "the socket of `kubelet explain` fails");
                tokio::time::sleep(PATIENCE).await;
            }
        }
    }
}

async fn answer(mut stream: tokio::net::UnixStream, view: &PodsView, clock: Clock) -> std::io::Result<()> {
    let mut line = String::new();
    let (read, mut write) = stream.split();
    BufReader::new(tokio::io::AsyncReadExt::take(read, 1024)).read_line(&mut line).await?;
    let (namespace, name) = line.trim().split_once(' ').unwrap_or(("default", line.trim()));
    let key = PodKey::new(namespace, name);
    let pods = view.list();
    let mut text = String::new();
    for pod in pods.iter().filter(|pod| pod.desired.key == key) {
        text.push_str(&explain(pod, clock.mono()));
    }
    if text.is_empty() {
        text = unknown(namespace, name, *view.complete().borrow());
    }
    write.write_all(text.as_bytes()).await
}

fn unknown(namespace: &str, name: &str, all_are_told: bool) -> String {
    if all_are_told {
        return format!("This node has no pod {name} in namespace {namespace}, or has not admitted it yet.\n");
    }
    format!(
        "The agent does not know pod {name} in namespace {namespace} so far. It has not taken up all pods since its \
         start: for that the container runtime has to be ready and the API server has to answer. The agent's log says \
         what it waits for.\n"
    )
}

fn explain(pod: &PodView, now: Mono) -> String {
    let mut out =
        format!("Pod:       {}/{} (UID {})\n", pod.desired.key.namespace, pod.desired.key.name, pod.desired.uid);
    let phase = pod.status.phase.as_deref().unwrap_or("Pending");
    let _ = writeln!(out, "Phase:     {phase}, {}", life(&pod.life));
    match &pod.step {
        None => out.push_str("Step:      not begun\n"),
        Some(step) => {
            let blocked_by = step.blocked_by.as_deref().or_else(|| unready(pod));
            let _ = writeln!(out, "Step:      {}", step.doing);
            let _ = writeln!(out, "Since:     {} ago", ago(now.since(step.since)));
            let _ = writeln!(out, "Waits for: {}", blocked_by.unwrap_or("nothing"));
        }
    }
    let statuses = pod.status.init_container_statuses.iter().chain(&pod.status.container_statuses).flatten();
    for status in statuses {
        let _ = writeln!(out, "Container: {}", container(status));
    }
    out
}

/// What a pod that runs still lacks: containers whose probes have not succeeded, readiness gates.
fn unready(pod: &PodView) -> Option<&str> {
    let runs = pod.life == Life::Syncing && pod.status.phase.as_deref() == Some("Running");
    let ready = conditions::find(pod.status.conditions.as_ref(), conditions::READY)?;
    ready.message.as_deref().filter(|_| runs && ready.status == "False")
}

fn container(status: &ContainerStatus) -> String {
    let state = status.state.clone().unwrap_or_default();
    let (word, why) = match (state.waiting, state.running, state.terminated) {
        (Some(w), ..) => ("waiting", vec![w.reason, w.message]),
        (_, Some(_), _) => ("running", vec![(!status.ready).then(|| "not ready".to_owned())]),
        (.., Some(t)) => ("ended", end(&t)),
        _ => ("unknown", Vec::new()),
    };
    let why = joined(why);
    let mut out = format!("{} {word}{}{why}", status.name, if why.is_empty() { "" } else { ", " });
    if let Some(last) = status.last_state.as_ref().and_then(|last| last.terminated.as_ref()) {
        let _ = write!(out, "; restarted {} times, ended before with {}", status.restart_count, joined(end(last)));
    }
    out
}

fn end(of: &ContainerStateTerminated) -> Vec<Option<String>> {
    // Of a log, the last line is what it died of.
    let last_words = of.message.as_deref().and_then(|text| text.lines().last()).map(str::to_owned);
    vec![of.reason.clone(), Some(format!("exit code {}", of.exit_code)), last_words]
}

fn joined(texts: Vec<Option<String>>) -> String {
    texts.into_iter().flatten().collect::<Vec<_>>().join(": ")
}

fn life(life: &Life) -> &'static str {
    match life {
        Life::Pending => "admitted",
        Life::Syncing => "being kept running",
        Life::Terminating { .. } => "being stopped",
        Life::Terminated => "stopped, being cleaned up",
        Life::Gone => "over",
        Life::Rejected { .. } => "rejected",
    }
}

fn ago(time: Duration) -> String {
    match time.as_secs() {
        secs @ 0..120 => format!("{secs} s"),
        secs @ 120..7200 => format!("{} min", secs / 60),
        secs => format!("{} h", secs / 3600),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use pod::{DesiredPod, Source, report::Step};
    use serde_json::json;

    use super::*;

    fn parsed(args: &str) -> Option<Question> {
        Question::parse(&args.split(' ').map(str::to_owned).collect::<Vec<_>>()).ok()
    }

    #[test]
    fn a_question_names_a_pod_and_perhaps_its_namespace() {
        let question = |root: &str, namespace: &str| {
            Some(Question { root: root.into(), namespace: namespace.into(), name: "web".into() })
        };
        assert_eq!(parsed("pod web"), question("/var/lib/kubelet", "default"));
        assert_eq!(parsed("pod web -n shop --root-dir=/r"), question("/r", "shop"));
        assert_eq!(parsed("pod shop/web"), question("/var/lib/kubelet", "shop"));
        assert_eq!(parsed("node web"), None);
        assert_eq!(parsed("pod web --all"), None);
    }

    fn view(status: serde_json::Value, step: Step) -> PodView {
        let object = json!({"metadata": {"name": "web", "uid": "u"}, "spec": {"containers": []}});
        let desired = DesiredPod::new(Source::Api, Arc::new(serde_json::from_value(object).unwrap())).unwrap();
        let status = Arc::new(serde_json::from_value(status).unwrap());
        PodView { desired, status, life: Life::Syncing, step: Some(step) }
    }

    #[test]
    fn the_answer_says_the_step_since_when_and_what_blocks_it() {
        let status = json!({"phase": "Pending", "containerStatuses": [{"name": "app", "image": "", "imageID": "",
            "ready": false, "restartCount": 0, "state": {"waiting": {"reason": "ContainerCreating"}}}]});
        let step = Step {
            doing: "making the sandbox".into(),
            since: Mono::from_secs(10),
            blocked_by: Some("no network plugin".into()),
        };
        let expected = "Pod:       default/web (UID u)\nPhase:     Pending, being kept running\n\
            Step:      making the sandbox\nSince:     90 s ago\nWaits for: no network plugin\n\
            Container: app waiting, ContainerCreating\n";
        assert_eq!(explain(&view(status, step), Mono::from_secs(100)), expected);
    }

    #[test]
    fn a_pod_that_runs_waits_for_its_readiness_and_a_container_tells_its_last_end() {
        let status = json!({
            "phase": "Running",
            "conditions": [{"type": "Ready", "status": "False", "message": "containers with unready status: [app b]"}],
            "containerStatuses": [
                {"name": "app", "image": "", "imageID": "", "ready": false, "restartCount": 0,
                    "state": {"running": {}}},
                {"name": "b", "image": "", "imageID": "", "ready": false, "restartCount": 3,
                    "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 40s"}},
                    "lastState": {"terminated": {"reason": "Error", "exitCode": 2, "message": "starting\nno database"}}},
            ],
        });
        let step = Step { doing: "nothing".into(), since: Mono::from_secs(10), blocked_by: None };
        let answer = explain(&view(status, step), Mono::from_secs(100));
        assert!(answer.contains("Waits for: containers with unready status: [app b]\n"), "{answer}");
        assert!(answer.contains("Container: app running, not ready\n"), "{answer}");
        let b = "Container: b waiting, CrashLoopBackOff: back-off 40s; restarted 3 times, ended before with Error: \
            exit code 2: no database\n";
        assert!(answer.contains(b), "{answer}");
    }

    #[test]
    fn a_pod_that_is_not_known_may_not_have_been_told_of_yet() {
        assert!(unknown("shop", "web", true).starts_with("This node has no pod web in namespace shop"));
        assert!(unknown("shop", "web", false).starts_with("The agent does not know pod web in namespace shop so far."));
    }
}
