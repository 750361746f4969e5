//! Bringing a decoded document to the schema: kinds checked, unknown fields listed, defaults filled, spellings made
//! one; and the way back, to the form that `/configz` and the log show.

use pod::quantity::Quantity;
use serde_json::{Map, Value, json};

use super::{
    duration::GoDuration,
    invalid::Invalid,
    schema::{Absent, Field, Kind},
};

/// What was odd in one document.
#[derive(Debug, Default)]
pub struct Findings {
    /// Dotted paths of fields that the schema does not know; they are dropped.
    pub unknown: Vec<String>,
    /// Values of the wrong kind.
    pub wrong: Vec<Invalid>,
}

/// The object with every field of the schema present: given, default, or null.
pub fn conform(fields: &[Field], given: &Map<String, Value>, path: &str, findings: &mut Findings) -> Value {
    for name in given.keys() {
        if !fields.iter().any(|field| field.name == name) {
            findings.unknown.push(join(path, name));
        }
    }
    let filled = fields.iter().map(|field| {
        let path = join(path, field.name);
        let value = given.get(field.name).unwrap_or(&Value::Null);
        (field.name.to_owned(), conform_field(field, value, &path, findings))
    });
    Value::Object(filled.collect())
}

fn conform_field(field: &Field, value: &Value, path: &str, findings: &mut Findings) -> Value {
    if let Kind::Object(inner) = field.kind {
        return match value {
            Value::Null if field.absent == Absent::Null => Value::Null,
            Value::Null => conform(inner, &Map::new(), path, findings),
            Value::Object(given) => conform(inner, given, path, findings),
            other => {
                findings.wrong.push(Invalid::new(path, other, "must be a map of fields"));
                Value::Null
            }
        };
    }
    let value = if value.is_null() { Value::Null } else { conform_value(field.kind, value, path, findings) };
    let absent = value.is_null() || (field.absent == Absent::Zero && is_zero(field.kind, &value));
    if absent && !field.default.is_empty() { default_of(field) } else { value }
}

/// The default as JSON, null when there is none.
pub fn default_of(field: &Field) -> Value {
    serde_json::from_str(field.default).unwrap_or(Value::Null)
}

fn conform_value(kind: Kind, value: &Value, path: &str, findings: &mut Findings) -> Value {
    let result = match kind {
        Kind::Bool => to_bool(value),
        Kind::Int32 => to_int(value, i64::from(i32::MIN), i64::from(i32::MAX), "must be a 32-bit integer"),
        Kind::Uint32 => to_int(value, 0, i64::from(u32::MAX), "must be a 32-bit unsigned integer"),
        Kind::Int64 => to_int(value, i64::MIN, i64::MAX, "must be a 64-bit integer"),
        Kind::Float if value.is_number() => Ok(value.clone()),
        Kind::Float => Err("must be a number".to_owned()),
        Kind::Text => to_text(value),
        Kind::Duration => to_duration(value),
        Kind::DurationOrNanos => match value.as_i64() {
            Some(nanos) => Ok(json!(GoDuration::from_nanos(nanos))),
            None => to_duration(value),
        },
        Kind::Quantity => to_quantity(value),
        Kind::Texts => return conform_list(Kind::Text, value, path, findings),
        Kind::Int32s => return conform_list(Kind::Int32, value, path, findings),
        Kind::Map => return conform_map(Kind::Text, value, path, findings),
        Kind::Multimap => return conform_map(Kind::Texts, value, path, findings),
        Kind::Gates => return conform_map(Kind::Bool, value, path, findings),
        Kind::Quantities => return conform_map(Kind::Quantity, value, path, findings),
        Kind::Objects(_) => return conform_list(kind, value, path, findings),
        Kind::Object(_) => unreachable!("objects are taken by conform_field"),
    };
    result.unwrap_or_else(|reason| {
        findings.wrong.push(Invalid::new(path, value, reason));
        Value::Null
    })
}

