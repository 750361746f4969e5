//! Traffic of network namespaces, as their counters stand in `/proc/PID/net/dev`.

use std::fs;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    pub name: String,
    pub received: Traffic,
    pub sent: Traffic,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    pub bytes: u64,
    pub packets: u64,
    pub errors: u64,
    pub dropped: u64,
}

/// The loopback, and the hosts' ends of pods' links, whose traffic the pods show.
const LEFT_OUT: [&str; 4] = ["lo", "veth", "docker", "nerdctl"];

/// Of the namespace that the process is in; nothing once it has gone.
pub fn of_process(process: &str) -> Vec<Interface> {
    fs::read_to_string(format!("/proc/{process}/net/dev")).map(|text| parse(&text)).unwrap_or_default()
}

fn parse(text: &str) -> Vec<Interface> {
    let lines = text.lines().filter_map(|line| line.split_once(':'));
    let wanted = lines.filter(|(name, _)| !LEFT_OUT.iter().any(|prefix| name.trim().starts_with(prefix)));
    wanted.filter_map(|(name, counters)| interface(name.trim(), counters)).collect()
}

/// Eight numbers received, eight sent.
fn interface(name: &str, counters: &str) -> Option<Interface> {
    let numbers: Vec<u64> = counters.split_whitespace().filter_map(|number| number.parse().ok()).collect();
    let traffic = |first: usize| {
        let [bytes, packets, errors, dropped] = *numbers.get(first..first + 4)? else { return None };
        Some(Traffic { bytes, packets, errors, dropped })
    };
    Some(Interface { name: name.to_owned(), received: traffic(0)?, sent: traffic(8)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_read_by_interface_without_loopback_and_pod_links() {
        let text = "Inter-|   Receive                 |  Transmit\n \
                    face |bytes    packets errs drop fifo frame compressed multicast|bytes packets errs drop fifo colls carrier compressed\n    \
                    lo:   1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n  \
                    eth0: 100 10 1 2 0 0 0 0 200 20 3 4 0 0 0 0\n\
                    veth12ab: 5 5 0 0 0 0 0 0 5 5 0 0 0 0 0 0\n";
        let expected = Interface {
            name: "eth0".into(),
            received: Traffic { bytes: 100, packets: 10, errors: 1, dropped: 2 },
            sent: Traffic { bytes: 200, packets: 20, errors: 3, dropped: 4 },
        };
        assert_eq!(parse(text), [expected]);
    }
}
