//! The text of one flag to its value, with pflag's rules: what replaces, what adds to an earlier occurrence, and the
//! wording of a refusal.

use std::net::IpAddr;

use pod::quantity::Quantity;
use serde_json::{Map, Value, json};

use crate::{
    config::{duration::GoDuration, names},
    version,
};

/// How a flag reads its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reads {
    Bool,
    Text,
    Int32,
    Int64,
    Level,
    Duration,
    Quantity,
    Ip,
    /// Comma separated, with quotes as in CSV; occurrences add up.
    Texts,
    /// `a=b,c=d`
    Map,
    /// `a=b`, one pair an occurrence, commas belong to the value
    OnePair,
    /// `a<b,c<d`
    Thresholds,
    /// `a=b,c`: a key alone has an empty value
    Labels,
    /// `a=true,b=false`
    Gates,
    /// `a:b,c:d`: a name may come again
    Headers,
    /// `key=value:Effect,...`
    Taints,
    /// `0:memory=1Gi,hugepages-2Mi=1Gi;1:...`
    ReservedMemory,
    /// `pattern=N,...`
    Vmodule,
    /// `true`, `false`, `raw` or `vX.Y.Z...`
    Version,
}

impl Reads {
    /// What help calls it.
    pub const fn type_name(self) -> &'static str {
        match self {
            Self::Bool => "",
            Self::Text => "string",
            Self::Int32 => "int32",
            Self::Int64 => "int",
            Self::Level => "Level",
            Self::Duration => "duration",
            Self::Quantity => "quantity",
            Self::Ip => "ip",
            Self::Texts => "strings",
            Self::Map | Self::OnePair | Self::Thresholds | Self::Labels => "mapStringString",
            Self::Gates => "mapStringBool",
            Self::Headers => "colonSeparatedMultimapStringString",
            Self::Taints => "[]v1.Taint",
            Self::ReservedMemory => "reserved-memory",
            Self::Vmodule => "pattern=N,...",
            Self::Version => "version[=true]",
        }
    }

    /// The value as Go prints it: lists in brackets, and what nobody set as the zero of its kind.
    pub fn shown(self, value: &Value) -> String {
        let text = super::shown(value);
        match self {
            Self::Texts => format!("[{text}]"),
            Self::Bool if text.is_empty() => "false".to_owned(),
            Self::Int32 | Self::Int64 if text.is_empty() => "0".to_owned(),
            _ => text,
        }
    }

    /// The value of the flag when it stands alone, for those that may.
    pub const fn alone(self) -> Option<&'static str> {
        match self {
            Self::Bool | Self::Version => Some("true"),
            _ => None,
        }
    }

    /// The value after this occurrence. Null says that the occurrence changes nothing.
    pub fn read(self, text: &str, earlier: Option<&Value>) -> Result<Value, String> {
        match self {
            Self::Bool => parse_bool(text).map(Value::Bool),
            Self::Text => Ok(text.into()),
            Self::Int32 => parse_int(text, i128::from(i32::MIN), i128::from(i32::MAX), "ParseInt"),
            Self::Int64 => parse_int(text, i128::from(i64::MIN), i128::from(i64::MAX), "ParseInt"),
            Self::Level => parse_level(text),
            Self::Duration => parse_duration(text),
            Self::Quantity => text.parse::<Quantity>().map(|_| text.into()).map_err(|e| e.to_string()),
            Self::Ip => parse_ip(text),
            Self::Texts => Ok(extend(earlier, parse_csv(text)?)),
            Self::Map => add_pairs(text, '=', earlier),
            Self::OnePair => add_pair(text, '=', earlier),
            Self::Thresholds => add_pairs(text, '<', earlier),
            Self::Labels => Ok(add_labels(text, earlier)),
            Self::Gates => add_gates(text, earlier),
            Self::Headers => add_headers(text, earlier),
            Self::Taints => parse_taints(text),
            Self::ReservedMemory if text.is_empty() => Ok(Value::Null),
            Self::ReservedMemory => Ok(extend(earlier, parse_reserved_memory(text)?)),
            Self::Vmodule => parse_vmodule(text),
            Self::Version => parse_version(text),
        }
    }
}

fn parse_bool(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(false),
        _ => Err(format!("strconv.ParseBool: parsing {text:?}: invalid syntax")),
    }
}

