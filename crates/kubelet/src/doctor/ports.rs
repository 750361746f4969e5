//! The ports that the agent listens on, and who holds them.

use std::{fs, io, net::TcpListener};

use super::Finding;
use crate::options::Options;

/// As /proc/net/tcp writes the state of a socket that waits for connections.
const LISTENS: &str = "0A";

/// A program that listens on a port.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Holder {
    name: String,
    pid: u32,
}

pub(super) fn findings(options: &Options) -> Vec<Finding> {
    let config = &options.config;
    let wanted = [
        ("port", config.address.as_str(), config.port),
        ("healthz port", config.healthz_bind_address.as_str(), config.healthz_port),
        ("read-only port", config.address.as_str(), config.read_only_port),
    ];
    let used = wanted.into_iter().filter(|(_, _, port)| *port > 0);
    used.map(|(about, address, port)| port_finding(about, address, port)).collect()
}

fn port_finding(about: &'static str, address: &str, port: i32) -> Finding {
    let port = u16::try_from(port).unwrap_or_default();
    match TcpListener::bind((address, port)) {
        Ok(_) => Finding::good(about, format!("{port} is free")),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => held(about, port, &holders(port)),
        Err(error) => Finding::fault(about, format!("{address}:{port}: {error}"), "choose an address of this machine"),
    }
}

fn held(about: &'static str, port: u16, holders: &[Holder]) -> Finding {
    let named: Vec<String> = holders.iter().map(|holder| format!("{} ({})", holder.name, holder.pid)).collect();
    let found = format!("{port} is in use by {}", named.join(", "));
    if holders.iter().any(|holder| holder.name == "kubelet") {
        return Finding::good(about, found);
    }
    if holders.is_empty() {
        // Another user's, seen by root alone; or it has ended since.
        let advice =
            format!("well if that is an agent of this node; else `ss -ltnp 'sport = :{port}'` shows whose it is");
        return Finding::warning(about, format!("{port} is in use"), advice);
    }
    Finding::fault(about, found, "the agent will not start: end that program, or give one of both another port")
}

/// Those that listen on the port at any address of this network namespace.
fn holders(port: u16) -> Vec<Holder> {
    let text = |file: &str| fs::read_to_string(file).unwrap_or_default();
    let mut links = listening(&text("/proc/net/tcp"), port);
    links.extend(listening(&text("/proc/net/tcp6"), port));
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    let processes = processes.flatten().filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry)));
    let holding = processes.filter(|(_, entry)| {
        let files = fs::read_dir(entry.path().join("fd")).into_iter().flatten().flatten();
        let mut targets = files.filter_map(|file| fs::read_link(file.path()).ok());
        targets.any(|target| links.iter().any(|link| target.as_os_str() == link.as_str()))
    });
    let name = |pid: u32| text(&format!("/proc/{pid}/comm")).trim().to_owned();
    holding.map(|(pid, _)| Holder { name: name(pid), pid }).collect()
}

/// What the files of a process that listens on the port lead to. `table`: /proc/net/tcp or tcp6.
fn listening(table: &str, port: u16) -> Vec<String> {
    let local = format!(":{port:04X}");
    let rows = table.lines().map(|row| row.split_whitespace().collect::<Vec<_>>());
    let rows = rows.filter(|row| row.len() > 9 && row[1].ends_with(&local) && row[3] == LISTENS);
    rows.map(|row| format!("socket:[{}]", row[9])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Verdict;

    #[test]
    fn a_port_that_another_program_holds_is_a_fault() {
        let holder = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = holder.local_addr().unwrap().port();
        let found = port_finding("port", "127.0.0.1", port.into());
        assert_eq!(found.verdict, Verdict::Fault, "{found}");
        assert!(found.found.contains(&format!("({})", std::process::id())), "{found}");
        drop(holder);
        assert_eq!(port_finding("port", "127.0.0.1", port.into()).verdict, Verdict::Good);
        assert_eq!(port_finding("port", "192.0.2.1", port.into()).verdict, Verdict::Fault);
    }

    #[test]
    fn a_port_that_a_kubelet_or_nobody_known_holds_is_none() {
        let kubelet = Holder { name: "kubelet".to_owned(), pid: 7 };
        assert_eq!(
            held("port", 10250, &[kubelet]).to_string(),
            "ok      port           10250 is in use by kubelet (7)"
        );
        assert_eq!(held("port", 10250, &[]).verdict, Verdict::Warning);
    }

    #[test]
    fn only_sockets_that_listen_on_the_port_count() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            \x20  0: 0100007F:280A 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 41 1 0 100 0\n\
            \x20  1: 0100007F:280A 0100007F:9C40 01 00000000:00000000 00:00000000 00000000     0        0 42 1 0 100 0\n\
            \x20  2: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 43 1 0 100 0\n";
        assert_eq!(listening(table, 10250), ["socket:[41]"]);
    }
}
