//! Reads the options of the contract off the descriptor, and refuses what declares too little.

use std::collections::BTreeMap;

use anyhow::{Result, bail, ensure};
use prost_reflect::{
    Cardinality, DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MessageDescriptor,
    MethodDescriptor, ReflectMessage, ServiceDescriptor, Value,
};

/// Who may call a method, as its `access` option says.
#[derive(Debug, Clone)]
pub(crate) enum Access {
    Public,
    Authenticated,
    Permission { name: String, tenant_field: String },
    JoinToken,
    CertificateProof,
    NodeCertificate,
    ControlPlane { services: Vec<String> },
}

/// Services of the contract, in the order of the files.
pub(crate) fn services(pool: &DescriptorPool) -> Vec<ServiceDescriptor> {
    pool.services()
        .filter(|s| s.full_name().starts_with("vpnpanel."))
        .collect()
}

/// Fails where a method or an input field leaves out what it must declare.
pub(crate) fn check(pool: &DescriptorPool) -> Result<()> {
    let mut problems = Vec::new();
    for service in services(pool) {
        for method in service.methods() {
            if let Err(problem) = check_method(&method) {
                problems.push(format!("{}: {problem}", method.full_name()));
            }
        }
    }
    for message in inputs(pool).values() {
        for field in message.fields() {
            if let Some(problem) = unbounded(&field)? {
                problems.push(format!("{}: {problem}", field.full_name()));
            }
        }
    }
    ensure!(
        problems.is_empty(),
        "the contract declares too little:\n  {}",
        problems.join("\n  ")
    );
    Ok(())
}

fn check_method(method: &MethodDescriptor) -> Result<()> {
    if let Access::Permission { name, tenant_field } = access(method)? {
        ensure!(
            name.split_once('.')
                .is_some_and(|(r, v)| !r.is_empty() && !v.is_empty()),
            "the permission {name:?} is not `resource.verb`"
        );
        if !tenant_field.is_empty() {
            tenant_path(&method.input(), &tenant_field)?;
        }
    }
    let http = option(&method.options(), "google.api.http");
    let grpc_only = flag(&method.options(), "vpnpanel.options.v1.grpc_only");
    ensure!(
        http.is_some() != grpc_only,
        "declare either a REST binding (google.api.http) or grpc_only"
    );
    let changes = http.as_ref().is_some_and(|rule| !has(rule, "get"));
    ensure!(
        !changes || flag(&method.options(), "vpnpanel.options.v1.audited"),
        "it changes something: declare audited"
    );
    Ok(())
}

/// The access option of a method.
pub(crate) fn access(method: &MethodDescriptor) -> Result<Access> {
    let Some(rule) = option(&method.options(), "vpnpanel.options.v1.access") else {
        bail!("declare who may call it: option (vpnpanel.options.v1.access)");
    };
    let text = |message: &DynamicMessage, name: &str| {
        message
            .get_field_by_name(name)
            .and_then(|v| v.as_str().map(str::to_owned))
            .unwrap_or_default()
    };
    Ok(if has(&rule, "public") {
        Access::Public
    } else if has(&rule, "authenticated") {
        Access::Authenticated
    } else if has(&rule, "join_token") {
        Access::JoinToken
    } else if has(&rule, "certificate_proof") {
        Access::CertificateProof
    } else if has(&rule, "node_certificate") {
        Access::NodeCertificate
    } else if let Some(permission) = message_in(&rule, "permission") {
        Access::Permission {
            name: text(&permission, "name"),
            tenant_field: text(&permission, "tenant_field"),
        }
    } else if let Some(plane) = message_in(&rule, "control_plane_certificate") {
        let services = plane.get_field_by_name("services");
        let services: Vec<String> = services
            .as_ref()
            .and_then(|v| v.as_list())
            .map(|list| {
                list.iter()
                    .filter_map(|v| v.as_str().map(str::to_owned))
                    .collect()
            })
            .unwrap_or_default();
        ensure!(!services.is_empty(), "name the services that may call");
        Access::ControlPlane { services }
    } else {
        bail!("the access option has no rule");
    })
}

