//! The least request of a method that is valid: made from the descriptor, its validation rules and
//! the ids of what there is. What a change is about does not exist, so that nothing is lost by it;
//! what is made is made under names of its own.

use std::sync::atomic::{AtomicU32, Ordering};

use prost_reflect::{
    Cardinality, DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, MethodDescriptor, Value,
};
use tonic::codegen::http::Method as Verb;
use vpnpanel_api::{Access, Method};
use vpnpanel_domain::TenantId;

use crate::{
    bindings::{bindings, option},
    fixture::{Ids, NOBODYS, PASSWORD},
};

/// What requests are about.
#[derive(Debug, Clone, Copy)]
pub(crate) struct About<'a> {
    /// The tenant that they name, or the platform.
    pub(crate) scope: Option<TenantId>,
    /// What there is.
    pub(crate) ids: &'a Ids,
    /// Whether changes too are about what there is.
    pub(crate) in_earnest: bool,
}

/// The request.
pub(crate) fn request(
    method: &'static Method,
    descriptor: &MethodDescriptor,
    about: About<'_>,
) -> DynamicMessage {
    let bindings = bindings(descriptor);
    let reads = bindings.first().is_some_and(|it| it.verb == Verb::GET);
    let tenant_field = match method.access {
        Access::Permission { tenant_field, .. } => tenant_field,
        _ => None,
    };
    let making = Making {
        about,
        tenant_field,
        named: bindings.iter().flat_map(|it| it.captures()).collect(),
        exists: reads || about.in_earnest,
        makes: method.name.starts_with("Create") || method.name.starts_with("Add"),
    };
    making.message(&descriptor.input(), "")
}

struct Making<'a> {
    about: About<'a>,
    tenant_field: Option<&'static str>,
    /// Fields that some path gives.
    named: Vec<String>,
    exists: bool,
    makes: bool,
}

impl Making<'_> {
    fn message(&self, descriptor: &MessageDescriptor, prefix: &str) -> DynamicMessage {
        let mut message = DynamicMessage::new(descriptor.clone());
        for field in descriptor.fields() {
            if let Some(value) = self.value(&field, &format!("{prefix}{}", field.name())) {
                message.set_field(&field, value);
            }
        }
        message
    }

    fn value(&self, field: &FieldDescriptor, path: &str) -> Option<Value> {
        let rules = option(&field.options(), "buf.validate.field");
        let required = rules.as_ref().is_some_and(|rules| {
            let value = rules.get_field_by_name("required").unwrap();
            value.as_bool().unwrap()
        });
        if field.cardinality() == Cardinality::Repeated {
            if let (Kind::Message(inner), "users") = (field.kind(), field.name()) {
                // A batch of nothing is none.
                let item = self.message(&inner, &format!("{path}."));
                return Some(Value::List(vec![Value::Message(item)]));
            }
            let grants = self.makes && field.name() == "permissions";
            return grants.then(|| Value::List(vec![Value::String("audit.readOwn".to_owned())]));
        }
        match field.kind() {
            Kind::Message(inner) => {
                let chosen = self.makes && field.containing_oneof().is_some();
                let holds_a_name = self
                    .named
                    .iter()
                    .any(|it| it.starts_with(&format!("{path}.")));
                (required || chosen || holds_a_name)
                    .then(|| Value::Message(self.message(&inner, &format!("{path}."))))
            }
            Kind::Bytes => Some(Value::Bytes(vec![7; 32].into())),
            Kind::Uint32 if self.makes && field.name() == "port" => {
                Some(Value::U32(20_000 + next() % 40_000))
            }
            Kind::Uint32 if field.name() == "days" => Some(Value::U32(1)),
            Kind::Enum(_) if self.makes && path == "kind" => Some(Value::EnumNumber(1)),
            Kind::String => {
                let uuid = rules.is_some_and(|rules| {
                    let text = rules.get_field_by_name("string").unwrap();
                    let uuid = text
                        .as_message()
                        .and_then(|it| it.get_field_by_name("uuid").map(|v| v.as_bool()));
                    uuid.flatten() == Some(true)
                });
                self.text(field.name(), path, required, uuid)
                    .map(Value::String)
            }
            _ => None,
        }
    }

    fn text(&self, name: &str, path: &str, required: bool, uuid: bool) -> Option<String> {
        let scope = self.about.scope.map(|tenant| tenant.to_string());
        if self.tenant_field == Some(path) {
            return scope;
        }
        if name == "tenant_id" {
            // Who may not name a tenant is none of it: a tenant that nothing else is about.
            return if uuid {
                Some(self.about.ids.spare_tenant.clone())
            } else if self.makes && self.tenant_field.is_none() {
                scope
            } else {
                None
            };
        }
        if uuid || self.named.iter().any(|it| it == path) {
            let there_is = self.about.ids.named(path, self.about.scope);
            return Some(match there_is {
                Some(id) if self.exists => id,
                _ if uuid || path.ends_with("id") => NOBODYS.to_owned(),
                _ => "nobodys".to_owned(),
            });
        }
        let made = || format!("made-{}", next());
        match name {
            "role" => Some("auditor".to_owned()),
            "name" | "username" if self.makes => Some(made()),
            "inbound_id" if self.makes => self.about.ids.named(path, self.about.scope),
            "address" if self.makes => Some(format!("{}.example.com", made())),
            "email" if self.makes || required => Some(format!("{}@example.com", made())),
            "password" => Some(PASSWORD.to_owned()),
            _ if required => Some(format!("wrong, {}", made())),
            _ => None,
        }
    }
}

fn next() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}
