//! Against a real containerd: `CRI_SOCKET=/run/containerd/containerd.sock cargo test -p pleg --test real_runtime -- --ignored`.
//! Needs the images that tests/bed makes, present in it.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use api_types::runtime::v1::{
    ContainerConfig, ContainerMetadata, ImageSpec, LinuxContainerConfig, LinuxContainerResources,
    LinuxContainerSecurityContext, LinuxPodSandboxConfig, Mount, PodSandboxConfig, PodSandboxMetadata,
};
use cri::{Cri, labels};
use host::Clock;
use pleg::{Pleg, PlegConfig};
use pod::{ContainerId, ContainerState, ObservedPod, PodKey, PodUid, SandboxId};
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};

const BUSYBOX: &str = "registry.k8s.io/e2e-test-images/busybox:1.37.0-2";

type Picture = watch::Receiver<Arc<ObservedPod>>;

struct Bed {
    cri: Cri,
    pleg: Pleg,
    uid: PodUid,
    key: PodKey,
    dir: tempfile::TempDir,
}

impl Bed {
    async fn new(name: &str) -> Self {
        let socket = std::env::var("CRI_SOCKET").expect("CRI_SOCKET names the runtime's socket");
        let cri = Cri::connect(&socket, "", Duration::from_secs(120)).unwrap();
        let pleg = Pleg::spawn(cri.clone(), Clock::start(), PlegConfig::default());
        pleg.synced().await;
        let dir = tempfile::tempdir().unwrap();
        let unique = dir.path().file_name().unwrap().to_string_lossy().replace('.', "");
        let uid = PodUid::new(format!("{name}-{unique}"));
        Self { cri, pleg, uid, key: PodKey::new("default", name), dir }
    }

    fn labels(&self) -> BTreeMap<String, String> {
        let of = [
            (labels::POD_UID, self.uid.to_string()),
            (labels::POD_NAME, self.key.name.to_string()),
            (labels::POD_NAMESPACE, self.key.namespace.to_string()),
        ];
        of.map(|(key, value)| (key.to_owned(), value)).into()
    }

    fn sandbox_config(&self) -> PodSandboxConfig {
        PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                name: self.key.name.to_string(),
                namespace: self.key.namespace.to_string(),
                uid: self.uid.to_string(),
                attempt: 0,
            }),
            hostname: "web".into(),
            log_directory: self.dir.path().to_string_lossy().into_owned(),
            labels: self.labels(),
            linux: Some(LinuxPodSandboxConfig { cgroup_parent: "/bedcri".into(), ..Default::default() }),
            ..Default::default()
        }
    }

    fn message_file(&self) -> PathBuf {
        self.dir.path().join("message")
    }

    async fn start(&self, sandbox: &SandboxId, attempt: u32, script: &str) -> ContainerId {
        std::fs::write(self.message_file(), "").unwrap();
        let mut of = self.labels();
        of.insert(labels::CONTAINER_NAME.into(), "app".into());
        let annotations = [
            (labels::RESTART_COUNT, attempt.to_string()),
            (labels::TERMINATION_MESSAGE_PATH, "/dev/termination-log".to_owned()),
            (labels::TERMINATION_MESSAGE_POLICY, "FallbackToLogsOnError".to_owned()),
        ];
        let mount = Mount {
            container_path: "/dev/termination-log".into(),
            host_path: self.message_file().to_string_lossy().into_owned(),
            ..Default::default()
        };
        let config = ContainerConfig {
            metadata: Some(ContainerMetadata { name: "app".into(), attempt }),
            image: Some(ImageSpec { image: BUSYBOX.into(), ..Default::default() }),
            command: vec!["/bin/busybox".into(), "sh".into(), "-c".into(), script.into()],
            labels: of,
            annotations: annotations.map(|(key, value)| (key.to_owned(), value)).into(),
            mounts: vec![mount],
            log_path: format!("{attempt}.log"),
            linux: Some(LinuxContainerConfig {
                resources: Some(LinuxContainerResources { cpu_shares: 102, ..Default::default() }),
                security_context: Some(LinuxContainerSecurityContext::default()),
            }),
            ..Default::default()
        };
        let id = self.cri.create_container(sandbox, config, self.sandbox_config()).await.unwrap();
        self.cri.start_container(&id).await.unwrap();
        id
    }

    async fn remove(&self, sandbox: &SandboxId) {
        self.cri.stop_pod_sandbox(sandbox).await.unwrap();
        self.cri.remove_pod_sandbox(sandbox).await.unwrap();
    }
}

async fn until(picture: &mut Picture, what: impl FnMut(&Arc<ObservedPod>) -> bool) -> Duration {
    let started = Instant::now();
    timeout(Duration::from_secs(10), picture.wait_for(what)).await.expect("seen in time").expect("the pleg lives");
    started.elapsed()
}

