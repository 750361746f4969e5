//! What the check has found so far, as the table that is printed.

use std::fmt;

use cri::CriError;

use super::calls::{Call, Need};

#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    #[error(transparent)]
    Cri(#[from] CriError),
    /// The call went well, but its effect is another than Kubernetes asks for.
    #[error("{0}")]
    Unexpected(String),
}

pub(super) type Checked<T = String> = Result<T, Fault>;

pub(super) fn unexpected<T>(what: impl Into<String>) -> Checked<T> {
    Err(Fault::Unexpected(what.into()))
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Outcome {
    Works,
    NotTried,
    Lacks,
    /// Not here, be it for the runtime or for the machine; few pods want it.
    NotHere,
    Failed,
}

struct Row {
    call: Call,
    outcome: Outcome,
    found: String,
}

impl Row {
    fn is_fatal(&self) -> bool {
        self.outcome == Outcome::Failed || (self.outcome == Outcome::Lacks && self.call.need == Need::Required)
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (result, advise) = match self.outcome {
            Outcome::Works => ("ok", false),
            Outcome::NotTried => ("not tried", false),
            Outcome::Lacks => ("lacks: Unimplemented", true),
            Outcome::NotHere => ("does not work here", true),
            Outcome::Failed => ("FAILED", true),
        };
        let line = format!("{:<36}{result:<22}{}", self.call.name, self.found);
        write!(f, "{}", line.trim_end())?;
        if advise { write!(f, "\n    {}", self.call.without) } else { Ok(()) }
    }
}

/// Prints each row as soon as it is known: a runtime that hangs shows where.
#[derive(Default)]
pub(super) struct Report {
    rows: Vec<Row>,
}

impl Report {
    /// True where the call works.
    pub(super) fn add(&mut self, call: Call, result: Checked<impl Into<String>>) -> bool {
        let (outcome, found) = match result {
            Ok(found) => (Outcome::Works, found.into()),
            Err(Fault::Cri(error)) if error.is_unimplemented() => (Outcome::Lacks, String::new()),
            Err(fault) => (Outcome::Failed, fault.to_string()),
        };
        let works = outcome == Outcome::Works;
        self.push(Row { call, outcome, found });
        works
    }

    /// Of what a node can do without, however it fails.
    pub(super) fn add_rare(&mut self, call: Call, result: Checked) {
        let (outcome, found) = match result {
            Ok(found) => (Outcome::Works, found),
            Err(fault) => (Outcome::NotHere, fault.to_string()),
        };
        self.push(Row { call, outcome, found });
    }

    pub(super) fn not_tried(&mut self, call: Call, why: &str) {
        self.push(Row { call, outcome: Outcome::NotTried, found: why.to_owned() });
    }

    fn push(&mut self, row: Row) {
        println!("{row}");
        self.rows.push(row);
    }

    /// Whether a node can stand on this runtime.
    pub(super) fn fits(&self) -> bool {
        !self.rows.iter().any(Row::is_fatal)
    }

    pub(super) fn summary(&self) -> String {
        let count = |wanted: fn(&Row) -> bool| self.rows.iter().filter(|row| wanted(row)).count();
        let (works, fatal) = (count(|row| row.outcome == Outcome::Works), count(Row::is_fatal));
        let lacks = count(|row| row.outcome == Outcome::Lacks && !row.is_fatal());
        match fatal {
            0 => format!("the runtime fits: {works} checks ok, {lacks} calls that it lacks and the agent does without"),
            _ => format!("the runtime does not fit: {fatal} checks failed, {works} ok"),
        }
    }
}

#[cfg(test)]
mod tests {
    use cri::Code;

    use super::{super::calls, *};

    fn fault(code: Code) -> Fault {
        let (operation, object) = ("x", "y".to_owned());
        CriError { operation, object, code, message: "no such thing".to_owned() }.into()
    }
    fn report(call: Call, result: Checked) -> Report {
        let mut report = Report::default();
        report.add(call, result);
        report
    }

    #[test]
    fn a_runtime_may_lack_what_the_agent_does_without() {
        let lacking = report(calls::EVENTS, Err(fault(Code::Unimplemented)));
        assert!(lacking.fits());
        assert!(lacking.summary().contains("1 calls that it lacks"), "{}", lacking.summary());
        let row = lacking.rows[0].to_string();
        assert!(row.contains("lacks: Unimplemented") && row.contains(calls::EVENTS.without), "{row}");
    }

    #[test]
    fn a_runtime_may_not_lack_what_the_agent_needs() {
        assert!(!report(calls::EXEC_SYNC, Err(fault(Code::Unimplemented))).fits());
    }

    #[test]
    fn what_few_pods_want_may_fail() {
        let mut report = Report::default();
        report.add_rare(calls::USER_NAMESPACE, Err(fault(Code::Unknown)));
        assert!(report.fits());
        let row = report.rows[0].to_string();
        assert!(row.contains("does not work here") && row.contains(calls::USER_NAMESPACE.without), "{row}");
    }

    #[test]
    fn a_call_that_is_there_has_to_be_right() {
        let wrong = report(calls::EVENTS, unexpected("none came"));
        assert!(!wrong.fits());
        assert!(wrong.rows[0].to_string().contains("FAILED"));
    }

    #[test]
    fn a_check_that_was_not_needed_is_no_fault() {
        let mut report = report(calls::VERSION, Ok("containerd 2".to_owned()));
        report.not_tried(calls::PULL_IMAGE, "the image is here");
        assert!(report.fits());
        assert!(report.summary().starts_with("the runtime fits: 1 checks ok, 0 calls"));
    }
}
