//! The UID of a pod from a manifest: the very one that the upstream kubelet computes, so that a swap of the two finds
//! the static pods that run and leaves them alone.
//!
//! Upstream hashes a dump of its own Go structs (`DeepHashObject`): names and types of all fields, set or not. Here
//! the same text is written from the pod's JSON, led by `static_uid/schema.txt`.

use std::{collections::HashMap, fmt::Write as _};

use k8s_openapi::api::core::v1::Pod;
use serde_json::Value;

use crate::{hash, static_pod::Manifest};

const SCHEMA: &str = include_str!("static_uid/schema.txt");

/// 32 hexadecimal digits. `pod` has its defaults and is otherwise as its manifest says.
pub fn uid(pod: &Pod, manifest: Manifest<'_>, node_name: &str) -> String {
    let place = match manifest {
        Manifest::File(path) => format!("host:{node_name}file:{path}"),
        Manifest::Url(url) => format!("url:{url}"),
    };
    format!("{:032x}", hash::fnv1a_128(&[dump(pod).as_bytes(), place.as_bytes()]))
}

fn dump(pod: &Pod) -> String {
    let mut json = serde_json::to_value(pod).unwrap_or_default();
    if let Some(object) = json.as_object_mut() {
        // Upstream's decoder clears them.
        object.remove("apiVersion");
        object.remove("kind");
    }
    let mut dump = Dump { schema: Schema::read(), text: String::new() };
    dump.typed("*core.Pod", Some(&json));
    dump.text
}

struct Field {
    name: &'static str,
    json: &'static str,
    of: &'static str,
}

/// Fields by struct, and what named types stand for.
struct Schema {
    structs: HashMap<&'static str, Vec<Field>>,
    names: HashMap<&'static str, &'static str>,
}

impl Schema {
    fn read() -> Self {
        let mut schema = Schema { structs: HashMap::new(), names: HashMap::new() };
        let mut current = "";
        for line in SCHEMA.lines().filter(|l| !l.starts_with('#')) {
            let mut words = line.split_whitespace();
            match (words.next(), words.next(), words.next()) {
                (Some(name), Some(json), Some(of)) => {
                    schema.structs.entry(current).or_default().push(Field { name, json, of });
                }
                (Some(name), Some(of), None) => drop(schema.names.insert(name, of)),
                (Some(name), None, None) => current = name,
                _ => {}
            }
        }
        schema
    }
}

struct Dump {
    schema: Schema,
    text: String,
}

impl Dump {
    /// As a field or below a pointer: the type goes first.
    fn typed(&mut self, of: &'static str, value: Option<&Value>) {
        _ = write!(self.text, "({of})");
        self.plain(of, value);
    }

    fn plain(&mut self, of: &'static str, value: Option<&Value>) {
        let value = value.filter(|v| !v.is_null());
        let pointed = of.strip_prefix('*');
        let of = pointed.unwrap_or(of);
        let nil = pointed.is_some() && value.is_none();
        match of {
            _ if nil => self.text.push_str("<nil>"),
            "v1.Time" => self.time(value),
            "resource.Quantity" => self.quantity(value, Finest::Nano),
            "intstr.IntOrString" => self.int_or_string(value),
            _ => self.value(of, value),
        }
    }

    fn value(&mut self, of: &'static str, value: Option<&Value>) {
        if self.schema.structs.contains_key(of) {
            return self.fields(of, value);
        }
        if let Some(element) = of.strip_prefix("[]") {
            return self.list(element, value);
        }
        if let Some(element) = of.strip_prefix("map[").and_then(|of| of.split_once(']')).map(|(_, element)| element) {
            return self.map(element, value);
        }
        if let Some(meant) = self.schema.names.get(of).copied() {
            return self.value(meant, value);
        }
        match (of, value) {
            ("string", Some(Value::String(text))) => self.text.push_str(text),
            ("string", _) => {}
            ("bool", value) => _ = write!(self.text, "{}", value.and_then(Value::as_bool).unwrap_or_default()),
            (_, value) => _ = write!(self.text, "{}", value.and_then(Value::as_i64).unwrap_or_default()),
        }
    }

