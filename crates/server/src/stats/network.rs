//! Traffic of network namespaces, as their counters stand in `/proc/PID/net/dev`.

use std::{
    fs::File,
    io::{BufRead, BufReader},
};

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

/// Of the namespace that the process is in; nothing once it has gone. No more than `most`, for a pod can make as many
/// as it likes.
pub fn of_process(process: &str, most: usize) -> Vec<Interface> {
    let opened = File::open(format!("/proc/{process}/net/dev"));
    opened.map(|file| interfaces(BufReader::new(file), most)).unwrap_or_default()
}

fn interfaces(table: impl BufRead, most: usize) -> Vec<Interface> {
    let parsed = table.split(b'\n').map_while(Result::ok).filter_map(|line| {
        let line = String::from_utf8_lossy(&line);
        let (name, counters) = line.split_once(':')?;
        let name = name.trim();
        if LEFT_OUT.iter().any(|prefix| name.starts_with(prefix)) { None } else { interface(name, counters) }
    });
    parsed.take(most).collect()
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
        assert_eq!(interfaces(text.as_bytes(), 8), [expected]);
    }

    #[test]
    fn a_pod_with_very_many_interfaces_shows_the_first_of_them() {
        let counters = "1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0";
        let table: String = (0..10_000).map(|n| format!("d{n}: {counters}\n")).collect();
        let table = [b"\xff: ", counters.as_bytes(), b"\n", table.as_bytes()].concat();
        let found = interfaces(table.as_slice(), 3);
        let names: Vec<&str> = found.iter().map(|interface| interface.name.as_str()).collect();
        assert_eq!(names, ["\u{fffd}", "d0", "d1"]);
    }
}
