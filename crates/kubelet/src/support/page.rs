//! docs/SUPPORT.md, written from the tables. `UPDATE=1 cargo test -p kubelet support_md` writes it anew.

use std::{fmt::Write as _, fs, path::PathBuf};

use super::{Support, pods, serving};
use crate::{
    config::schema::{self, Absent, FIELDS, Kind},
    flags::{FLAGS, Flag, Sets},
    gates::GATES,
    version,
};

fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn state(support: Support) -> &'static str {
    match support {
        Support::Works => "works",
        Support::Partly(_) => "partly",
        Support::NotYet(_) => "not yet",
        Support::NoEffect(_) => "no effect",
    }
}

fn note(support: Support) -> &'static str {
    match support {
        Support::Works => "",
        Support::Partly(reason) | Support::NotYet(reason) | Support::NoEffect(reason) => reason,
    }
}

/// A cell of a table: no bar may end it early.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

fn table(out: &mut String, head: &[&str], rows: impl Iterator<Item = Vec<String>>) {
    let _ = writeln!(out, "| {} |", head.join(" | "));
    let _ = writeln!(out, "|{}", " --- |".repeat(head.len()));
    for row in rows {
        let cells: Vec<String> = row.iter().map(|text| cell(text)).collect();
        let _ = writeln!(out, "| {} |", cells.join(" | "));
    }
    out.push('\n');
}

fn count(all: impl Iterator<Item = Support>) -> String {
    let (mut works, mut partly, mut not_yet, mut none) = (0, 0, 0, 0);
    for support in all {
        match support {
            Support::Works => works += 1,
            Support::Partly(_) => partly += 1,
            Support::NotYet(_) => not_yet += 1,
            Support::NoEffect(_) => none += 1,
        }
    }
    format!("{works} work, {partly} partly, {not_yet} not yet, {none} without effect")
}

fn flag_default(flag: &Flag) -> String {
    match flag.sets {
        Sets::Own { default, .. } => default.to_owned(),
        Sets::Config(_) => String::new(),
    }
}

fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::Bool => "boolean",
        Kind::Int32 | Kind::Int64 | Kind::Uint32 => "integer",
        Kind::Float => "number",
        Kind::Text => "string",
        Kind::Duration | Kind::DurationOrNanos => "duration",
        Kind::Quantity => "quantity",
        Kind::Texts | Kind::Int32s | Kind::Objects(_) => "list",
        Kind::Map | Kind::Multimap | Kind::Gates | Kind::Quantities => "map",
        Kind::Object(_) => "object",
    }
}

fn flags_section(out: &mut String) {
    let _ = writeln!(
        out,
        "## Flags\n\nAll {} of upstream's on Linux, and `--help`, are read. {}.",
        FLAGS.len() - 1,
        count(FLAGS.iter().map(Flag::support))
    );
    out.push_str("One that sets a field of the configuration file wins over the file. Unknown flags, flags that upstream has removed, and those of Windows are refused.\n\n");
    let rows = FLAGS.iter().map(|flag| {
        let sets = match flag.sets {
            Sets::Config(path) => format!("`{path}`"),
            Sets::Own { .. } => "itself".to_owned(),
        };
        vec![
            format!("`--{}`", flag.name),
            sets,
            flag_default(flag),
            state(flag.support()).to_owned(),
            note(flag.support()).to_owned(),
        ]
    });
    table(out, &["flag", "sets", "default", "state", "note"], rows);
}

fn fields_section(out: &mut String) {
    let counts = count(FIELDS.iter().map(|field| field.support));
    let _ = writeln!(
        out,
        "## KubeletConfiguration fields\n\nAll {} of `kubelet.config.k8s.io/v1beta1` are read and checked. {counts}.",
        FIELDS.len()
    );
    out.push_str("Unknown or repeated fields are passed over with a warning that names file and field. A field that is not there yet warns at start when it is set away from its default.\n\n");
    let rows = FIELDS.iter().map(|field| {
        let default = match (field.default, field.absent) {
            ("", Absent::Null) => "none".to_owned(),
            (text, _) => text.replace('"', ""),
        };
        vec![
            format!("`{}`", field.name),
            kind(field.kind).to_owned(),
            default,
            state(field.support).to_owned(),
            note(field.support).to_owned(),
        ]
    });
    table(out, &["field", "kind", "default", "state", "note"], rows);
}

