//! Writes an encoded message as protojson (<https://protobuf.dev/programming-guides/json/>)
//! straight from its bytes: one scan finds where each field lies, a second writes the fields in
//! declaration order, with defaults. No message is built, no string copied twice.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use prost_reflect::{DynamicMessage, SerializeOptions};

use super::layout::{FieldLayout, Form, Layouts, MessageLayout, Shape, Value};
use super::numbers::{push_duration, push_i64, push_timestamp, push_u64};
use super::wire::{Fields, Raw, WireError};

/// As deep as prost decodes.
const MAX_DEPTH: usize = 100;

/// Appends the JSON form of the message `layout` (an index) encoded in `bytes`.
pub(crate) fn push_message(
    layouts: &Layouts,
    layout: usize,
    bytes: &[u8],
    out: &mut Vec<u8>,
) -> Result<(), WireError> {
    Writer {
        layouts,
        out,
        spans: Vec::new(),
        depth: 0,
    }
    .message(layout, bytes)
}

/// Appends the JSON form of one field of a message: what `response_body` asks for.
pub(crate) fn push_field(
    layouts: &Layouts,
    layout: usize,
    field: u32,
    bytes: &[u8],
    out: &mut Vec<u8>,
) -> Result<(), WireError> {
    let layout = &layouts.messages[layout];
    let mut writer = Writer {
        layouts,
        out,
        spans: Vec::new(),
        depth: 1,
    };
    let base = writer.scan(layout, bytes)?;
    let Some(index) = layout.field_index(field) else {
        return Err(WireError::BadTag);
    };
    writer.field_value(&layout.fields[index], writer.spans[base + index], bytes)
}

/// Appends `"@type":…` and the fields of a message as one object: the form of Any.
pub(crate) fn push_any(
    layouts: &Layouts,
    layout: usize,
    type_url: &str,
    bytes: &[u8],
    out: &mut Vec<u8>,
) -> Result<(), WireError> {
    let mut writer = Writer {
        layouts,
        out,
        spans: Vec::new(),
        depth: 0,
    };
    writer.out.extend_from_slice(b"{\"@type\":");
    push_string(writer.out, type_url);
    if layouts.messages[layout].form == Form::Object {
        writer.object_fields(&layouts.messages[layout], bytes, true)?;
    } else {
        writer.out.extend_from_slice(b",\"value\":");
        writer.message(layout, bytes)?;
    }
    writer.out.push(b'}');
    Ok(())
}

/// Appends a JSON string.
pub(crate) fn push_string(out: &mut Vec<u8>, text: &str) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    out.push(b'"');
    let bytes = text.as_bytes();
    let mut written = 0;
    for (at, byte) in bytes.iter().enumerate() {
        let short = match byte {
            b'"' => b'"',
            b'\\' => b'\\',
            b'\n' => b'n',
            b'\r' => b'r',
            b'\t' => b't',
            0x00..=0x1f => 0,
            _ => continue,
        };
        out.extend_from_slice(&bytes[written..at]);
        written = at + 1;
        if short == 0 {
            out.extend_from_slice(b"\\u00");
            out.push(HEX[usize::from(byte >> 4)]);
            out.push(HEX[usize::from(byte & 15)]);
        } else {
            out.extend_from_slice(&[b'\\', short]);
        }
    }
    out.extend_from_slice(&bytes[written..]);
    out.push(b'"');
}

/// Where a field lies in the bytes of its message.
#[derive(Debug, Clone, Copy)]
struct Span {
    /// Offset of the first tag, and of the last.
    first: usize,
    last: usize,
    count: usize,
}

const ABSENT: Span = Span {
    first: 0,
    last: 0,
    count: 0,
};

struct Writer<'a> {
    layouts: &'a Layouts,
    out: &'a mut Vec<u8>,
    /// A stack: each message under way has its fields' spans at the top.
    spans: Vec<Span>,
    depth: usize,
}

