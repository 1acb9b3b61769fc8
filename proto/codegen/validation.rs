//! `Validate` of every message that a request can hold, from the `buf.validate` rules of its
//! fields. Straight code: no reflection at run time. Rules that are not understood here do not
//! compile, because third_party/buf/validate declares no others.

use std::fmt::Write;

use anyhow::{Result, bail};
use prost_reflect::{Cardinality, DescriptorPool, DynamicMessage, FieldDescriptor, Kind, Value};

use crate::{
    declared::{self, has, message_in},
    guarded::{rust_path, snake, type_path},
};

/// Rust source of the `Validate` implementations.
pub(crate) fn generate(pool: &DescriptorPool) -> Result<String> {
    let mut source = String::new();
    for message in declared::inputs(pool).values() {
        writeln!(
            source,
            "impl Validate for {} {{\n    \
             fn collect(&self, _at: &mut FieldPath, _out: &mut Violations) {{",
            type_path(message)
        )?;
        for field in message.fields().filter(|f| f.containing_oneof().is_none()) {
            write_field(
                &mut source,
                &field,
                &format!("self.{}", ident(field.name())),
            )?;
        }
        for oneof in message.oneofs() {
            let path = format!(
                "{}::{}::{}",
                rust_path(message.package_name()),
                snake(message.name()),
                camel(oneof.name())
            );
            writeln!(source, "        match &self.{} {{", oneof.name())?;
            writeln!(source, "            None => {{}}")?;
            for field in oneof.fields() {
                writeln!(
                    source,
                    "            Some({path}::{}(value)) => {{",
                    camel(field.name())
                )?;
                if !matches!(field.kind(), Kind::Message(_)) {
                    bail!("{}: oneof members must be messages", field.full_name());
                }
                writeln!(
                    source,
                    "_at.within({:?}, |at| value.collect(at, _out));",
                    field.name()
                )?;
                writeln!(source, "            }}")?;
            }
            writeln!(source, "        }}")?;
        }
        writeln!(source, "    }}\n}}\n")?;
    }
    Ok(source)
}

fn write_field(source: &mut String, field: &FieldDescriptor, place: &str) -> Result<()> {
    let rules = declared::rules(field);
    let required = rules.as_ref().is_some_and(|r| has(r, "required"));
    let mut body = String::new();
    if field.is_map() {
        if let Some(map) = rules.as_ref().and_then(|r| message_in(r, "map")) {
            writeln!(
                body,
                "check::max_len({place}.len(), {}, at, _out);",
                number(&map, "max_pairs")
            )?;
            for (side, index) in [("keys", 0), ("values", 1)] {
                if let Some(rules) = message_in(&map, side) {
                    let inner = scalar("entry", &Kind::String, &rules)?;
                    let pick = if index == 0 {
                        "(entry, _)"
                    } else {
                        "(_, entry)"
                    };
                    writeln!(body, "for {pick} in &{place} {{ {inner} }}")?;
                }
            }
        }
    } else if field.cardinality() == Cardinality::Repeated {
        if required {
            writeln!(body, "check::required(!{place}.is_empty(), at, _out);")?;
        }
        if let Some(list) = rules.as_ref().and_then(|r| message_in(r, "repeated")) {
            if has(&list, "min_items") {
                writeln!(
                    body,
                    "check::min_len({place}.len(), {}, at, _out);",
                    number(&list, "min_items")
                )?;
            }
            writeln!(
                body,
                "check::max_len({place}.len(), {}, at, _out);",
                number(&list, "max_items")
            )?;
            if has(&list, "unique") {
                writeln!(body, "check::unique(&{place}, at, _out);")?;
            }
            let inner = match field.kind() {
                Kind::Message(_) => "entry.collect(at, _out);".to_owned(),
                kind => match message_in(&list, "items") {
                    Some(rules) => scalar("entry", &kind, &rules)?,
                    None => String::new(),
                },
            };
            if !inner.is_empty() {
                writeln!(
                    body,
                    "for (index, entry) in {place}.iter().enumerate() {{ at.item(index, |at| {{ {inner} }}); }}"
                )?;
            }
        }
    } else if let Kind::Message(_) = field.kind() {
        if required {
            writeln!(body, "check::required({place}.is_some(), at, _out);")?;
        }
        writeln!(
            body,
            "if let Some(value) = &{place} {{ value.collect(at, _out); }}"
        )?;
        if let Some(duration) = rules.as_ref().and_then(|r| message_in(r, "duration")) {
            for rule in ["gte", "lte"] {
                if let Some(bound) = message_in(&duration, rule) {
                    writeln!(
                        body,
                        "check::duration_{rule}({place}.as_ref(), {}, at, _out);",
                        number(&bound, "seconds")
                    )?;
                }
            }
        }
    } else {
        if required {
            let set = match field.kind() {
                Kind::String | Kind::Bytes => format!("!{place}.is_empty()"),
                _ => format!("{place} != Default::default()"),
            };
            writeln!(body, "check::required({set}, at, _out);")?;
        }
        if let Some(rules) = &rules {
            body.push_str(&scalar(&format!("(&{place})"), &field.kind(), rules)?);
        }
    }
    if !body.is_empty() {
        writeln!(
            source,
            "        _at.within({:?}, |at| {{ {body} }});",
            field.name()
        )?;
    }
    Ok(())
}

