//! What a node log query asks for: read from the request's parameters, then judged.

use std::path::Path;

use jiff::Timestamp;

use crate::query::Query;

const MOST_SERVICES: usize = 4;
const LONGEST_SERVICE: usize = 256;
const MOST_LINES: i64 = 100_000;

#[derive(Debug, Default, PartialEq, Eq)]
pub struct LogQuery {
    pub services: Vec<String>,
    files: Vec<String>,
    pub options: Options,
}

/// What narrows the logs of services; files are always sent whole.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Options {
    since: Option<Timestamp>,
    until: Option<Timestamp>,
    tail_lines: Option<i64>,
    boot: Option<i64>,
    pattern: String,
}

impl LogQuery {
    /// None where the request queries nothing; `Err` tells all that cannot be read.
    pub fn parse(query: &Query) -> Result<Option<Self>, String> {
        let mut found = Self::default();
        let mut faults = Vec::new();
        for asked in query.all("query") {
            // A separator hints at a file; a name without one may still turn out to be a file's.
            if asked.contains(['/', '\\']) {
                found.files.push(asked.replace('\\', "/"));
            } else if !asked.trim().is_empty() {
                found.services.push(asked.to_owned());
            }
        }
        if query.first("query").is_some() && found.services.is_empty() && found.files.is_empty() {
            faults.push("query: may not be empty".to_owned());
        }
        found.options = Options {
            since: read(query, "sinceTime", &mut faults),
            until: read(query, "untilTime", &mut faults),
            tail_lines: read(query, "tailLines", &mut faults),
            boot: read(query, "boot", &mut faults),
            pattern: query.first("pattern").unwrap_or_default().to_owned(),
        };
        if !faults.is_empty() {
            return Err(joined(faults));
        }
        Ok((found != Self::default()).then_some(found))
    }

    /// The one file that is asked for, when it is one.
    pub fn file(&self) -> Option<&Path> {
        self.files.first().map(Path::new)
    }

    /// All that may not be asked. Whether a file is there is not looked at.
    pub fn check(&self) -> Result<(), String> {
        let mut faults: Vec<String> = self.services.iter().filter_map(|service| unsafe_name(service)).collect();
        if self.services.len() > MOST_SERVICES {
            faults.push(format!("query: must have at most {MOST_SERVICES} services"));
        }
        let options = &self.options;
        match (self.files.len(), self.services.len()) {
            (0, 0) => faults.push("query: cannot be empty with options".into()),
            (1.., 1..) => faults.push("query: a file and a service cannot be asked for together".into()),
            (2.., 0) => faults.push("query: at most one file can be asked for".into()),
            (1, 0) if *options != Options::default() => faults.push("query: a file is sent without options".into()),
            _ => {}
        }
        if let (Some(since), Some(until)) = (options.since, options.until)
            && since > until
        {
            faults.push("untilTime: must be after sinceTime".into());
        }
        if options.boot.is_some_and(|boot| boot > 0) {
            faults.push("boot: must be less than 1".into());
        }
        if options.tail_lines.is_some_and(|lines| !(0..=MOST_LINES).contains(&lines)) {
            faults.push(format!("tailLines: must be between 0 and {MOST_LINES}"));
        }
        if faults.is_empty() { Ok(()) } else { Err(joined(faults)) }
    }

    /// The arguments of `journalctl` for those services. Every value is bound to its option by `=`.
    pub fn journal_arguments(&self, services: &[&str]) -> Vec<String> {
        let options = &self.options;
        let time = |time: Timestamp| time.strftime("%Y-%m-%d %H:%M:%S UTC").to_string();
        let mut arguments = ["--utc", "--no-pager", "--output=short-precise"].map(str::to_owned).to_vec();
        arguments.extend(options.since.map(|at| format!("--since={}", time(at))));
        arguments.extend(options.until.map(|at| format!("--until={}", time(at))));
        arguments.extend(options.tail_lines.map(|lines| format!("--lines={lines}")));
        arguments.extend(services.iter().map(|service| format!("--unit={service}")));
        if !options.pattern.is_empty() {
            arguments.push(format!("--grep={}", options.pattern));
        }
        arguments.extend(options.boot.map(|boot| format!("--boot={boot}")));
        arguments
    }
}

