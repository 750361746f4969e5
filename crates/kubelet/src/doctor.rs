//! `kubelet doctor [FLAGS]`: looks at the machine with the flags and the configuration that the agent would have, says
//! what it finds, and what to do about it. It changes nothing, and runs beside an agent as well as before the first one.
//! With `--runtime` it tries the container runtime instead.

mod cluster;
mod conformance;
mod machine;
mod ports;
mod runtime;

use std::fmt;

use host::Clock;

use crate::options::{self, Options, Request};

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    Good,
    /// The agent starts, but something will not work.
    Warning,
    /// The agent will not start, or no pod will.
    Fault,
}

/// What was found of one thing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub about: &'static str,
    pub verdict: Verdict,
    pub found: String,
    /// What to do; empty where all is well.
    pub advice: String,
}

impl Finding {
    fn good(about: &'static str, found: impl Into<String>) -> Self {
        Self { about, verdict: Verdict::Good, found: found.into(), advice: String::new() }
    }
    fn warning(about: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { about, verdict: Verdict::Warning, found: found.into(), advice: advice.into() }
    }
    fn fault(about: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { about, verdict: Verdict::Fault, found: found.into(), advice: advice.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = match self.verdict {
            Verdict::Good => "ok",
            Verdict::Warning => "warning",
            Verdict::Fault => "FAULT",
        };
        write!(f, "{verdict:<8}{:<15}{}", self.about, self.found)?;
        if self.advice.is_empty() { Ok(()) } else { write!(f, "\n{:23}{}", "", self.advice) }
    }
}

/// Prints the findings; false where one of them would stop the node. `args`: what follows `doctor`.
pub fn run(args: &[String], clock: Clock) -> anyhow::Result<bool> {
    let arguments = conformance::Arguments::read(args);
    let options = match options::read(&arguments.agent) {
        Ok(Request::Run(options)) => options,
        Ok(Request::Print { .. }) => {
            println!("usage: kubelet doctor [--runtime [--image IMAGE]] [the flags that the agent is started with]");
            return Ok(true);
        }
        Err(error) => {
            let fault = Finding::fault("configuration", error.to_string(), "the agent will not start with these flags");
            println!("{fault}");
            return Ok(false);
        }
    };
    let executor = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    if arguments.runtime {
        return executor.block_on(conformance::run(&options, arguments.image.as_deref()));
    }
    let mut worst = Verdict::Good;
    let mut tell = |findings: Vec<Finding>| {
        for finding in findings {
            println!("{finding}");
            worst = worst.max(finding.verdict);
        }
    };
    tell(vec![configuration(&options)]);
    tell(machine::findings(&options, clock));
    tell(ports::findings(&options));
    executor.block_on(async {
        tell(runtime::findings(&options).await);
        tell(cluster::findings(&options, clock).await);
    });
    println!(
        "{}",
        match worst {
            Verdict::Good => "all is well",
            Verdict::Warning => "the agent will start; see the warnings",
            Verdict::Fault => "the node will not work as it is; see the faults",
        }
    );
    Ok(worst < Verdict::Fault)
}

fn configuration(options: &Options) -> Finding {
    match options.validate() {
        Ok(()) => {
            let mode = if options.is_standalone() { "standalone, static pods only" } else { "with an API server" };
            Finding::good("configuration", format!("node {}, {mode}", options.node_name))
        }
        Err(error) => {
            Finding::fault("configuration", error.to_string(), "the agent refuses to start until it is mended")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_says_what_and_what_to_do() {
        assert_eq!(Finding::good("kernel", "6.1").to_string(), "ok      kernel         6.1");
        let fault = Finding::fault("swap", "is on", "turn it off").to_string();
        assert_eq!(fault, "FAULT   swap           is on\n                       turn it off");
    }
}
