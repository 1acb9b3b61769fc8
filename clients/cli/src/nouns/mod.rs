//! The verbs of daily work: each is a method of the contract and the arguments that fill its
//! request. A new verb is a line in the table of its noun; `tests` hold every line to the contract.

mod access;
mod fleet;
mod records;
mod tenant;
mod user;

pub(crate) struct Noun {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    pub(crate) verbs: &'static [Verb],
}

pub(crate) struct Verb {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    /// `package.Service/Method`.
    pub(crate) method: &'static str,
    pub(crate) scope: Scope,
    pub(crate) args: &'static [Arg],
    /// Where the list is in the answer, by names of JSON; empty where the answer is a page of it.
    pub(crate) rows: &'static str,
    /// Columns of a list.
    pub(crate) columns: &'static [&'static str],
    /// Secrets are what the verb is for.
    pub(crate) secrets: bool,
}

/// Whose resource it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// The request has no tenant.
    Platform,
    /// The tenant that is named with `--tenant`, else the platform.
    Either,
    /// A tenant: the named one, the context's, or the only one there is. The path of the field.
    Tenant(&'static str),
}

/// An argument, and the field of the request that it fills.
pub(crate) struct Arg {
    pub(crate) name: &'static str,
    /// Path of the field, by names of JSON.
    pub(crate) field: &'static str,
    pub(crate) kind: Kind,
    pub(crate) about: &'static str,
    pub(crate) place: Place,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Positional,
    Required,
    Optional,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Text,
    Number,
    Bytes,
    /// A moment to come.
    Until,
    /// A moment that was.
    Since,
    Span,
    Flag,
    Json,
    /// An enum value without its prefix: `active`.
    Enum(&'static str),
    /// A resource, by id or name.
    Of(Resource),
    /// Several of them, separated by commas.
    Several(Resource),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Resource {
    Tenant,
    User,
    Node,
    Group,
    Inbound,
    Plan,
}

impl Resource {
    /// The method that lists them, the field of its answer, and the field that names one.
    pub(crate) const fn list(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Tenant => (
                "vpnpanel.tenant.v1.TenantService/ListTenants",
                "tenants",
                "name",
            ),
            Self::User => (
                "vpnpanel.user.v1.UserService/ListUsers",
                "users",
                "username",
            ),
            Self::Node => ("vpnpanel.node.v1.NodeService/ListNodes", "nodes", "name"),
            Self::Group => (
                "vpnpanel.access.v1.GroupService/ListGroups",
                "groups",
                "name",
            ),
            Self::Inbound => (
                "vpnpanel.access.v1.InboundService/ListInbounds",
                "inbounds",
                "name",
            ),
            Self::Plan => ("vpnpanel.plan.v1.PlanService/ListPlans", "plans", "name"),
        }
    }
}

pub(crate) const NOUNS: &[Noun] = &[
    tenant::TENANT,
    user::USER,
    access::GROUP,
    access::INBOUND,
    access::PLAN,
    fleet::NODE,
    fleet::JOB,
    records::USAGE,
    records::AUDIT,
    records::OPERATION,
];

const fn arg(name: &'static str, field: &'static str, kind: Kind, about: &'static str) -> Arg {
    Arg {
        name,
        field,
        kind,
        about,
        place: Place::Optional,
    }
}

impl Arg {
    const fn first(mut self) -> Self {
        self.place = Place::Positional;
        self
    }

    const fn required(mut self) -> Self {
        self.place = Place::Required;
        self
    }
}

const fn verb(
    name: &'static str,
    about: &'static str,
    method: &'static str,
    scope: Scope,
    args: &'static [Arg],
) -> Verb {
    Verb {
        name,
        about,
        method,
        scope,
        args,
        rows: "",
        columns: &[],
        secrets: false,
    }
}

impl Verb {
    const fn rows(mut self, rows: &'static str) -> Self {
        self.rows = rows;
        self
    }

    const fn columns(mut self, columns: &'static [&'static str]) -> Self {
        self.columns = columns;
        self
    }

    const fn secrets(mut self) -> Self {
        self.secrets = true;
        self
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;
    use prost_reflect::{FieldDescriptor, Kind as FieldKind, MessageDescriptor};

    /// The field at a path.
    fn field(message: MessageDescriptor, path: &str) -> Option<FieldDescriptor> {
        let (first, rest) = path.split_once('.').unwrap_or((path, ""));
        let field = message.get_field_by_json_name(first)?;
        match (rest, field.kind()) {
            ("", _) => Some(field),
            (rest, FieldKind::Message(inner)) => self::field(inner, rest),
            _ => None,
        }
    }

    fn holds(message: MessageDescriptor, path: &str) -> bool {
        field(message, path).is_some()
    }

    #[test]
    fn every_verb_names_a_method_and_fields_that_the_contract_has() {
        for noun in NOUNS {
            for verb in noun.verbs {
                let method = crate::dynamic::method(verb.method).unwrap();
                let mut paths: Vec<&str> = verb.args.iter().map(|arg| arg.field).collect();
                match verb.scope {
                    Scope::Platform => {}
                    Scope::Either => paths.push("tenantId"),
                    Scope::Tenant(path) => paths.push(path),
                }
                for path in paths {
                    let there = holds(method.input(), path);
                    assert!(there, "{} {}: {path}", noun.name, verb.name);
                }
                let list = match verb.rows {
                    "" => crate::run::list_field(&method.output()),
                    path => Some(field(method.output(), path).unwrap()),
                };
                if let Some(list) = list {
                    let FieldKind::Message(item) = list.kind() else {
                        panic!("{} {}", noun.name, verb.name)
                    };
                    for column in verb.columns {
                        let there = holds(item.clone(), column);
                        assert!(there, "{} {}: {column}", noun.name, verb.name);
                    }
                }
            }
        }
    }
}