fn read<T: std::str::FromStr>(query: &Query, name: &str, faults: &mut Vec<String>) -> Option<T> {
    let value = query.first(name).filter(|value| !value.is_empty())?;
    let read = value.parse().ok();
    if read.is_none() {
        faults.push(format!("{name}: Invalid value: {value:?}"));
    }
    read
}

fn unsafe_name(service: &str) -> Option<String> {
    if service.len() > LONGEST_SERVICE {
        return Some(format!("query: a service's name has at most {LONGEST_SERVICE} bytes"));
    }
    let safe = |c: char| c.is_ascii_alphanumeric() || "-_.:@".contains(c);
    (!service.chars().all(safe)).then(|| format!("query: Invalid value: {service:?}: unsupported characters"))
}

fn joined(faults: Vec<String>) -> String {
    let mut text = if faults.len() == 1 { faults.concat() } else { format!("[{}]", faults.join(", ")) };
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(query: &str) -> Result<Option<LogQuery>, String> {
        LogQuery::parse(&Query::parse(Some(query)))
    }

    fn checked(query: &str) -> Result<(), String> {
        parse(query).unwrap().unwrap().check()
    }

    #[test]
    fn a_request_without_parameters_queries_nothing() {
        assert_eq!(parse(""), Ok(None));
        assert_eq!(parse("other=1"), Ok(None));
    }

    #[test]
    fn what_cannot_be_read_is_told_together() {
        let told = parse("query=&tailLines=x&boot=y&sinceTime=today").unwrap_err();
        for name in ["query", "tailLines", "boot", "sinceTime"] {
            assert!(told.contains(&format!("{name}:")), "{told}");
        }
    }

    #[test]
    fn a_separator_makes_a_file() {
        let query = parse("query=a%5Cb.log").unwrap().unwrap();
        assert_eq!(query.file(), Some(Path::new("a/b.log")));
        assert_eq!(query.check(), Ok(()));
        assert_eq!(parse("query=b.log").unwrap().unwrap().services, ["b.log"]);
    }

    #[test]
    fn one_file_alone_or_up_to_four_services() {
        for good in ["query=kubelet", "query=a&query=b&query=c&query=d", "query=a@1.service&tailLines=0"] {
            assert_eq!(checked(good), Ok(()), "{good}");
        }
        for bad in [
            "tailLines=1",
            "query=a/b&query=c",
            "query=a/b&query=c/d",
            "query=a/b&tailLines=1",
            "query=a&query=b&query=c&query=d&query=e",
            "query=a;reboot",
            "query=a%20b",
            "query=a&boot=1",
            "query=a&tailLines=-1",
            "query=a&tailLines=100001",
            "query=a&sinceTime=2026-02-01T00:00:00Z&untilTime=2026-01-01T00:00:00Z",
        ] {
            assert!(checked(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn no_value_can_become_an_option() {
        let query = parse(
            "query=kubelet&pattern=--file%3D/etc/shadow&boot=-1&tailLines=5&sinceTime=2026-01-01T01:00:00%2B01:00",
        );
        let arguments = query.unwrap().unwrap().journal_arguments(&["kubelet"]);
        let expected = [
            "--utc",
            "--no-pager",
            "--output=short-precise",
            "--since=2026-01-01 00:00:00 UTC",
            "--lines=5",
            "--unit=kubelet",
            "--grep=--file=/etc/shadow",
            "--boot=-1",
        ];
        assert_eq!(arguments, expected);
    }

    #[test]
    fn any_query_is_read_or_refused() {
        fuzz::each("node-log-query", |bytes| {
            let query = Query::parse(std::str::from_utf8(bytes).ok());
            if let Ok(Some(query)) = LogQuery::parse(&query)
                && query.check().is_ok()
            {
                let _ = query.journal_arguments(&["kubelet"]);
            }
        });
    }
}
