//! The command line, read as pflag reads it: `--name value`, `--name=value`, `_` for `-`, short `-v4`, booleans alone.

pub mod help;
pub mod table;
mod value;

use std::collections::BTreeMap;

use serde_json::Value;
pub use table::{FLAGS, Flag, Sets};

use crate::config::duration::GoDuration;

/// The flags that were given, with their values, by name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Given {
    values: BTreeMap<&'static str, Value>,
    /// Names of deprecated flags in the order of their occurrence, with repeats, as upstream complains.
    pub deprecated: Vec<&'static str>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FlagError {
    #[error("failed to parse kubelet flag: unknown flag: --{0}")]
    Unknown(String),
    #[error("failed to parse kubelet flag: unknown shorthand flag: {flag:?} in -{group}")]
    UnknownShort { flag: char, group: String },
    #[error("failed to parse kubelet flag: bad flag syntax: {0}")]
    Syntax(String),
    #[error("failed to parse kubelet flag: flag needs an argument: {0}")]
    NeedsArgument(String),
    #[error("failed to parse kubelet flag: invalid argument {text:?} for {flag:?} flag: {reason}")]
    InvalidArgument { text: String, flag: String, reason: String },
    #[error("unknown command {0}")]
    UnknownCommand(String),
}

/// Reads all arguments (without the program's name).
pub fn parse(args: &[String]) -> Result<Given, FlagError> {
    let mut given = Given::default();
    let mut positional = Vec::new();
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        if arg == "--" {
            positional.extend(rest.by_ref());
        } else if let Some(long) = arg.strip_prefix("--") {
            parse_long(long, &mut rest, &mut given)?;
        } else if let Some(group) = arg.strip_prefix('-').filter(|group| !group.is_empty()) {
            parse_short(group, &mut rest, &mut given)?;
        } else {
            positional.push(arg);
        }
    }
    match positional.first() {
        Some(command) => Err(FlagError::UnknownCommand((*command).clone())),
        None => Ok(given),
    }
}

fn parse_long<'a>(long: &str, rest: &mut impl Iterator<Item = &'a String>, given: &mut Given) -> Result<(), FlagError> {
    let (name, inline) = match long.split_once('=') {
        Some((name, text)) => (name, Some(text)),
        None => (long, None),
    };
    if name.is_empty() || name.starts_with('-') {
        return Err(FlagError::Syntax(format!("--{long}")));
    }
    let normal = name.replace('_', "-");
    let flag = find(|flag| flag.name == normal).ok_or_else(|| FlagError::Unknown(name.to_owned()))?;
    let text = match (inline, flag.reads.alone()) {
        (Some(text), _) => text,
        (None, Some(alone)) => alone,
        (None, None) => rest.next().ok_or_else(|| FlagError::NeedsArgument(format!("--{name}")))?,
    };
    given.set(flag, text)
}

/// `-h`, `-v 4`, `-v4`, `-v=4`, `-hv4`.
fn parse_short<'a>(
    group: &str,
    rest: &mut impl Iterator<Item = &'a String>,
    given: &mut Given,
) -> Result<(), FlagError> {
    let mut remaining = group;
    while let Some(letter) = remaining.chars().next() {
        let unknown = || FlagError::UnknownShort { flag: letter, group: remaining.to_owned() };
        let flag = find(|flag| flag.short == Some(letter)).ok_or_else(unknown)?;
        let after = &remaining[letter.len_utf8()..];
        if let Some(text) = after.strip_prefix('=') {
            return given.set(flag, text);
        }
        match flag.reads.alone() {
            Some(alone) => given.set(flag, alone)?,
            None if after.is_empty() => {
                let needs = || FlagError::NeedsArgument(format!("{letter:?} in -{remaining}"));
                return given.set(flag, rest.next().ok_or_else(needs)?);
            }
            None => return given.set(flag, after),
        }
        remaining = after;
    }
    Ok(())
}