impl Writer<'_> {
    fn message(&mut self, layout: usize, bytes: &[u8]) -> Result<(), WireError> {
        if self.depth >= MAX_DEPTH {
            return Err(WireError::TooDeep);
        }
        self.depth += 1;
        let layout = &self.layouts.messages[layout];
        match layout.form {
            Form::Object => {
                self.out.push(b'{');
                self.object_fields(layout, bytes, false)?;
                self.out.push(b'}');
            }
            Form::Timestamp => self.moment(bytes, push_timestamp)?,
            Form::Duration => self.moment(bytes, push_duration)?,
            Form::FieldMask => self.field_mask(bytes)?,
            Form::Wrapper => {
                let base = self.scan(layout, bytes)?;
                let span = self.spans[base];
                self.field_value(&layout.fields[0], span, bytes)?;
                self.spans.truncate(base);
            }
            Form::Dynamic => self.dynamic(layout, bytes)?,
        }
        self.depth -= 1;
        Ok(())
    }

    fn object_fields(
        &mut self,
        layout: &MessageLayout,
        bytes: &[u8],
        mut comma: bool,
    ) -> Result<(), WireError> {
        let base = self.scan(layout, bytes)?;
        for (index, field) in layout.fields.iter().enumerate() {
            let span = self.spans[base + index];
            let absent = span.count == 0 && matches!(field.shape, Shape::Explicit(_));
            if absent || self.is_overridden(layout, base, index) {
                continue;
            }
            if comma {
                self.out.push(b',');
            }
            comma = true;
            self.out.extend_from_slice(&field.key);
            self.field_value(field, span, bytes)?;
        }
        self.spans.truncate(base);
        Ok(())
    }

    /// Finds the fields of a message; their spans start at the returned index.
    fn scan(&mut self, layout: &MessageLayout, bytes: &[u8]) -> Result<usize, WireError> {
        let base = self.spans.len();
        self.spans.resize(base + layout.fields.len(), ABSENT);
        let mut fields = Fields::new(bytes);
        loop {
            let at = fields.offset();
            let Some((number, raw)) = fields.next()? else {
                return Ok(base);
            };
            let Some(index) = layout.field_index(number) else {
                continue;
            };
            // A field in another wire type is an unknown field.
            if !fits(layout.fields[index].shape, raw) {
                continue;
            }
            let span = &mut self.spans[base + index];
            if span.count == 0 {
                span.first = at;
            }
            span.last = at;
            span.count += 1;
        }
    }

    /// Whether a later field of the same oneof takes this one's place.
    fn is_overridden(&self, layout: &MessageLayout, base: usize, index: usize) -> bool {
        let Some(oneof) = layout.fields[index].oneof else {
            return false;
        };
        let last = self.spans[base + index].last;
        layout.fields.iter().enumerate().any(|(other, field)| {
            let span = self.spans[base + other];
            other != index && field.oneof == Some(oneof) && span.count > 0 && span.last > last
        })
    }

    fn field_value(
        &mut self,
        field: &FieldLayout,
        span: Span,
        bytes: &[u8],
    ) -> Result<(), WireError> {
        match field.shape {
            Shape::Implicit(value) | Shape::Explicit(value) => match value {
                // An embedded message sent in parts is their concatenation.
                Value::Message(layout) if span.count > 1 => {
                    let mut merged = Vec::new();
                    self.occurrences(field.number, span, bytes, |_, raw| {
                        if let Raw::Bytes(part) = raw {
                            merged.extend_from_slice(part);
                        }
                        Ok(())
                    })?;
                    self.message(layout, &merged)
                }
                _ if span.count == 0 => self.value(value, zero(value)),
                _ => match Fields::starting_at(bytes, span.last).next()? {
                    Some((_, raw)) => self.value(value, raw),
                    None => Err(WireError::Truncated),
                },
            },
            Shape::Repeated(value) => self.list(field.number, value, span, bytes),
            Shape::Map { key, value } => self.map(field.number, key, value, span, bytes),
        }
    }

    fn occurrences(
        &mut self,
        number: u32,
        span: Span,
        bytes: &[u8],
        mut each: impl FnMut(&mut Self, Raw<'_>) -> Result<(), WireError>,
    ) -> Result<(), WireError> {
        if span.count == 0 {
            return Ok(());
        }
        let mut fields = Fields::starting_at(bytes, span.first);
        while fields.offset() <= span.last {
            match fields.next()? {
                Some((found, raw)) if found == number => each(self, raw)?,
                Some(_) => {}
                None => break,
            }
        }
        Ok(())
    }

    fn list(
        &mut self,
        number: u32,
        value: Value,
        span: Span,
        bytes: &[u8],
    ) -> Result<(), WireError> {
        self.out.push(b'[');
        let mut comma = false;
        self.occurrences(number, span, bytes, |writer, raw| {
            let mut element = |raw| {
                if comma {
                    writer.out.push(b',');
                }
                comma = true;
                writer.value(value, raw)
            };
            match (wire_type(value), raw) {
                (WireType::Bytes, raw @ Raw::Bytes(_)) => element(raw),
                (wire_type, Raw::Bytes(packed)) => {
                    let mut elements = Fields::new(packed);
                    while !elements.is_at_end() {
                        element(match wire_type {
                            WireType::Fixed32 => {
                                Raw::Fixed32(u32::from_le_bytes(elements.array()?))
                            }
                            WireType::Fixed64 => {
                                Raw::Fixed64(u64::from_le_bytes(elements.array()?))
                            }
                            _ => Raw::Varint(elements.varint()?),
                        })?;
                    }
                    Ok(())
                }
                (wire_type, raw) if wire_type == wire_type_of(raw) => element(raw),
                _ => Ok(()),
            }
        })?;
        self.out.push(b']');
        Ok(())
    }

    /// Maps come out sorted by key, the last of doubled entries counting.
    fn map(
        &mut self,
        number: u32,
        key: Value,
        value: Value,
        span: Span,
        bytes: &[u8],
    ) -> Result<(), WireError> {
        let mut entries: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
        self.occurrences(number, span, bytes, |writer, raw| {
            let Raw::Bytes(entry) = raw else {
                return Ok(());
            };
            let (mut key_raw, mut value_raw) = (zero(key), zero(value));
            let mut fields = Fields::new(entry);
            while let Some((number, raw)) = fields.next()? {
                match number {
                    1 if wire_type(key) == wire_type_of(raw) => key_raw = raw,
                    2 if wire_type(value) == wire_type_of(raw) => value_raw = raw,
                    _ => {}
                }
            }
            let key = writer.aside(|w| w.map_key(key, key_raw))?;
            let value = writer.aside(|w| w.value(value, value_raw))?;
            entries.insert(key, value);
            Ok(())
        })?;
        self.out.push(b'{');
        for (i, (key, value)) in entries.iter().enumerate() {
            if i > 0 {
                self.out.push(b',');
            }
            self.out.extend_from_slice(key);
            self.out.push(b':');
            self.out.extend_from_slice(value);
        }
        self.out.push(b'}');
        Ok(())
    }

    /// Runs `write` and takes back what it appended.
    fn aside(
        &mut self,
        write: impl FnOnce(&mut Self) -> Result<(), WireError>,
    ) -> Result<Vec<u8>, WireError> {
        let start = self.out.len();
        write(self)?;
        Ok(self.out.split_off(start))
    }

    fn map_key(&mut self, key: Value, raw: Raw<'_>) -> Result<(), WireError> {
        let rendered = self.aside(|w| w.value(key, raw))?;
        let quoted = rendered.first() == Some(&b'"');
        if !quoted {
            self.out.push(b'"');
        }
        self.out.extend_from_slice(&rendered);
        if !quoted {
            self.out.push(b'"');
        }
        Ok(())
    }

    fn value(&mut self, value: Value, raw: Raw<'_>) -> Result<(), WireError> {
        let out = &mut *self.out;
        match (value, raw) {
            (Value::Bool, Raw::Varint(v)) => {
                out.extend_from_slice(if v == 0 { b"false" } else { b"true" });
            }
            // 32-bit varints are truncated, as every protobuf implementation does.
            (Value::Int32, Raw::Varint(v)) => push_i64(out, i64::from(v as i32)),
            (Value::Sint32, Raw::Varint(v)) => {
                push_i64(out, i64::from(zigzag(v & 0xffff_ffff) as i32))
            }
            (Value::Uint32, Raw::Varint(v)) => push_u64(out, v & 0xffff_ffff),
            (Value::Fixed32, Raw::Fixed32(v)) => push_u64(out, u64::from(v)),
            (Value::Sfixed32, Raw::Fixed32(v)) => push_i64(out, i64::from(v as i32)),
            (Value::Int64, Raw::Varint(v)) => quoted(out, |out| push_i64(out, v as i64)),
            (Value::Sint64, Raw::Varint(v)) => quoted(out, |out| push_i64(out, zigzag(v))),
            (Value::Uint64, Raw::Varint(v)) => quoted(out, |out| push_u64(out, v)),
            (Value::Fixed64, Raw::Fixed64(v)) => quoted(out, |out| push_u64(out, v)),
            (Value::Sfixed64, Raw::Fixed64(v)) => quoted(out, |out| push_i64(out, v as i64)),
            (Value::Float, Raw::Fixed32(v)) => {
                let v = f32::from_bits(v);
                push_float(out, f64::from(v), |out| serde_json::to_writer(out, &v));
            }
            (Value::Double, Raw::Fixed64(v)) => {
                let v = f64::from_bits(v);
                push_float(out, v, |out| serde_json::to_writer(out, &v));
            }
            (Value::String, Raw::Bytes(v)) => {
                push_string(out, std::str::from_utf8(v).map_err(|_| WireError::NotUtf8)?);
            }
            (Value::Bytes, Raw::Bytes(v)) => {
                out.push(b'"');
                let start = out.len();
                out.resize(start + v.len().div_ceil(3) * 4, 0);
                let written = STANDARD.encode_slice(v, &mut out[start..]);
                out.truncate(start + written.map_err(|_| WireError::OutOfRange)?);
                out.push(b'"');
            }
            (Value::Enum(layout), Raw::Varint(v)) => {
                let layout = &self.layouts.enums[layout];
                let number = v as i32;
                match layout.name(number) {
                    _ if layout.null => out.extend_from_slice(b"null"),
                    Some(name) => push_string(out, name),
                    None => push_i64(out, i64::from(number)),
                }
            }
            (Value::Message(layout), Raw::Bytes(v)) => return self.message(layout, v),
            _ => return Err(WireError::BadTag),
        }
        Ok(())
    }

    /// Timestamp and Duration: seconds and nanoseconds.
    fn moment(
        &mut self,
        bytes: &[u8],
        push: fn(&mut Vec<u8>, i64, i32) -> bool,
    ) -> Result<(), WireError> {
        let (mut seconds, mut nanos) = (0, 0);
        let mut fields = Fields::new(bytes);
        while let Some((number, raw)) = fields.next()? {
            match (number, raw) {
                (1, Raw::Varint(v)) => seconds = v as i64,
                (2, Raw::Varint(v)) => nanos = v as i32,
                _ => {}
            }
        }
        self.out.push(b'"');
        if !push(self.out, seconds, nanos) {
            return Err(WireError::OutOfRange);
        }
        self.out.push(b'"');
        Ok(())
    }

    fn field_mask(&mut self, bytes: &[u8]) -> Result<(), WireError> {
        let mut paths = String::new();
        let mut fields = Fields::new(bytes);
        while let Some((number, raw)) = fields.next()? {
            if let (1, Raw::Bytes(path)) = (number, raw) {
                if !paths.is_empty() {
                    paths.push(',');
                }
                let path = std::str::from_utf8(path).map_err(|_| WireError::NotUtf8)?;
                let mut upper = false;
                for c in path.chars() {
                    match c {
                        '_' => upper = true,
                        c if upper => {
                            paths.push(c.to_ascii_uppercase());
                            upper = false;
                        }
                        c => paths.push(c),
                    }
                }
            }
        }
        push_string(self.out, &paths);
        Ok(())
    }

    fn dynamic(&mut self, layout: &MessageLayout, bytes: &[u8]) -> Result<(), WireError> {
        let message = DynamicMessage::decode(layout.descriptor.clone(), bytes)
            .map_err(|_| WireError::Opaque)?;
        let options = SerializeOptions::new().skip_default_fields(false);
        let mut serializer = serde_json::Serializer::new(&mut *self.out);
        message
            .serialize_with_options(&mut serializer, &options)
            .map_err(|_| WireError::Opaque)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WireType {
    Varint,
    Fixed32,
    Fixed64,
    Bytes,
}

fn wire_type(value: Value) -> WireType {
    match value {
        Value::Fixed32 | Value::Sfixed32 | Value::Float => WireType::Fixed32,
        Value::Fixed64 | Value::Sfixed64 | Value::Double => WireType::Fixed64,
        Value::String | Value::Bytes | Value::Message(_) => WireType::Bytes,
        _ => WireType::Varint,
    }
}

fn wire_type_of(raw: Raw<'_>) -> WireType {
    match raw {
        Raw::Varint(_) => WireType::Varint,
        Raw::Fixed32(_) => WireType::Fixed32,
        Raw::Fixed64(_) => WireType::Fixed64,
        Raw::Bytes(_) => WireType::Bytes,
    }
}

fn fits(shape: Shape, raw: Raw<'_>) -> bool {
    match shape {
        Shape::Implicit(value) | Shape::Explicit(value) => wire_type(value) == wire_type_of(raw),
        // Both packed and one by one.
        Shape::Repeated(value) => {
            matches!(raw, Raw::Bytes(_)) || wire_type(value) == wire_type_of(raw)
        }
        Shape::Map { .. } => matches!(raw, Raw::Bytes(_)),
    }
}

fn zero(value: Value) -> Raw<'static> {
    match wire_type(value) {
        WireType::Varint => Raw::Varint(0),
        WireType::Fixed32 => Raw::Fixed32(0),
        WireType::Fixed64 => Raw::Fixed64(0),
        WireType::Bytes => Raw::Bytes(&[]),
    }
}

fn zigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

fn quoted(out: &mut Vec<u8>, push: impl FnOnce(&mut Vec<u8>)) {
    out.push(b'"');
    push(out);
    out.push(b'"');
}

fn push_float(
    out: &mut Vec<u8>,
    value: f64,
    finite: impl FnOnce(&mut Vec<u8>) -> serde_json::Result<()>,
) {
    if value.is_nan() {
        out.extend_from_slice(b"\"NaN\"");
    } else if value.is_infinite() {
        let text: &[u8] = if value > 0.0 {
            b"\"Infinity\""
        } else {
            b"\"-Infinity\""
        };
        out.extend_from_slice(text);
    } else if finite(out).is_err() {
        // Writing a number to a Vec cannot fail; keep the JSON well-formed all the same.
        out.extend_from_slice(b"null");
    }
}