    fn fields(&mut self, of: &'static str, value: Option<&Value>) {
        let fields: Vec<(&str, &str, &str)> = self.schema.structs[of].iter().map(|f| (f.name, f.json, f.of)).collect();
        self.text.push('{');
        for (i, (name, json, of)) in fields.into_iter().enumerate() {
            let between = if i == 0 { "" } else { " " };
            _ = write!(self.text, "{between}{name}:");
            let inner = if json == "=" { value } else { value.and_then(|v| v.get(json)) };
            self.typed(of, inner);
        }
        self.text.push('}');
    }

    fn list(&mut self, element: &'static str, value: Option<&Value>) {
        let Some(items) = value.and_then(Value::as_array) else { return self.text.push_str("<nil>") };
        self.text.push('[');
        for (i, item) in items.iter().enumerate() {
            if i > 0 {
                self.text.push(' ');
            }
            self.plain(element, Some(item));
        }
        self.text.push(']');
    }

    fn map(&mut self, element: &'static str, value: Option<&Value>) {
        let Some(entries) = value.and_then(Value::as_object) else { return self.text.push_str("<nil>") };
        let mut sorted: Vec<_> = entries.iter().collect();
        sorted.sort_by_key(|(key, _)| *key);
        self.text.push_str("map[");
        for (i, (key, item)) in sorted.into_iter().enumerate() {
            let between = if i == 0 { "" } else { " " };
            _ = write!(self.text, "{between}{key}:");
            match element {
                "resource.Quantity" => self.quantity(Some(item), Finest::Milli),
                _ => self.plain(element, Some(item)),
            }
        }
        self.text.push(']');
    }

    /// Only the time that is not set: none that is set has a place in a manifest.
    fn time(&mut self, _: Option<&Value>) {
        self.text.push_str("{Time:(time.Time){wall:(uint64)0 ext:(int64)0 loc:(*time.Location)<nil>}}");
    }

    fn int_or_string(&mut self, value: Option<&Value>) {
        let (kind, number, text) = match value {
            Some(Value::String(text)) => (1, 0, text.as_str()),
            Some(value) => (0, value.as_i64().unwrap_or_default(), ""),
            None => (0, 0, ""),
        };
        _ = write!(self.text, "{{Type:(intstr.Type){kind} IntVal:(int32){number} StrVal:(string){text}}}");
    }

    fn quantity(&mut self, value: Option<&Value>, finest: Finest) {
        let text = value.and_then(Value::as_str).unwrap_or_default();
        let held = value.and_then(|_| Held::of(text, finest)).unwrap_or_default();
        let dec = match held.big {
            None => "<nil>".to_owned(),
            Some((unscaled, scale)) => {
                let words = [unscaled as u64, (unscaled >> 64) as u64];
                let words = if words[1] == 0 { format!("{}", words[0]) } else { format!("{} {}", words[0], words[1]) };
                format!("{{unscaled:(big.Int){{neg:(bool)false abs:(big.nat)[{words}]}} scale:(inf.Scale){scale}}}")
            }
        };
        _ = write!(
            self.text,
            "{{i:(resource.int64Amount){{value:(int64){} scale:(resource.Scale){}}} d:(resource.infDecAmount){{Dec:(*inf.Dec){dec}}} s:(string){} Format:(resource.Format){}}}",
            held.value, held.scale, held.kept, held.format
        );
    }
}

/// Amounts in lists of resources are rounded up to thousandths, others to billionths.
#[derive(Clone, Copy, PartialEq)]
enum Finest {
    Milli,
    Nano,
}

