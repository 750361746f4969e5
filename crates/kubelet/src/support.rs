//! How far ferrolet honours what can be asked of it. The tables of flags, fields and gates carry the level; the
//! warnings at start and docs/SUPPORT.md read it there.

#[cfg(test)]
mod page;
#[cfg(test)]
mod pods;
#[cfg(test)]
mod serving;

use serde_json::Value;

use crate::{
    config::{self, Effective, schema},
    flags::{self, Given},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Support {
    Works,
    /// Its function is there but for what is named; no warning.
    Partly(&'static str),
    /// Recognised and checked, but what it asks for does not happen; why or what happens instead.
    NotYet(&'static str),
    /// Nothing hangs on it here, and nothing has to; why.
    NoEffect(&'static str),
}

/// One option that is set away from its default while its function is not there.
#[derive(Debug, PartialEq, Eq)]
pub struct Warning {
    pub option: String,
    pub value: String,
    pub reason: &'static str,
}

pub fn warnings(effective: &Effective, given: &Given) -> Vec<Warning> {
    let mut warnings = of_fields(effective);
    for (gate, value) in effective.gates.changed() {
        if let Support::NotYet(reason) = gate.support {
            warnings.push(Warning { option: format!("featureGates[{}]", gate.name), value: value.to_string(), reason });
        }
    }
    for (flag, value) in given.own() {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        if let (Support::NotYet(reason), false) = (flag.support(), text == flags::default_of(flag.name)) {
            warnings.push(Warning { option: format!("--{}", flag.name), value: text, reason });
        }
    }
    warnings
}

fn of_fields(effective: &Effective) -> Vec<Warning> {
    let defaults = config::file_defaults();
    let changed = schema::FIELDS.iter().filter(|field| {
        let value = &effective.document[field.name];
        // evictionHard has two defaults: that of a file, and none without a file.
        *value != defaults[field.name] && !(field.name == "evictionHard" && config::is_default_eviction(value))
    });
    changed
        .filter_map(|field| match field.support {
            Support::NotYet(reason) => {
                Some(Warning { option: field.name.to_owned(), value: shown(&effective.document[field.name]), reason })
            }
            _ => None,
        })
        .collect()
}

fn shown(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn warned(args: &[&str]) -> Vec<String> {
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        let given = flags::parse(&args).unwrap();
        let effective = config::load(&given).unwrap();
        warnings(&effective, &given).into_iter().map(|w| format!("{}={}", w.option, w.value)).collect()
    }

    #[test]
    fn defaults_warn_of_nothing() {
        assert_eq!(warned(&[]), Vec::<String>::new());
        assert_eq!(warned(&["--runtime-cgroups=/x", "--cpu-manager-policy=none"]), Vec::<String>::new());
    }

    #[test]
    fn what_is_not_there_yet_is_named_once_when_it_is_asked_for() {
        let args = [
            "--cpu-manager-policy=static",
            "--feature-gates=ContainerStopSignals=true,HPAScaleToZero=false",
            "--max-pods=5",
        ];
        assert_eq!(warned(&args), ["cpuManagerPolicy=static", "featureGates[ContainerStopSignals]=true"]);
    }

    /// What kind and kubeadm write for it is in testdata/kind.
    #[test]
    fn a_node_of_kind_asks_for_nothing_that_is_not_there() {
        let config = concat!("--config=", env!("CARGO_MANIFEST_DIR"), "/testdata/kind/config.yaml");
        let flags = include_str!("../testdata/kind/flags").lines();
        let flags: Vec<&str> = flags.map(|f| if f.starts_with("--config=") { config } else { f }).collect();
        assert_eq!(warned(&flags), Vec::<String>::new());
    }
}
