//! Task: asks the runtime for its state and publishes it.
//!
//! Reads: CRI Status and Version. Writes: `watch` of `RuntimeView`. Wakes on: time, every 10 s once all is well.

use std::time::Duration;

use cri::{Condition, Cri, Features, Handler, RuntimeStatus, Version};
use host::Clock;
use pod::Mono;
use tokio::sync::watch;

/// While all is well; as often as the node's status is looked at.
const READY_PERIOD: Duration = Duration::from_secs(10);
const PERIOD: Duration = Duration::from_secs(5);
/// A start is in a hurry: pods wait for it.
const START_PERIOD: Duration = Duration::from_millis(200);
const START: Duration = Duration::from_secs(30);
/// Then a second apart, until it is plain that somebody has to install something first.
const UNREADY_PERIOD: Duration = Duration::from_secs(1);
const UNREADY: Duration = Duration::from_secs(120);
/// A call may take minutes before it counts as failed; after this much of it, it is told.
const SLOW: Duration = Duration::from_secs(10);
/// So long without a ready answer, the runtime is down.
const DOWN_AFTER: Duration = Duration::from_secs(30);

/// What the runtime last said.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RuntimeView {
    /// The newest answer that said RuntimeReady.
    pub last_ready: Option<Mono>,
    /// None before the first answer.
    pub runtime: Option<Condition>,
    pub network: Option<Condition>,
    /// Sorted by name.
    pub handlers: Vec<Handler>,
    pub features: Option<Features>,
    pub version: Option<Version>,
}

impl RuntimeView {
    /// Why pods can't run now, each a sentence of the Ready condition.
    pub fn runtime_errors(&self, now: Mono) -> Vec<String> {
        let mut errors = Vec::new();
        match self.last_ready {
            None => errors.push("container runtime status check may not have completed yet".to_owned()),
            Some(at) if now.since(at) >= DOWN_AFTER => errors.push("container runtime is down".to_owned()),
            Some(_) => {}
        }
        errors.extend(not_ready("container runtime not ready", "RuntimeReady", self.runtime.as_ref()));
        errors
    }

    pub fn network_error(&self) -> Option<String> {
        match &self.network {
            None => Some("network state unknown".to_owned()),
            network => not_ready("container runtime network not ready", "NetworkReady", network.as_ref()),
        }
    }

    pub fn runtime_ready(&self, now: Mono) -> bool {
        self.runtime_errors(now).is_empty()
    }
    pub fn network_ready(&self) -> bool {
        self.network.as_ref().is_some_and(|network| network.ready)
    }

    fn all_ready(&self) -> bool {
        self.runtime.as_ref().is_some_and(|r| r.ready) && self.network_ready()
    }

    /// Takes in an answer; says whether anything but the time changed.
    fn answered(&mut self, status: RuntimeStatus, now: Mono) -> bool {
        let before = RuntimeView { last_ready: None, ..self.clone() };
        let was_down = self.last_ready.is_none_or(|at| now.since(at) >= DOWN_AFTER);
        self.network = Some(status.network);
        if status.runtime.ready {
            self.last_ready = Some(now);
            self.handlers = status.handlers;
            self.handlers.sort_by(|a, b| a.name.cmp(&b.name));
            self.features = status.features;
        }
        let ready = status.runtime.ready;
        self.runtime = Some(status.runtime);
        before != RuntimeView { last_ready: None, ..self.clone() } || (ready && was_down)
    }
}

fn not_ready(what: &str, condition: &str, state: Option<&Condition>) -> Option<String> {
    let state = state.filter(|state| !state.ready)?;
    Some(format!("{what}: {condition}=false reason:{} message:{}", state.reason, state.message))
}