/// A quantity as upstream holds it after parsing: its text is kept where it is canonical at a glance.
#[derive(Default)]
struct Held<'a> {
    value: i64,
    scale: i32,
    /// Not negative; times ten to the power of minus the scale.
    big: Option<(u128, u32)>,
    kept: &'a str,
    format: &'static str,
}

impl<'a> Held<'a> {
    fn of(text: &'a str, finest: Finest) -> Option<Self> {
        if text == "0" {
            return Some(Held { kept: text, format: "DecimalSI", ..Held::default() });
        }
        let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, suffix) = text.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let (whole, fraction) = (whole.trim_start_matches('0'), fraction.trim_end_matches('0'));
        let whole = if whole.is_empty() { "0" } else { whole };
        let digits = format!("{whole}{fraction}");
        match binary_exponent(suffix) {
            Some(exponent) => Self::binary(text, &digits, fraction.len(), exponent, finest),
            None => Self::decimal(text, &digits, fraction.len(), suffix),
        }
    }

    fn binary(text: &'a str, digits: &str, after_point: usize, exponent: u32, finest: Finest) -> Option<Self> {
        let format = "BinarySI";
        let room = 14 - i64::try_from(digits.len()).ok()? - i64::from(exponent * 3 / 10);
        if after_point == 0 && room >= 0 {
            let number: i64 = digits.parse().ok()?;
            let kept = if number & 7 == 0 { "" } else { text };
            return Some(Held { value: number.checked_shl(exponent)?, kept, format, ..Held::default() });
        }
        let to: u32 = if finest == Finest::Milli { 3 } else { 9 };
        let unscaled = digits.parse::<u128>().ok()?.checked_shl(exponent)?;
        let from = u32::try_from(after_point).ok()?;
        let unscaled = match to.checked_sub(from) {
            Some(more) => unscaled.checked_mul(10u128.pow(more))?,
            None => unscaled.div_ceil(10u128.pow(from - to)),
        };
        Some(Held { big: Some((unscaled, to)), format, ..Held::default() })
    }

    fn decimal(text: &'a str, digits: &str, after_point: usize, suffix: &str) -> Option<Self> {
        let (exponent, format) = decimal_exponent(suffix)?;
        let scale = exponent - i32::try_from(after_point).ok()?;
        let canonical = scale % 3 == 0 && !digits.ends_with("000") && !digits.starts_with('0');
        let kept = if canonical { text } else { "" };
        Some(Held { value: digits.parse().ok()?, scale, big: None, kept, format })
    }
}

fn binary_exponent(suffix: &str) -> Option<u32> {
    ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"].iter().zip(1..).find(|(s, _)| **s == suffix).map(|(_, n)| n * 10)
}

fn decimal_exponent(suffix: &str) -> Option<(i32, &'static str)> {
    let si = [("n", -9), ("u", -6), ("m", -3), ("", 0), ("k", 3), ("M", 6), ("G", 9), ("T", 12), ("P", 15), ("E", 18)];
    match si.iter().find(|(s, _)| *s == suffix) {
        Some((_, exponent)) => Some((*exponent, "DecimalSI")),
        None => Some((suffix.strip_prefix(['e', 'E'])?.parse().ok()?, "DecimalExponent")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::defaults;

    /// Manifests with the UIDs that upstream's own code computes for them.
    const PODS: &str = include_str!("static_uid/upstream.json");

    #[test]
    fn uids_are_upstreams() {
        let pods: Vec<Value> = serde_json::from_str(PODS).unwrap();
        for case in pods {
            let mut pod: Pod = serde_json::from_value(case["pod"].clone()).unwrap();
            defaults::apply(&mut pod);
            let name = case["file"].as_str().unwrap();
            let path = format!("/m/{name}");
            assert_eq!(
                uid(&pod, Manifest::File(&path), "node-1"),
                case["uid"].as_str().unwrap(),
                "{name}\n{}",
                dump(&pod)
            );
        }
    }
}
