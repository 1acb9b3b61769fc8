//! protojson and plain text into dynamic messages. Strict: what is not understood is refused,
//! and the refusal names the field.

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use prost_reflect::{
    DynamicMessage, EnumDescriptor, FieldDescriptor, Kind, MapKey, MessageDescriptor, Value,
};
use serde_json::Value as Json;

/// Deeper documents are refused; no message of a contract needs this much.
const MAX_DEPTH: usize = 64;

/// Characters of an unknown field's name that a refusal repeats.
const MAX_NAME: usize = 100;

/// What is wrong with which field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FieldProblem {
    /// Path of the field, by proto names; empty for the message itself.
    pub(crate) field: String,
    pub(crate) description: String,
}

impl FieldProblem {
    pub(crate) fn here(description: impl Into<String>) -> Self {
        Self {
            field: String::new(),
            description: description.into(),
        }
    }

    /// The same problem, seen from the message around.
    pub(crate) fn inside(mut self, parent: &str) -> Self {
        if self.field.is_empty() {
            parent.clone_into(&mut self.field);
        } else if self.field.starts_with('[') {
            self.field.insert_str(0, parent);
        } else {
            self.field = format!("{parent}.{}", self.field);
        }
        self
    }
}

/// A message from its JSON form.
pub(crate) fn message_from_json(
    descriptor: &MessageDescriptor,
    json: Json,
) -> Result<DynamicMessage, FieldProblem> {
    message(descriptor, json, 0)
}

/// The value of a field from its JSON form; `None` for `null`, which leaves a field unset.
pub(crate) fn field_from_json(
    field: &FieldDescriptor,
    json: Json,
) -> Result<Option<Value>, FieldProblem> {
    field_value(field, json, 0)
}

/// A single value from text, as it stands in paths and queries. (What JSON writes as a string,
/// without the quotes; numbers and booleans as JSON writes them.)
pub(crate) fn value_from_text(kind: &Kind, text: &str) -> Result<Value, String> {
    Ok(match kind {
        Kind::Bool => Value::Bool(match text {
            "true" => true,
            "false" => false,
            _ => return Err(format!("expected true or false, got {}", shown(text))),
        }),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => Value::I32(integer(text, "32-bit")?),
        Kind::Uint32 | Kind::Fixed32 => Value::U32(integer(text, "unsigned 32-bit")?),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => Value::I64(integer(text, "64-bit")?),
        Kind::Uint64 | Kind::Fixed64 => Value::U64(integer(text, "unsigned 64-bit")?),
        Kind::Float => Value::F32(float32(float(text)?)?),
        Kind::Double => Value::F64(float(text)?),
        Kind::String => Value::String(text.to_owned()),
        Kind::Bytes => Value::Bytes(base64_bytes(text)?.into()),
        Kind::Enum(e) => match e.get_value_by_name(text) {
            Some(value) => Value::EnumNumber(value.number()),
            None => match text.parse::<i32>() {
                Ok(number) => Value::EnumNumber(number),
                Err(_) => return Err(unknown_enum(e, text)),
            },
        },
        Kind::Message(m) => Value::Message(message_from_text(m, text)?),
    })
}

/// Whether a message can be written as plain text: times, masks and wrapped scalars.
pub(crate) fn has_text_form(descriptor: &MessageDescriptor) -> bool {
    matches!(
        descriptor.full_name(),
        "google.protobuf.Timestamp" | "google.protobuf.Duration" | "google.protobuf.FieldMask"
    ) || is_wrapper(descriptor)
}

/// A field by its name in the proto file or its lowerCamelCase name.
pub(crate) fn field_named(message: &MessageDescriptor, name: &str) -> Option<FieldDescriptor> {
    message
        .get_field_by_json_name(name)
        .or_else(|| message.get_field_by_name(name))
}

/// Sets a field, unless another one of its oneof is set already.
pub(crate) fn put(
    message: &mut DynamicMessage,
    field: &FieldDescriptor,
    value: Value,
) -> Result<(), String> {
    if let Some(oneof) = field.containing_oneof()
        && let Some(other) = oneof.fields().find(|f| f != field && message.has_field(f))
    {
        return Err(format!("cannot be set together with {}", other.name()));
    }
    message
        .try_set_field(field, value)
        .map_err(|e| e.to_string())
}

