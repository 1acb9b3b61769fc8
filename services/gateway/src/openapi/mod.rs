//! The OpenAPI 3.1 document of the contract, made from the same bindings that serve requests, so
//! that it cannot say what is not so.

mod comments;
mod operations;
mod schemas;

use prost_reflect::DescriptorPool;
use serde_json::{Value as Json, json};
use vpnpanel_runtime::VERSION;

use crate::app::Document;
use crate::error::GatewayError;
use crate::http_rule;

use comments::Comments;
use operations::operation;
use schemas::Schemas;

const POLICY: &str = "default-src 'none'; frame-ancestors 'none'";

/// The document as it is served.
pub fn document(pool: &DescriptorPool) -> Result<Document, GatewayError> {
    let text = description(pool)?.to_string();
    Ok(Document::new(text, "application/json", POLICY))
}

/// The document as JSON.
pub fn description(pool: &DescriptorPool) -> Result<Json, GatewayError> {
    let comments = Comments::of(pool);
    let mut schemas = Schemas::new(&comments);
    let mut paths = serde_json::Map::new();
    let mut tags: Vec<Json> = Vec::new();
    let bindings = http_rule::bindings(pool)?;
    for (i, binding) in bindings.iter().enumerate() {
        let service = binding.method.parent_service();
        if tags.iter().all(|t| t["name"] != service.name()) {
            let about = comments.of_service(service);
            tags.push(json!({"name": service.name(), "description": about}));
        }
        let nth = bindings[..i]
            .iter()
            .filter(|b| b.method == binding.method)
            .count();
        let path = paths
            .entry(binding.template.to_string())
            .or_insert_with(|| Json::Object(serde_json::Map::new()));
        if let Json::Object(methods) = path {
            let name = binding.http_method.as_str().to_ascii_lowercase();
            methods.insert(name, operation(binding, nth, &comments, &mut schemas));
        }
    }
    let mut components = schemas.finish();
    components.insert("Status".to_owned(), status_schema());
    Ok(json!({
        "openapi": "3.1.0",
        "info": {
            "title": "vpnpanel",
            "version": VERSION,
            "description": "A control plane for VPN fleets. Field names are lowerCamelCase; \
                            snake_case is accepted too. 64-bit integers are strings. A PATCH \
                            without `updateMask` changes the fields that its body names.",
        },
        "servers": [{"url": "/"}],
        "tags": tags,
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "An access token, from a sign-in."
                }
            },
            "responses": {
                "Error": {
                    "description": "An error; its ErrorInfo has the reason.",
                    "content": {
                        "application/json": {"schema": {"$ref": "#/components/schemas/Status"}}
                    }
                }
            }
        },
        "security": [{"bearer": []}],
    }))
}

fn status_schema() -> Json {
    json!({
        "type": "object",
        "description": "google.rpc.Status",
        "properties": {
            "code": {"type": "integer", "format": "int32", "description": "The gRPC code."},
            "status": {"type": "string", "description": "The gRPC code's name, NOT_FOUND."},
            "message": {"type": "string", "description": "For people, in English."},
            "details": {
                "type": "array",
                "description": "google.rpc.ErrorInfo first of all; BadRequest names fields.",
                "items": {
                    "type": "object",
                    "properties": {"@type": {"type": "string"}},
                    "required": ["@type"],
                    "additionalProperties": true
                }
            }
        },
        "required": ["code", "status", "message", "details"]
    })
}