fn find(matches: impl Fn(&Flag) -> bool) -> Option<&'static Flag> {
    FLAGS.iter().find(|flag| matches(flag))
}

impl Given {
    fn set(&mut self, flag: &'static Flag, text: &str) -> Result<(), FlagError> {
        let earlier = self.values.get(flag.name);
        let value = flag.reads.read(text, earlier).map_err(|reason| FlagError::InvalidArgument {
            text: text.to_owned(),
            flag: match flag.short {
                Some(short) => format!("-{short}, --{}", flag.name),
                None => format!("--{}", flag.name),
            },
            reason,
        })?;
        if flag.deprecated {
            self.deprecated.push(flag.name);
        }
        if !value.is_null() {
            self.values.insert(flag.name, value);
        }
        Ok(())
    }

    pub fn is_given(&self, name: &str) -> bool {
        self.values.contains_key(name)
    }

    pub fn value(&self, name: &str) -> Option<&Value> {
        self.values.get(name)
    }

    /// The flags that mirror configuration fields, as `(path, value)`.
    pub fn of_config(&self) -> impl Iterator<Item = (&'static str, &Value)> {
        self.values.iter().filter_map(|(name, value)| match find(|flag| flag.name == *name)?.sets {
            Sets::Config(path) => Some((path, value)),
            Sets::Own { .. } => None,
        })
    }

    /// An option of the command line only, given or its default.
    pub fn text(&self, name: &str) -> String {
        match self.values.get(name) {
            Some(Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
            None => default_of(name).to_owned(),
        }
    }

    pub fn bool(&self, name: &str) -> bool {
        self.text(name) == "true"
    }

    pub fn int(&self, name: &str) -> i64 {
        self.text(name).parse().unwrap_or_default()
    }

    pub fn duration(&self, name: &str) -> GoDuration {
        self.text(name).parse().unwrap_or_default()
    }

    pub fn map(&self, name: &str) -> BTreeMap<String, String> {
        let entries = self.values.get(name).and_then(Value::as_object).into_iter().flatten();
        entries.map(|(key, value)| (key.clone(), value.as_str().unwrap_or_default().to_owned())).collect()
    }

    /// Every flag of the command line only that was given, for the warnings at start.
    pub fn own(&self) -> impl Iterator<Item = (&'static Flag, &Value)> {
        self.values.iter().filter_map(|(name, value)| {
            let flag = find(|flag| flag.name == *name)?;
            matches!(flag.sets, Sets::Own { .. }).then_some((flag, value))
        })
    }
}

/// The default text of an option of the command line only.
pub fn default_of(name: &str) -> &'static str {
    match find(|flag| flag.name == name).map(|flag| flag.sets) {
        Some(Sets::Own { default, .. }) => default,
        _ => "",
    }
}

