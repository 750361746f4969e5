//! A Pod in protobuf, as Go clients decode it: made from its JSON by the table of field numbers.

use api_types::core::{Field, Kind, Message, POD};
use k8s_openapi::{
    api::core::v1::{Pod, PodStatus},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
    jiff::Timestamp,
};
use pod::{DesiredPod, PodUid};
use prost::encoding;
use serde_json::{Map, Value, json};

/// Cannot happen with what k8s-openapi writes, unless it and the table are of different versions.
#[derive(Debug, thiserror::Error)]
#[error("the field {field} of {message} cannot be {value}")]
pub struct EncodeError {
    message: &'static str,
    field: &'static str,
    value: String,
}

/// The pod with the status that the agent gives it.
pub fn pod(desired: &DesiredPod, status: &PodStatus) -> Result<Vec<u8>, EncodeError> {
    let Pod { metadata, spec, .. } = &*desired.pod;
    object(&json!({"metadata": metadata, "spec": spec, "status": status}))
}

/// As much of a pod as is told of one that is no more.
pub fn names(desired: &DesiredPod) -> Result<Vec<u8>, EncodeError> {
    let metadata = ObjectMeta {
        name: Some(desired.key.name.to_string()),
        namespace: Some(desired.key.namespace.to_string()),
        uid: Some(PodUid::as_str(&desired.uid).to_owned()),
        ..ObjectMeta::default()
    };
    object(&json!({"metadata": metadata}))
}

pub(crate) fn object(pod: &Value) -> Result<Vec<u8>, EncodeError> {
    message(&POD, pod).map_err(|value| EncodeError { message: POD.name, field: "", value })?
}

type Encoded<T> = Result<T, EncodeError>;

/// The outer error is the value's text, for whoever knows the field's name.
fn message(shape: &'static Message, value: &Value) -> Result<Encoded<Vec<u8>>, String> {
    let fields = value.as_object().ok_or_else(|| value.to_string())?;
    Ok(inside(shape, fields))
}

fn inside(shape: &'static Message, values: &Map<String, Value>) -> Encoded<Vec<u8>> {
    let mut out = Vec::new();
    for field in shape.fields {
        match (&field.kind, values.get(field.json)) {
            (Kind::Message(inner), _) if field.inline => {
                encoding::bytes::encode(field.number, &inside(inner, values)?, &mut out);
            }
            (_, None | Some(Value::Null)) => {}
            (_, Some(Value::Array(all))) if field.repeated => {
                for value in all {
                    one(shape, field, &field.kind, field.number, value, &mut out)?;
                }
            }
            (Kind::Map(kind), Some(Value::Object(all))) => {
                for (key, value) in all {
                    let mut entry = Vec::new();
                    encoding::string::encode(1, key, &mut entry);
                    one(shape, field, kind, 2, value, &mut entry)?;
                    encoding::bytes::encode(field.number, &entry, &mut out);
                }
            }
            (kind, Some(value)) => one(shape, field, kind, field.number, value, &mut out)?,
        }
    }
    Ok(out)
}

fn one(
    shape: &'static Message,
    field: &'static Field,
    kind: &Kind,
    number: u32,
    value: &Value,
    out: &mut Vec<u8>,
) -> Encoded<()> {
    let fault = || EncodeError { message: shape.name, field: field.json, value: value.to_string() };
    match kind {
        Kind::Bool => encoding::bool::encode(number, &value.as_bool().ok_or_else(fault)?, out),
        Kind::Int => encoding::int64::encode(number, &value.as_i64().ok_or_else(fault)?, out),
        Kind::Text => encoding::bytes::encode(number, &value.as_str().ok_or_else(fault)?.as_bytes().to_vec(), out),
        Kind::Time => encoding::bytes::encode(number, &time(value).ok_or_else(fault)?, out),
        Kind::Quantity => encoding::bytes::encode(number, &text(1, value).ok_or_else(fault)?, out),
        Kind::IntOrString => encoding::bytes::encode(number, &int_or_string(value).ok_or_else(fault)?, out),
        Kind::Message(inner) => {
            encoding::bytes::encode(number, &message(inner, value).map_err(|_| fault())??, out);
        }
        Kind::Map(_) => return Err(fault()),
    }
    Ok(())
}

fn text(number: u32, value: &Value) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    encoding::string::encode(number, &value.as_str()?.to_owned(), &mut out);
    Some(out)
}

fn time(value: &Value) -> Option<Vec<u8>> {
    let at: Timestamp = value.as_str()?.parse().ok()?;
    let mut out = Vec::new();
    encoding::int64::encode(1, &at.as_second(), &mut out);
    Some(out)
}

fn int_or_string(value: &Value) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    if let Some(int) = value.as_i64() {
        encoding::int64::encode(1, &0, &mut out);
        encoding::int64::encode(2, &int, &mut out);
        return Some(out);
    }
    encoding::int64::encode(1, &1, &mut out);
    out.extend(text(3, value)?);
    Some(out)
}
