//! What the JSON writer must know of each message, taken once from the descriptor pool into flat
//! tables: field keys already quoted, kinds and enum names resolved, references by index.

use std::collections::HashMap;

use prost_reflect::{DescriptorPool, EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor};

/// The layouts of all messages of a pool.
#[derive(Debug)]
pub(crate) struct Layouts {
    pub(crate) messages: Vec<MessageLayout>,
    pub(crate) enums: Vec<EnumLayout>,
    by_name: HashMap<String, usize>,
}

/// How the JSON form of a message is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// An object of its fields.
    Object,
    Timestamp,
    Duration,
    FieldMask,
    /// The wrapped value itself (`google.protobuf.Int64Value` and the like).
    Wrapper,
    /// Any, Struct, Value and ListValue: rare, rendered by way of a dynamic message.
    Dynamic,
}

#[derive(Debug)]
pub(crate) struct MessageLayout {
    pub(crate) descriptor: MessageDescriptor,
    pub(crate) form: Form,
    /// In declaration order.
    pub(crate) fields: Vec<FieldLayout>,
    /// Field number → index + 1 in `fields`, for small numbers; 0 is none.
    dense: Vec<u16>,
}

#[derive(Debug)]
pub(crate) struct FieldLayout {
    pub(crate) number: u32,
    /// `"name":`, ready to be written.
    pub(crate) key: Box<[u8]>,
    pub(crate) shape: Shape,
    /// Of the fields that share a real oneof only the last on the wire counts.
    pub(crate) oneof: Option<u16>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Shape {
    /// Written also when absent.
    Implicit(Value),
    /// Written only when present.
    Explicit(Value),
    Repeated(Value),
    Map {
        key: Value,
        value: Value,
    },
}

/// The type of a single value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Value {
    Bool,
    Int32,
    Sint32,
    Uint32,
    Fixed32,
    Sfixed32,
    Int64,
    Sint64,
    Uint64,
    Fixed64,
    Sfixed64,
    Float,
    Double,
    String,
    Bytes,
    Enum(usize),
    Message(usize),
}

#[derive(Debug)]
pub(crate) struct EnumLayout {
    /// `google.protobuf.NullValue`, which is `null` in JSON.
    pub(crate) null: bool,
    names: HashMap<i32, Box<str>>,
}

impl EnumLayout {
    pub(crate) fn name(&self, number: i32) -> Option<&str> {
        self.names.get(&number).map(|n| &**n)
    }
}

impl MessageLayout {
    /// Index of the field with this number.
    pub(crate) fn field_index(&self, number: u32) -> Option<usize> {
        match self.dense.get(number as usize) {
            Some(0) => None,
            Some(index) => Some(usize::from(*index) - 1),
            None if self.dense.len() > DENSE_LIMIT => {
                self.fields.iter().position(|f| f.number == number)
            }
            None => None,
        }
    }
}

/// Field numbers up to here are looked up by index, larger ones by a scan.
const DENSE_LIMIT: usize = 256;

impl Layouts {
    pub(crate) fn of(pool: &DescriptorPool) -> Self {
        let message_index: HashMap<String, usize> = pool
            .all_messages()
            .enumerate()
            .map(|(i, m)| (m.full_name().to_owned(), i))
            .collect();
        let enum_index: HashMap<String, usize> = pool
            .all_enums()
            .enumerate()
            .map(|(i, e)| (e.full_name().to_owned(), i))
            .collect();
        let value = |kind: Kind| value_of(&kind, &message_index, &enum_index);
        Self {
            messages: pool
                .all_messages()
                .map(|m| message_layout(m, &value))
                .collect(),
            enums: pool.all_enums().map(|e| enum_layout(&e)).collect(),
            by_name: message_index,
        }
    }

    /// Index of a message by its full name.
    pub(crate) fn index_of(&self, full_name: &str) -> Option<usize> {
        self.by_name.get(full_name).copied()
    }
}

