//! Messages as they are shown to people who may not see their secrets: JSON (protojson) in which
//! every field that the contract declares `secret` reads `[redacted]`. Derived from the
//! descriptor, so that a new secret field is redacted from its first day.

use prost::Name;
use prost_reflect::{DynamicMessage, Kind, MessageDescriptor, SerializeOptions};
use serde_json::{Map, Value};

use crate::pool;

/// What stands in place of a secret.
pub const REDACTED: &str = "[redacted]";

/// A message without its secrets; fields at their defaults are left out.
pub fn shown<M: Name>(message: &M) -> Value {
    let Some((descriptor, mut json)) = json(message, true) else {
        return Value::Null;
    };
    redact(&descriptor, &mut json);
    json
}

/// The fields in which two messages differ, as they were and as they are, without secrets: a
/// secret that changed is there, and reads the same in both.
pub fn difference<M: Name>(before: &M, after: &M) -> (Value, Value) {
    let (Some((descriptor, before)), Some((_, after))) = (json(before, false), json(after, false))
    else {
        return (Value::Null, Value::Null);
    };
    let (mut before, mut after) = differing(before, after);
    redact(&descriptor, &mut before);
    redact(&descriptor, &mut after);
    (before, after)
}

/// The message as protojson, with its descriptor; `None` for a message that is not of the contract.
fn json<M: Name>(message: &M, skip_defaults: bool) -> Option<(MessageDescriptor, Value)> {
    let descriptor = pool().get_message_by_name(&M::full_name())?;
    let bytes = message.encode_to_vec();
    let message = DynamicMessage::decode(descriptor.clone(), bytes.as_slice()).ok()?;
    let options = SerializeOptions::new().skip_default_fields(skip_defaults);
    let json = message
        .serialize_with_options(serde_json::value::Serializer, &options)
        .ok()?;
    Some((descriptor, json))
}

/// What of two objects is not the same in both; lists are taken whole.
fn differing(before: Value, after: Value) -> (Value, Value) {
    let (Value::Object(before), Value::Object(mut after)) = (before, after) else {
        return (Value::Null, Value::Null);
    };
    let (mut was, mut is) = (Map::new(), Map::new());
    for (name, old) in before {
        match after.remove(&name) {
            Some(new) if new == old => {}
            Some(new) if old.is_object() && new.is_object() => {
                let (old, new) = differing(old, new);
                was.insert(name.clone(), old);
                is.insert(name, new);
            }
            Some(new) => {
                was.insert(name.clone(), old);
                is.insert(name, new);
            }
            None => {
                was.insert(name, old);
            }
        }
    }
    is.extend(after);
    (Value::Object(was), Value::Object(is))
}

/// Puts [`REDACTED`] in place of every secret of a message in protojson.
pub fn redact(descriptor: &MessageDescriptor, json: &mut Value) {
    let Value::Object(fields) = json else { return };
    for field in descriptor.fields() {
        let Some(value) = fields.get_mut(field.json_name()) else {
            continue;
        };
        if is_secret(&field) {
            if !is_empty(value) {
                *value = REDACTED.into();
            }
            continue;
        }
        let kind = match field.kind() {
            Kind::Message(entry) if field.is_map() => entry.map_entry_value_field().kind(),
            kind => kind,
        };
        let Kind::Message(inner) = kind else { continue };
        match value {
            Value::Array(items) => items.iter_mut().for_each(|item| redact(&inner, item)),
            Value::Object(entries) if field.is_map() => {
                entries.values_mut().for_each(|item| redact(&inner, item));
            }
            value => redact(&inner, value),
        }
    }
}

fn is_secret(field: &prost_reflect::FieldDescriptor) -> bool {
    let Some(secret) = pool().get_extension_by_name("vpnpanel.options.v1.secret") else {
        // A contract without the option has no field that may be shown.
        return true;
    };
    field
        .options()
        .get_extension(&secret)
        .as_bool()
        .unwrap_or(true)
}

/// Whether there is nothing in a field, so that nothing has to be hidden.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::user::v1::{Connection, ListUserConnectionsResponse, User};
    use crate::{access, auth};

    #[test]
    fn secrets_are_redacted_wherever_they_stand() {
        let login = auth::v1::LoginRequest {
            email: "a@b".into(),
            password: "hunter2".into(),
            ..Default::default()
        };
        assert_eq!(
            shown(&login),
            serde_json::json!({"email": "a@b", "password": REDACTED})
        );
        let answer = ListUserConnectionsResponse {
            connections: vec![Connection {
                name: "main".into(),
                wireguard_config: "PrivateKey = hunter2".into(),
                ..Connection::default()
            }],
            subscription_url: "https://vpn.example.com/sub/hunter2".into(),
        };
        let json = shown(&answer);
        assert_eq!(json["subscriptionUrl"], REDACTED);
        assert_eq!(json["connections"][0]["wireguardConfig"], REDACTED);
        assert_eq!(json["connections"][0].get("qrSvg"), None);
        assert_eq!(json["connections"][0]["name"], "main");
    }

    #[test]
    fn a_changed_secret_is_seen_to_have_changed_and_no_more() {
        let before = auth::v1::LoginRequest {
            email: "a@b".into(),
            password: "hunter2".into(),
            ..Default::default()
        };
        let after = auth::v1::LoginRequest {
            password: "hunter3".into(),
            ..before.clone()
        };
        let only = serde_json::json!({"password": REDACTED});
        assert_eq!(difference(&before, &after), (only.clone(), only));
    }

    #[test]
    fn only_what_differs_is_told_also_inside_of_messages_and_maps() {
        let before = User {
            username: "ada".into(),
            data_limit_bytes: 5,
            ..User::default()
        };
        let after = User {
            note: "vip".into(),
            data_limit_bytes: 0,
            ..before.clone()
        };
        let (was, is) = difference(&before, &after);
        assert_eq!(was, serde_json::json!({"note": "", "dataLimitBytes": "5"}));
        assert_eq!(
            is,
            serde_json::json!({"note": "vip", "dataLimitBytes": "0"})
        );

        let inbound = |tier: &str| access::v1::Inbound {
            nodes: Some(access::v1::NodeSelector {
                node_ids: Vec::new(),
                labels: [("tier".into(), tier.into()), ("eu".into(), "1".into())].into(),
            }),
            ..access::v1::Inbound::default()
        };
        let (was, is) = difference(&inbound("gold"), &inbound("silver"));
        assert_eq!(
            was,
            serde_json::json!({"nodes": {"labels": {"tier": "gold"}}})
        );
        assert_eq!(
            is,
            serde_json::json!({"nodes": {"labels": {"tier": "silver"}}})
        );
    }
}