fn gates_section(out: &mut String) {
    let _ = writeln!(
        out,
        "## Feature gates\n\nAll {} that the kubelet knows can be set, with upstream's defaults, locks and dependencies. {}.",
        GATES.len(),
        count(GATES.iter().map(|gate| gate.support))
    );
    out.push_str("Listed are those that a kubelet on Linux reads.\n\n");
    let read = GATES.iter().filter(|gate| !note(gate.support).starts_with("read by other components"));
    let rows = read.map(|gate| {
        let default = match (gate.default, gate.locked) {
            (true, true) => "on, locked",
            (true, false) => "on",
            (false, true) => "off, locked",
            (false, false) => "off",
        };
        vec![
            format!("`{}`", gate.name),
            gate.stage.as_str().to_owned(),
            default.to_owned(),
            state(gate.support).to_owned(),
            note(gate.support).to_owned(),
        ]
    });
    table(out, &["gate", "stage", "default", "state", "note"], rows);
}

/// Those that the differential test excuses.
fn differences_beside_upstream() -> Vec<String> {
    #[derive(serde::Deserialize)]
    struct Entry {
        reason: String,
    }
    let text = fs::read_to_string(repository().join("tests/differential/known.yml")).unwrap();
    let entries: Vec<Entry> = serde_yaml_ng::from_str(&text).unwrap();
    entries.into_iter().map(|entry| entry.reason).collect()
}

const COMMANDS: &str = "\
## Commands

Upstream has none of these.

| command | state | note |
| --- | --- | --- |
| `kubelet explain pod` | works | asks the running agent; needs no API server |
| `kubelet doctor` | works | changes nothing |
| `kubelet join k3s` | works | tested against a server that answers k3s' node endpoints as its source documents them, both generations, with a real API server behind it; not against k3s itself |
| `kubelet install` | works | for the DaemonSet in deploy/, or by hand |

";

fn page() -> String {
    let mut out = format!(
        "# What works\n\n<!-- Generated from the tables in crates/kubelet/src. To change it, change them and run\n     UPDATE=1 cargo test -p kubelet support_md -->\n\n\
         ferrolet {} behaves as the kubelet of Kubernetes {}. This page says how far. *works*: as upstream, unless the\n\
         note says otherwise. *partly*: but for what the note names. *not yet*: read and checked, without its function.\n         *no effect*: nothing hangs on it here.\n\n",
        version::FERROLET,
        version::KUBERNETES
    );
    out.push_str("[Pod features](#pod-features) · [Endpoints](#endpoints) · [Commands](#commands) · [Known differences](#known-differences) · [Upstream tests that fail](#upstream-tests-that-fail) · [Flags](#flags) · [Configuration](#kubeletconfiguration-fields) · [Feature gates](#feature-gates)\n\n");
    let _ = writeln!(
        out,
        "## Pod features\n\nBy field of the Pod. {}.\n",
        count(pods::FIELDS.iter().map(|(_, support)| *support))
    );
    let rows = pods::FIELDS
        .iter()
        .map(|(path, support)| vec![format!("`{path}`"), state(*support).to_owned(), note(*support).to_owned()]);
    table(&mut out, &["field", "state", "note"], rows);
    out.push_str("## Endpoints\n\nOn port 10250 unless said otherwise.\n\n");
    let rows = serving::ENDPOINTS
        .iter()
        .map(|(path, support)| vec![format!("`{path}`"), state(*support).to_owned(), note(*support).to_owned()]);
    table(&mut out, &["path", "state", "note"], rows);
    out.push_str(COMMANDS);
    out.push_str("## Known differences\n\n");
    let mut differences: Vec<String> = serving::DIFFERENCES.iter().map(|&text| text.to_owned()).collect();
    for reason in differences_beside_upstream() {
        if !differences.contains(&reason) {
            differences.push(reason);
        }
    }
    for difference in differences {
        let _ = writeln!(out, "- {difference}");
    }
    out.push_str("\n## Upstream tests that fail\n\n");
    match fs::read_to_string(repository().join("docs/e2e-known.txt")) {
        Ok(list) if !list.trim().is_empty() => {
            let lines = list.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#'));
            lines.for_each(|line| {
                let _ = writeln!(out, "- {line}");
            });
        }
        _ => out.push_str("None recorded.\n"),
    }
    out.push('\n');
    flags_section(&mut out);
    fields_section(&mut out);
    gates_section(&mut out);
    out.truncate(out.trim_end().len());
    out.push('\n');
    out
}

#[test]
fn support_md_is_current() {
    let path = repository().join("docs/SUPPORT.md");
    let page = page();
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&path, &page).unwrap();
    }
    let current = fs::read_to_string(&path).unwrap_or_default();
    assert!(current == page, "docs/SUPPORT.md is stale: run UPDATE=1 cargo test -p kubelet support_md");
}

#[test]
fn a_mirrored_flag_is_as_supported_as_its_field() {
    for flag in FLAGS {
        if let Sets::Config(path) = flag.sets {
            assert_eq!(Some(flag.support()), schema::top(path).map(|(field, _)| field.support), "{}", flag.name);
        }
    }
}