/// The leaf paths that a JSON object sets, by proto names: the update mask it implies.
pub(crate) fn paths_set(
    descriptor: &MessageDescriptor,
    object: &serde_json::Map<String, Json>,
) -> Vec<String> {
    let mut paths = Vec::new();
    for (key, json) in object {
        let Some(field) = field_named(descriptor, key) else {
            continue;
        };
        let nested = match (field.kind(), json) {
            (Kind::Message(m), Json::Object(object))
                if !field.is_list() && !field.is_map() && !is_well_known(&m) =>
            {
                paths_set(&m, object)
            }
            _ => Vec::new(),
        };
        if nested.is_empty() {
            paths.push(field.name().to_owned());
        }
        paths.extend(nested.iter().map(|path| format!("{}.{path}", field.name())));
    }
    paths
}

fn message(
    descriptor: &MessageDescriptor,
    json: Json,
    depth: usize,
) -> Result<DynamicMessage, FieldProblem> {
    if depth > MAX_DEPTH {
        return Err(FieldProblem::here("nested too deeply"));
    }
    match json {
        Json::String(text) if has_text_form(descriptor) => {
            message_from_text(descriptor, &text).map_err(FieldProblem::here)
        }
        json if is_wrapper(descriptor) => {
            let mut message = DynamicMessage::new(descriptor.clone());
            if let Some(field) = descriptor.get_field(1) {
                let value = single(&field.kind(), json, depth)?;
                put(&mut message, &field, value).map_err(FieldProblem::here)?;
            }
            Ok(message)
        }
        json if has_text_form(descriptor) => Err(FieldProblem::here(format!(
            "expected a string, got {}",
            kind_of(&json)
        ))),
        json if is_well_known(descriptor) => DynamicMessage::deserialize(descriptor.clone(), json)
            .map_err(|e| FieldProblem::here(e.to_string())),
        Json::Object(object) => {
            let mut message = DynamicMessage::new(descriptor.clone());
            let mut seen = Vec::with_capacity(object.len());
            for (key, json) in object {
                let Some(field) = field_named(descriptor, &key) else {
                    let what = format!("no such field in {}", descriptor.name());
                    let name: String = key.chars().take(MAX_NAME).collect();
                    return Err(FieldProblem::here(what).inside(&name));
                };
                if seen.contains(&field.number()) {
                    return Err(FieldProblem::here("given twice").inside(field.name()));
                }
                seen.push(field.number());
                if let Some(value) =
                    field_value(&field, json, depth + 1).map_err(|p| p.inside(field.name()))?
                {
                    put(&mut message, &field, value)
                        .map_err(|e| FieldProblem::here(e).inside(field.name()))?;
                }
            }
            Ok(message)
        }
        json => Err(FieldProblem::here(format!(
            "expected an object, got {}",
            kind_of(&json)
        ))),
    }
}

fn field_value(
    field: &FieldDescriptor,
    json: Json,
    depth: usize,
) -> Result<Option<Value>, FieldProblem> {
    let kind = field.kind();
    if json.is_null() {
        return match &kind {
            Kind::Message(m) if m.full_name() == "google.protobuf.Value" && !field.is_list() => {
                message(m, json, depth).map(|m| Some(Value::Message(m)))
            }
            _ => Ok(None),
        };
    }
    if let (true, Kind::Message(entry)) = (field.is_map(), &kind) {
        return map(entry, json, depth).map(Some);
    }
    if field.is_list() {
        let Json::Array(elements) = json else {
            return Err(FieldProblem::here(format!(
                "expected a list, got {}",
                kind_of(&json)
            )));
        };
        let mut list = Vec::with_capacity(elements.len());
        for (i, element) in elements.into_iter().enumerate() {
            list.push(single(&kind, element, depth).map_err(|p| p.inside(&format!("[{i}]")))?);
        }
        return Ok(Some(Value::List(list)));
    }
    single(&kind, json, depth).map(Some)
}

