//! JSON lines: one object on each line.
//!
//! The key is the field `key` (or the first field, or the chosen one): its text, or the digits of a number. The value is the
//! field `value` when that is the only other one, the chosen field, or else an object of all other fields as they stand.
//! Text that is not UTF-8 travels as `key_hex` and `value_hex`. A field's value is its text; what is not text (a number, an
//! array) is taken as the JSON that stands there.

use super::{Column, Fault, Layout, Pair};
use crate::bytes::{Hex, parse_hex};
use serde::de::{MapAccess, Visitor};
use serde_json::value::RawValue;
use std::fmt;

/// The fields of an object in their order, each value as it stands.
struct Fields(Vec<(String, Box<RawValue>)>);

impl<'de> serde::Deserialize<'de> for Fields {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Fields;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(Collect)
    }
}

pub(super) fn parse(layout: &Layout, line: &[u8]) -> Result<Pair, Fault> {
    let Fields(mut fields) = serde_json::from_slice(line).map_err(|error| Fault::Json(error.to_string()))?;
    let key_at = match &layout.key {
        Some(column) => find(&fields, column)?,
        None => fields
            .iter()
            .position(|(name, _)| name == "key" || name == "key_hex")
            .unwrap_or(0),
    };
    if fields.is_empty() {
        return Err(Fault::MissingName("key".to_owned()));
    }
    let value_field = layout
        .value
        .as_ref()
        .map(|column| find(&fields, column))
        .transpose()?;
    if let Some(value_at) = value_field {
        return Ok((key_content(&fields[key_at])?, content(&fields[value_at])?));
    }
    let key = key_content(&fields.remove(key_at))?;
    if let [only] = fields.as_slice()
        && (only.0 == "value" || only.0 == "value_hex")
    {
        return Ok((key, content(only)?));
    }
    let mut object = String::from("{");
    for (at, (name, value)) in fields.iter().enumerate() {
        if at > 0 {
            object.push(',');
        }
        object.push_str(&quoted(name));
        object.push(':');
        object.push_str(value.get());
    }
    object.push('}');
    Ok((key, object.into_bytes()))
}

fn find(fields: &[(String, Box<RawValue>)], column: &Column) -> Result<usize, Fault> {
    match column {
        Column::Number(at) if *at < fields.len() => Ok(*at),
        Column::Number(at) => Err(Fault::MissingColumn {
            column: at + 1,
            found: fields.len(),
        }),
        Column::Name(name) => fields
            .iter()
            .position(|(n, _)| n == name)
            .ok_or_else(|| Fault::MissingName(name.clone())),
    }
}

fn key_content(field: &(String, Box<RawValue>)) -> Result<Vec<u8>, Fault> {
    match field.1.get().as_bytes().first() {
        Some(b'"' | b'-' | b'0'..=b'9') => content(field),
        _ => Err(Fault::JsonKey),
    }
}

fn content((name, value): &(String, Box<RawValue>)) -> Result<Vec<u8>, Fault> {
    let text = value.get();
    if !text.starts_with('"') {
        return Ok(text.as_bytes().to_vec());
    }
    let text: String = serde_json::from_str(text).map_err(|error| Fault::Json(error.to_string()))?;
    if name == "key_hex" || name == "value_hex" {
        return parse_hex(text.as_bytes()).map_err(|_| Fault::JsonHex);
    }
    Ok(text.into_bytes())
}

pub(super) fn write(key: &[u8], value: &[u8], out: &mut Vec<u8>) {
    out.push(b'{');
    write_member("key", key, out);
    out.push(b',');
    write_member("value", value, out);
    out.push(b'}');
}

fn write_member(name: &str, bytes: &[u8], out: &mut Vec<u8>) {
    let member = match std::str::from_utf8(bytes) {
        Ok(text) => format!("\"{name}\":{}", quoted(text)),
        Err(_) => format!("\"{name}_hex\":\"{}\"", Hex(bytes)),
    };
    out.extend_from_slice(member.as_bytes());
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
