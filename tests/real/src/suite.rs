//! Upstream's own e2e.test: the tests named in docs/e2e-expected.txt pass.

use std::path::Path;

use anyhow::{Result, bail};
use bed::{Runtime, e2e};

use crate::world::{Group, World};

pub fn group() -> Group {
    Group {
        name: "suite",
        runtime: Runtime::Containerd2,
        tests: vec![("the_expected_upstream_tests_pass", upstream_tests)],
    }
}

fn upstream_tests(w: &mut World) -> Result<()> {
    let list = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/e2e-expected.txt");
    let names = e2e::read_list(&list)?;
    let suite = e2e::Suite {
        name: "suite".into(),
        focus: e2e::focus_of(&names),
        skip: "NOTHING".into(),
        processes: 10,
        retries: 1,
    };
    let outcomes = e2e::run(&w.cluster, &suite)?;
    let failed: Vec<String> = names
        .iter()
        .filter_map(|name| match outcome(&outcomes, name) {
            Some(e2e::Outcome::Passed) => None,
            other => Some(format!("{name}: {other:?}")),
        })
        .collect();
    eprint!("{} of {} ... ", names.len() - failed.len(), names.len());
    if !failed.is_empty() {
        bail!("{} upstream tests do not pass:\n  {}", failed.len(), failed.join("\n  "));
    }
    Ok(())
}

/// Reports append a test's labels to its name.
fn outcome<'a>(outcomes: &'a e2e::Outcomes, name: &str) -> Option<&'a e2e::Outcome> {
    let labelled = format!("{name} [");
    outcomes.iter().find(|(n, _)| *n == name || n.starts_with(&labelled)).map(|(_, outcome)| outcome)
}