fn map(entry: &MessageDescriptor, json: Json, depth: usize) -> Result<Value, FieldProblem> {
    let Json::Object(object) = json else {
        return Err(FieldProblem::here(format!(
            "expected an object, got {}",
            kind_of(&json)
        )));
    };
    let (key_kind, value_kind) = (
        entry.map_entry_key_field().kind(),
        entry.map_entry_value_field().kind(),
    );
    let mut map = std::collections::HashMap::with_capacity(object.len());
    for (key, json) in object {
        let place = format!("[{}]", shown(&key));
        let value = single(&value_kind, json, depth).map_err(|p| p.inside(&place))?;
        let key = map_key(&key_kind, &key).map_err(|e| FieldProblem::here(e).inside(&place))?;
        map.insert(key, value);
    }
    Ok(Value::Map(map))
}

/// A map key from its text.
pub(crate) fn map_key(kind: &Kind, text: &str) -> Result<MapKey, String> {
    value_from_text(kind, text)?
        .into_map_key()
        .ok_or_else(|| "not a map key".to_owned())
}

fn single(kind: &Kind, json: Json, depth: usize) -> Result<Value, FieldProblem> {
    let expected = match kind {
        Kind::Message(m) => return message(m, json, depth).map(Value::Message),
        Kind::Bool => match json {
            Json::Bool(value) => return Ok(Value::Bool(value)),
            _ => "true or false",
        },
        Kind::String | Kind::Bytes => match json {
            Json::String(text) => {
                return value_from_text(kind, &text).map_err(FieldProblem::here);
            }
            _ if *kind == Kind::Bytes => "base64 text",
            _ => "a string",
        },
        Kind::Enum(e) if e.full_name() == "google.protobuf.NullValue" && json.is_null() => {
            return Ok(Value::EnumNumber(0));
        }
        Kind::Enum(_) => match json {
            Json::String(text) => {
                return value_from_text(kind, &text).map_err(FieldProblem::here);
            }
            Json::Number(number) => {
                let number = integer(&number.to_string(), "32-bit");
                return number.map(Value::EnumNumber).map_err(FieldProblem::here);
            }
            _ => "the name of an enum value",
        },
        _ => match json {
            Json::Number(number) => {
                return value_from_text(kind, &number.to_string()).map_err(FieldProblem::here);
            }
            Json::String(text) => {
                return value_from_text(kind, &text).map_err(FieldProblem::here);
            }
            _ => "a number",
        },
    };
    Err(FieldProblem::here(format!(
        "expected {expected}, got {}",
        kind_of(&json)
    )))
}

fn message_from_text(descriptor: &MessageDescriptor, text: &str) -> Result<DynamicMessage, String> {
    if is_wrapper(descriptor)
        && let Some(field) = descriptor.get_field(1)
    {
        let mut message = DynamicMessage::new(descriptor.clone());
        put(&mut message, &field, value_from_text(&field.kind(), text)?)?;
        return Ok(message);
    }
    match descriptor.full_name() {
        "google.protobuf.FieldMask" => Ok(field_mask(descriptor, text)),
        "google.protobuf.Timestamp" | "google.protobuf.Duration" => {
            DynamicMessage::deserialize(descriptor.clone(), Json::String(text.to_owned())).map_err(
                |_| match descriptor.name() {
                    "Timestamp" => format!(
                        "expected a time such as \"2026-01-31T12:00:00Z\", got {}",
                        shown(text)
                    ),
                    _ => format!("expected a duration such as \"3600s\", got {}", shown(text)),
                },
            )
        }
        _ => Err("is a message; name one of its fields".to_owned()),
    }
}

/// Paths separated by commas, each in lowerCamelCase or as in the proto file.
fn field_mask(descriptor: &MessageDescriptor, text: &str) -> DynamicMessage {
    let mut message = DynamicMessage::new(descriptor.clone());
    let mut paths = Vec::new();
    for path in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
        let mut snake = String::with_capacity(path.len() + 4);
        for c in path.chars() {
            if c.is_ascii_uppercase() {
                snake.push('_');
            }
            snake.push(c.to_ascii_lowercase());
        }
        paths.push(Value::String(snake));
    }
    message.set_field_by_name("paths", Value::List(paths));
    message
}