fn message_layout(descriptor: MessageDescriptor, value: &impl Fn(Kind) -> Value) -> MessageLayout {
    let form = match descriptor.full_name() {
        "google.protobuf.Timestamp" => Form::Timestamp,
        "google.protobuf.Duration" => Form::Duration,
        "google.protobuf.FieldMask" => Form::FieldMask,
        "google.protobuf.BoolValue"
        | "google.protobuf.Int32Value"
        | "google.protobuf.UInt32Value"
        | "google.protobuf.Int64Value"
        | "google.protobuf.UInt64Value"
        | "google.protobuf.FloatValue"
        | "google.protobuf.DoubleValue"
        | "google.protobuf.StringValue"
        | "google.protobuf.BytesValue" => Form::Wrapper,
        "google.protobuf.Any"
        | "google.protobuf.Struct"
        | "google.protobuf.Value"
        | "google.protobuf.ListValue" => Form::Dynamic,
        _ => Form::Object,
    };
    let oneofs: Vec<String> = descriptor
        .oneofs()
        .filter(|o| !o.is_synthetic())
        .map(|o| o.full_name().to_owned())
        .collect();
    // `fields()` is in order of numbers; JSON reads better in the order of the proto file.
    let mut ordered: Vec<FieldDescriptor> = descriptor.fields().collect();
    ordered.sort_by_key(|f| f.path().last().copied());
    let fields: Vec<FieldLayout> = ordered
        .iter()
        .map(|field| field_layout(field, value, &oneofs))
        .collect();
    let highest = fields.iter().map(|f| f.number as usize).max().unwrap_or(0);
    // One slot past the limit marks a table that does not hold every field.
    let mut dense = vec![0; (highest + 1).min(DENSE_LIMIT + 1)];
    for (i, field) in fields.iter().enumerate() {
        if let Some(slot) = dense.get_mut(field.number as usize) {
            *slot = u16::try_from(i + 1).unwrap_or(0);
        }
    }
    MessageLayout {
        descriptor,
        form,
        fields,
        dense,
    }
}

fn field_layout(
    field: &FieldDescriptor,
    value: &impl Fn(Kind) -> Value,
    oneofs: &[String],
) -> FieldLayout {
    let shape = if let (true, Kind::Message(entry)) = (field.is_map(), field.kind()) {
        Shape::Map {
            key: value(entry.map_entry_key_field().kind()),
            value: value(entry.map_entry_value_field().kind()),
        }
    } else if field.is_list() {
        Shape::Repeated(value(field.kind()))
    } else if field.supports_presence() {
        Shape::Explicit(value(field.kind()))
    } else {
        Shape::Implicit(value(field.kind()))
    };
    let oneof = field
        .containing_oneof()
        .and_then(|o| oneofs.iter().position(|name| name == o.full_name()))
        .and_then(|i| u16::try_from(i).ok());
    let mut key = Vec::with_capacity(field.json_name().len() + 3);
    super::write::push_string(&mut key, field.json_name());
    key.push(b':');
    FieldLayout {
        number: field.number(),
        key: key.into(),
        shape,
        oneof,
    }
}

fn value_of(
    kind: &Kind,
    messages: &HashMap<String, usize>,
    enums: &HashMap<String, usize>,
) -> Value {
    // Every type that a pool's field names is in that pool.
    let index = |table: &HashMap<String, usize>, name: &str| table.get(name).copied().unwrap_or(0);
    match kind {
        Kind::Bool => Value::Bool,
        Kind::Int32 => Value::Int32,
        Kind::Sint32 => Value::Sint32,
        Kind::Uint32 => Value::Uint32,
        Kind::Fixed32 => Value::Fixed32,
        Kind::Sfixed32 => Value::Sfixed32,
        Kind::Int64 => Value::Int64,
        Kind::Sint64 => Value::Sint64,
        Kind::Uint64 => Value::Uint64,
        Kind::Fixed64 => Value::Fixed64,
        Kind::Sfixed64 => Value::Sfixed64,
        Kind::Float => Value::Float,
        Kind::Double => Value::Double,
        Kind::String => Value::String,
        Kind::Bytes => Value::Bytes,
        Kind::Enum(e) => Value::Enum(index(enums, e.full_name())),
        Kind::Message(m) => Value::Message(index(messages, m.full_name())),
    }
}

fn enum_layout(descriptor: &EnumDescriptor) -> EnumLayout {
    let mut names = HashMap::new();
    for value in descriptor.values() {
        // With `allow_alias` the first name of a number is its name.
        names
            .entry(value.number())
            .or_insert_with(|| value.name().into());
    }
    EnumLayout {
        null: descriptor.full_name() == "google.protobuf.NullValue",
        names,
    }
}
