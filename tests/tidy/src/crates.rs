//! Who may depend on whom.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Package, PackageId};

use crate::repository;

/// A crate uses only crates of a lower rank.
const RANKS: &[(u8, &[&str])] = &[
    (0, &["pod", "api-types"]),
    (1, &["cri", "apiserver", "cgroups", "host", "metrics", "trace", "handlers"]),
    (
        2,
        &[
            "pod-source",
            "pleg",
            "runtime",
            "images",
            "eviction",
            "shutdown",
            "volumes",
            "prober",
            "status-manager",
            "node",
            "server",
            "node-api",
            "certificates",
        ],
    ),
    (3, &["pod-workers", "join"]),
    (4, &["kubelet"]),
];

/// Used by tests only; free to use what they test.
const TEST_ONLY: &[&str] = &["testing", "bed", "bench", "differential", "fuzz", "real", "tidy"];

/// The few uses inside rank 1: everybody needs the clock and paths of `host`, counts in `metrics` and makes spans in `trace`, and `handlers`
/// calls exec by CRI and httpGet by the API server's proxy rules.
fn sideways(user: &str, used: &str) -> bool {
    matches!(used, "host" | "metrics") && !matches!(user, "host" | "metrics")
        || used == "trace" && !matches!(user, "host" | "metrics")
        || matches!((user, used), ("handlers" | "apiserver", "cri"))
}

/// Libraries that belong to one edge of the program.
const OWNED: &[(&str, &[&str])] = &[
    ("kube", &["apiserver"]),
    ("containerd-client", &["cri"]),
    ("tonic", &["api-types", "cri", "handlers", "node-api", "trace", "testing"]),
    ("api-types", &["cri", "runtime", "node-api", "trace", "testing"]),
];

fn metadata() -> Metadata {
    MetadataCommand::new()
        .manifest_path(repository().join("Cargo.toml"))
        // Else every platform's libraries would have to be at hand.
        .other_options(vec!["--filter-platform".to_owned(), "x86_64-unknown-linux-gnu".to_owned()])
        .exec()
        .expect("cargo metadata")
}

fn rank(name: &str) -> Option<u8> {
    RANKS.iter().find(|(_, names)| names.contains(&name)).map(|(rank, _)| *rank)
}

fn normal(package: &Package) -> impl Iterator<Item = &str> {
    package.dependencies.iter().filter(|d| d.kind == DependencyKind::Normal).map(|d| d.name.as_str())
}

#[test]
fn every_crate_has_a_rank() {
    for package in metadata().workspace_packages() {
        let name = package.name.as_str();
        assert!(rank(name).is_some() || TEST_ONLY.contains(&name), "{name} is in no rank of tests/tidy/src/crates.rs");
    }
}

#[test]
fn a_crate_uses_only_lower_ranks() {
    let metadata = metadata();
    let ours: BTreeSet<&str> = metadata.workspace_packages().iter().map(|p| p.name.as_str()).collect();
    let mut faults = Vec::new();
    for package in metadata.workspace_packages() {
        let user = package.name.as_str();
        let Some(own) = rank(user) else { continue };
        for used in normal(package).filter(|used| ours.contains(used)) {
            match rank(used) {
                Some(other) if other < own || (own == 1 && other == 1 && sideways(user, used)) => {}
                Some(other) => faults.push(format!("{user} (rank {own}) uses {used} (rank {other})")),
                None => faults.push(format!("{user} uses {used}, which is for tests only")),
            }
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn edge_libraries_stay_at_their_edge() {
    let mut faults = Vec::new();
    for package in metadata().workspace_packages() {
        let user = package.name.as_str();
        for used in normal(package) {
            let owners = OWNED.iter().find(|(name, _)| *name == used).map(|(_, owners)| *owners);
            if owners.is_some_and(|owners| !owners.contains(&user)) && !TEST_ONLY.contains(&user) {
                faults.push(format!("{user} uses {used}"));
            }
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

/// Rank 0 decides; it cannot wait, read or call.
#[test]
fn pod_is_free_of_tokio() {
    let metadata = metadata();
    let resolve = metadata.resolve.as_ref().expect("resolved");
    let nodes: BTreeMap<&PackageId, _> = resolve.nodes.iter().map(|node| (&node.id, node)).collect();
    let pod = metadata.workspace_packages().into_iter().find(|p| p.name == "pod").expect("pod");
    let (mut seen, mut next) = (BTreeSet::new(), vec![&pod.id]);
    while let Some(id) = next.pop() {
        if seen.insert(id) {
            let deps = nodes[id].deps.iter();
            let normal = deps.filter(|dep| dep.dep_kinds.iter().any(|kind| kind.kind == DependencyKind::Normal));
            next.extend(normal.map(|dep| &dep.pkg));
        }
    }
    for id in seen {
        let name = metadata[id].name.as_str();
        assert!(!matches!(name, "tokio" | "async-std" | "smol" | "reqwest" | "hyper"), "pod reaches {name}");
    }
}

#[test]
fn a_crate_lives_in_the_folder_of_its_name_and_is_not_published() {
    for package in metadata().workspace_packages() {
        let folder = package.manifest_path.parent().and_then(|path| path.file_name()).unwrap_or_default();
        assert_eq!(folder, package.name.as_str());
        assert_eq!(package.publish, Some(Vec::new()), "{} lacks publish.workspace = true", package.name);
    }
}

#[test]
fn architecture_md_lists_every_crate() {
    let page = fs::read_to_string(repository().join("docs/ARCHITECTURE.md")).expect("docs/ARCHITECTURE.md");
    for package in metadata().workspace_packages() {
        assert!(page.contains(&format!("`{}`", package.name)), "docs/ARCHITECTURE.md does not list `{}`", package.name);
    }
}

/// Logging tells our crates from libraries by name.
#[test]
fn logging_knows_every_crate_of_the_agent() {
    let source = fs::read_to_string(repository().join("crates/kubelet/src/logging.rs")).expect("logging.rs");
    for name in RANKS.iter().flat_map(|(_, names)| names.iter()) {
        let module = name.replace('-', "_");
        assert!(source.contains(&format!("\"{module}\"")), "crates/kubelet/src/logging.rs does not list {module}");
    }
}