fn log_of(dir: &Path, attempt: u32) -> String {
    std::fs::read_to_string(dir.join(format!("{attempt}.log"))).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a container runtime"]
async fn a_pods_whole_life() {
    let bed = Bed::new("web").await;
    let version = bed.cri.version().await.unwrap();
    let status = bed.cri.status().await.unwrap();
    println!("{version:?}\n{status:?}\n{:?}", bed.cri.runtime_config().await);
    assert!(status.runtime_ready() && status.network_ready());
    // Let the event stream stand.
    tokio::time::sleep(Duration::from_secs(1)).await;

    let mut picture = bed.pleg.subscribe(&bed.uid, &bed.key);
    let started = Instant::now();
    let sandbox = bed.cri.run_pod_sandbox(bed.sandbox_config(), "").await.unwrap();
    println!("sandbox ran after {:?}", started.elapsed());
    let seen = until(&mut picture, |p| p.ready_sandbox().is_some_and(|s| !s.ips.is_empty())).await;
    println!("sandbox {:?} seen {seen:?} later", picture.borrow().sandbox().unwrap());

    // Ends by itself; the message comes from its file.
    let first = bed.start(&sandbox, 0, "echo hello; sleep 1; echo -n bye > /dev/termination-log; exit 3").await;
    until(&mut picture, |p| p.container(&first).is_some_and(|c| c.state == ContainerState::Running)).await;
    until(&mut picture, |p| p.container(&first).is_some_and(|c| c.state == ContainerState::Exited)).await;
    let c = picture.borrow().container(&first).unwrap().clone();
    let behind = Clock::start().wall().duration_since(c.finished_at.unwrap());
    println!("exit seen {behind:?} after finishedAt: {c:?}");
    assert_eq!((c.exit_code, c.reason.as_str(), c.message.as_str()), (3, "Error", "bye"));
    assert!(log_of(bed.dir.path(), 0).contains("stdout F hello"));
    assert!(behind.as_millis() < 500, "{behind:?}");

    // Ends by itself without a message: its log speaks.
    let second = bed.start(&sandbox, 1, "echo to the log; exit 1").await;
    until(&mut picture, |p| p.container(&second).is_some_and(|c| c.state == ContainerState::Exited)).await;
    assert_eq!(picture.borrow().container(&second).unwrap().message, "to the log\n");
    assert_eq!(picture.borrow().newest("app").unwrap().id, second);
    assert_eq!(picture.borrow().previous("app").unwrap().id, first);

    // Stopped, ignoring the signal; meanwhile a command runs in it.
    let third = bed.start(&sandbox, 2, "trap '' TERM; while :; do sleep 1; done").await;
    let echo = ["/bin/busybox".to_owned(), "echo".into(), "hi".into()];
    let output = bed.cri.exec_sync(&third, &echo, Duration::from_secs(5)).await.unwrap();
    assert_eq!((output.stdout.as_slice(), output.exit_code), (b"hi\n".as_slice(), 0));
    let slow = ["/bin/busybox".to_owned(), "sleep".into(), "20".into()];
    let error = bed.cri.exec_sync(&third, &slow, Duration::from_secs(1)).await.unwrap_err();
    assert!(error.is_deadline(), "{error}");
    let shares = |shares| LinuxContainerResources { cpu_shares: shares, ..Default::default() };
    bed.cri.update_container_resources(&third, shares(512), BTreeMap::new()).await.unwrap();
    let pod = bed.pleg.relist(&bed.uid).await.unwrap();
    assert_eq!(pod.container(&third).unwrap().resources.as_ref().unwrap().cpu_shares, 512);
    bed.cri.stop_container(&third, Duration::from_secs(1)).await.unwrap();
    let after = until(&mut picture, |p| p.container(&third).is_some_and(|c| c.state == ContainerState::Exited)).await;
    println!("a stop is seen {after:?} after it returned");
    assert_eq!(picture.borrow().container(&third).unwrap().exit_code, 137);
    bed.cri.remove_container(&first).await.unwrap();
    until(&mut picture, |p| p.container(&first).is_none()).await;

    bed.remove(&sandbox).await;
    until(&mut picture, |p| p.sandboxes.is_empty() && p.containers.is_empty()).await;
    let error = bed.cri.start_container(&third).await.unwrap_err();
    assert!(error.is_not_found(), "{error}");
    assert_eq!(bed.pleg.health(), Ok(()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a container runtime"]
async fn containerds_own_events_arrive() {
    use futures::StreamExt;
    let bed = Bed::new("events").await;
    let mut events = bed.cri.containerd_events();
    let task = tokio::spawn(async move {
        let mut seen = Vec::new();
        while let Ok(Some(event)) = timeout(Duration::from_secs(5), events.next()).await {
            seen.push(event.unwrap());
        }
        seen
    });
    tokio::time::sleep(Duration::from_millis(500)).await;
    let sandbox = bed.cri.run_pod_sandbox(bed.sandbox_config(), "").await.unwrap();
    let app = bed.start(&sandbox, 0, "exit 0").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    bed.remove(&sandbox).await;
    let seen = task.await.unwrap();
    println!("{seen:#?}");
    assert!(seen.iter().any(|e| e.id == app && e.kind == cri::EventKind::Stopped));
    assert!(seen.iter().any(|e| e.id.as_str() == sandbox.as_str() && e.kind == cri::EventKind::Stopped));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a container runtime"]
async fn an_exit_is_seen_at_once() {
    use futures::StreamExt;
    let bed = Bed::new("exits").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut picture = bed.pleg.subscribe(&bed.uid, &bed.key);
    let sandbox = bed.cri.run_pod_sandbox(bed.sandbox_config(), "").await.unwrap();
    for attempt in 0..5 {
        let mut events = bed.cri.container_events();
        let arrived = tokio::spawn(async move {
            loop {
                let event = events.next().await.unwrap().unwrap();
                if event.kind == cri::EventKind::Stopped {
                    return Instant::now();
                }
            }
        });
        let id = bed.start(&sandbox, attempt, "sleep 1").await;
        until(&mut picture, |p| p.container(&id).is_some_and(|c| c.state == ContainerState::Exited)).await;
        let seen = Instant::now();
        let finished = picture.borrow().container(&id).unwrap().finished_at.unwrap();
        let behind = Clock::start().wall().duration_since(finished);
        println!("{behind:?} after its end, {:?} after its event", seen - arrived.await.unwrap());
    }
    bed.remove(&sandbox).await;
}
