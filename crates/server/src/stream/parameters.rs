//! The query parameters of exec, attach and port-forward.

use crate::query::Query;

/// Which streams of a process a client wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamParameters {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    pub tty: bool,
}

impl StreamParameters {
    /// Only `1` means yes. A terminal has no separate stderr.
    pub fn parse(query: &Query) -> Result<Self, String> {
        let yes = |name| query.first(name) == Some("1");
        let (stdin, stdout, tty) = (yes("input"), yes("output"), yes("tty"));
        let stderr = yes("error") && !tty;
        if !stdin && !stdout && !stderr {
            return Err("you must specify at least 1 of stdin, stdout, stderr".into());
        }
        Ok(Self { stdin, stdout, stderr, tty })
    }
}

/// `port=`, repeated or a list; each from 1 to 65535.
pub fn forwarded_ports(query: &Query) -> Result<Vec<i32>, String> {
    let mut ports = Vec::new();
    for list in query.all("port") {
        if list.is_empty() {
            return Err("query parameter \"port\" cannot be empty".into());
        }
        for port in list.split(',') {
            let number: u16 = port.parse().map_err(|error| format!("unable to parse {list:?} as a port: {error}"))?;
            if number == 0 {
                return Err(format!("port {list:?} must be > 0"));
            }
            ports.push(i32::from(number));
        }
    }
    if ports.is_empty() {
        return Err("query parameter \"port\" is required".into());
    }
    Ok(ports)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn streams(query: &str) -> Result<StreamParameters, String> {
        StreamParameters::parse(&Query::parse(Some(query)))
    }

    #[test]
    fn a_terminal_drops_stderr_and_something_must_be_left() {
        let all = streams("input=1&output=1&error=1&tty=1").unwrap();
        assert_eq!(all, StreamParameters { stdin: true, stdout: true, stderr: false, tty: true });
        assert!(streams("error=1&tty=1").is_err());
        assert!(streams("input=true").is_err(), "only 1 counts");
    }

    #[test]
    fn ports_are_needed_and_valid() {
        let ports = |query: &str| forwarded_ports(&Query::parse(Some(query)));
        assert_eq!(ports("port=80,443&port=1").unwrap(), [80, 443, 1]);
        for bad in ["", "port=", "port=0", "port=65536", "port=x", "port=1,"] {
            assert!(ports(bad).is_err(), "{bad}");
        }
    }
}
