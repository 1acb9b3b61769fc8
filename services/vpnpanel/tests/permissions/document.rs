//! docs/permissions.md: made of the contract and of the roles in a fresh database.

use std::{collections::BTreeSet, fmt::Write, path::Path};

use vpnpanel_api::{Access, METHODS, Method};
use vpnpanel_auth::Role;

use crate::{
    bindings::{Binding, bindings, descriptor},
    expected::Roles,
    stage::Stage,
};

const PATH: &str = "../../docs/permissions.md";
const REWRITE: &str = "UPDATE_DOCS=1 cargo test --workspace --test permissions";

const HEAD: &str = "\
# Permissions

Made by a test, from the options of the contract (`proto/`) and the roles that the first start
writes into the database; not to be edited. `UPDATE_DOCS=1 cargo test --workspace --test permissions`
writes it again. The same test program (`services/vpnpanel/tests/permissions`) calls every method here
over gRPC and over REST, without credentials, with every kind of wrong ones, in each role, in the
tenant and in another one, suspended, by API tokens and by certificates, and compares each answer
with this table.

## How to read it

**Who** says what a caller needs: nothing (`anybody`), to be signed in (`any account`), a permission,
a join token inside the request, or a client certificate of the internal authority. **Where** says
where a permission must be held: in the *tenant* that the request names, on the *platform*, or
*either*: in the tenant where the request names one, on the platform where it names none. What is
held on the platform is held in every tenant.

The columns **admin** (on the platform), **owner**, **operator** and **auditor** (in a tenant) say whom
the roles of the product let in: ● yes; ◐ only an auditor of the platform; empty no. Custom roles
permit what they list. A member of a tenant that is asked for in another one is told that there is
none (NOT_FOUND).

**Audited** methods write an event; in a suspended tenant its members may call only those that are
not. **Notes**: *session*: an API token may not call it. *Before password*, *before second factor*:
permitted while the one-time password has to be changed, or the second factor to be enrolled. *gRPC
only*: there is no REST.
";

fn who(method: &Method) -> (String, &'static str) {
    match method.access {
        Access::Public => ("anybody".to_owned(), ""),
        Access::Authenticated => ("any account".to_owned(), ""),
        Access::Permission { name, tenant_field } => (
            format!("`{name}`"),
            tenant_field.map_or("platform", |field| place(method, field)),
        ),
        Access::JoinToken => ("join token".to_owned(), ""),
        Access::CertificateProof => ("proof of a certificate's key".to_owned(), ""),
        Access::NodeCertificate => ("certificate of a node".to_owned(), ""),
        Access::ControlPlaneCertificate { services } => {
            (format!("certificate of {}", services.join(", ")), "")
        }
    }
}

/// Whether a method is always about a tenant.
fn place(method: &Method, tenant_field: &str) -> &'static str {
    let all = bindings(&descriptor(method));
    let named = |it: &Binding| it.captures().iter().any(|field| field == tenant_field);
    if all.iter().all(named) {
        "tenant"
    } else {
        "either"
    }
}

/// Whether a role of the product lets its holder in, where it is usually held.
fn mark(method: &Method, role: Role, roles: &Roles) -> &'static str {
    let (name, in_tenants) = match method.access {
        Access::Public | Access::Authenticated => return "●",
        Access::Permission { name, tenant_field } => (name, tenant_field.is_some()),
        _ => return "",
    };
    let holds = roles[role.as_str()].contains(name);
    match role {
        _ if !holds => "",
        Role::Admin => "●",
        _ if in_tenants => "●",
        Role::Auditor => "◐",
        Role::Owner | Role::Operator => "",
    }
}

fn notes(method: &Method) -> String {
    let notes = [
        (method.session_only, "session"),
        (method.before_password_change, "before password"),
        (method.before_second_factor, "before second factor"),
        (method.grpc_only, "gRPC only"),
    ];
    let set = notes.iter().filter(|(set, _)| *set).map(|(_, note)| *note);
    set.collect::<Vec<_>>().join(", ")
}

fn rest(method: &Method) -> String {
    let all = bindings(&descriptor(method));
    let written = all.iter().map(|it| format!("`{} {}`", it.verb, it.path));
    written.collect::<Vec<_>>().join("<br>")
}

fn render(roles: &Roles) -> String {
    let mut text = HEAD.to_owned();
    let services: BTreeSet<&str> = METHODS.iter().map(|method| method.service).collect();
    for service in services {
        let short = service.strip_prefix("vpnpanel.").unwrap();
        write!(
            text,
            "\n## {short}\n\n| method | REST | who | where | admin | owner | operator | auditor \
             | audited | notes |\n| --- | --- | --- | --- | :-: | :-: | :-: | :-: | :-: | --- |\n"
        )
        .unwrap();
        for method in METHODS.iter().filter(|method| method.service == service) {
            let (who, place) = who(method);
            let marks = Role::ALL.map(|role| mark(method, role, roles)).join(" | ");
            let audited = if method.audited { "●" } else { "" };
            let (name, rest, notes) = (method.name, rest(method), notes(method));
            writeln!(
                text,
                "| {name} | {rest} | {who} | {place} | {marks} | {audited} | {notes} |"
            )
            .unwrap();
        }
    }
    writeln!(
        text,
        "\n## Roles\n\n| permission | admin | owner | operator | auditor |"
    )
    .unwrap();
    writeln!(text, "| --- | :-: | :-: | :-: | :-: |").unwrap();
    for permission in &roles[Role::Admin.as_str()] {
        let marks = Role::ALL.map(|role| {
            let holds = roles[role.as_str()].contains(permission);
            if holds { "●" } else { "" }
        });
        writeln!(text, "| `{permission}` | {} |", marks.join(" | ")).unwrap();
    }
    text
}

#[tokio::test]
async fn the_document_says_what_holds() {
    let stage = Stage::set().await;
    let roles = stage.store.roles().await.unwrap();
    let roles = roles.into_iter().map(|role| (role.name, role.permissions));
    let text = render(&roles.collect());
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(PATH);
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &text).unwrap();
        return;
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    let differs = text.lines().zip(committed.lines()).find(|(a, b)| a != b);
    assert!(
        text == committed,
        "docs/permissions.md is not what it would be: look whether the change is meant, and \
         write it by\n    {REWRITE}\nThe first line that differs: {differs:?}"
    );
}
