//! Ids of others. Somebody who may call a method in one tenant names what is another's: there is no
//! such thing, and nothing happens to it.

use std::collections::BTreeSet;

use bytes::Bytes;
use prost::Message;
use prost_reflect::{DynamicMessage, MethodDescriptor, ReflectMessage, Value};
use tonic::Code;
use vpnpanel_api::{Access, METHODS, Method};
use vpnpanel_domain::TenantId;
use vpnpanel_runtime::rpc::InProcess;
use vpnpanel_store::{AuditFilter, Page};

use crate::{
    bindings::{bindings, descriptor},
    calls::{self, Answer, HttpRequest},
    matrix::World,
    requests::{About, request},
};

/// The fields of a request that name what belongs to somebody, apart from the tenant.
const OWNED: &[&str] = &[
    "user_id",
    "plan_id",
    "device_id",
    "operation_id",
    "group_id",
    "inbound_id",
    "endpoint_template_id",
    "node_id",
    "event_id",
    "account_id",
];

/// The message with its tenant put in the place of the one that its ids are of.
fn moved(message: &DynamicMessage, field: &str, to: Option<TenantId>) -> DynamicMessage {
    fn set(message: &mut DynamicMessage, path: &str, value: &str) {
        match path.split_once('.') {
            Some((outer, inner)) => {
                let field = message.descriptor().get_field_by_name(outer).unwrap();
                set(
                    message.get_field_mut(&field).as_message_mut().unwrap(),
                    inner,
                    value,
                );
            }
            None => message.set_field_by_name(path, Value::String(value.to_owned())),
        }
    }
    let mut moved = message.clone();
    set(
        &mut moved,
        field,
        &to.map(|id| id.to_string()).unwrap_or_default(),
    );
    moved
}

/// Whether a request names something that is somebody's.
fn names_something(message: &DynamicMessage, prefix: &str) -> bool {
    message.fields().any(|(field, value)| {
        let path = format!("{prefix}{}", field.name()).replace(".id", "_id");
        let name = path.rsplit('.').next().unwrap();
        match value {
            Value::Message(inner) => names_something(inner, &format!("{prefix}{}.", field.name())),
            Value::String(text) => !text.is_empty() && OWNED.contains(&name),
            _ => false,
        }
    })
}