/// Go's integer literals: `0x`, `0o`, `0b` and a leading 0 choose the base.
fn parse_int(text: &str, min: i128, max: i128, function: &str) -> Result<Value, String> {
    let fault = |what: &str| Err(format!("strconv.{function}: parsing {text:?}: {what}"));
    let (negative, digits) = match text.as_bytes().first() {
        Some(b'-') if min < 0 => (true, &text[1..]),
        Some(b'+') if min < 0 => (false, &text[1..]),
        _ => (false, text),
    };
    let lower = digits.to_ascii_lowercase();
    let (base, digits) = match lower.as_bytes() {
        [b'0', b'x', ..] => (16, &lower[2..]),
        [b'0', b'o', ..] => (8, &lower[2..]),
        [b'0', b'b', ..] => (2, &lower[2..]),
        [b'0', _, ..] => (8, &lower[1..]),
        _ => (10, lower.as_str()),
    };
    if digits.is_empty() || !digits.chars().all(|c| c.is_digit(base)) {
        return fault("invalid syntax");
    }
    let number = i128::from_str_radix(digits, base).unwrap_or(i128::MAX);
    let number = if negative { -number } else { number };
    if number < min || number > max {
        return fault("value out of range");
    }
    Ok(json!(number as i64))
}

fn parse_level(text: &str) -> Result<Value, String> {
    let bad = || Err(format!("strconv.ParseUint: parsing {text:?}: invalid syntax"));
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return bad();
    }
    match text.parse::<u32>() {
        Ok(level) if level <= i32::MAX as u32 => Ok(level.into()),
        _ => Err(format!("strconv.ParseUint: parsing {text:?}: value out of range")),
    }
}

fn parse_duration(text: &str) -> Result<Value, String> {
    text.parse::<GoDuration>().map(|duration| json!(duration)).map_err(|e| e.to_string())
}

/// An empty address leaves the one that is set, as upstream's flag does.
fn parse_ip(text: &str) -> Result<Value, String> {
    match text {
        "" => Ok(Value::Null),
        _ if text.parse::<IpAddr>().is_ok() => Ok(text.into()),
        _ => Err(format!("{text:?} is not a valid IP address")),
    }
}

fn extend(earlier: Option<&Value>, more: Vec<Value>) -> Value {
    let mut list = earlier.and_then(Value::as_array).cloned().unwrap_or_default();
    list.extend(more);
    Value::Array(list)
}

/// One CSV record.
fn parse_csv(text: &str) -> Result<Vec<Value>, String> {
    let mut fields = Vec::new();
    let mut rest = text;
    while !text.is_empty() {
        let (field, after) = match rest.strip_prefix('"') {
            Some(quoted) => csv_quoted(quoted)?,
            None => {
                let end = rest.find(',').unwrap_or(rest.len());
                (rest[..end].to_owned(), &rest[end..])
            }
        };
        fields.push(Value::String(field));
        match after.strip_prefix(',') {
            Some(next) => rest = next,
            None => break,
        }
    }
    Ok(fields)
}

fn csv_quoted(mut rest: &str) -> Result<(String, &str), String> {
    let mut field = String::new();
    loop {
        let end = rest.find('"').ok_or("extraneous or missing \" in quoted-field")?;
        field.push_str(&rest[..end]);
        rest = &rest[end + 1..];
        match rest.strip_prefix('"') {
            Some(after) => {
                field.push('"');
                rest = after;
            }
            None if rest.is_empty() || rest.starts_with(',') => return Ok((field, rest)),
            None => return Err("extraneous or missing \" in quoted-field".to_owned()),
        }
    }
}

fn object(earlier: Option<&Value>) -> Map<String, Value> {
    earlier.and_then(Value::as_object).cloned().unwrap_or_default()
}

fn add_pairs(text: &str, separator: char, earlier: Option<&Value>) -> Result<Value, String> {
    let mut map = object(earlier);
    for pair in text.split(',').filter(|pair| !pair.is_empty()) {
        let (key, value) =
            pair.split_once(separator).ok_or_else(|| format!("malformed pair, expect string{separator}string"))?;
        map.insert(key.trim().to_owned(), value.trim().into());
    }
    Ok(Value::Object(map))
}

fn add_pair(text: &str, separator: char, earlier: Option<&Value>) -> Result<Value, String> {
    let mut map = object(earlier);
    let (key, value) =
        text.split_once(separator).ok_or_else(|| format!("malformed pair, expect string{separator}string"))?;
    map.insert(key.trim().to_owned(), value.trim().into());
    Ok(Value::Object(map))
}

fn add_labels(text: &str, earlier: Option<&Value>) -> Value {
    let mut map = object(earlier);
    for pair in text.split(',').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        map.insert(key.trim().to_owned(), value.trim().into());
    }
    Value::Object(map)
}

