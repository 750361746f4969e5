//! Bytes of a YAML or JSON file to one JSON value, remembering which keys were given twice.
//!
//! Upstream decodes strictly first and, when that fails on a duplicate or unknown field only, leniently with a
//! warning. Here one pass keeps the last of the duplicates, as the lenient decoder does, and lists them.

use std::{cell::RefCell, fmt};

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

#[derive(Debug, Default)]
pub struct Document {
    pub value: Value,
    /// Dotted paths of keys that occur more than once.
    pub duplicates: Vec<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum SyntaxError {
    #[error("not valid JSON")]
    Json(#[source] serde_json::Error),
    #[error("not valid YAML")]
    Yaml(#[source] serde_yaml_ng::Error),
}

/// JSON when it starts with a brace, as upstream decides; else the first YAML document.
pub fn parse(bytes: &[u8]) -> Result<Document, SyntaxError> {
    let duplicates = RefCell::new(Vec::new());
    let seed = Node { path: String::new(), duplicates: &duplicates };
    let value = if bytes.iter().find(|b| !b.is_ascii_whitespace()) == Some(&b'{') {
        let mut json = serde_json::Deserializer::from_slice(bytes);
        let value = seed.deserialize(&mut json).map_err(SyntaxError::Json)?;
        json.end().map_err(SyntaxError::Json)?;
        value
    } else {
        match serde_yaml_ng::Deserializer::from_slice(bytes).next() {
            Some(first) => seed.deserialize(first).map_err(SyntaxError::Yaml)?,
            None => Value::Null,
        }
    };
    Ok(Document { value, duplicates: duplicates.into_inner() })
}

struct Node<'a> {
    path: String,
    duplicates: &'a RefCell<Vec<String>>,
}

impl Node<'_> {
    fn child(&self, key: &str) -> Self {
        let dot = if self.path.is_empty() || key.starts_with('[') { "" } else { "." };
        let path = format!("{}{dot}{key}", self.path);
        Self { path, duplicates: self.duplicates }
    }
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML or JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(self.child(&format!("[{}]", list.len())))? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        // A YAML key may be a number or a boolean; JSON keys are its text.
        while let Some(key) = entries.next_key_seed(self.child(""))? {
            let key = match key {
                Value::String(text) => text,
                other => other.to_string(),
            };
            let child = self.child(&key);
            let path = child.path.clone();
            let value = entries.next_value_seed(child)?;
            if map.insert(key, value).is_some() {
                self.duplicates.borrow_mut().push(path);
            }
        }
        Ok(Value::Object(map))
    }
}

/// The merge patch of RFC 7386: null removes, objects merge, everything else replaces.
pub fn merge(target: &mut Value, patch: Value) {
    let Value::Object(patch) = patch else {
        *target = patch;
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(object) = target else { return };
    for (key, value) in patch {
        if value.is_null() {
            object.remove(&key);
        } else {
            merge(object.entry(key).or_insert(Value::Null), value);
        }
    }
}

/// The value at a dotted path.
pub fn at<'a>(value: &'a Value, path: &str) -> &'a Value {
    path.split('.').fold(value, |inner, key| inner.get(key).unwrap_or(&Value::Null))
}

/// Sets the value at a dotted path, making the objects on the way.
pub fn set(value: &mut Value, path: &str, new: Value) {
    let mut inner = value;
    for key in path.split('.') {
        if !inner.is_object() {
            *inner = Value::Object(Map::new());
        }
        let Value::Object(object) = inner else { return };
        inner = object.entry(key).or_insert(Value::Null);
    }
    *inner = new;
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_last_of_two_equal_keys_counts_and_is_reported() {
        let document = parse(b"port: 1\nport: 2\nauthentication:\n  x509: {a: 1, a: 2}\n").unwrap();
        assert_eq!(document.value, json!({"port": 2, "authentication": {"x509": {"a": 2}}}));
        assert_eq!(document.duplicates, ["port", "authentication.x509.a"]);
        assert_eq!(parse(br#" {"a": 1, "a": 3}"#).unwrap().duplicates, ["a"]);
    }

    #[test]
    fn only_the_first_yaml_document_is_read() {
        assert_eq!(parse(b"---\na: 1\n---\na: 2\n").unwrap().value, json!({"a": 1}));
        assert!(parse(b"a: b: c").is_err());
        assert!(parse(b"{\"a\": 1} x").is_err());
    }

    #[test]
    fn a_merge_patch_merges_objects_and_removes_on_null() {
        let mut target = json!({"a": {"x": 1, "y": 2}, "b": [1, 2], "c": 3});
        merge(&mut target, json!({"a": {"y": null, "z": 4}, "b": [9], "d": {"e": null}}));
        assert_eq!(target, json!({"a": {"x": 1, "z": 4}, "b": [9], "c": 3, "d": {}}));
    }

    #[test]
    fn a_path_is_made_where_it_is_missing() {
        let mut value = json!({"a": null});
        set(&mut value, "a.b.c", json!(1));
        assert_eq!(at(&value, "a.b.c"), &json!(1));
        assert_eq!(at(&value, "x.y"), &Value::Null);
    }

    #[test]
    fn any_document_is_read_or_refused() {
        fuzz::each("config", |bytes| drop(parse(bytes)));
    }
}