fn is_wrapper(descriptor: &MessageDescriptor) -> bool {
    matches!(
        descriptor.full_name(),
        "google.protobuf.BoolValue"
            | "google.protobuf.Int32Value"
            | "google.protobuf.UInt32Value"
            | "google.protobuf.Int64Value"
            | "google.protobuf.UInt64Value"
            | "google.protobuf.FloatValue"
            | "google.protobuf.DoubleValue"
            | "google.protobuf.StringValue"
            | "google.protobuf.BytesValue"
    )
}

/// Types whose JSON form is not an object of their fields.
fn is_well_known(descriptor: &MessageDescriptor) -> bool {
    has_text_form(descriptor)
        || matches!(
            descriptor.full_name(),
            "google.protobuf.Any"
                | "google.protobuf.Struct"
                | "google.protobuf.Value"
                | "google.protobuf.ListValue"
        )
}

/// An integer; as JSON allows it, also in the form `1e3` or `5.0`.
fn integer<T: std::str::FromStr + TryFrom<i128>>(text: &str, what: &str) -> Result<T, String> {
    if let Ok(value) = text.parse::<T>() {
        return Ok(value);
    }
    let refuse = || format!("expected a {what} integer, got {}", shown(text));
    if !text.contains(['e', 'E', '.']) {
        return Err(refuse());
    }
    let value = text.parse::<f64>().map_err(|_| refuse())?;
    // Beyond 2^53 a float no longer says which integer is meant.
    if value.fract() != 0.0 || value.abs() > 9_007_199_254_740_992.0 {
        return Err(refuse());
    }
    T::try_from(value as i128).map_err(|_| refuse())
}

fn float(text: &str) -> Result<f64, String> {
    match text {
        "NaN" => return Ok(f64::NAN),
        "Infinity" => return Ok(f64::INFINITY),
        "-Infinity" => return Ok(f64::NEG_INFINITY),
        _ => {}
    }
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() => Ok(value),
        _ => Err(format!("expected a number, got {}", shown(text))),
    }
}

fn float32(value: f64) -> Result<f32, String> {
    let narrow = value as f32;
    if narrow.is_infinite() && value.is_finite() {
        return Err(format!("{value} is out of range of a 32-bit float"));
    }
    Ok(narrow)
}

fn base64_bytes(text: &str) -> Result<Vec<u8>, String> {
    let alphabet = if text.contains(['-', '_']) {
        &alphabet::URL_SAFE
    } else {
        &alphabet::STANDARD
    };
    let config =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    // The text itself is not repeated: bytes fields may hold secrets.
    GeneralPurpose::new(alphabet, config)
        .decode(text)
        .map_err(|_| "expected base64 text".to_owned())
}

fn unknown_enum(descriptor: &EnumDescriptor, text: &str) -> String {
    const SHOWN: usize = 12;
    let names: Vec<String> = descriptor
        .values()
        .take(SHOWN)
        .map(|v| v.name().to_owned())
        .collect();
    let more = if descriptor.values().len() > SHOWN {
        ", …"
    } else {
        ""
    };
    format!("{} is none of {}{more}", shown(text), names.join(", "))
}

/// A piece of input, quoted and cut short, for a message to whoever sent it.
fn shown(text: &str) -> String {
    const SHOWN: usize = 40;
    match text.char_indices().nth(SHOWN) {
        Some((at, _)) => format!("{:?}…", &text[..at]),
        None => format!("{text:?}"),
    }
}

fn kind_of(json: &Json) -> &'static str {
    match json {
        Json::Null => "null",
        Json::Bool(_) => "a boolean",
        Json::Number(_) => "a number",
        Json::String(_) => "a string",
        Json::Array(_) => "a list",
        Json::Object(_) => "an object",
    }
}