/// A value as it would be written on the command line.
pub fn shown(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(shown).collect::<Vec<_>>().join(","),
        Value::Object(entries) => {
            entries.iter().map(|(k, v)| format!("{k}={}", shown(v))).collect::<Vec<_>>().join(",")
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parsed(args: &[&str]) -> Result<Given, String> {
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        parse(&args).map_err(|e| e.to_string())
    }

    fn value(args: &[&str], name: &str) -> Value {
        parsed(args).unwrap().value(name).cloned().unwrap_or(Value::Null)
    }

    #[test]
    fn each_spelling_of_a_flag_is_read() {
        assert_eq!(value(&["--max-pods", "5"], "max-pods"), json!(5));
        assert_eq!(value(&["--max_pods=5"], "max-pods"), json!(5));
        assert_eq!(value(&["--fail-swap-on"], "fail-swap-on"), json!(true));
        assert_eq!(value(&["--fail-swap-on=0"], "fail-swap-on"), json!(false));
        for spelling in [&["-v4"][..], &["-v", "4"], &["-v=4"], &["--v=4"], &["--v", "4"], &["-hv4"]] {
            assert_eq!(value(spelling, "v"), json!(4), "{spelling:?}");
        }
        assert_eq!(value(&["--version"], "version"), json!("true"));
        assert_eq!(value(&["--max-pods=1", "--max-pods=2"], "max-pods"), json!(2));
    }

    /// Texts seen from `kubelet` v1.37.2.
    #[test]
    fn errors_read_as_upstreams() {
        let failed = "failed to parse kubelet flag: ";
        for (args, error) in [
            (&["--bogus"][..], "unknown flag: --bogus"),
            (&["--bogus=1"], "unknown flag: --bogus"),
            (&["--config"], "flag needs an argument: --config"),
            (&["--max_pods"], "flag needs an argument: --max_pods"),
            (&["-v"], "flag needs an argument: 'v' in -v"),
            (&["-x"], "unknown shorthand flag: 'x' in -x"),
            (&["-hx"], "unknown shorthand flag: 'x' in -x"),
            (&["--=x"], "bad flag syntax: --=x"),
            (&["---x"], "bad flag syntax: ---x"),
            (
                &["--v=abc"],
                r#"invalid argument "abc" for "-v, --v" flag: strconv.ParseUint: parsing "abc": invalid syntax"#,
            ),
            (
                &["--max-pods=abc"],
                r#"invalid argument "abc" for "--max-pods" flag: strconv.ParseInt: parsing "abc": invalid syntax"#,
            ),
            (
                &["--fail-swap-on=maybe"],
                r#"invalid argument "maybe" for "--fail-swap-on" flag: strconv.ParseBool: parsing "maybe": invalid syntax"#,
            ),
            (
                &["--sync-frequency=5"],
                r#"invalid argument "5" for "--sync-frequency" flag: time: missing unit in duration "5""#,
            ),
            (
                &["--eviction-hard=foo"],
                r#"invalid argument "foo" for "--eviction-hard" flag: malformed pair, expect string<string"#,
            ),
            (
                &["--feature-gates=Foo"],
                r#"invalid argument "Foo" for "--feature-gates" flag: malformed pair, expect string=bool"#,
            ),
            (&["--vmodule=x"], r#"invalid argument "x" for "--vmodule" flag: "x" does not have the pattern=N format"#),
            (
                &["--version=foo"],
                r#"invalid argument "foo" for "--version" flag: strconv.ParseBool: parsing "foo": invalid syntax"#,
            ),
            (
                &["--version=v1.36.0"],
                r#"invalid argument "v1.36.0" for "--version" flag: version "v1.36.0" must match major/minor/patch of default version "v1.37.2""#,
            ),
        ] {
            assert_eq!(parsed(args), Err(format!("{failed}{error}")), "{args:?}");
        }
    }

    #[test]
    fn a_positional_argument_is_an_unknown_command() {
        assert_eq!(parsed(&["join"]), Err("unknown command join".to_owned()));
        assert_eq!(parsed(&["--", "a", "b"]), Err("unknown command a".to_owned()));
        assert_eq!(parsed(&["--fail-swap-on", "false"]), Err("unknown command false".to_owned()));
    }

    #[test]
    fn flags_that_are_gone_or_of_windows_are_unknown() {
        for name in
            ["pod-infra-container-image", "container-runtime", "windows-service", "windows-priorityclass", "docker"]
        {
            let error = format!("failed to parse kubelet flag: unknown flag: --{name}");
            assert_eq!(parsed(&[&format!("--{name}=x")]), Err(error));
        }
    }

    #[test]
    fn deprecated_flags_are_remembered_once_for_each_use() {
        let given =
            parsed(&["--max-pods=1", "--v=2", "--max-pods=2", "--root-dir=/x", "--fail-cgroupv1=false"]).unwrap();
        assert_eq!(given.deprecated, ["max-pods", "max-pods"]);
        assert_eq!(given.text("root-dir"), "/x");
        assert_eq!(given.text("cert-dir"), "/var/lib/kubelet/pki");
    }
}
