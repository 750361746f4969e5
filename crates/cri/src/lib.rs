//! Client of the container runtime interface: deadlines, error classes, replies as `pod::observed`.
//!
//! One lazily opened connection per socket; a call on a lost one reconnects or fails with `Unavailable` at once.
//! Dropping a call's future cancels it at the runtime.

mod call;
mod checkpoint;
mod connect;
mod containerd_events;
mod containers;
mod convert;
mod details;
mod error;
mod events;
mod images;
mod lost_task;
mod observe;
mod sandboxes;
mod stats;
mod status;
mod streaming;
mod traced;

use std::{sync::Arc, time::Duration};

use api_types::runtime::v1::{image_service_client::ImageServiceClient, runtime_service_client::RuntimeServiceClient};
use tonic::transport::Channel;

use traced::Traced;

pub use containers::ExecOutput;
pub use error::{CriError, ErrorClass, Result};
pub use events::{EventKind, EventStream, RuntimeEvent};
pub use images::{Credentials, FilesystemUsage, Image, ImageFilesystems, PullRequest};
pub use observe::{AllObserved, Detail, Made};
pub use stats::{ContainerLayer, WritableLayer};
pub use status::{CgroupDriver, Condition, Features, Handler, RuntimeStatus, Version};
pub use streaming::Streams;
pub use tonic::Code;

/// The labels and annotations by which pods and containers are found again.
pub mod labels {
    pub const POD_NAME: &str = "io.kubernetes.pod.name";
    pub const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
    pub const POD_UID: &str = "io.kubernetes.pod.uid";
    pub const CONTAINER_NAME: &str = "io.kubernetes.container.name";
    pub const CONTAINER_HASH: &str = "io.kubernetes.container.hash";
    pub const RESTART_COUNT: &str = "io.kubernetes.container.restartCount";
    pub const TERMINATION_MESSAGE_PATH: &str = "io.kubernetes.container.terminationMessagePath";
    pub const TERMINATION_MESSAGE_POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";
    pub const PRE_STOP_HANDLER: &str = "io.kubernetes.container.preStopHandler";
    pub const CONTAINER_PORTS: &str = "io.kubernetes.container.ports";
    pub const POD_DELETION_GRACE_PERIOD: &str = "io.kubernetes.pod.deletionGracePeriod";
    pub const POD_TERMINATION_GRACE_PERIOD: &str = "io.kubernetes.pod.terminationGracePeriod";
}

/// Replies larger than this are refused, as upstream does.
const MAX_MESSAGE: usize = 16 * 1024 * 1024;

/// The container runtime. Cheap to clone; clones share connections and the cache of details.
#[derive(Clone)]
pub struct Cri {
    runtime: RuntimeServiceClient<Traced>,
    images: ImageServiceClient<Traced>,
    /// For containerd's own services, which are not traced.
    channel: Channel,
    timeout: Duration,
    details: Arc<details::Details>,
}

impl Cri {
    /// `unix://` endpoints or bare paths; an empty `image_endpoint` means the runtime's. Opens nothing yet, but must be
    /// called inside a tokio runtime.
    pub fn connect(runtime_endpoint: &str, image_endpoint: &str, timeout: Duration) -> Result<Self> {
        let channel = connect::channel(runtime_endpoint)?;
        let image_channel = match image_endpoint {
            "" => channel.clone(),
            same if same == runtime_endpoint => channel.clone(),
            other => connect::channel(other)?,
        };
        Ok(Self {
            runtime: RuntimeServiceClient::new(Traced::new(channel.clone()))
                .max_decoding_message_size(MAX_MESSAGE)
                .max_encoding_message_size(MAX_MESSAGE),
            images: ImageServiceClient::new(Traced::new(image_channel))
                .max_decoding_message_size(MAX_MESSAGE)
                .max_encoding_message_size(MAX_MESSAGE),
            channel,
            timeout,
            details: Arc::default(),
        })
    }
}

impl std::fmt::Debug for Cri {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cri").field("timeout", &self.timeout).finish_non_exhaustive()
    }
}
