//! Takes out of what was captured all that differs from run to run: ids, times, addresses, folders.

use regex::Regex;
use serde_json::{Map, Value};

/// Rules that apply to every text of one side.
#[derive(Debug)]
pub struct Normal {
    rules: Vec<(Regex, &'static str)>,
}

impl Normal {
    /// `words` are texts of this side alone, with what stands for them.
    pub fn new(words: &[(String, &'static str)]) -> Self {
        let own = words.iter().map(|(word, instead)| (regex::escape(word), *instead));
        let general = [
            (r"\bkube-api-access-[a-z0-9]{5}\b", "kube-api-access"),
            (r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "UID"),
            (r"\b[0-9a-f]{64}\b", "ID"),
            (r"\b10\.77\.\d+\.\d+\b", "POD-IP"),
            (r"\b10\.96\.\d+\.\d+\b", "SERVICE-IP"),
            (r"\b172\.31\.77\.\d+\b", "NODE-IP"),
            (r"IP:\d{5}\b", "IP:PORT"),
            (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", "TIME"),
            (r"\b(\d+h)?(\d+m)?\d+(\.\d+)?(s|ms|µs)\b", "DURATION"),
            // The folder of a container's termination log is random.
            (r"(/containers/[^/]+)/[0-9a-f]{8}\b", "$1/RANDOM"),
            (r"\beyJ[\w-]+\.[\w-]+\.[\w-]+", "TOKEN"),
            (r"\.{2}\d{4}_\d\d_\d\d_\d\d_\d\d_\d\d\.\d+", "..DATA"),
        ];
        let general = general.map(|(pattern, instead)| (pattern.to_owned(), instead));
        let rules = own.chain(general).filter_map(|(pattern, instead)| Some((Regex::new(&pattern).ok()?, instead)));
        Self { rules: rules.collect() }
    }

    pub fn text(&self, text: &str) -> String {
        self.rules.iter().fold(text.to_owned(), |text, (rule, instead)| rule.replace_all(&text, *instead).into_owned())
    }

    /// How often is chance, whether is not.
    fn field(&self, key: &str, item: &Value) -> Value {
        match (key, item) {
            ("restartCount", count) if count.as_u64() > Some(1) => 1.into(),
            // Where a user namespace begins is drawn.
            ("hostId", id) if id.as_u64() > Some(0) => "SOME".into(),
            ("options", Value::Array(options)) => {
                let mut sorted: Vec<Value> = options.iter().map(|option| self.value(option)).collect();
                sorted.sort_by_key(Value::to_string);
                sorted.into()
            }
            _ => self.value(item),
        }
    }

    pub fn value(&self, value: &Value) -> Value {
        match value {
            Value::String(text) => self.text(text).into(),
            Value::Array(items) => items.iter().map(|item| self.value(item)).collect(),
            Value::Object(fields) => {
                fields.iter().map(|(key, item)| (self.text(key), self.field(key, item))).collect::<Map<_, _>>().into()
            }
            other => other.clone(),
        }
    }
}

/// Every leaf by its path. Lists of things that have a name are keyed by it, so that order is no difference.
pub fn flatten(value: &Value) -> Vec<(String, String)> {
    let mut leaves = Vec::new();
    walk(value, String::new(), &mut leaves);
    leaves.sort();
    leaves
}

fn walk(value: &Value, path: String, leaves: &mut Vec<(String, String)>) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (key, item) in fields {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                walk(item, path, leaves);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for (i, item) in items.iter().enumerate() {
                let name = name_of(item).map_or_else(|| i.to_string(), str::to_owned);
                walk(item, format!("{path}[{name}]"), leaves);
            }
        }
        other => leaves.push((path, other.to_string())),
    }
}

fn name_of(item: &Value) -> Option<&str> {
    ["containerPath", "key", "type", "name", "mountPath"].iter().find_map(|field| item.get(*field)?.as_str())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn ids_times_and_addresses_are_taken_out() {
        let normal = Normal::new(&[("upstream".to_owned(), "NODE")]);
        let text = "pod 0a1b2c3d-0000-4000-8000-0123456789ab on upstream at 10.77.1.2 took 1.25s";
        assert_eq!(normal.text(text), "pod UID on NODE at POD-IP took DURATION");
    }

    #[test]
    fn lists_of_named_things_are_keyed_by_name() {
        let leaves = flatten(&json!({"envs": [{"key": "B", "value": "2"}, {"key": "A", "value": "1"}]}));
        assert_eq!(leaves[1], ("envs[A].value".to_owned(), "\"1\"".to_owned()));
    }
}