/// Checks of one scalar; `value` is a reference.
fn scalar(value: &str, kind: &Kind, rules: &DynamicMessage) -> Result<String> {
    let mut out = String::new();
    match kind {
        Kind::String => {
            let Some(text) = message_in(rules, "string") else {
                return Ok(out);
            };
            for (rule, call) in [("min_len", "min_chars"), ("max_len", "max_chars")] {
                if has(&text, rule) {
                    writeln!(
                        out,
                        "check::{call}({value}, {}, at, _out);",
                        number(&text, rule)
                    )?;
                }
            }
            if has(&text, "max_len") {
                writeln!(out, "check::no_nul({value}, at, _out);")?;
            }
            for rule in ["uuid", "email"] {
                if has(&text, rule) {
                    writeln!(out, "check::{rule}({value}, at, _out);")?;
                }
            }
            if let Some(Value::String(pattern)) = set(&text, "pattern") {
                writeln!(
                    out,
                    "{{ static PATTERN: std::sync::LazyLock<check::Pattern> = \
                     std::sync::LazyLock::new(|| check::Pattern::new({pattern:?})); \
                     check::pattern({value}, &PATTERN, at, _out); }}"
                )?;
            }
        }
        Kind::Bytes => {
            let Some(bytes) = message_in(rules, "bytes") else {
                return Ok(out);
            };
            for (rule, call) in [
                ("min_len", "min_len"),
                ("max_len", "max_len"),
                ("len", "exact_len"),
            ] {
                if has(&bytes, rule) {
                    writeln!(
                        out,
                        "check::{call}({value}.len(), {}, at, _out);",
                        number(&bytes, rule)
                    )?;
                }
            }
        }
        Kind::Enum(kind) if message_in(rules, "enum").is_some_and(|e| has(&e, "defined_only")) => {
            let path = format!("{}::{}", rust_path(kind.package_name()), camel(kind.name()));
            writeln!(
                out,
                "check::defined({path}::try_from(*{value}).is_ok(), at, _out);"
            )?;
        }
        Kind::Int32 | Kind::Int64 | Kind::Uint32 | Kind::Uint64 => {
            let group = format!("{kind:?}").to_lowercase();
            let Some(numbers) = message_in(rules, &group) else {
                return Ok(out);
            };
            for rule in ["gte", "lte"] {
                if has(&numbers, rule) {
                    writeln!(
                        out,
                        "check::{rule}(*{value}, {}, at, _out);",
                        number(&numbers, rule)
                    )?;
                }
            }
        }
        _ => {}
    }
    Ok(out)
}

fn set(message: &DynamicMessage, name: &str) -> Option<Value> {
    has(message, name)
        .then(|| message.get_field_by_name(name))
        .flatten()
        .map(|v| v.into_owned())
}

fn number(message: &DynamicMessage, name: &str) -> String {
    match set(message, name) {
        Some(Value::U64(n)) => n.to_string(),
        Some(Value::U32(n)) => n.to_string(),
        Some(Value::I64(n)) => n.to_string(),
        Some(Value::I32(n)) => n.to_string(),
        _ => "0".into(),
    }
}

/// `missing_segments` → `MissingSegments`, as prost names oneof members.
fn camel(name: &str) -> String {
    if !name.contains('_') && name.chars().next().is_some_and(char::is_uppercase) {
        return name.to_owned();
    }
    name.split('_')
        .map(|part| {
            let mut chars = part.chars();
            chars
                .next()
                .map(|c| c.to_uppercase().chain(chars).collect::<String>())
                .unwrap_or_default()
        })
        .collect()
}

/// The field's Rust name: keywords are written raw.
fn ident(name: &str) -> String {
    match name {
        "type" | "match" | "use" | "ref" | "move" | "fn" | "mod" => format!("r#{name}"),
        _ => name.to_owned(),
    }
}
