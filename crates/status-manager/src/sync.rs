//! One pod brought up to date at the API server.

use std::sync::Arc;

use apiserver::{ApiError, ApiServer};
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use pod::PodUid;

use crate::{
    book::{Job, Outcome, may_be_deleted},
    patch::{mirror_patch, status_patch},
    progress::without_sandbox,
};

/// Patches the status if it says something else, then deletes the object if that was all that held it.
pub(crate) async fn sync(api: ApiServer, job: Job) -> (Job, Outcome) {
    let outcome = match try_sync(&api, &job).await {
        Ok(outcome) => outcome,
        Err(error) if error.is_not_found() => Outcome::Gone,
        Err(error) => {
            tracing::warn!(pod = %job.key, uid = %job.uid, error = %error, "status not written, will try again");
            // A conflict or a refusal may come from an old picture; an unreachable server says nothing.
            Outcome::Failed { stale: !error.is_transient() }
        }
    };
    (job, outcome)
}

async fn try_sync(api: &ApiServer, job: &Job) -> Result<Outcome, ApiError> {
    let known = match &job.object {
        Some(object) => object.clone(),
        None => Arc::new(api.get_pod(&job.key).await?),
    };
    if !is(&known, &job.uid) {
        return Ok(Outcome::Gone);
    }
    if job.confirm_deletion && is_gone_with_its_deletion(&known, &job.status) {
        return delete(api, job).await;
    }
    let patch = if job.is_mirror { mirror_patch } else { status_patch };
    let now = match patch(known.status.as_ref(), &job.status) {
        None => known,
        Some(patch) => Arc::new(api.patch_pod_status(&job.key, &job.uid, &patch).await?),
    };
    if job.confirm_deletion && may_be_deleted(&now) {
        return delete(api, job).await;
    }
    Ok(Outcome::Synced(now))
}

/// Whether nobody could read what is left to say: nothing holds the object, and only its sandbox went since.
fn is_gone_with_its_deletion(known: &Pod, status: &PodStatus) -> bool {
    let is_held = known.metadata.finalizers.as_ref().is_some_and(|all| !all.is_empty());
    let is_told = |told| status_patch(Some(&without_sandbox(told)), &without_sandbox(status)).is_none();
    may_be_deleted(known) && !is_held && known.status.as_ref().is_some_and(is_told)
}

async fn delete(api: &ApiServer, job: &Job) -> Result<Outcome, ApiError> {
    api.delete_pod(&job.key, &job.uid, Some(0)).await?;
    tracing::info!(pod = %job.key, uid = %job.uid, "pod removed from the API");
    Ok(Outcome::Gone)
}

fn is(pod: &Pod, uid: &PodUid) -> bool {
    pod.metadata.uid.as_deref() == Some(uid.as_str())
}
