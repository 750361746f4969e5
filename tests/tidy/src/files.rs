//! What every source file owes its reader.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::repository;

const MOST_LINES: usize = 700;

fn sources() -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for folder in ["crates", "tests"] {
        walk(&repository().join(folder), &mut found);
    }
    assert!(found.len() > 20, "the walk lost its way");
    found
}

fn walk(folder: &Path, found: &mut Vec<(PathBuf, String)>) {
    for entry in fs::read_dir(folder).expect("a folder of the repository").flatten() {
        let path = entry.path();
        if path.is_dir() {
            if path.file_name().is_none_or(|name| name != "target") {
                walk(&path, found);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).expect("a source file");
            let root = repository();
            found.push((path.strip_prefix(&root).unwrap_or(&path).to_owned(), text));
        }
    }
}

#[test]
fn every_file_says_what_it_is_for() {
    let bare: Vec<_> =
        sources().into_iter().filter(|(_, text)| !text.starts_with("//!")).map(|(path, _)| path).collect();
    assert!(bare.is_empty(), "files without a `//!` header: {bare:#?}");
}

#[test]
fn no_file_is_too_long_to_read() {
    let long = sources().into_iter().map(|(path, text)| (path, text.lines().count()));
    let long: Vec<_> = long.filter(|(_, lines)| *lines > MOST_LINES).collect();
    assert!(long.is_empty(), "files over {MOST_LINES} lines: {long:#?}");
}

/// Names that say nothing: a reader cannot guess what is inside.
#[test]
fn no_file_is_called_util_or_common() {
    for (path, _) in sources() {
        let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        assert!(!matches!(stem, "util" | "utils" | "common" | "helper" | "helpers" | "misc"), "{}", path.display());
    }
}

/// `unsafe` is forbidden in the workspace; a crate that has to relax it says why.
#[test]
fn only_host_may_relax_the_ban_on_unsafe() {
    for (path, text) in sources() {
        // Put together here, so that this file does not hold what it looks for.
        let allow = concat!("allow(", "unsafe_code");
        assert!(!text.contains(allow) || path.starts_with("crates/host"), "{}", path.display());
    }
}
