//! Makes the request message of a call out of the HTTP request: body first, then the query, then
//! the path. Each field has one source; two that disagree are refused, so that what a proxy or an
//! audit log saw in the path is what the service gets.

use std::collections::HashSet;

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, header};
use prost::Message as _;
use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, Value};
use serde_json::Value as Json;
use vpnpanel_runtime::status::{ErrorCode, Failure};

use crate::http_rule::{Binding, BodyRule};
use crate::json::read::{self, FieldProblem};
use crate::json::strict;
use crate::problem::Problem;
use crate::routes::SplitPath;

/// More query parameters than this are no honest request.
const MAX_QUERY_PARAMETERS: usize = 256;

const HTTP_BODY: &str = "google.api.HttpBody";

/// The encoded request message.
pub(crate) fn encode(
    binding: &Binding,
    path: &SplitPath<'_>,
    query: Option<&str>,
    headers: &HeaderMap,
    body: Bytes,
) -> Result<Bytes, Problem> {
    let input = binding.method.input();
    let mut mask = Vec::new();
    let mut message = match &binding.body {
        BodyRule::None => {
            if !body.is_empty() {
                let text = "this method takes no body";
                return Err(
                    Failure::new(ErrorCode::InvalidArgument, "UNEXPECTED_BODY", text).into(),
                );
            }
            DynamicMessage::new(input.clone())
        }
        BodyRule::Whole if is_http_body(&Kind::Message(input.clone())) => {
            raw_body(&input, headers, body)
        }
        BodyRule::Whole if body.is_empty() => DynamicMessage::new(input.clone()),
        BodyRule::Whole => read::message_from_json(&input, json(headers, &body)?)?,
        BodyRule::Field(field) => {
            let mut message = DynamicMessage::new(input.clone());
            if is_http_body(&field.kind()) {
                if let Kind::Message(descriptor) = field.kind() {
                    message.set_field(field, Value::Message(raw_body(&descriptor, headers, body)));
                }
            } else if !body.is_empty() {
                let json = json(headers, &body)?;
                if let (Kind::Message(descriptor), Json::Object(object)) = (field.kind(), &json) {
                    mask = read::paths_set(&descriptor, object);
                }
                let value = read::field_from_json(field, json)
                    .map_err(|p| Problem::from(p.inside(field.name())))?;
                if let Some(value) = value {
                    put(&mut message, std::slice::from_ref(field), value)?;
                }
            }
            message
        }
    };
    if let Some(query) = query.filter(|q| !q.is_empty()) {
        apply_query(&mut message, binding, query)?;
    }
    for (capture, fields) in binding.template.captures.iter().zip(&binding.path_fields) {
        let text = path.value(capture).ok_or_else(Problem::malformed_path)?;
        apply_path(&mut message, fields, &text)?;
    }
    if binding.http_method == Method::PATCH {
        imply_mask(&mut message, binding, mask);
    }
    Ok(message.encode_to_vec().into())
}

fn is_http_body(kind: &Kind) -> bool {
    matches!(kind, Kind::Message(m) if m.full_name() == HTTP_BODY)
}

fn raw_body(descriptor: &MessageDescriptor, headers: &HeaderMap, body: Bytes) -> DynamicMessage {
    let mut message = DynamicMessage::new(descriptor.clone());
    let content_type = headers
        .get(header::CONTENT_TYPE)
        .and_then(|v| v.to_str().ok());
    let content_type = content_type
        .unwrap_or("application/octet-stream")
        .to_owned();
    message.set_field_by_name("content_type", Value::String(content_type));
    message.set_field_by_name("data", Value::Bytes(body));
    message
}

fn json(headers: &HeaderMap, body: &[u8]) -> Result<Json, Problem> {
    check_media_type(headers)?;
    strict::from_slice(body).map_err(|e| {
        let text = format!("the body is not valid JSON: {e}");
        Failure::new(ErrorCode::InvalidArgument, "MALFORMED_JSON", text).into()
    })
}