/// The fields from a request down to the tenant, checked to be strings inside messages.
pub(crate) fn tenant_path(input: &MessageDescriptor, path: &str) -> Result<Vec<String>> {
    let mut message = input.clone();
    let mut fields = Vec::new();
    let mut names = path.split('.').peekable();
    while let Some(name) = names.next() {
        let Some(field) = message.get_field_by_name(name) else {
            bail!(
                "tenant_field {path:?}: {} has no field {name:?}",
                message.full_name()
            );
        };
        match field.kind() {
            Kind::Message(inner) if names.peek().is_some() => message = inner,
            Kind::String if names.peek().is_none() => {}
            _ => bail!("tenant_field {path:?} does not lead to a string"),
        }
        fields.push(name.to_owned());
    }
    Ok(fields)
}

/// Every message of the contract that a request can hold, by full name.
pub(crate) fn inputs(pool: &DescriptorPool) -> BTreeMap<String, MessageDescriptor> {
    let mut found = BTreeMap::new();
    let mut open: Vec<MessageDescriptor> = services(pool)
        .iter()
        .flat_map(|s| s.methods().map(|m| m.input()).collect::<Vec<_>>())
        .collect();
    while let Some(message) = open.pop() {
        if !message.full_name().starts_with("vpnpanel.") || found.contains_key(message.full_name())
        {
            continue;
        }
        for field in message.fields() {
            if let Kind::Message(inner) = field.kind()
                && !field.is_map()
            {
                open.push(inner);
            }
        }
        found.insert(message.full_name().to_owned(), message);
    }
    found
}

/// Why an input field has no bound, where it has none.
fn unbounded(field: &FieldDescriptor) -> Result<Option<&'static str>> {
    let rules = rules(field);
    if field.is_map() {
        let map = rules.as_ref().and_then(|r| message_in(r, "map"));
        return Ok(match map {
            Some(map) if has(&map, "max_pairs") && has(&map, "keys") && has(&map, "values") => None,
            _ => Some("bound the map: max_pairs, keys and values"),
        });
    }
    if field.cardinality() == Cardinality::Repeated {
        let repeated = rules.as_ref().and_then(|r| message_in(r, "repeated"));
        let Some(repeated) = repeated.filter(|r| has(r, "max_items")) else {
            return Ok(Some("bound the list: repeated.max_items"));
        };
        let items = message_in(&repeated, "items");
        return Ok(unbounded_kind(&field.kind(), items.as_ref()));
    }
    Ok(unbounded_kind(&field.kind(), rules.as_ref()))
}

fn unbounded_kind(kind: &Kind, rules: Option<&DynamicMessage>) -> Option<&'static str> {
    let has_any = |group: &str, names: &[&str]| {
        rules
            .and_then(|r| message_in(r, group))
            .is_some_and(|group| names.iter().any(|name| has(&group, name)))
    };
    match kind {
        Kind::String if !has_any("string", &["max_len", "uuid"]) => {
            Some("bound it: string.max_len")
        }
        Kind::Bytes if !has_any("bytes", &["max_len", "len"]) => Some("bound it: bytes.max_len"),
        Kind::Enum(_) if !has_any("enum", &["defined_only"]) => Some("bound it: enum.defined_only"),
        _ => None,
    }
}

/// The validation rules of a field.
pub(crate) fn rules(field: &FieldDescriptor) -> Option<DynamicMessage> {
    option(&field.options(), "buf.validate.field")
}

/// Whether a field is declared secret.
pub(crate) fn secret(field: &FieldDescriptor) -> bool {
    flag(&field.options(), "vpnpanel.options.v1.secret")
}

/// A flag among the options of a method or field.
pub(crate) fn flag(options: &DynamicMessage, name: &str) -> bool {
    extension(options, name)
        .and_then(|v| v.as_bool())
        .unwrap_or(false)
}

/// A message among the options of a method or field.
pub(crate) fn option(options: &DynamicMessage, name: &str) -> Option<DynamicMessage> {
    extension(options, name).and_then(|v| v.as_message().cloned())
}

fn extension(options: &DynamicMessage, name: &str) -> Option<Value> {
    let extension = options
        .descriptor()
        .parent_pool()
        .get_extension_by_name(name)?;
    options
        .has_extension(&extension)
        .then(|| options.get_extension(&extension).into_owned())
}

/// Whether a field of a message is set.
pub(crate) fn has(message: &DynamicMessage, name: &str) -> bool {
    message.has_field_by_name(name)
}

/// A message field, where it is set.
pub(crate) fn message_in(message: &DynamicMessage, name: &str) -> Option<DynamicMessage> {
    message
        .has_field_by_name(name)
        .then(|| message.get_field_by_name(name))
        .flatten()
        .and_then(|v| v.as_message().cloned())
}
