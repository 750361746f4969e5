//! Checkpoints of containers.

use api_types::runtime::v1::CheckpointContainerRequest;
use pod::ContainerId;

use crate::{Cri, call::call, error::Result};

impl Cri {
    /// Writes an archive to `location`. `timeout` is in seconds; zero leaves it to the runtime.
    pub async fn checkpoint_container(&self, id: &ContainerId, location: &str, timeout: i64) -> Result<()> {
        let request =
            CheckpointContainerRequest { container_id: id.to_string(), location: location.to_owned(), timeout };
        let limit = u64::try_from(timeout).ok().filter(|seconds| *seconds > 0).map(std::time::Duration::from_secs);
        let deadline = limit.map(|limit| self.timeout.saturating_add(limit));
        let mut client = self.runtime.clone();
        call("checkpoint_container", id.as_str(), deadline, client.checkpoint_container(request)).await.map(drop)
    }
}
