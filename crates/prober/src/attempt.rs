//! One attempt of one probe, with its event where it went badly.

use std::time::Duration;

use cri::Cri;
use handlers::{HttpRequest, Outcome, http::Purpose};
use pod::{
    ContainerId, DesiredPod, Verdict,
    api::{Container, Probe},
    mounts::EventType,
    reason::event,
};

use tokio::sync::watch;

use crate::Kind;

/// An attempt that says nothing about the container is repeated at once, so often.
const TRIES: usize = 3;

/// What is probed, and where events about it go.
pub(crate) struct Target {
    pub cri: Cri,
    pub events: apiserver::Events,
    pub pod: DesiredPod,
    pub spec: Container,
    pub id: ContainerId,
    /// Empty while nobody knows.
    pub address: watch::Receiver<String>,
}

impl Drop for Target {
    fn drop(&mut self) {
        for kind in [Kind::Startup, Kind::Liveness, Kind::Readiness] {
            metrics::probes::forget(&self.labels(kind));
        }
    }
}

impl Target {
    pub fn probe(&self, kind: Kind) -> Option<&Probe> {
        match kind {
            Kind::Startup => self.spec.startup_probe.as_ref(),
            Kind::Liveness => self.spec.liveness_probe.as_ref(),
            Kind::Readiness => self.spec.readiness_probe.as_ref(),
        }
    }

    /// None when the attempt could not be made: it counts for nothing.
    pub async fn attempt(&self, kind: Kind, probe: &Probe) -> Option<Verdict> {
        let address = if needs_address(probe) {
            // Before there is one, a failure would be the node's, not the container's.
            self.address.clone().wait_for(|known| !known.is_empty()).await.ok()?.clone()
        } else {
            String::new()
        };
        let began = tokio::time::Instant::now();
        let mut outcome = self.once(probe, &address).await;
        for _ in 1..TRIES {
            if !matches!(outcome, Outcome::Unknown(_)) {
                break;
            }
            outcome = self.once(probe, &address).await;
        }
        let labels = self.labels(kind);
        metrics::probes::count(&labels, outcome_label(&outcome));
        // As upstream, which times neither a failure nor what could not be tried.
        if matches!(outcome, Outcome::Success(_) | Outcome::Warning(_)) {
            metrics::probes::observe(&labels, began.elapsed());
        }
        match outcome {
            Outcome::Success(_) => Some(Verdict::Success),
            Outcome::Warning(text) => {
                self.event(event::PROBE_WARNING, &format!("{} probe warning: {text}", kind.as_str()));
                Some(Verdict::Success)
            }
            Outcome::Failure(text) => {
                self.event(event::UNHEALTHY, &format!("{} probe failed: {text}", kind.as_str()));
                Some(Verdict::Failure)
            }
            Outcome::Unknown(text) => {
                let message = format!("{} probe errored and resulted in unknown state: {text}", kind.as_str());
                self.event(event::UNHEALTHY, &message);
                None
            }
        }
    }

    fn event(&self, reason: &str, message: &str) {
        self.events.container(&self.pod, &self.spec.name, EventType::Warning, reason, message);
    }

    fn labels(&self, kind: Kind) -> metrics::probes::Labels {
        metrics::probes::Labels {
            probe_type: kind.as_str(),
            container: self.spec.name.clone(),
            pod: self.pod.key.name.to_string(),
            namespace: self.pod.key.namespace.to_string(),
            pod_uid: self.pod.uid.to_string(),
        }
    }

    async fn once(&self, probe: &Probe, address: &str) -> Outcome {
        let limit = Duration::from_secs(probe.timeout_seconds.filter(|s| *s > 0).unwrap_or(1) as u64);
        if let Some(action) = &probe.exec {
            let command: Vec<String> = action.command.iter().flatten().map(|word| self.expand(word)).collect();
            return handlers::exec(&self.cri, &self.id, &command, limit).await;
        }
        if let Some(action) = &probe.http_get {
            return match HttpRequest::new(action, &self.spec, address, Purpose::Probe) {
                Ok(request) => handlers::http_get(&request, limit).await,
                Err(error) => Outcome::Unknown(error.to_string()),
            };
        }
        if let Some(action) = &probe.tcp_socket {
            let host = action.host.as_deref().filter(|h| !h.is_empty()).unwrap_or(address);
            return match handlers::resolve_port(&action.port, &self.spec) {
                Ok(port) => handlers::tcp_connect(host, port, limit).await,
                Err(error) => Outcome::Unknown(error.to_string()),
            };
        }
        if let Some(action) = &probe.grpc {
            let service = action.service.as_deref().unwrap_or_default();
            return match u16::try_from(action.port) {
                Ok(port) => handlers::grpc_health(address, port, service, limit).await,
                Err(_) => Outcome::Unknown(format!("invalid port number: {}", action.port)),
            };
        }
        Outcome::Unknown(format!("missing probe handler for {}:{}", self.pod.key, self.spec.name))
    }

    /// Only variables with literal values are known here, as upstream.
    fn expand(&self, word: &str) -> String {
        pod::env::expand(word, |name| {
            let found = self.spec.env.iter().flatten().find(|e| e.name == name);
            found.and_then(|e| e.value.clone())
        })
    }
}

/// Whether the probe goes to the pod's own address.
fn needs_address(probe: &Probe) -> bool {
    let is_own = |host: &Option<String>| host.as_deref().unwrap_or_default().is_empty();
    probe.exec.is_none()
        && (probe.http_get.as_ref().is_some_and(|action| is_own(&action.host))
            || probe.tcp_socket.as_ref().is_some_and(|action| is_own(&action.host))
            || probe.grpc.is_some())
}

fn outcome_label(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Success(_) | Outcome::Warning(_) => "successful",
        Outcome::Failure(_) => "failed",
        Outcome::Unknown(_) => "unknown",
    }
}