fn conform_list(item: Kind, value: &Value, path: &str, findings: &mut Findings) -> Value {
    let Value::Array(items) = value else {
        findings.wrong.push(Invalid::new(path, value, "must be a list"));
        return Value::Null;
    };
    let items = items.iter().enumerate().map(|(index, value)| {
        let path = format!("{path}[{index}]");
        match (item, value) {
            (Kind::Objects(fields), Value::Object(given)) => conform(fields, given, &path, findings),
            (Kind::Objects(_), other) => {
                findings.wrong.push(Invalid::new(&path, other, "must be a map of fields"));
                Value::Null
            }
            _ => conform_value(item, value, &path, findings),
        }
    });
    Value::Array(items.collect())
}

fn conform_map(item: Kind, value: &Value, path: &str, findings: &mut Findings) -> Value {
    let Value::Object(entries) = value else {
        findings.wrong.push(Invalid::new(path, value, "must be a map"));
        return Value::Null;
    };
    let entries = entries.iter().map(|(key, value)| {
        let path = format!("{path}[{key}]");
        (key.clone(), conform_value(item, value, &path, findings))
    });
    Value::Object(entries.collect())
}

/// Upstream reads YAML 1.1, where `yes` and `on` are booleans; the decoder here leaves them as text.
fn to_bool(value: &Value) -> Result<Value, String> {
    match value {
        Value::Bool(_) => Ok(value.clone()),
        Value::String(text) => match text.to_ascii_lowercase().as_str() {
            "yes" | "on" | "y" => Ok(Value::Bool(true)),
            "no" | "off" | "n" => Ok(Value::Bool(false)),
            _ => Err("must be true or false".to_owned()),
        },
        _ => Err("must be true or false".to_owned()),
    }
}

fn to_int(value: &Value, min: i64, max: i64, reason: &str) -> Result<Value, String> {
    // A YAML `1.0` is 1 to upstream, which converts YAML to JSON first.
    let whole =
        || value.as_f64().filter(|number| number.fract() == 0.0 && number.abs() < 1e15).map(|number| number as i64);
    match value.as_i64().or_else(whole) {
        Some(number) if (min..=max).contains(&number) => Ok(number.into()),
        _ => Err(reason.to_owned()),
    }
}

fn to_text(value: &Value) -> Result<Value, String> {
    if value.is_string() { Ok(value.clone()) } else { Err("must be a string".to_owned()) }
}

fn to_duration(value: &Value) -> Result<Value, String> {
    let text = value.as_str().ok_or("must be a duration string such as \"1m30s\"")?;
    let duration: GoDuration = text.parse().map_err(|e: super::duration::DurationError| e.to_string())?;
    Ok(json!(duration))
}

fn to_quantity(value: &Value) -> Result<Value, String> {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        _ => return Err("must be a quantity".to_owned()),
    };
    text.parse::<Quantity>().map_err(|e| e.to_string())?;
    Ok(Value::String(text))
}

fn is_zero(kind: Kind, value: &Value) -> bool {
    match kind {
        Kind::Duration | Kind::DurationOrNanos => value == "0s",
        Kind::Float => value.as_f64() == Some(0.0),
        _ => match value {
            Value::Null => true,
            Value::Bool(flag) => !flag,
            Value::Number(number) => number.as_i64() == Some(0),
            Value::String(text) => text.is_empty(),
            Value::Array(items) => items.is_empty(),
            Value::Object(entries) => entries.is_empty(),
        },
    }
}

