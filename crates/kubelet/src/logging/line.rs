//! One log line: its head, its fields, and the two ways to write it.

use std::fmt::{self, Write as _};

use k8s_openapi::jiff::{Timestamp, Zoned};
use tracing::field::{Field, Visit};

/// A field's value: numbers and booleans stay bare, all else is quoted.
#[derive(Debug, PartialEq)]
enum Value {
    Bare(String),
    Text(String),
}

#[derive(Debug)]
pub struct Line {
    /// `I`, `W` or `E`.
    pub severity: char,
    /// As the compiler knows it.
    path: String,
    number: u32,
    verbosity: u32,
    message: String,
    fields: Vec<(String, Value)>,
}

impl Line {
    pub fn new(severity: char, path: &str, number: u32, verbosity: u32) -> Self {
        Self { severity, path: path.to_owned(), number, verbosity, message: String::new(), fields: Vec::new() }
    }

    pub fn text(&mut self, name: &str, text: &str) {
        match name {
            "message" => text.clone_into(&mut self.message),
            // What Rust code calls `error`, every log of Kubernetes calls `err`, and puts first.
            "error" | "err" => self.fields.insert(0, ("err".to_owned(), Value::Text(text.to_owned()))),
            _ => self.fields.push((name.to_owned(), Value::Text(text.to_owned()))),
        }
    }

    fn bare(&mut self, field: &Field, value: impl fmt::Display) {
        self.fields.push((field.name().to_owned(), Value::Bare(value.to_string())));
    }

    /// `I1122 22:47:35.848125    7078 server.go:257] "Message" key="value"`
    pub fn klog(&self, now: &Zoned) -> String {
        let mut out = String::with_capacity(160);
        let _ = write!(
            out,
            "{}{:02}{:02} {:02}:{:02}:{:02}.{:06} {:7} {}:{}] ",
            self.severity,
            now.month(),
            now.day(),
            now.hour(),
            now.minute(),
            now.second(),
            now.subsec_nanosecond() / 1000,
            std::process::id(),
            base(&self.path),
            self.number
        );
        quote(&mut out, &self.message);
        for (name, value) in &self.fields {
            let _ = write!(out, " {name}=");
            match value {
                Value::Bare(text) => out.push_str(text),
                Value::Text(text) if text.contains('\n') => block(&mut out, text),
                Value::Text(text) => quote(&mut out, text),
            }
        }
        out.push('\n');
        out
    }

    /// One JSON object, as upstream's `--logging-format=json` writes it.
    pub fn json(&self, now: Timestamp) -> String {
        let mut out = String::with_capacity(160);
        let micros = now.as_microsecond();
        let _ = write!(out, "{{\"ts\":{}.{:03}", micros / 1000, micros % 1000);
        let _ = write!(out, ",\"caller\":\"{}:{}\",\"msg\":", with_directory(&self.path), self.number);
        json_quote(&mut out, &self.message);
        if self.severity != 'E' {
            let _ = write!(out, ",\"v\":{}", self.verbosity);
        }
        for (name, value) in &self.fields {
            out.push(',');
            json_quote(&mut out, name);
            out.push(':');
            match value {
                Value::Bare(text) => out.push_str(text),
                Value::Text(text) => json_quote(&mut out, text),
            }
        }
        out.push_str("}\n");
        out
    }
}

fn base(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// File and directory, as a caller is named in JSON. A crate's `src` says nothing: the crate does.
fn with_directory(path: &str) -> String {
    let mut parts = path.rsplit('/');
    let file = parts.next().unwrap_or_default();
    match parts.find(|part| *part != "src") {
        Some(directory) => format!("{directory}/{file}"),
        None => file.to_owned(),
    }
}

/// Many lines are shown as they are, indented.
fn block(out: &mut String, text: &str) {
    out.push_str("<\n");
    for line in text.lines() {
        let _ = writeln!(out, "\t{line}");
    }
    out.push_str(" >");
}

/// Go's quoted string.
fn quote(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{b}' => out.push_str("\\v"),
            '\u{c}' => out.push_str("\\f"),
            c if c.is_ascii_control() => {
                let _ = write!(out, "\\x{:02x}", c as u32);
            }
            c if c.is_control() => {
                let _ = write!(out, "\\u{:04x}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

fn json_quote(out: &mut String, text: &str) {
    // Writing a string as JSON cannot fail.
    out.push_str(&serde_json::to_string(text).unwrap_or_default());
}

impl Visit for Line {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.text(field.name(), value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.text(field.name(), &format!("{value:?}"));
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.text(field.name(), &apiserver::with_causes(value));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.bare(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.bare(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.bare(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.bare(field, value);
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::jiff::tz::TimeZone;

    use super::*;

    fn line() -> Line {
        let mut line = Line::new('I', "crates/pod-workers/src/worker.rs", 7, 4);
        line.text("message", "Pod \"a\" started");
        line.fields.push(("count".to_owned(), Value::Bare("3".to_owned())));
        line.text("pod", "default/a");
        line.text("error", "no\tway");
        line
    }

    fn at() -> Timestamp {
        "2026-11-22T22:47:35.848125Z".parse().unwrap()
    }

    #[test]
    fn a_text_line_is_klogs() {
        let text = line().klog(&at().to_zoned(TimeZone::UTC));
        let pid = std::process::id();
        let fields = r#""Pod \"a\" started" err="no\tway" count=3 pod="default/a""#;
        assert_eq!(text, format!("I1122 22:47:35.848125 {pid:7} worker.rs:7] {fields}\n"));
    }

    #[test]
    fn what_can_not_be_printed_is_written_as_in_go() {
        let mut quoted = String::new();
        quote(&mut quoted, "\u{1b}[1m\u{7}\u{85}\u{7f}é");
        assert_eq!(quoted, r#""\x1b[1m\a\u0085\x7fé""#);
    }

    #[test]
    fn many_lines_are_shown_as_a_block() {
        let mut line = Line::new('E', "main.rs", 1, 0);
        line.text("err", "a\nb");
        assert!(line.klog(&at().to_zoned(TimeZone::UTC)).ends_with("\"\" err=<\n\ta\n\tb\n >\n"));
    }

    #[test]
    fn a_json_line_has_milliseconds_caller_and_verbosity() {
        let json: serde_json::Value = serde_json::from_str(&line().json(at())).unwrap();
        assert_eq!(json["ts"], 1_795_387_655_848.125);
        assert_eq!(json["caller"], "pod-workers/worker.rs:7");
        assert_eq!(with_directory("crates/server/src/stats/psi.rs"), "stats/psi.rs");
        assert_eq!(with_directory("main.rs"), "main.rs");
        assert_eq!(json["v"], 4);
        assert_eq!(json["count"], 3);
        assert_eq!(json["err"], "no\tway");
    }
}
