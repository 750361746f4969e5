//! One variant per step that can fail, and what kubectl shows for it.

use apiserver::ApiError;
use cri::CriError;
use pod::{Waiting, reason};

use crate::{
    env::EnvError, files::FilesError, hooks::HookError, sandbox_config::SandboxConfigError, security::SecurityError,
    userns::UsernsError,
};

pub type Result<T> = std::result::Result<T, RuntimeError>;

/// The texts of what came from the runtime or the pod's spec are upstream's: users and test suites know them.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    #[error(transparent)]
    SandboxConfig(#[from] SandboxConfigError),
    #[error("failed to lookup RuntimeClass {name}: {detail}")]
    RuntimeClass { name: String, detail: String },
    #[error("{}", rpc(.0))]
    RunSandbox(CriError),
    #[error("{}", rpc(.0))]
    StopSandbox(CriError),
    #[error("{}", rpc(.0))]
    RemoveSandbox(CriError),
    #[error(transparent)]
    UserNamespace(#[from] UsernsError),
    #[error("container {0:?} is not in the pod's spec")]
    NoSuchContainer(String),
    #[error("unable to find target container {0}")]
    NoTarget(String),
    #[error("services have not yet been read at least once, cannot construct envvars")]
    ServicesUnknown,
    #[error("{0}")]
    Referent(ApiError),
    #[error("couldn't get {kind} {namespace}/{name}, no kubeClient defined")]
    NoApi { kind: &'static str, namespace: String, name: String },
    #[error(transparent)]
    Env(#[from] EnvError),
    #[error(transparent)]
    Security(#[from] SecurityError),
    #[error(transparent)]
    Files(#[from] FilesError),
    /// The protocol of the runtime has texts there.
    #[error("command or args are not valid UTF-8 once the environment's values are in them")]
    NoText,
    #[error("{}", .0.message)]
    CreateContainer(CriError),
    #[error("{}", .0.message)]
    StartContainer(CriError),
    #[error("{0}")]
    PostStart(HookError),
    #[error("{}", rpc(.0))]
    StopContainer(CriError),
    #[error("{}", rpc(.0))]
    RemoveContainer(CriError),
    #[error("{}", rpc(.0))]
    UpdateContainer(CriError),
    #[error("the runtime refuses the pod's new size: {}", rpc(.0))]
    UpdateSandbox(CriError),
}

/// As gRPC errors print: the runtime's words are what matters, our ids would make every event a different one.
fn rpc(e: &CriError) -> String {
    format!("rpc error: code = {:?} desc = {}", e.code, e.message)
}

impl RuntimeError {
    /// Whether the container was made before this went wrong.
    pub fn left_a_container(&self) -> bool {
        matches!(self, RuntimeError::StartContainer(_) | RuntimeError::PostStart(_))
    }

    /// The state of a container, or of a whole pod, that waits because of this.
    pub fn waiting(&self) -> Waiting {
        use RuntimeError as E;
        let reason = match self {
            E::NoText | E::CreateContainer(_) => reason::CREATE_CONTAINER_ERROR,
            E::StartContainer(_) => reason::RUN_CONTAINER_ERROR,
            E::PostStart(_) => reason::POST_START_HOOK_ERROR,
            E::SandboxConfig(_) | E::RuntimeClass { .. } | E::RunSandbox(_) => reason::CONTAINER_CREATING,
            E::StopSandbox(_) | E::RemoveSandbox(_) | E::StopContainer(_) | E::RemoveContainer(_) => {
                reason::CONTAINER_CREATING
            }
            E::UpdateContainer(_) | E::UpdateSandbox(_) => reason::ERROR,
            E::UserNamespace(_)
            | E::NoSuchContainer(_)
            | E::NoTarget(_)
            | E::ServicesUnknown
            | E::Referent(_)
            | E::NoApi { .. }
            | E::Env(_)
            | E::Security(_)
            | E::Files(_) => reason::CREATE_CONTAINER_CONFIG_ERROR,
        };
        Waiting { reason: reason.to_owned(), message: self.to_string() }
    }

    /// Label `code` of kubelet_started_containers_errors_total.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            RuntimeError::NoText | RuntimeError::CreateContainer(_) => reason::CREATE_CONTAINER_ERROR,
            RuntimeError::StartContainer(_) => reason::RUN_CONTAINER_ERROR,
            RuntimeError::PostStart(_) => reason::POST_START_HOOK_ERROR,
            _ => reason::CREATE_CONTAINER_CONFIG_ERROR,
        }
    }
}
