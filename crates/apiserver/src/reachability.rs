//! Whether the API server answers, as the last request found it.

use host::Clock;
use pod::Mono;
use tokio::sync::watch;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reachability {
    /// No request has ended yet.
    Unknown,
    Reachable {
        since: Mono,
    },
    Unreachable {
        since: Mono,
        error: String,
    },
}

impl Reachability {
    pub fn is_reachable(&self) -> bool {
        matches!(self, Self::Reachable { .. })
    }
}

#[derive(Debug)]
pub(crate) struct ReachabilityCell {
    clock: Clock,
    state: watch::Sender<Reachability>,
}

impl ReachabilityCell {
    pub(crate) fn new(clock: Clock) -> Self {
        Self { clock, state: watch::Sender::new(Reachability::Unknown) }
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<Reachability> {
        self.state.subscribe()
    }

    /// Any answer, also a refusal, shows that somebody is there.
    pub(crate) fn answered(&self) {
        self.state.send_if_modified(|state| {
            let turned = !state.is_reachable();
            if turned {
                *state = Reachability::Reachable { since: self.clock.mono() };
            }
            turned
        });
    }

    pub(crate) fn failed(&self, error: &dyn std::error::Error) {
        self.state.send_if_modified(|state| {
            if matches!(state, Reachability::Unreachable { .. }) {
                return false;
            }
            *state = Reachability::Unreachable { since: self.clock.mono(), error: with_causes(error) };
            true
        });
    }
}

/// An error and what lies below it on one line, each told once: the text of some names its source already.
pub fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_causes_of_an_error_are_told_once_each() {
        #[derive(Debug, thiserror::Error)]
        #[error("get node")]
        struct Outer(#[source] Inner);
        #[derive(Debug, thiserror::Error)]
        #[error("dial 10.0.0.1:6443: {0}")]
        struct Inner(#[source] std::io::Error);
        let refused = std::io::Error::new(std::io::ErrorKind::ConnectionRefused, "connection refused");
        assert_eq!(with_causes(&Outer(Inner(refused))), "get node: dial 10.0.0.1:6443: connection refused");
    }
}
