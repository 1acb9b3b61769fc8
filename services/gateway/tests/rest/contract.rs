//! The product's own contract: it compiles, and its document says what is served.

use serde_json::Value as Json;
use tokio_util::sync::CancellationToken;
use vpnpanel_gateway::{Limits, Transcoder, Upstream, Upstreams, openapi};

use crate::support::service::OddService;

fn document() -> Json {
    openapi::description(vpnpanel_api::pool()).unwrap()
}

/// Every operation with its method and path.
fn operations(document: &Json) -> Vec<(String, String, &Json)> {
    let mut found = Vec::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            found.push((method.clone(), path.clone(), operation));
        }
    }
    found
}

#[tokio::test]
async fn every_binding_of_the_contract_can_be_served() {
    let upstreams = Upstreams::new(Upstream::new(OddService::default().routes()));
    let stop = CancellationToken::new();
    Transcoder::new(vpnpanel_api::pool(), &upstreams, Limits::default(), stop).unwrap();
}

#[test]
fn every_method_with_a_binding_is_in_the_document_and_no_other() {
    let document = document();
    let ids: Vec<&str> = operations(&document)
        .iter()
        .map(|(_, _, operation)| operation["operationId"].as_str().unwrap())
        .collect();
    for method in vpnpanel_api::METHODS {
        let service = method.service.rsplit('.').next().unwrap();
        let id = format!("{service}_{}", method.name);
        assert_eq!(ids.contains(&id.as_str()), !method.grpc_only, "{id}");
    }
    let mut unique = ids.clone();
    unique.sort_unstable();
    unique.dedup();
    assert_eq!(unique.len(), ids.len(), "operation ids are unique");
}

#[test]
fn every_reference_in_the_document_leads_somewhere() {
    fn references(json: &Json, out: &mut Vec<String>) {
        match json {
            Json::Object(map) => {
                for (key, value) in map {
                    match value {
                        Json::String(text) if key == "$ref" => out.push(text.clone()),
                        value => references(value, out),
                    }
                }
            }
            Json::Array(list) => list.iter().for_each(|value| references(value, out)),
            _ => {}
        }
    }
    let document = document();
    let mut found = Vec::new();
    references(&document, &mut found);
    assert!(!found.is_empty());
    for reference in found {
        let pointer = reference.strip_prefix('#').unwrap();
        assert!(
            document.pointer(pointer).is_some_and(Json::is_object),
            "{reference}"
        );
    }
}

#[test]
fn every_path_parameter_of_the_document_is_in_its_path() {
    let document = document();
    for (method, path, operation) in operations(&document) {
        let parameters = operation["parameters"].as_array().unwrap();
        let in_path = parameters.iter().filter(|p| p["in"] == "path");
        let names: Vec<&str> = in_path.map(|p| p["name"].as_str().unwrap()).collect();
        assert_eq!(path.matches('{').count(), names.len(), "{method} {path}");
        for name in names {
            assert!(
                path.contains(&format!("{{{name}}}")),
                "{method} {path}: {name}"
            );
        }
    }
}

#[test]
fn the_document_says_who_may_call_and_what_fields_hold() {
    let document = document();
    let login = &document["paths"]["/v1/auth/login"]["post"];
    assert_eq!(login["security"], serde_json::json!([]));
    let users = &document["paths"]["/v1/tenants/{tenant_id}/users"]["get"];
    assert!(users.get("security").is_none());
    assert!(
        users["description"]
            .as_str()
            .unwrap()
            .contains("`user.read`")
    );
    let user = &document["components"]["schemas"]["user.v1.User"]["properties"];
    assert_eq!(user["username"]["maxLength"], 64);
    assert_eq!(user["usedBytes"]["readOnly"], true);
    assert_eq!(user["usedBytes"]["format"], "uint64");
    assert_eq!(user["expireTime"]["format"], "date-time");
    assert_eq!(user["groupIds"]["items"]["format"], "uuid");
}
