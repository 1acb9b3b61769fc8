//! JSON Schemas of messages and fields, with the bounds that their validation rules declare.

use std::collections::BTreeMap;

use prost_reflect::{
    DynamicMessage, EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor, Value,
};
use serde_json::{Map, Value as Json, json};

use super::comments::Comments;

/// Schemas of all messages and enums that were referred to.
#[derive(Debug)]
pub(super) struct Schemas<'c> {
    comments: &'c Comments,
    done: BTreeMap<String, Json>,
}

impl<'c> Schemas<'c> {
    pub(super) fn new(comments: &'c Comments) -> Self {
        Self {
            comments,
            done: BTreeMap::new(),
        }
    }

    pub(super) fn finish(self) -> Map<String, Json> {
        self.done.into_iter().collect()
    }

    /// A field as a property: its type, its bounds, its comment.
    pub(super) fn field(&mut self, field: &FieldDescriptor) -> Json {
        let mut schema = match field.kind() {
            Kind::Message(entry) if field.is_map() => {
                let value = self.single(&entry.map_entry_value_field().kind());
                json!({"type": "object", "additionalProperties": value})
            }
            kind if field.is_list() => json!({"type": "array", "items": self.single(&kind)}),
            kind => self.single(&kind),
        };
        let comment = self.comments.of_field(field);
        if let Json::Object(schema) = &mut schema {
            bounds(field, schema);
            if !comment.is_empty() {
                schema.insert("description".to_owned(), json!(comment));
            }
            if comment.contains("Output only.") {
                schema.insert("readOnly".to_owned(), json!(true));
            }
            if field_option(field, "vpnpanel.options.v1.secret") == Some(Value::Bool(true))
                && matches!(field.kind(), Kind::String)
            {
                schema.insert("format".to_owned(), json!("password"));
            }
        }
        schema
    }

    /// A message by reference; its schema is among the finished ones.
    pub(super) fn message(&mut self, message: &MessageDescriptor) -> Json {
        if let Some(schema) = self.well_known(message) {
            return schema;
        }
        let name = component_name(message.full_name());
        if !self.done.contains_key(&name) {
            // Taken before its fields are visited: messages may contain themselves.
            self.done.insert(name.clone(), Json::Null);
            let schema = self.object(message, &[]);
            self.done.insert(name.clone(), schema);
        }
        json!({"$ref": format!("#/components/schemas/{name}")})
    }

    /// A message in place, without some of its fields.
    pub(super) fn object(&mut self, message: &MessageDescriptor, without: &[u32]) -> Json {
        let mut properties = Map::new();
        let mut required = Vec::new();
        for field in message.fields().filter(|f| !without.contains(&f.number())) {
            properties.insert(field.json_name().to_owned(), self.field(&field));
            if is_required(&field) {
                required.push(json!(field.json_name()));
            }
        }
        let mut schema = json!({"type": "object", "properties": properties});
        let comment = self.comments.of_message(message);
        if !comment.is_empty() {
            schema["description"] = json!(comment);
        }
        if !required.is_empty() {
            schema["required"] = Json::Array(required);
        }
        schema
    }

    fn single(&mut self, kind: &Kind) -> Json {
        match kind {
            Kind::Bool => json!({"type": "boolean"}),
            Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => {
                json!({"type": "integer", "format": "int32"})
            }
            Kind::Uint32 | Kind::Fixed32 => {
                json!({"type": "integer", "format": "uint32", "minimum": 0})
            }
            Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => {
                json!({"type": "string", "format": "int64", "pattern": "^-?[0-9]+$"})
            }
            Kind::Uint64 | Kind::Fixed64 => {
                json!({"type": "string", "format": "uint64", "pattern": "^[0-9]+$"})
            }
            Kind::Float => json!({"type": "number", "format": "float"}),
            Kind::Double => json!({"type": "number", "format": "double"}),
            Kind::String => json!({"type": "string"}),
            Kind::Bytes => json!({"type": "string", "contentEncoding": "base64"}),
            Kind::Enum(descriptor) => self.enumeration(descriptor),
            Kind::Message(message) => self.message(message),
        }
    }

    fn enumeration(&mut self, descriptor: &EnumDescriptor) -> Json {
        if descriptor.full_name() == "google.protobuf.NullValue" {
            return json!({"type": "null"});
        }
        let name = component_name(descriptor.full_name());
        if !self.done.contains_key(&name) {
            let names: Vec<String> = descriptor.values().map(|v| v.name().to_owned()).collect();
            let mut about = self.comments.of_enum(descriptor).to_owned();
            for value in descriptor.values() {
                let comment = self.comments.of_value(&value);
                if !comment.is_empty() {
                    about.push_str(&format!("\n- `{}`: {comment}", value.name()));
                }
            }
            let schema = json!({"type": "string", "enum": names, "description": about.trim()});
            self.done.insert(name.clone(), schema);
        }
        json!({"$ref": format!("#/components/schemas/{name}")})
    }

