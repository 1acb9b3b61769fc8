//! One binding as an OpenAPI operation: where each field of the request goes, and what comes back.

use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};
use serde_json::{Value as Json, json};
use vpnpanel_api::Access;

use super::comments::Comments;
use super::schemas::{Schemas, is_required};
use crate::http_body;
use crate::http_rule::{Binding, BodyRule};
use crate::json::read::has_text_form;

/// Query parameters reach this deep into nested messages.
const QUERY_DEPTH: usize = 3;

/// The operation of the `nth` binding of its method.
pub(super) fn operation(
    binding: &Binding,
    nth: usize,
    comments: &Comments,
    schemas: &mut Schemas<'_>,
) -> Json {
    let method = &binding.method;
    let service = method.parent_service();
    let mut id = format!("{}_{}", service.name(), method.name());
    if nth > 0 {
        id.push_str(&format!("_{}", nth + 1));
    }
    let comment = comments.of_method(method);
    let (summary, _) = comment.split_once(". ").unwrap_or((comment, ""));
    let path = format!("/{}/{}", service.full_name(), method.name());
    let access = vpnpanel_api::method(&path).map(|m| m.access);
    let mut operation = json!({
        "operationId": id,
        "tags": [service.name()],
        "summary": summary.trim_end_matches('.'),
        "description": described(comment, access),
        "parameters": parameters(binding, schemas),
        "responses": {
            "200": success(binding, schemas),
            "default": {"$ref": "#/components/responses/Error"}
        }
    });
    if let Some(body) = request_body(binding, schemas) {
        operation["requestBody"] = body;
    }
    if access == Some(Access::Public) {
        operation["security"] = json!([]);
    }
    if method
        .options()
        .get_field_by_name("deprecated")
        .is_some_and(|v| v.as_bool() == Some(true))
    {
        operation["deprecated"] = json!(true);
    }
    operation
}

fn described(comment: &str, access: Option<Access>) -> String {
    let needs = match access {
        Some(Access::Permission { name, .. }) => format!("Needs the permission `{name}`."),
        Some(Access::Authenticated) => "Needs a signed-in account.".to_owned(),
        Some(Access::Public) => "Needs no credentials.".to_owned(),
        _ => return comment.to_owned(),
    };
    format!("{comment}\n\n{needs}").trim_start().to_owned()
}

fn parameters(binding: &Binding, schemas: &mut Schemas<'_>) -> Vec<Json> {
    let mut parameters = Vec::new();
    for (capture, fields) in binding.template.captures.iter().zip(&binding.path_fields) {
        let Some(field) = fields.last() else { continue };
        parameters.push(json!({
            "name": capture.field_path.join("."),
            "in": "path",
            "required": true,
            "schema": schemas.field(field),
        }));
    }
    let body = match &binding.body {
        BodyRule::Whole => return parameters,
        BodyRule::Field(field) => Some(field.number()),
        BodyRule::None => None,
    };
    let mut query = Vec::new();
    collect_query(&binding.method.input(), &mut Vec::new(), &mut query);
    for fields in query {
        let (Some(first), Some(last)) = (fields.first(), fields.last()) else {
            continue;
        };
        if Some(first.number()) == body || binding.path_fields.contains(&fields) {
            continue;
        }
        let name: Vec<&str> = fields.iter().map(FieldDescriptor::json_name).collect();
        let mut parameter = json!({
            "name": name.join("."),
            "in": "query",
            "schema": schemas.field(last),
        });
        if is_required(last) {
            parameter["required"] = json!(true);
        }
        if last.is_map() {
            parameter["style"] = json!("deepObject");
        }
        parameters.push(parameter);
    }
    parameters
}

/// The fields that a query may set, each as its path from the request message.
fn collect_query(
    message: &MessageDescriptor,
    parents: &mut Vec<FieldDescriptor>,
    out: &mut Vec<Vec<FieldDescriptor>>,
) {
    for field in message.fields() {
        let kind = field.kind();
        parents.push(field.clone());
        match kind {
            Kind::Message(inner) if !has_text_form(&inner) && !field.is_map() => {
                if !field.is_list() && parents.len() < QUERY_DEPTH {
                    collect_query(&inner, parents, out);
                }
            }
            _ => out.push(parents.clone()),
        }
        parents.pop();
    }
}

fn request_body(binding: &Binding, schemas: &mut Schemas<'_>) -> Option<Json> {
    let schema = match &binding.body {
        BodyRule::None => return None,
        BodyRule::Field(field) => match field.kind() {
            Kind::Message(m) if m.full_name() == http_body::NAME => return Some(raw_content()),
            _ => schemas.field(field),
        },
        BodyRule::Whole => {
            let input = binding.method.input();
            let bound: Vec<u32> = binding
                .path_fields
                .iter()
                .filter(|p| p.len() == 1)
                .map(|p| p[0].number())
                .collect();
            if bound.is_empty() {
                schemas.message(&input)
            } else {
                schemas.object(&input, &bound)
            }
        }
    };
    let required = matches!(&binding.body, BodyRule::Field(field) if is_required(field));
    Some(json!({"required": required, "content": {"application/json": {"schema": schema}}}))
}

fn success(binding: &Binding, schemas: &mut Schemas<'_>) -> Json {
    let output = binding.method.output();
    let (schema, raw) = match &binding.response_body {
        Some(field) => {
            let raw = matches!(field.kind(), Kind::Message(m) if m.full_name() == http_body::NAME);
            (schemas.field(field), raw)
        }
        None if output.full_name() == http_body::NAME => (json!({}), true),
        None => (schemas.message(&output), false),
    };
    if raw {
        let mut content = raw_content();
        content["description"] = json!("The content itself.");
        return content;
    }
    if binding.method.is_server_streaming() {
        let line = json!({
            "type": "object",
            "properties": {"result": schema, "error": {"$ref": "#/components/schemas/Status"}}
        });
        return json!({
            "description": "A stream: one JSON object per line, or one event each.",
            "content": {
                "application/x-ndjson": {"schema": line},
                "text/event-stream": {"schema": {"type": "string"}}
            }
        });
    }
    json!({"description": "Success.", "content": {"application/json": {"schema": schema}}})
}

fn raw_content() -> Json {
    json!({"content": {"*/*": {"schema": {"type": "string", "format": "binary"}}}})
}
