//! A task that containerd runs and that its CRI plugin has lost.
//!
//! It comes from a start that was cut off between the making of the task and the plugin's note of it ("failed to get
//! task pid: context canceled"), as when the caller is killed at that moment: CRI then shows the container as exited,
//! stops nothing, and refuses to remove it for as long as the task exists. No CRI call ends it, containerd's own do.

use std::time::Duration;

use api_types::containerd::services::tasks::v1::{DeleteTaskRequest, KillRequest, tasks_client::TasksClient};
use pod::ContainerId;
use tonic::{Code, Request, Status};

use crate::{
    Cri,
    error::{CriError, Result},
};

const SIGKILL: u32 = 9;
/// A killed process is reaped a moment later; until then its task can't be deleted.
const TRIES: u32 = 6;
const FIRST_PAUSE: Duration = Duration::from_millis(20);

/// Whether the refusal to remove a container is that of containerd about a task that still exists.
pub(crate) fn is_cause_of(error: &CriError) -> bool {
    matches!(error.code, Code::FailedPrecondition | Code::Unknown)
        && error.message.contains("cannot delete running task")
}

/// The plugin's containers are in this namespace of containerd.
fn request<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("containerd-namespace", tonic::metadata::MetadataValue::from_static("k8s.io"));
    request
}

impl Cri {
    pub(crate) async fn end_lost_task(&self, id: &ContainerId) -> Result<()> {
        tracing::warn!(container = %id, "containerd runs a task of an exited container, which CRI can't end: ending it directly");
        match tokio::time::timeout(self.timeout, self.kill_and_delete_task(id)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(status)) => Err(CriError::from_status("delete_task", id.as_str(), &status)),
            Err(_) => {
                let message = format!("no answer from containerd within {:?}", self.timeout);
                Err(CriError::new("delete_task", id.as_str(), Code::DeadlineExceeded, message))
            }
        }
    }

    async fn kill_and_delete_task(&self, id: &ContainerId) -> std::result::Result<(), Status> {
        let mut tasks = TasksClient::new(self.channel.clone());
        let kill = KillRequest { container_id: id.to_string(), exec_id: String::new(), signal: SIGKILL, all: true };
        // Already dead: deleting it is all that is left to do, and tells of every other trouble.
        let _ = tasks.kill(request(kill)).await;
        let mut pause = FIRST_PAUSE;
        for _ in 1..TRIES {
            match tasks.delete(request(DeleteTaskRequest { container_id: id.to_string() })).await {
                Err(status) if status.code() == Code::NotFound => return Ok(()),
                Err(_) => tokio::time::sleep(pause).await,
                Ok(_) => return Ok(()),
            }
            pause *= 2;
        }
        tasks.delete(request(DeleteTaskRequest { container_id: id.to_string() })).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_task_that_exists_is_the_cause() {
        let error = |code, message: &str| CriError::new("remove_container", "c1", code, message);
        let text = "failed to delete containerd container \"c1\": cannot delete running task c1: failed precondition";
        assert!(is_cause_of(&error(Code::FailedPrecondition, text)));
        assert!(is_cause_of(&error(Code::Unknown, text)), "as containerd 1.6 says it");
        assert!(!is_cause_of(&error(Code::FailedPrecondition, "container is still running")));
        assert!(!is_cause_of(&error(Code::NotFound, text)));
    }
}