fn check_media_type(headers: &HeaderMap) -> Result<(), Problem> {
    let unsupported = |text: String| {
        let failure = Failure::new(ErrorCode::InvalidArgument, "UNSUPPORTED_MEDIA_TYPE", text);
        Problem::with_http(failure, StatusCode::UNSUPPORTED_MEDIA_TYPE)
    };
    let mut encodings = headers.get_all(header::CONTENT_ENCODING).iter();
    if encodings.any(|encoding| !encoding.as_bytes().eq_ignore_ascii_case(b"identity")) {
        return Err(unsupported("compressed bodies are not accepted".to_owned()));
    }
    let Some(value) = headers.get(header::CONTENT_TYPE) else {
        return Ok(());
    };
    let media_type = value
        .to_str()
        .unwrap_or_default()
        .split(';')
        .next()
        .unwrap_or_default();
    let media_type = media_type.trim().to_ascii_lowercase();
    // `curl -d` calls everything a form. Taking its word for JSON is safe as long as no cookie
    // authenticates: a page of another origin can send a form, but no authorization header.
    const CURL: &str = "application/x-www-form-urlencoded";
    if media_type == "application/json" || media_type.ends_with("+json") || media_type == CURL {
        return Ok(());
    }
    let shown: String = media_type.chars().take(60).collect();
    Err(unsupported(format!(
        "send content-type: application/json, not {shown:?}"
    )))
}

fn apply_query(
    message: &mut DynamicMessage,
    binding: &Binding,
    query: &str,
) -> Result<(), Problem> {
    let mut seen = HashSet::new();
    for (count, pair) in query.split('&').filter(|p| !p.is_empty()).enumerate() {
        if count >= MAX_QUERY_PARAMETERS {
            let text = "too many query parameters";
            return Err(Failure::new(ErrorCode::InvalidArgument, "MALFORMED_QUERY", text).into());
        }
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let (Some(name), Some(value)) = (form_decode(name), form_decode(value)) else {
            let text = "the query is not valid percent-encoded UTF-8";
            return Err(Failure::new(ErrorCode::InvalidArgument, "MALFORMED_QUERY", text).into());
        };
        apply_parameter(message, binding, &name, &value, &mut seen)?;
    }
    Ok(())
}

fn apply_parameter(
    message: &mut DynamicMessage,
    binding: &Binding,
    name: &str,
    text: &str,
    seen: &mut HashSet<String>,
) -> Result<(), Problem> {
    let refuse = |description: &str| {
        let name: String = name.chars().take(100).collect();
        Problem::from(FieldProblem {
            field: name,
            description: description.to_owned(),
        })
    };
    if matches!(binding.body, BodyRule::Whole) {
        return Err(refuse(
            "belongs into the body; this method has no query parameters",
        ));
    }
    let (path, key) = match name.strip_suffix(']').and_then(|n| n.split_once('[')) {
        Some((path, key)) => (path, Some(key)),
        None => (name, None),
    };
    let fields =
        resolve(&binding.method.input(), path).ok_or_else(|| refuse("no such query parameter"))?;
    let canonical = canonical(&fields);
    if matches!(&binding.body, BodyRule::Field(body) if fields.first() == Some(body)) {
        return Err(refuse("belongs into the body"));
    }
    if binding.path_fields.contains(&fields) {
        return Err(refuse("is given by the path"));
    }
    let Some((field, parents)) = fields.split_last() else {
        return Ok(());
    };
    let kind = field.kind();
    if field.is_map() {
        let (Kind::Message(entry), Some(key)) = (&kind, key) else {
            return Err(refuse("is a map: write name[key]=value"));
        };
        let key = read::map_key(&entry.map_entry_key_field().kind(), key);
        let value = read::value_from_text(&entry.map_entry_value_field().kind(), text);
        let (key, value) = (key.map_err(|e| refuse(&e))?, value.map_err(|e| refuse(&e))?);
        let target = descend(message, parents).ok_or_else(|| refuse("is not a field"))?;
        if let Some(map) = target.get_field_mut(field).as_map_mut() {
            map.insert(key, value);
        }
        return Ok(());
    }
    if key.is_some() {
        return Err(refuse("is not a map"));
    }
    let value = read::value_from_text(&kind, text).map_err(|e| refuse(&e))?;
    if field.is_list() {
        let target = descend(message, parents).ok_or_else(|| refuse("is not a field"))?;
        if let Some(list) = target.get_field_mut(field).as_list_mut() {
            list.push(value);
        }
        return Ok(());
    }
    if !seen.insert(canonical) {
        return Err(refuse("given twice"));
    }
    put(message, &fields, value)
}

