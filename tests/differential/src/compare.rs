//! What differs between two captures, and which differences are known.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use regex::Regex;
use serde::Deserialize;
use serde_json::Value;

use crate::normal::flatten;

/// One field that is not the same on both sides; absent is None.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    pub path: String,
    pub upstream: Option<String>,
    pub ferrolet: Option<String>,
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let show = |side: &Option<String>| side.clone().unwrap_or_else(|| "absent".to_owned());
        writeln!(f, "{}", self.path)?;
        writeln!(f, "      upstream {}", show(&self.upstream))?;
        write!(f, "      ferrolet {}", show(&self.ferrolet))
    }
}

pub fn differences(upstream: &Value, ferrolet: &Value) -> Vec<Difference> {
    let mut sides: BTreeMap<String, [Option<String>; 2]> = BTreeMap::new();
    for (side, value) in [upstream, ferrolet].into_iter().enumerate() {
        for (path, leaf) in flatten(value) {
            sides.entry(path).or_default()[side] = Some(leaf);
        }
    }
    let unequal = sides.into_iter().filter(|(_, [a, b])| a != b);
    unequal.map(|(path, [upstream, ferrolet])| Difference { path, upstream, ferrolet }).collect()
}

/// Those of `first` whose field differs in `second` too, and the others.
pub fn repeated(first: Vec<Difference>, second: &[Difference]) -> (Vec<Difference>, Vec<Difference>) {
    first.into_iter().partition(|difference| second.iter().any(|other| other.path == difference.path))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    #[serde(default = "any")]
    cases: String,
    /// Cases that it does not hold for.
    #[serde(default = "none")]
    except: String,
    path: String,
    /// Values as JSON; `absent` where there is none.
    #[serde(default = "any")]
    upstream: String,
    #[serde(default = "any")]
    ferrolet: String,
    /// For docs/SUPPORT.md: what a user sees, and why it is so.
    #[allow(dead_code)] // read by the page's generator
    reason: String,
}

fn none() -> String {
    "-".to_owned()
}

fn any() -> String {
    "(?s:.*)".to_owned()
}

/// `known.yml`: differences that are wanted or harmless, each with its reason.
#[derive(Debug)]
pub struct Known(Vec<Rule>);

#[derive(Debug)]
struct Rule {
    except: Regex,
    /// Of case, path and the two values.
    all: [Regex; 4],
}

impl Known {
    pub fn load() -> Result<Self> {
        Self::read(include_str!("../known.yml"))
    }

    fn read(text: &str) -> Result<Self> {
        let entries: Vec<Entry> = serde_yaml_ng::from_str(text).context("known.yml")?;
        let whole = |pattern: &str| Regex::new(&format!("^(?:{pattern})$"));
        let rules = entries.iter().map(|entry| {
            let all = [whole(&entry.cases)?, whole(&entry.path)?, whole(&entry.upstream)?, whole(&entry.ferrolet)?];
            Ok(Rule { except: whole(&entry.except)?, all })
        });
        Ok(Self(rules.collect::<Result<_>>()?))
    }

    pub fn has(&self, case: &str, difference: &Difference) -> bool {
        let value = |side: &'_ Option<String>| side.clone().unwrap_or_else(|| "absent".to_owned());
        let texts =
            [case.to_owned(), difference.path.clone(), value(&difference.upstream), value(&difference.ferrolet)];
        self.0.iter().any(|rule| {
            let mut pairs = rule.all.iter().zip(&texts);
            !rule.except.is_match(case) && pairs.all(|(pattern, text)| pattern.is_match(text))
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_field_of_one_side_alone_is_a_difference() {
        let found = differences(&json!({"a": 1, "b": {"c": 2}}), &json!({"a": 1}));
        let only = Difference { path: "b.c".into(), upstream: Some("2".into()), ferrolet: None };
        assert_eq!(found, [only]);
    }

    #[test]
    fn a_difference_that_does_not_come_again_is_told_apart() {
        let first = differences(&json!({"a": 1, "b": 2}), &json!({"a": 2, "b": 3}));
        let second = differences(&json!({"a": 1, "c": 2}), &json!({"a": 3, "c": 3}));
        let (stay, once) = repeated(first, &second);
        assert_eq!((stay[0].path.as_str(), stay.len()), ("a", 1));
        assert_eq!((once[0].path.as_str(), once.len()), ("b", 1));
    }

    #[test]
    fn a_known_difference_has_the_values_that_its_entry_names() {
        let known = Known::read("[{path: 'a\\.b', upstream: '\"x.*\"', ferrolet: absent, reason: because}]").unwrap();
        let difference =
            |upstream: &str| Difference { path: "a.b".into(), upstream: Some(upstream.into()), ferrolet: None };
        assert!(known.has("any", &difference("\"xyz\"")));
        assert!(!known.has("any", &difference("\"y\"")));
    }

    #[test]
    fn every_known_difference_is_readable() {
        Known::load().unwrap();
    }
}