pub async fn poll(cri: Cri, clock: Clock, view: watch::Sender<RuntimeView>) {
    let began = clock.mono();
    let mut troubled = false;
    loop {
        let asked = cri.status();
        tokio::pin!(asked);
        let answer = tokio::select! {
            answer = &mut asked => answer,
            () = tokio::time::sleep(SLOW) => {
                if !std::mem::replace(&mut troubled, true) {
                    tracing::warn!("the container runtime has not answered for {} s; pods wait for it", SLOW.as_secs());
                }
                asked.await
            }
        };
        match answer {
            Ok(status) => {
                if std::mem::take(&mut troubled) {
                    tracing::info!("the container runtime answers again");
                }
                let version = version(&cri, &view).await;
                let now = clock.mono();
                view.send_if_modified(|view| {
                    let other_version = version.is_some() && view.version != version;
                    view.version = version.or_else(|| view.version.take());
                    view.answered(status, now) || other_version
                });
            }
            Err(error) => {
                if !std::mem::replace(&mut troubled, true) {
                    tracing::warn!(%error, "the container runtime does not answer");
                }
                // Time alone makes the state stale: those who show it are woken once.
                let now = clock.mono();
                view.send_if_modified(|view| {
                    let down = view.last_ready.is_some_and(|at| now.since(at) >= DOWN_AFTER);
                    down && view.version.take().is_some()
                });
            }
        }
        if view.borrow().all_ready() && !troubled {
            clock.beat(READY_PERIOD).await;
        } else {
            tokio::time::sleep(unready_pause(clock.mono().since(began))).await;
        }
    }
}

/// Asked for once, and again after a break: the runtime may have been replaced.
async fn version(cri: &Cri, view: &watch::Sender<RuntimeView>) -> Option<Version> {
    if view.borrow().version.is_some() {
        return None;
    }
    cri.version().await.ok()
}

fn unready_pause(since_start: Duration) -> Duration {
    match since_start {
        since if since < START => START_PERIOD,
        since if since < UNREADY => UNREADY_PERIOD,
        _ => PERIOD,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn condition(ready: bool, reason: &str) -> Condition {
        Condition { ready, reason: reason.to_owned(), message: "m".to_owned() }
    }

    fn status(runtime: bool, network: bool) -> RuntimeStatus {
        RuntimeStatus {
            runtime: condition(runtime, "R"),
            network: condition(network, "NetworkPluginNotReady"),
            ..RuntimeStatus::default()
        }
    }

    const T0: Mono = Mono::from_secs(100);

    #[test]
    fn before_the_first_answer_nothing_is_known() {
        let view = RuntimeView::default();
        assert_eq!(view.runtime_errors(T0), ["container runtime status check may not have completed yet"]);
        assert_eq!(view.network_error().unwrap(), "network state unknown");
    }

    #[test]
    fn a_missing_network_is_named_with_its_reason() {
        let mut view = RuntimeView::default();
        view.answered(status(true, false), T0);
        assert!(view.runtime_ready(T0) && !view.network_ready());
        assert_eq!(
            view.network_error().unwrap(),
            "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:m"
        );
    }

    #[test]
    fn thirty_seconds_without_a_ready_answer_mean_down() {
        let mut view = RuntimeView::default();
        view.answered(status(true, true), T0);
        assert!(view.runtime_ready(T0 + Duration::from_secs(29)));
        assert_eq!(view.runtime_errors(T0 + Duration::from_secs(30)), ["container runtime is down"]);
        view.answered(status(false, true), T0 + Duration::from_secs(31));
        let errors = view.runtime_errors(T0 + Duration::from_secs(31));
        assert_eq!(errors[1], "container runtime not ready: RuntimeReady=false reason:R message:m");
    }

    #[test]
    fn the_same_answer_again_changes_nothing_but_the_first_after_a_break_does() {
        let mut view = RuntimeView::default();
        assert!(view.answered(status(true, true), T0));
        assert!(!view.answered(status(true, true), T0 + PERIOD));
        assert!(view.answered(status(true, false), T0 + PERIOD));
        assert!(view.answered(status(true, false), T0 + Duration::from_secs(60)));
    }

    #[test]
    fn a_start_asks_often_and_a_ready_runtime_is_left_in_peace() {
        assert_eq!(unready_pause(Duration::from_secs(1)), START_PERIOD);
        assert_eq!(unready_pause(Duration::from_secs(60)), UNREADY_PERIOD);
        assert_eq!(unready_pause(Duration::from_secs(600)), PERIOD);
    }
}
