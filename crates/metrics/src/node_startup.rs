//! How long it took until a new node was ready, from the machine's boot on. A node that was there before has zeros.

use std::{sync::LazyLock, time::Duration};

use prometheus::Gauge;

use crate::gauge;

macro_rules! durations {
    ($($which:ident $name:literal $help:literal;)*) => {
        $(static $which: LazyLock<Gauge> = LazyLock::new(|| gauge($name, $help));)*

        pub(crate) fn show() {
            $(LazyLock::force(&$which);)*
        }
    };
}

durations! {
    PRE_KUBELET "kubelet_node_startup_pre_kubelet_duration_seconds"
        "Duration in seconds of node startup before kubelet starts.";
    PRE_REGISTRATION "kubelet_node_startup_pre_registration_duration_seconds"
        "Duration in seconds of node startup before registration.";
    REGISTRATION "kubelet_node_startup_registration_duration_seconds"
        "Duration in seconds of node startup during registration.";
    POST_REGISTRATION "kubelet_node_startup_post_registration_duration_seconds"
        "Duration in seconds of node startup after registration.";
    TOTAL "kubelet_node_startup_duration_seconds" "Duration in seconds of node startup in total.";
}

/// Times since the machine's boot: of the agent's start, of the first try, of the success.
pub fn registered(started: Duration, tried: Duration, registered: Duration) {
    PRE_KUBELET.set(started.as_secs_f64());
    PRE_REGISTRATION.set(tried.saturating_sub(started).as_secs_f64());
    REGISTRATION.set(registered.saturating_sub(tried).as_secs_f64());
}

/// Times since the machine's boot.
pub fn ready(registered: Duration, ready: Duration) {
    POST_REGISTRATION.set(ready.saturating_sub(registered).as_secs_f64());
    TOTAL.set(ready.as_secs_f64());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_of_a_start_has_its_length() {
        let secs = Duration::from_secs;
        registered(secs(20), secs(22), secs(25));
        ready(secs(25), secs(31));
        let text = crate::gather();
        for line in ["pre_kubelet_duration_seconds 20", "pre_registration_duration_seconds 2", "_duration_seconds 31"] {
            assert!(text.contains(line), "{line}\n{text}");
        }
        assert!(
            text.contains("startup_registration_duration_seconds 3\n")
                && text.contains("post_registration_duration_seconds 6\n")
        );
    }
}