/// The object as upstream writes it: what Go's `omitempty` leaves out is left out.
pub fn prune(fields: &[Field], value: &Value) -> Value {
    let kept = fields.iter().filter_map(|field| {
        let value = value.get(field.name).unwrap_or(&Value::Null);
        let shown = match (field.kind, value) {
            (Kind::Object(_), Value::Null) => return None,
            (Kind::Object(inner), value) => prune(inner, value),
            (Kind::Objects(inner), Value::Array(items)) if !items.is_empty() => {
                Value::Array(items.iter().map(|item| prune(inner, item)).collect())
            }
            // A Go struct is never "empty", so a plain duration always shows.
            (Kind::Duration | Kind::DurationOrNanos, Value::Null) if field.absent == Absent::Zero => json!("0s"),
            (Kind::Duration | Kind::DurationOrNanos, value) if !value.is_null() => value.clone(),
            (kind, value) if field.absent == Absent::Zero && is_zero(kind, value) => return None,
            (_, Value::Null) if field.absent == Absent::Shown => zero_of(field.kind),
            (_, Value::Null) => return None,
            (Kind::Texts, Value::Array(items)) if items.is_empty() => return None,
            (_, value) => value.clone(),
        };
        Some((field.name.to_owned(), shown))
    });
    Value::Object(kept.collect())
}

fn zero_of(kind: Kind) -> Value {
    match kind {
        Kind::Bool => json!(false),
        Kind::Int32 | Kind::Int64 | Kind::Uint32 | Kind::Float => json!(0),
        Kind::Quantities | Kind::Map | Kind::Multimap | Kind::Gates => json!({}),
        Kind::Texts | Kind::Int32s | Kind::Objects(_) => json!([]),
        _ => json!(""),
    }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

#[cfg(test)]
mod tests {
    use super::{super::schema::FIELDS, *};

    fn conformed(given: Value) -> (Value, Findings) {
        let mut findings = Findings::default();
        let given = given.as_object().unwrap().clone();
        (conform(FIELDS, &given, "", &mut findings), findings)
    }

    #[test]
    fn a_zero_takes_the_default_only_where_go_cannot_tell_it_from_nothing() {
        let (value, _) = conformed(json!({
            "port": 0, "healthzPort": 0, "syncFrequency": "0s", "eventRecordQPS": 0, "enforceNodeAllocatable": [],
        }));
        assert_eq!(value["port"], 10250);
        assert_eq!(value["healthzPort"], 0);
        assert_eq!(value["syncFrequency"], "1m0s");
        assert_eq!(value["eventRecordQPS"], 0);
        assert_eq!(value["enforceNodeAllocatable"], json!([]));
    }

    #[test]
    fn every_wrong_kind_is_reported_with_its_field() {
        let (_, findings) = conformed(json!({
            "port": "abc", "syncFrequency": 5, "authentication": {"anonymous": {"enabled": 3}}, "clusterDNS": [1],
            "maxPods": 3_000_000_000_i64, "kubeReserved": {"cpu": 1},
        }));
        let wrong: Vec<String> = findings.wrong.iter().map(ToString::to_string).collect();
        assert_eq!(
            wrong,
            [
                "authentication.anonymous.enabled: Invalid value: 3: must be true or false",
                "clusterDNS[0]: Invalid value: 1: must be a string",
                "kubeReserved[cpu]: Invalid value: 1: must be a string",
                "maxPods: Invalid value: 3000000000: must be a 32-bit integer",
                "port: Invalid value: \"abc\": must be a 32-bit integer",
                "syncFrequency: Invalid value: 5: must be a duration string such as \"1m30s\"",
            ]
        );
    }

    #[test]
    fn unknown_fields_are_listed_by_path_and_case_matters() {
        let (_, findings) = conformed(json!({"Port": 3, "authentication": {"bar": "x"}, "foo": {}}));
        let mut unknown = findings.unknown;
        unknown.sort();
        assert_eq!(unknown, ["Port", "authentication.bar", "foo"]);
    }

    #[test]
    fn old_spellings_are_read() {
        let (value, findings) = conformed(json!({
            "maxPods": 7.0, "failSwapOn": "off", "logging": {"flushFrequency": 5_000_000_000_i64}, "syncFrequency": "90s",
        }));
        assert!(findings.wrong.is_empty());
        assert_eq!(value["maxPods"], 7);
        assert_eq!(value["failSwapOn"], false);
        assert_eq!(value["logging"]["flushFrequency"], "5s");
        assert_eq!(value["syncFrequency"], "1m30s");
    }
}