    /// Types with a JSON form of their own.
    fn well_known(&mut self, message: &MessageDescriptor) -> Option<Json> {
        Some(match message.full_name() {
            "google.protobuf.Timestamp" => json!({"type": "string", "format": "date-time"}),
            "google.protobuf.Duration" => {
                json!({"type": "string", "pattern": "^-?[0-9]+(\\.[0-9]{1,9})?s$"})
            }
            "google.protobuf.FieldMask" => json!({
                "type": "string",
                "description": "Field paths, separated by commas."
            }),
            "google.protobuf.Struct" => json!({"type": "object", "additionalProperties": true}),
            "google.protobuf.Value" => json!({}),
            "google.protobuf.ListValue" => json!({"type": "array", "items": {}}),
            "google.protobuf.Any" => json!({
                "type": "object",
                "properties": {"@type": {"type": "string"}},
                "required": ["@type"],
                "additionalProperties": true
            }),
            name if name.starts_with("google.protobuf.") && name.ends_with("Value") => {
                let inner = self.single(&message.get_field(1)?.kind());
                json!({"anyOf": [inner, {"type": "null"}]})
            }
            _ => return None,
        })
    }
}

/// Whether the field must be set, by its validation rules.
pub(super) fn is_required(field: &FieldDescriptor) -> bool {
    let rules = field_option(field, "buf.validate.field");
    let Some(Value::Message(rules)) = rules else {
        return false;
    };
    rules
        .get_field_by_name("required")
        .is_some_and(|v| v.as_bool() == Some(true))
}

/// `vpnpanel.user.v1.User` → `user.v1.User`
fn component_name(full_name: &str) -> String {
    full_name
        .strip_prefix("vpnpanel.")
        .unwrap_or(full_name)
        .to_owned()
}

fn field_option(field: &FieldDescriptor, name: &str) -> Option<Value> {
    let extension = field.parent_pool().get_extension_by_name(name)?;
    let options = field.options();
    options
        .has_extension(&extension)
        .then(|| options.get_extension(&extension).into_owned())
}

/// Bounds of `buf.validate` that JSON Schema can say.
fn bounds(field: &FieldDescriptor, schema: &mut Map<String, Json>) {
    let Some(Value::Message(rules)) = field_option(field, "buf.validate.field") else {
        return;
    };
    apply(&rules, schema);
}

fn apply(rules: &DynamicMessage, schema: &mut Map<String, Json>) {
    for (kind, rule) in rules.fields() {
        let Value::Message(rule) = rule else { continue };
        match kind.name() {
            "repeated" => {
                copy(
                    rule,
                    schema,
                    &[("min_items", "minItems"), ("max_items", "maxItems")],
                );
                copy(rule, schema, &[("unique", "uniqueItems")]);
                if let (Some(Value::Message(items)), Some(Json::Object(schema))) = (
                    rule.get_field_by_name("items").as_deref(),
                    schema.get_mut("items"),
                ) {
                    apply(items, schema);
                }
            }
            "string" => {
                copy(
                    rule,
                    schema,
                    &[("min_len", "minLength"), ("max_len", "maxLength")],
                );
                copy(rule, schema, &[("pattern", "pattern")]);
                for (name, format) in [("uuid", "uuid"), ("email", "email"), ("uri", "uri")] {
                    if rule
                        .get_field_by_name(name)
                        .is_some_and(|v| v.as_bool() == Some(true))
                    {
                        schema.insert("format".to_owned(), json!(format));
                    }
                }
            }
            // 64-bit integers are strings in JSON, whose value a schema cannot bound.
            "int32" | "uint32" | "float" | "double" => {
                copy(rule, schema, &[("gte", "minimum"), ("lte", "maximum")]);
                copy(
                    rule,
                    schema,
                    &[("gt", "exclusiveMinimum"), ("lt", "exclusiveMaximum")],
                );
            }
            _ => {}
        }
    }
}

fn copy(rule: &DynamicMessage, schema: &mut Map<String, Json>, names: &[(&str, &str)]) {
    for (from, to) in names {
        let Some(field) = rule.descriptor_field(from) else {
            continue;
        };
        if !rule.has_field(&field) {
            continue;
        }
        let json = match rule.get_field(&field).as_ref() {
            Value::U64(v) => json!(v),
            Value::I32(v) => json!(v),
            Value::U32(v) => json!(v),
            Value::F32(v) => json!(v),
            Value::F64(v) => json!(v),
            Value::Bool(v) => json!(v),
            Value::String(v) => json!(v),
            _ => continue,
        };
        schema.insert((*to).to_owned(), json);
    }
}

trait DescriptorField {
    fn descriptor_field(&self, name: &str) -> Option<FieldDescriptor>;
}

impl DescriptorField for DynamicMessage {
    fn descriptor_field(&self, name: &str) -> Option<FieldDescriptor> {
        prost_reflect::ReflectMessage::descriptor(self).get_field_by_name(name)
    }
}