fn add_gates(text: &str, earlier: Option<&Value>) -> Result<Value, String> {
    let mut map = object(earlier);
    for pair in text.split(',').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').ok_or("malformed pair, expect string=bool")?;
        let (key, value) = (key.trim(), value.trim());
        let flag = parse_bool(value).map_err(|e| format!("invalid value of {key}: {value}, err: {e}"))?;
        map.insert(key.to_owned(), flag.into());
    }
    Ok(Value::Object(map))
}

fn add_headers(text: &str, earlier: Option<&Value>) -> Result<Value, String> {
    let mut map = object(earlier);
    for pair in text.split(',').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once(':').ok_or("malformed pair, expect string:string")?;
        let values = extend(map.get(key.trim()), vec![value.trim().into()]);
        map.insert(key.trim().to_owned(), values);
    }
    Ok(Value::Object(map))
}

fn parse_taints(text: &str) -> Result<Value, String> {
    let mut taints: Vec<(String, String, String)> = Vec::new();
    for spec in text.split(',').filter(|_| !text.is_empty()) {
        if let Some(removed) = spec.strip_suffix('-') {
            // The form that removes a taint means nothing here; upstream reads it and drops it.
            parse_taint(removed)?;
            continue;
        }
        let (key, value, effect) = parse_taint(spec)?;
        if effect.is_empty() {
            return Err(format!("invalid taint spec: {spec}"));
        }
        if taints.iter().any(|(k, _, e)| *k == key && *e == effect) {
            return Err(format!("duplicated taints with the same key and effect: {key}={value}:{effect}"));
        }
        taints.push((key, value, effect));
    }
    let taints = taints.iter().map(|(key, value, effect)| json!({"key": key, "value": value, "effect": effect}));
    Ok(Value::Array(taints.collect()))
}

fn parse_taint(spec: &str) -> Result<(String, String, String), String> {
    let invalid = |reason: &str| format!("invalid taint spec: {spec}{reason}");
    let (pair, effect) = match spec.split(':').collect::<Vec<_>>()[..] {
        [key] => (key, ""),
        [pair, effect] => (pair, effect),
        _ => return Err(invalid("")),
    };
    let has_effect = spec.contains(':');
    if has_effect && !names::is_taint_effect(effect) {
        return Err(format!("invalid taint effect: {effect}, unsupported taint effect"));
    }
    let (key, value) = match pair.split('=').collect::<Vec<_>>()[..] {
        [key] => (key, ""),
        [key, value] if has_effect => (key, value),
        _ => return Err(invalid("")),
    };
    if let Some(fault) = names::label_value(value).or_else(|| names::qualified_name(key)) {
        return Err(invalid(&format!(", {fault}")));
    }
    Ok((key.to_owned(), value.to_owned(), effect.to_owned()))
}

fn parse_reserved_memory(text: &str) -> Result<Vec<Value>, String> {
    text.split(';').map(parse_numa_reservation).collect()
}

fn parse_numa_reservation(text: &str) -> Result<Value, String> {
    let Some((node, types)) = text.split_once(':').filter(|(_, types)| !types.contains(':')) else {
        return Err(format!(
            "the reserved memory has incorrect format, expected numaNodeID:type=quantity[,type=quantity...], got {text}"
        ));
    };
    let node: i32 =
        node.parse().map_err(|_| format!("failed to convert the NUMA node ID, expected integer, got {node}"))?;
    let mut limits = Map::new();
    for limit in types.split(',') {
        let Some((kind, amount)) = limit.split_once('=').filter(|(_, amount)| !amount.contains('=')) else {
            return Err(format!("the reserved limit has incorrect value, expected type=quantity, got {limit}"));
        };
        if !names::is_reservable_memory(kind) {
            return Err(format!("memory type conversion error, unknown type: {kind:?}"));
        }
        amount.parse::<Quantity>().map_err(|_| format!("failed to parse the quantity: {amount}"))?;
        limits.insert(kind.to_owned(), amount.into());
    }
    Ok(json!({"numaNode": node, "limits": limits}))
}

fn parse_vmodule(text: &str) -> Result<Value, String> {
    let mut items = Vec::new();
    for item in text.split(',').filter(|item| !item.is_empty()) {
        let Some((pattern, level)) = item.split_once('=').filter(|(p, l)| !p.is_empty() && !l.is_empty()) else {
            return Err(format!("{item:?} does not have the pattern=N format"));
        };
        let level = parse_level(level).map_err(|e| format!("parsing verbosity in {item:?}: {e}"))?;
        items.push(json!({"filePattern": pattern, "verbosity": level}));
    }
    Ok(Value::Array(items))
}

