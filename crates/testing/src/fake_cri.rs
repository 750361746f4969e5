//! A container runtime in this process, served over a real unix socket: real state, scripted trouble.
//!
//! Works on tokio's paused clock. Ids are `NAME-N`. Dropping it closes everything.

mod containerd;
mod image_service;
mod runtime_service;
mod serve;
mod state;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use api_types::runtime::v1::{self as v1, ContainerEventType};
use pod::{ContainerId, DesiredPod, PodUid, SandboxId};
use tokio::task::JoinHandle;
use tonic::{Code, Status};

use state::State;

/// Which runtime to play.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Flavor {
    /// Has all calls.
    #[default]
    Containerd2,
    /// No container events in CRI, no runtime config; containerd's own events.
    Containerd1_6,
    /// Not containerd, and without any events.
    Eventless,
}

/// What a started pod consists of.
#[derive(Clone, Debug)]
pub struct Seeded {
    pub sandbox: SandboxId,
    pub containers: BTreeMap<String, ContainerId>,
}

pub struct FakeCri {
    fake: Fake,
    dir: tempfile::TempDir,
    server: Mutex<Option<JoinHandle<()>>>,
}

/// The part that the services share.
#[derive(Clone)]
pub(crate) struct Fake(Arc<Mutex<State>>);

impl FakeCri {
    /// Must be called inside a tokio runtime.
    pub fn start() -> Self {
        Self::start_as(Flavor::default())
    }

