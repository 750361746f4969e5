//! Upstream's own e2e.test: the tests named in docs/e2e-expected.txt (node conformance) and in
//! docs/e2e-conformance.txt (conformance of storage, apps and network) pass.

use std::path::Path;

use anyhow::{Result, bail};
use bed::{Runtime, e2e};

use crate::world::{Group, World};

pub fn group() -> Group {
    Group {
        name: "suite",
        runtime: Runtime::Containerd2,
        services: false,
        bare: false,
        tests: vec![("the_expected_upstream_tests_pass", upstream_tests)],
    }
}

pub fn conformance_group() -> Group {
    Group {
        name: "conformance",
        runtime: Runtime::Containerd2,
        services: true,
        bare: false,
        tests: vec![("storage_apps_and_network_as_under_upstream", conformance_tests)],
    }
}

fn upstream_tests(w: &mut World) -> Result<()> {
    all_pass(w, "suite", "e2e-expected.txt")
}

fn conformance_tests(w: &mut World) -> Result<()> {
    all_pass(w, "conformance", "e2e-conformance.txt")
}

fn all_pass(w: &World, name: &str, list: &str) -> Result<()> {
    let list = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs").join(list);
    let names = e2e::read_list(&list)?;
    let suite = e2e::Suite {
        name: name.into(),
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