fn parse_version(text: &str) -> Result<Value, String> {
    match text {
        "raw" => Ok("raw".into()),
        _ if text.starts_with('v') => version::check_reported(text).map(|()| text.into()),
        _ => parse_bool(text).map(|flag| if flag { "true".into() } else { "false".into() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(reads: Reads, texts: &[&str]) -> Result<Value, String> {
        let mut value = None;
        for text in texts {
            value = Some(reads.read(text, value.as_ref())?);
        }
        Ok(value.unwrap_or(Value::Null))
    }

    #[test]
    fn lists_and_maps_add_up_over_occurrences() {
        assert_eq!(read(Reads::Texts, &["a,b", "\"c,d\",e", ""]), Ok(json!(["a", "b", "c,d", "e"])));
        assert_eq!(read(Reads::Map, &["a=1, b = 2", "a=3"]), Ok(json!({"a": "3", "b": "2"})));
        assert_eq!(read(Reads::OnePair, &["a=1,b=2", "c=d"]), Ok(json!({"a": "1,b=2", "c": "d"})));
        assert_eq!(read(Reads::Thresholds, &["nodefs.available<10%"]), Ok(json!({"nodefs.available": "10%"})));
        assert_eq!(read(Reads::Labels, &["a=b,c"]), Ok(json!({"a": "b", "c": ""})));
        assert_eq!(read(Reads::Headers, &["a:1,b:2", "a:3"]), Ok(json!({"a": ["1", "3"], "b": ["2"]})));
    }

    #[test]
    fn numbers_are_read_in_gos_bases_and_bounds() {
        assert_eq!(read(Reads::Int32, &["0x10"]), Ok(json!(16)));
        assert_eq!(read(Reads::Int32, &["-010"]), Ok(json!(-8)));
        assert_eq!(read(Reads::Int32, &["0"]), Ok(json!(0)));
        let range = "strconv.ParseInt: parsing \"99999999999\": value out of range";
        assert_eq!(read(Reads::Int32, &["99999999999"]), Err(range.into()));
        assert_eq!(read(Reads::Level, &["-1"]), Err("strconv.ParseUint: parsing \"-1\": invalid syntax".into()));
    }

    #[test]
    fn taints_need_an_effect_and_come_once() {
        let taint = json!([{"key": "a", "value": "b", "effect": "NoSchedule"}]);
        assert_eq!(read(Reads::Taints, &["a=b:NoSchedule"]), Ok(taint));
        assert_eq!(read(Reads::Taints, &["abc"]), Err("invalid taint spec: abc".into()));
        let effect = "invalid taint effect: NoFoo, unsupported taint effect";
        assert_eq!(read(Reads::Taints, &["a=b:NoFoo"]), Err(effect.into()));
        assert!(read(Reads::Taints, &["a=b:NoSchedule,a=c:NoSchedule"]).is_err());
        assert_eq!(read(Reads::Taints, &["a:NoExecute"]).unwrap()[0]["value"], "");
    }

    #[test]
    fn reserved_memory_is_read_by_numa_node() {
        let two = json!([{"numaNode": 0, "limits": {"memory": "1Gi", "hugepages-2Mi": "4Mi"}}, {"numaNode": 1, "limits": {"memory": "1"}}]);
        assert_eq!(read(Reads::ReservedMemory, &["0:memory=1Gi,hugepages-2Mi=4Mi;1:memory=1"]), Ok(two));
        for (text, fault) in [
            ("0:memory", "the reserved limit has incorrect value, expected type=quantity, got memory"),
            ("a:memory=1", "failed to convert the NUMA node ID, expected integer, got a"),
            ("0:foo=1", "memory type conversion error, unknown type: \"foo\""),
            ("0:memory=x", "failed to parse the quantity: x"),
        ] {
            assert_eq!(read(Reads::ReservedMemory, &[text]), Err(fault.into()));
        }
    }

    #[test]
    fn an_empty_address_changes_nothing() {
        assert_eq!(read(Reads::Ip, &[""]), Ok(Value::Null));
        assert_eq!(read(Reads::Ip, &["::"]), Ok(json!("::")));
        assert_eq!(read(Reads::Ip, &["foo"]), Err("\"foo\" is not a valid IP address".into()));
    }
}