fn subjects() -> impl Iterator<Item = (&'static Method, MethodDescriptor, &'static str)> {
    METHODS.iter().filter_map(|method| match method.access {
        Access::Permission {
            tenant_field: Some(field),
            ..
        } => Some((method, descriptor(method), field)),
        _ => None,
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_anothers_is_not_found_and_stays_as_it_is() {
    let world = World::make().await;
    let (stage, tenants) = (&world.stage, &world.tenants);
    let (ours, theirs) = (Some(tenants.ours), Some(tenants.theirs));
    let (_, owner) = stage.account(&[(ours, "owner")]).await;
    let (_, admin) = stage.account(&[(None, "admin")]).await;
    let owner = [format!("Bearer {}", stage.sign_in(&owner, None).await)];
    let admin = [format!("Bearer {}", stage.sign_in(&admin, None).await)];
    let events = async |scope| {
        let filter = AuditFilter::default();
        let events = stage
            .store
            .audit_events(scope, &filter, Page::first(1_000))
            .await;
        events.unwrap().len()
    };
    let before = (events(theirs).await, events(ours).await, events(None).await);

    let mut tried = BTreeSet::new();
    for (method, described, field) in subjects() {
        let transport = InProcess::anonymous(stage.router(method.service));
        // (whose ids, named in which tenant, by whom)
        for (of, at, by) in [
            (theirs, ours, &owner),
            (None, ours, &owner),
            (theirs, ours, &admin),
            (theirs, None, &admin),
            (None, theirs, &admin),
        ] {
            let about = About {
                scope: of,
                ids: &world.ids,
                in_earnest: true,
            };
            let message = request(method, &described, about);
            let makes = method.name.starts_with("Create") && !method.name.contains("Join");
            if makes || method.name.starts_with("Add") || !names_something(&message, "") {
                continue;
            }
            let message = moved(&message, field, at);
            let bytes = Bytes::from(message.encode_to_vec());
            let answer = calls::grpc(&transport, by, method.path, bytes).await;
            let kept = [Code::NotFound, Code::InvalidArgument].contains(&answer.code);
            assert!(kept, "{} of {of:?} at {at:?}: {answer:?}", method.path);
            tried.insert(method.path);
            for binding in bindings(&described) {
                let in_path = binding.captures().iter().any(|it| it == field);
                if in_path != at.is_some() {
                    continue;
                }
                let answer = calls::rest(&stage.rest, by, binding.call(&message)).await;
                let kept = [Code::NotFound, Code::InvalidArgument].contains(&answer.code);
                assert!(kept, "{} of {of:?} at {at:?}: {answer:?}", binding.path);
            }
        }
    }
    assert!(tried.len() > 20, "{tried:?}");
    let after = (events(theirs).await, events(ours).await, events(None).await);
    assert_eq!(before, after, "nothing was changed");
}

#[tokio::test]
async fn a_path_and_a_body_or_query_that_name_different_things_are_refused() {
    let world = World::make().await;
    let stage = &world.stage;
    let (_, admin) = stage.account(&[(None, "admin")]).await;
    let admin = [format!("Bearer {}", stage.sign_in(&admin, None).await)];
    let mut tried = 0;
    for method in METHODS {
        let described = descriptor(method);
        let about = About {
            scope: Some(world.tenants.ours),
            ids: &world.ids,
            in_earnest: false,
        };
        let message = request(method, &described, about);
        for binding in bindings(&described) {
            for capture in binding.captures() {
                let (outer, inner) = capture.split_once('.').unwrap_or(("", &capture));
                let call = binding.call(&message);
                let uri = call.uri.clone();
                // What the path says, said otherwise in the query.
                let separator = if uri.contains('?') { '&' } else { '?' };
                let twisted = HttpRequest {
                    uri: format!("{uri}{separator}{capture}={}", world.tenants.theirs),
                    ..call
                };
                let answer = calls::rest(&stage.rest, &admin, twisted).await;
                assert_eq!(
                    answer.code,
                    Code::InvalidArgument,
                    "{} {capture}",
                    method.path
                );
                // And in the body.
                let call = binding.call(&message);
                if call.body.is_empty() {
                    continue;
                }
                let mut body: serde_json::Value = serde_json::from_slice(&call.body).unwrap();
                let whole = !outer.is_empty() || body.get(json_name(inner)).is_some();
                if !whole {
                    continue;
                }
                body[json_name(inner)] = world.tenants.theirs.to_string().into();
                let twisted = HttpRequest {
                    body: body.to_string().into(),
                    ..call
                };
                let answer = calls::rest(&stage.rest, &admin, twisted).await;
                assert_eq!(
                    answer.code,
                    Code::InvalidArgument,
                    "{} {capture}",
                    method.path
                );
                tried += 1;
            }
        }
    }
    assert!(tried > 20, "{tried}");
}

fn json_name(name: &str) -> String {
    let mut parts = name.split('_');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |name, part| {
        let mut letters = part.chars();
        let upper = letters.next().map(|c| c.to_ascii_uppercase());
        name + &upper.into_iter().chain(letters).collect::<String>()
    })
}

#[tokio::test]
async fn the_gateway_serves_no_method_by_its_grpc_path() {
    let world = World::make().await;
    for method in METHODS {
        let call = HttpRequest {
            method: "POST".parse().unwrap(),
            uri: method.path.to_owned(),
            body: Bytes::new(),
        };
        let answer = calls::rest(&world.stage.rest, &[], call).await;
        assert_eq!(answer.code, Code::NotFound, "{}", method.path);
    }
    for path in [
        "/grpc.health.v1.Health/Check",
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    ] {
        let call = HttpRequest {
            method: "POST".parse().unwrap(),
            uri: path.to_owned(),
            body: Bytes::new(),
        };
        let answer = calls::rest(&world.stage.rest, &[], call).await;
        assert_eq!(answer.code, Code::NotFound, "{path}");
    }
}

#[tokio::test]
async fn reflection_is_for_who_holds_it_on_the_platform() {
    let world = World::make().await;
    let stage = &world.stage;
    let served: BTreeSet<&str> = METHODS.iter().map(|it| it.service).collect();
    let ours = Some(world.tenants.ours);
    for service in served {
        if service.ends_with(".NodeControlService") {
            // Nodes have no reflection.
            continue;
        }
        let router = stage.router(service);
        for (roles, expected) in [
            (&[(None, "admin")][..], Answer::of(Code::Ok, "")),
            (
                &[(None, "auditor")][..],
                Answer::of(Code::PermissionDenied, "PERMISSION_DENIED"),
            ),
            (
                &[(ours, "admin")][..],
                Answer::of(Code::PermissionDenied, "PERMISSION_DENIED"),
            ),
        ] {
            let (_, email) = stage.account(roles).await;
            let token = [format!("Bearer {}", stage.sign_in(&email, None).await)];
            let answer = reflect(&router, &token).await;
            assert_eq!(answer, expected, "{service}: {roles:?}");
        }
        let answer = reflect(&router, &[]).await;
        assert_eq!(
            answer,
            Answer::of(Code::Unauthenticated, "NO_CREDENTIALS"),
            "{service}"
        );
    }
}

async fn reflect(router: &axum::Router, credentials: &[String]) -> Answer {
    let transport = InProcess::anonymous(router.clone());
    let path = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
    // list_services = 7, a string.
    calls::grpc(
        &transport,
        credentials,
        path,
        Bytes::from_static(&[0x3a, 0]),
    )
    .await
}
