//! Requests that nobody sends in good faith: every field of every request in turn holds what is
//! odd, too large or too small. Whatever is answered, nothing fails inside.

use bytes::Bytes;
use prost::Message;
use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, Value};
use tonic::Code;
use vpnpanel_api::METHODS;
use vpnpanel_runtime::rpc::InProcess;

use crate::{
    bindings::descriptor,
    calls,
    matrix::World,
    requests::{About, request},
};

/// Fields that are tried this deep.
const DEPTH: usize = 4;

const TEXTS: &[&str] = &[
    "\0",
    "a\0b",
    "'; DROP TABLE users; --",
    "%",
    "\u{202e}\u{feff}",
    "00000000-0000-0000-0000-000000000000",
    "ffffffff-ffff-ffff-ffff-ffffffffffff",
    "../../etc/passwd",
    "999999999999999999999999",
    "*",
];

/// Odd values of a field, each to be set on its own.
fn odd(field: &FieldDescriptor) -> Vec<Value> {
    let texts = || TEXTS.iter().map(|&it| Value::String(it.to_owned()));
    if field.is_map() {
        return texts()
            .map(|text| {
                let key = MapKey::String(text.as_str().unwrap_or_default().to_owned());
                Value::Map([(key, text)].into())
            })
            .collect();
    }
    let of_kind: Vec<Value> = match field.kind() {
        Kind::String => texts().collect(),
        Kind::Bytes => [0, 1, 4096]
            .map(|n| Value::Bytes(vec![0xff; n].into()))
            .into(),
        Kind::Bool => vec![Value::Bool(true)],
        Kind::Int32 => [i32::MIN, -1, i32::MAX].map(Value::I32).into(),
        Kind::Int64 => [i64::MIN, -1, i64::MAX].map(Value::I64).into(),
        Kind::Uint32 => [1, u32::MAX].map(Value::U32).into(),
        Kind::Uint64 => [1, i64::MAX as u64, u64::MAX].map(Value::U64).into(),
        Kind::Enum(_) => [1, 2, -1, i32::MAX].map(Value::EnumNumber).into(),
        _ => Vec::new(),
    };
    if field.is_list() {
        return of_kind
            .into_iter()
            .map(|it| Value::List(vec![it]))
            .collect();
    }
    of_kind
}

/// The message with one field of it changed, for each field and each odd value.
fn twisted(message: &DynamicMessage, of: &MessageDescriptor, depth: usize) -> Vec<DynamicMessage> {
    let mut found = Vec::new();
    for field in of.fields() {
        for value in odd(&field) {
            let mut changed = message.clone();
            changed.set_field(&field, value);
            found.push(changed);
        }
        let Kind::Message(inner) = field.kind() else {
            continue;
        };
        if field.is_map() || depth == 0 {
            continue;
        }
        let known = message.get_field(&field);
        let base = match known.as_message() {
            Some(known) if message.has_field(&field) => known.clone(),
            _ => DynamicMessage::new(inner.clone()),
        };
        for changed in twisted(&base, &inner, depth - 1) {
            let value = Value::Message(changed);
            let mut outer = message.clone();
            let value = if field.is_list() {
                Value::List(vec![value])
            } else {
                value
            };
            outer.set_field(&field, value);
            found.push(outer);
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_fails_inside_whatever_a_field_holds() {
    let world = World::make().await;
    let stage = &world.stage;
    let (_, email) = stage.account(&[(None, "admin")]).await;
    let admin = [format!("Bearer {}", stage.sign_in(&email, None).await)];
    let mut tried = 0;
    let mut failed = Vec::new();
    for method in METHODS {
        // Streams of nodes and sign-outs have tests of their own.
        if method.service.contains(".agent.") || ["Logout", "ChangePassword"].contains(&method.name)
        {
            continue;
        }
        let described = descriptor(method);
        let router = stage.router(method.service);
        let transport = if method.service.ends_with(".SignerService") {
            let identity = vpnpanel_runtime::PeerIdentity::control_plane("collector");
            InProcess::of(router, identity.unwrap())
        } else {
            InProcess::anonymous(router)
        };
        let scope = Some(world.tenants.ours);
        for in_earnest in [false, true] {
            let about = About {
                scope,
                ids: &world.ids,
                in_earnest,
            };
            let destroys = ["Delete", "Remove", "Revoke", "Suspend", "Disable"];
            if in_earnest && destroys.iter().any(|it| method.name.starts_with(it)) {
                continue;
            }
            let message = request(method, &described, about);
            for message in twisted(&message, &described.input(), DEPTH) {
                let bytes = Bytes::from(message.encode_to_vec());
                let answer = calls::grpc(&transport, &admin, method.path, bytes).await;
                tried += 1;
                let inside = [
                    Code::Internal,
                    Code::Unknown,
                    Code::Unavailable,
                    Code::DataLoss,
                ];
                if inside.contains(&answer.code) {
                    let json = serde_json::to_string(&message).unwrap();
                    failed.push(format!("{}: {answer:?}\n    {json}", method.path));
                }
            }
        }
    }
    assert!(tried > 1_000, "{tried}");
    let first = &failed[..failed.len().min(30)];
    assert!(
        failed.is_empty(),
        "{} of {tried}:\n{}",
        failed.len(),
        first.join("\n")
    );
}
