//! Which field of a Pod has which number in protobuf, and under which key JSON has it: read from `proto/core/pod.proto`.

/// One message type.
#[derive(Debug)]
pub struct Message {
    pub name: &'static str,
    pub fields: &'static [Field],
}

#[derive(Debug)]
pub struct Field {
    pub json: &'static str,
    pub number: u32,
    /// JSON has the message's fields in place of the message.
    pub inline: bool,
    pub repeated: bool,
    pub kind: Kind,
}

#[derive(Debug)]
pub enum Kind {
    Bool,
    /// 32 or 64 bits, signed: written alike.
    Int,
    Text,
    /// JSON has it in the format of RFC 3339.
    Time,
    Quantity,
    IntOrString,
    Message(&'static Message),
    /// From texts to this.
    Map(&'static Kind),
}

include!(concat!(env!("OUT_DIR"), "/core_fields.rs"));
