//! Protobuf of Kubernetes objects read back into JSON, by the table of field numbers alone.

use api_types::core::{Kind, Message, POD};
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
use serde_json::{Map, Value, json};

/// What a message says as far as the table knows, inlined messages under their own names. None for what is no such message.
pub fn decoded_pod(bytes: &[u8]) -> Option<Value> {
    message(&POD, bytes)
}

/// Without what equals its absence to a client in Go: zeros, empty texts, and messages of nothing else.
pub fn without_defaults(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let kept = fields.into_iter().map(|(key, value)| (key, without_defaults(value)));
            Value::Object(kept.filter(|(_, value)| !is_default(value)).collect())
        }
        Value::Array(all) => Value::Array(all.into_iter().map(without_defaults).collect()),
        other => other,
    }
}

fn is_default(value: &Value) -> bool {
    match value {
        Value::Object(fields) => fields.is_empty(),
        Value::Array(all) => all.is_empty(),
        other => [json!(0), json!(""), json!(false)].contains(other),
    }
}

fn message(shape: &Message, mut bytes: &[u8]) -> Option<Value> {
    let mut fields = Map::new();
    while !bytes.is_empty() {
        let (number, wire) = decode_key(&mut bytes).ok()?;
        let Some(field) = shape.fields.iter().find(|field| field.number == number) else {
            skip_field(wire, number, &mut bytes, DecodeContext::default()).ok()?;
            continue;
        };
        let value = match wire {
            WireType::Varint => number_of(&field.kind, decode_varint(&mut bytes).ok()?)?,
            WireType::LengthDelimited => chunk(&field.kind, take(&mut bytes)?)?,
            _ => return None,
        };
        let before = fields.entry(field.json).or_insert(Value::Null);
        match (&field.kind, before) {
            (Kind::Map(_), Value::Object(all)) => all.extend(value.as_object()?.clone()),
            (_, Value::Array(all)) => all.push(value),
            (_, before) if field.repeated => *before = Value::Array(vec![value]),
            (_, before) => *before = value,
        }
    }
    Some(Value::Object(fields))
}

fn take<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(decode_varint(bytes).ok()?).ok()?;
    let (chunk, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(chunk)
}

fn number_of(kind: &Kind, value: u64) -> Option<Value> {
    match kind {
        Kind::Bool => Some(json!(value != 0)),
        Kind::Int => Some(json!(value.cast_signed())),
        _ => None,
    }
}

fn chunk(kind: &Kind, bytes: &[u8]) -> Option<Value> {
    match kind {
        Kind::Text => Some(json!(std::str::from_utf8(bytes).ok()?)),
        Kind::Message(shape) => message(shape, bytes),
        Kind::Time | Kind::Quantity | Kind::IntOrString => plain(bytes),
        Kind::Map(kind) => {
            let entry = plain_of(bytes, kind)?;
            Some(json!({entry["1"].as_str()?: entry["2"]}))
        }
        Kind::Bool | Kind::Int => None,
    }
}

/// Fields by number, each a number or a text.
fn plain(bytes: &[u8]) -> Option<Value> {
    plain_of(bytes, &Kind::Text)
}

fn plain_of(mut bytes: &[u8], second: &Kind) -> Option<Value> {
    let mut fields = Map::new();
    while !bytes.is_empty() {
        let (number, wire) = decode_key(&mut bytes).ok()?;
        let value = match wire {
            WireType::Varint => json!(decode_varint(&mut bytes).ok()?.cast_signed()),
            WireType::LengthDelimited => {
                let kind = if number == 2 { second } else { &Kind::Text };
                chunk(kind, take(&mut bytes)?)?
            }
            _ => return None,
        };
        fields.insert(number.to_string(), value);
    }
    Some(Value::Object(fields))
}