    pub fn start_as(flavor: Flavor) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let fake = Fake(Arc::new(Mutex::new(State::new(flavor))));
        let fake = Self { fake, dir, server: Mutex::new(None) };
        fake.up();
        fake
    }

    /// For `Cri::connect`.
    pub fn endpoint(&self) -> String {
        format!("unix://{}", self.socket().display())
    }
    fn socket(&self) -> std::path::PathBuf {
        self.dir.path().join("cri.sock")
    }

    /// Closes the socket and all connections; containers live on, as with a real runtime.
    pub fn down(&self) {
        if let Some(server) = self.server.lock().unwrap_or_else(PoisonError::into_inner).take() {
            server.abort();
        }
        self.state().streams.clear();
        _ = std::fs::remove_file(self.socket());
    }
    pub fn up(&self) {
        let server = serve::serve(&self.socket(), self.fake.clone());
        *self.server.lock().unwrap_or_else(PoisonError::into_inner) = Some(server);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.fake.state()
    }

    // What the test wants to happen.

    /// Makes an image present, as after a pull.
    pub fn add_image(&self, name: &str) {
        self.state().add_image(name);
    }
    /// The next call of that operation (`create_container`, `pull_image`, ...; the metric's name) fails.
    pub fn fail_next(&self, operation: &str, code: Code, message: &str) {
        self.state().failures.push((operation.to_owned(), Status::new(code, message)));
    }
    /// All calls of that operation take this long from now on.
    pub fn delay(&self, operation: &str, by: Duration) {
        self.state().delays.insert(operation.to_owned(), by);
    }
    /// Containers of that name end by themselves this long after their start.
    pub fn ends_after(&self, container: &str, after: Duration, exit_code: i32) {
        self.state().endings.insert(container.to_owned(), (after, exit_code));
    }
    /// Containers of that name must be killed.
    pub fn ignores_stop(&self, container: &str) {
        self.state().stubborn.insert(container.to_owned());
    }
    /// What exec_sync answers for (container name, command); the default is success without output.
    pub fn on_exec(&self, answer: impl Fn(&str, &[String]) -> v1::ExecSyncResponse + Send + 'static) {
        self.state().exec = Box::new(answer);
    }
    /// The base of the URLs that exec, attach and port-forward answer with; nothing listens at the default.
    pub fn stream_at(&self, base_url: &str) {
        self.state().streaming = base_url.to_owned();
    }
    pub fn set_network_ready(&self, ready: bool) {
        self.state().network_ready = ready;
    }
    /// No event is sent while muted, though streams stand.
    pub fn mute_events(&self, muted: bool) {
        self.state().muted = muted;
    }
    pub fn break_streams(&self) {
        self.state().streams.clear();
    }

    /// Runs a pod as another kubelet would have done, without counting as calls.
    pub fn seed(&self, pod: &DesiredPod) -> Seeded {
        state::seed(&mut self.state(), pod)
    }
    /// The container ends.
    pub fn exit(&self, id: &ContainerId, exit_code: i32) {
        self.state().exit(id.as_str(), exit_code, None);
    }
    /// The container ends; as `exit`, with the runtime's reason, say `OOMKilled`.
    pub fn exit_with_reason(&self, id: &ContainerId, exit_code: i32, reason: &str) {
        self.state().exit(id.as_str(), exit_code, Some(reason));
    }
    /// The sandbox's own process dies, and its containers with it.
    pub fn kill_sandbox(&self, id: &SandboxId) {
        self.state().stop_sandbox(id.as_str());
    }
    /// An event that nothing happened to justify.
    pub fn spurious_event(&self, id: &str, kind: ContainerEventType) {
        self.state().send_event(id, kind);
    }
    /// Changes a container's status without an event.
    pub fn edit_container(&self, id: &ContainerId, change: impl FnOnce(&mut v1::ContainerStatus)) {
        if let Some(c) = self.state().containers.get_mut(id.as_str()) {
            change(&mut c.status);
        }
    }

    // What happened.

    /// How often an operation was called.
    pub fn calls(&self, operation: &str) -> usize {
        self.state().calls.iter().filter(|c| c.split(' ').next() == Some(operation)).count()
    }
    /// All calls in order as "OPERATION OBJECT".
    pub fn call_log(&self) -> Vec<String> {
        self.state().calls.clone()
    }
    /// The headers `traceparent` of calls of that path.
    pub fn traceparents(&self, path: &str) -> Vec<String> {
        let state = self.state();
        let of_path = state.traceparents.iter().filter(|(called, _)| called == path);
        of_path.map(|(_, header)| header.clone()).collect()
    }
    pub fn forget_calls(&self) {
        self.state().calls.clear();
    }
    /// The newest container of that name.
    pub fn container(&self, pod: &PodUid, name: &str) -> Option<ContainerId> {
        self.state().newest_container(pod.as_str(), name).map(ContainerId::new)
    }
    pub fn container_status(&self, id: &ContainerId) -> Option<v1::ContainerStatus> {
        self.state().containers.get(id.as_str()).map(|c| c.status.clone())
    }
    pub fn container_config(&self, id: &ContainerId) -> Option<v1::ContainerConfig> {
        self.state().containers.get(id.as_str()).map(|c| c.config.clone())
    }
    pub fn sandbox_config(&self, id: &SandboxId) -> Option<v1::PodSandboxConfig> {
        self.state().sandboxes.get(id.as_str()).map(|s| s.config.clone())
    }
    /// Names of running containers, sorted.
    pub fn running(&self) -> Vec<String> {
        self.state().running()
    }
    pub fn sandbox_count(&self) -> usize {
        self.state().sandboxes.len()
    }
    /// Event streams that are open.
    pub fn open_streams(&self) -> usize {
        let mut state = self.state();
        state.streams.retain(|s| !s.is_closed());
        state.streams.len()
    }
}

impl Drop for FakeCri {
    fn drop(&mut self) {
        self.down();
    }
}

impl Fake {
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every call begins here: it is logged, takes its time, and fails if so scripted.
    pub(crate) async fn enter(&self, operation: &str, object: &str) -> Result<MutexGuard<'_, State>, Status> {
        let delay = {
            let mut state = self.state();
            state.calls.push(format!("{operation} {object}"));
            state.delays.get(operation).copied()
        };
        if let Some(delay) = delay {
            tokio::time::sleep(delay).await;
        }
        let mut state = self.state();
        match state.failures.iter().position(|(of, _)| of == operation) {
            Some(at) => Err(state.failures.remove(at).1),
            None => Ok(state),
        }
    }
}