fn apply_path(
    message: &mut DynamicMessage,
    fields: &[FieldDescriptor],
    text: &str,
) -> Result<(), Problem> {
    let Some((field, parents)) = fields.split_last() else {
        return Ok(());
    };
    let problem = |description: String| {
        Problem::from(FieldProblem {
            field: canonical(fields),
            description,
        })
    };
    let value = read::value_from_text(&field.kind(), text).map_err(problem)?;
    if let Some(target) = descend(message, parents)
        && target.has_field(field)
        && *target.get_field(field) != value
    {
        return Err(problem("differs from the path".to_owned()));
    }
    put(message, fields, value)
}

/// A PATCH that names no mask changes the fields that its body names (as in AIP-134).
fn imply_mask(message: &mut DynamicMessage, binding: &Binding, mut paths: Vec<String>) {
    let Some(field) = binding.method.input().get_field_by_name("update_mask") else {
        return;
    };
    let Kind::Message(descriptor) = field.kind() else {
        return;
    };
    if descriptor.full_name() != "google.protobuf.FieldMask" || message.has_field(&field) {
        return;
    }
    // Named by the path, so it says which resource, not what to change.
    if let BodyRule::Field(body) = &binding.body {
        for bound in binding
            .path_fields
            .iter()
            .filter(|p| p.first() == Some(body))
        {
            let bound = canonical(&bound[1..]);
            paths.retain(|path| *path != bound);
        }
    }
    // The etag guards a change and is none.
    paths.retain(|path| path != "etag");
    if paths.is_empty() {
        return;
    }
    let mut mask = DynamicMessage::new(descriptor);
    let paths = paths.into_iter().map(Value::String).collect();
    mask.set_field_by_name("paths", Value::List(paths));
    message.set_field(&field, Value::Message(mask));
}

fn put(
    message: &mut DynamicMessage,
    fields: &[FieldDescriptor],
    value: Value,
) -> Result<(), Problem> {
    let problem = |description: String| {
        Problem::from(FieldProblem {
            field: canonical(fields),
            description,
        })
    };
    let Some((field, parents)) = fields.split_last() else {
        return Ok(());
    };
    let target =
        descend(message, parents).ok_or_else(|| problem("cannot be set here".to_owned()))?;
    read::put(target, field, value).map_err(problem)
}

/// The message that the last of `parents` holds, made on the way where it is absent.
fn descend<'m>(
    message: &'m mut DynamicMessage,
    parents: &[FieldDescriptor],
) -> Option<&'m mut DynamicMessage> {
    let mut target = message;
    for parent in parents {
        let taken = |other: &FieldDescriptor| other != parent && target.has_field(other);
        if parent
            .containing_oneof()
            .is_some_and(|o| o.fields().any(|f| taken(&f)))
        {
            return None;
        }
        target = target.get_field_mut(parent).as_message_mut()?;
    }
    Some(target)
}

/// The fields that a dotted name means. Only the last may be repeated.
fn resolve(input: &MessageDescriptor, path: &str) -> Option<Vec<FieldDescriptor>> {
    let mut message = Some(input.clone());
    let mut fields: Vec<FieldDescriptor> = Vec::new();
    for name in path.split('.') {
        if fields.last().is_some_and(|f| f.is_list() || f.is_map()) {
            return None;
        }
        let field = read::field_named(&message?, name)?;
        message = field.kind().as_message().cloned();
        fields.push(field);
    }
    Some(fields)
}

fn canonical(fields: &[FieldDescriptor]) -> String {
    let names: Vec<&str> = fields.iter().map(FieldDescriptor::name).collect();
    names.join(".")
}

/// Decodes a part of `application/x-www-form-urlencoded` text, as queries are written.
fn form_decode(text: &str) -> Option<String> {
    if !text.contains(['%', '+']) {
        return Some(text.to_owned());
    }
    let spaced = text.replace('+', " ");
    crate::routes::percent_decode(&spaced).map(std::borrow::Cow::into_owned)
}
