//! Why a volume, or a container's mount of it, is not there.

use apiserver::{ApiError, with_causes};
use host::HostError;
use pod::{Waiting, fields::FieldError, reason};

/// The text of the variants about volumes is that of the `FailedMount` event; the text of those about a container's
/// mounts is that of its waiting state.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    #[error("MountVolume.SetUp failed for volume \"{volume}\" : {cause}")]
    SetUp { volume: String, cause: Cause },
    #[error("volume \"{volume}\" of kind {kind} is not supported: {reason}")]
    Unsupported { volume: String, kind: String, reason: &'static str },
    #[error("error processing PVC {claim}: {cause}")]
    Claim { claim: String, cause: Cause },
    /// More than one volume failed; see `each`.
    #[error("{}", joined(.0, "; "))]
    Several(Vec<VolumeError>),
    #[error("the pod's directory: {cause}")]
    PodDirectory { cause: Cause },
    #[error("the pod's volumes can't be taken down: {cause}")]
    TearDown { cause: Cause },

    #[error("cannot find volume \"{volume}\" to mount into container \"{container}\"")]
    NoSuchVolume { volume: String, container: String },
    #[error("image of volume \"{volume}\" for container \"{container}\" has not been pulled")]
    NoImage { volume: String, container: String },
    #[error("error SubPath `{sub_path}` must not be an absolute path")]
    SubPathAbsolute { sub_path: String },
    #[error("unable to provision SubPath `{sub_path}`: must not contain '..'")]
    SubPathBacksteps { sub_path: String },
    /// The caller's text: which variable has no value.
    #[error("{problem}")]
    SubPathExpr { problem: String },
    // The cause of the next two stays in the log: it would tell the pod about the host's files.
    #[error("failed to create subPath directory for volumeMount \"{mount}\" of container \"{container}\"")]
    SubPathDirectory { mount: String, container: String },
    #[error("failed to prepare subPath for volumeMount \"{mount}\" of container \"{container}\"")]
    SubPath { mount: String, container: String },
    #[error("failed to resolve recursive read-only mode: {problem}")]
    RecursiveReadOnly { problem: String },
    #[error("invalid MountPropagation mode: \"{mode}\"")]
    Propagation { mode: String },
    #[error(
        "volumeMount \"{mount}\" of container \"{container}\": Bidirectional mount propagation is only for privileged containers"
    )]
    BidirectionalUnprivileged { mount: String, container: String },
}

impl VolumeError {
    /// One error per volume, for one event each.
    pub fn each(&self) -> &[VolumeError] {
        match self {
            VolumeError::Several(errors) => errors,
            one => std::slice::from_ref(one),
        }
    }

    /// Why the container waits.
    pub fn waiting(&self) -> Waiting {
        Waiting { reason: reason::CREATE_CONTAINER_CONFIG_ERROR.to_owned(), message: self.to_string() }
    }

    pub(crate) fn set_up(volume: &str, cause: impl Into<Cause>) -> Self {
        Self::SetUp { volume: volume.to_owned(), cause: cause.into() }
    }

    /// None for an empty list, the error itself for a single one.
    pub(crate) fn collected(mut errors: Vec<VolumeError>) -> Option<Self> {
        match errors.len() {
            0 | 1 => errors.pop(),
            _ => Some(Self::Several(errors)),
        }
    }
}

/// What stood in the way of one volume. The text is complete: it ends up in an event, where no source is printed.
#[derive(Debug, thiserror::Error)]
pub enum Cause {
    #[error("{kind} \"{name}\" not found")]
    NotFound { kind: &'static str, name: String },
    #[error("{}", with_causes(.0))]
    Api(Box<ApiError>),
    #[error("failed to fetch token: {}", with_causes(.0))]
    Token(Box<ApiError>),
    #[error("the kubelet has no API server to read {0} from")]
    NoApiServer(&'static str),
    #[error("{}", with_causes(.0))]
    Host(#[from] HostError),
    #[error("{0}")]
    Field(#[from] FieldError),
    #[error("configmap references non-existent config key: {0}")]
    NoConfigKey(String),
    #[error("references non-existent secret key: {0}")]
    NoSecretKey(String),
    #[error("no defaultMode used, not even the default value for it")]
    NoDefaultMode,
    #[error("invalid path: {0}")]
    PayloadPath(String),
    #[error("{0}")]
    HostPath(String),
    #[error("{0}")]
    HugePages(String),
    #[error("unknown storage medium \"{0}\"")]
    Medium(String),
    #[error("{0}")]
    Claim(String),
    #[error("invalid container mount point {0}")]
    NestedMountPoint(String),
    #[error("the pod's volumes are being taken down")]
    TakenDown,
    #[error("{0} is not supported")]
    Unsupported(&'static str),
    #[error("[{}]", joined(.0, ", "))]
    Many(Vec<Cause>),
    /// The blocking task died; its panic is in the log.
    #[error("internal error: {0}")]
    Task(tokio::task::JoinError),
}

impl Cause {
    /// None for an empty list, the cause itself for a single one.
    pub(crate) fn collected(mut causes: Vec<Cause>) -> Option<Self> {
        match causes.len() {
            0 | 1 => causes.pop(),
            _ => Some(Self::Many(causes)),
        }
    }

    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, Cause::NotFound { .. })
    }
}

fn joined(items: &[impl ToString], separator: &str) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(separator)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_read_as_upstreams() {
        let missing = Cause::NotFound { kind: "secret", name: "s".into() };
        let error = VolumeError::set_up("v", missing);
        assert_eq!(error.to_string(), "MountVolume.SetUp failed for volume \"v\" : secret \"s\" not found");
        let both = Cause::collected(vec![Cause::NoConfigKey("a".into()), Cause::NoSecretKey("b".into())]).unwrap();
        assert_eq!(
            both.to_string(),
            "[configmap references non-existent config key: a, references non-existent secret key: b]"
        );
    }

    #[test]
    fn several_errors_stay_apart() {
        let one = || VolumeError::set_up("v", Cause::NoDefaultMode);
        assert_eq!(one().each().len(), 1);
        assert_eq!(VolumeError::collected(vec![one(), one()]).unwrap().each().len(), 2);
        assert!(VolumeError::collected(vec![]).is_none());
    }
}
