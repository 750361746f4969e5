//! Lifecycle hooks: exec, httpGet, sleep.

use std::time::Duration;

use apiserver::Events;
use cri::{Cri, CriError};
use handlers::{HttpError, HttpRequest, Purpose};
use pod::{
    ContainerId, DesiredPod,
    api::{Container, ExecAction, HTTPGetAction, LifecycleHandler},
    mounts::EventType,
};

use crate::{counters, names::pod_text};

/// The text goes into the container's waiting message, never into an event: it may quote what the hook printed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HookError {
    #[error(
        "Exec lifecycle hook ({command}) for Container {container:?} in Pod {pod:?} failed - error: {error}, message: {output:?}"
    )]
    Exec { command: String, container: String, pod: String, error: String, output: String },
    #[error("HTTP lifecycle hook ({path}) for Container {container:?} in Pod {pod:?} failed - error: {error}")]
    Http { path: String, container: String, pod: String, error: String },
    #[error("Cannot run handler: invalid handler")]
    Invalid,
}

/// Where and for whom a hook runs.
#[derive(Clone, Copy)]
pub(crate) struct HookSite<'a> {
    pub cri: &'a Cri,
    pub events: &'a Events,
    pub pod: &'a DesiredPod,
    pub container: &'a Container,
    pub id: &'a ContainerId,
    /// Empty where the pod has no address.
    pub pod_ip: &'a str,
}

/// Takes as long as the hook does: the caller bounds the time by dropping the future.
pub(crate) async fn run(site: HookSite<'_>, hook: &LifecycleHandler) -> Result<(), HookError> {
    if let Some(action) = &hook.exec {
        exec(site, action).await
    } else if let Some(action) = &hook.http_get {
        http(site, action).await
    } else if let Some(action) = &hook.sleep {
        let sleep = counters::Sleep::begun();
        tokio::time::sleep(Duration::from_secs(action.seconds.max(0) as u64)).await;
        sleep.over();
        Ok(())
    } else {
        Err(HookError::Invalid)
    }
}

async fn exec(site: HookSite<'_>, action: &ExecAction) -> Result<(), HookError> {
    let command = action.command.clone().unwrap_or_default();
    let failed = |error: String, output: &[u8]| HookError::Exec {
        command: format!("[{}]", command.join(" ")),
        container: site.container.name.clone(),
        pod: pod_text(&site.pod.key, &site.pod.uid),
        error,
        output: String::from_utf8_lossy(output).into_owned(),
    };
    match site.cri.exec_sync(site.id, &command, Duration::ZERO).await {
        Ok(output) if output.exit_code == 0 => Ok(()),
        Ok(output) => {
            let stderr = String::from_utf8_lossy(&output.stderr);
            let error = format!("command '{}' exited with {}: {stderr}", command.join(" "), output.exit_code);
            Err(failed(error, &[output.stdout, output.stderr.clone()].concat()))
        }
        Err(CriError { code, message, .. }) => Err(failed(format!("rpc error: code = {code:?} desc = {message}"), &[])),
    }
}

async fn http(site: HookSite<'_>, action: &HTTPGetAction) -> Result<(), HookError> {
    let failed = |error: String| HookError::Http {
        path: action.path.clone().unwrap_or_default(),
        container: site.container.name.clone(),
        pod: pod_text(&site.pod.key, &site.pod.uid),
        error,
    };
    if site.pod_ip.is_empty() && action.host.as_deref().unwrap_or_default().is_empty() {
        return Err(failed("failed to find networking container".to_owned()));
    }
    let request = HttpRequest::new(action, site.container, site.pod_ip, Purpose::Lifecycle);
    let request = request.map_err(|e| failed(e.to_string()))?;
    match handlers::http_hook(&request).await {
        Ok(()) => Ok(()),
        Err(e @ HttpError::PlainHttp { .. }) => {
            let retried = handlers::http_hook(&request.downgraded()).await;
            retried.map_err(|_| failed(e.to_string()))?;
            counters::HTTP_FALLBACKS.inc();
            let text = format!(
                "request to HTTPS lifecycle hook {} got HTTP response, retry with HTTP succeeded",
                request.authority()
            );
            site.events.pod(site.pod, EventType::Warning, "LifecycleHTTPFallback", text);
            Ok(())
        }
        Err(e) => Err(failed(e.to_string())),
    }
}
