//! Who may call what: every method as it is declared, tried for each role.

use tonic::{Code, Status, client::Grpc, codegen::http::uri::PathAndQuery};
use tonic_prost::ProstCodec;
use vpnpanel_api::{
    Access, METHODS, Method,
    user::v1::{GetUserRequest, ListUserConnectionsRequest, UpdateUserRequest, User},
};
use vpnpanel_auth::Role;
use vpnpanel_domain::TenantId;

use crate::support::{Caller, Panel, assert_refused};

/// The methods of this service that one message answers.
fn served() -> impl Iterator<Item = &'static Method> {
    let elsewhere = ["vpnpanel.agent.", "vpnpanel.scheduler."];
    METHODS
        .iter()
        .filter(move |m| !elsewhere.iter().any(|p| m.service.starts_with(p)))
}

/// Calls a method with an empty message.
async fn call(caller: &Caller, method: &Method) -> Result<(), Status> {
    let mut client = Grpc::new(caller.transport.clone());
    client.ready().await.unwrap();
    let path = PathAndQuery::from_static(method.path);
    let codec: ProstCodec<(), ()> = ProstCodec::default();
    // The first message says enough: what is let in may go on for as long as somebody reads.
    let answer = client.server_streaming(caller.ask(()), path, codec).await?;
    answer.into_inner().message().await.map(|_| ())
}

#[tokio::test]
async fn without_credentials_nothing_is_open_but_what_says_so() {
    let panel = Panel::start().await;
    for method in served() {
        let answer = call(&panel.anybody(), method).await;
        let code = answer.err().map_or(Code::Ok, |refused| refused.code());
        match method.access {
            // No token of a subscription is one that nobody has.
            Access::Public => assert!(
                [Code::Ok, Code::InvalidArgument, Code::NotFound].contains(&code),
                "{}: {code:?}",
                method.path
            ),
            Access::ControlPlaneCertificate { .. } => {
                assert_eq!(code, Code::PermissionDenied, "{}", method.path);
            }
            _ => assert_eq!(code, Code::Unauthenticated, "{}", method.path),
        }
    }
}

#[tokio::test]
async fn each_role_gets_exactly_what_it_holds() {
    let panel = Panel::start().await;
    let tenant = panel.default_tenant().await;
    for role in Role::ALL {
        let on_platform = panel.signed_in(role, None).await;
        let in_tenant = panel.signed_in(role, Some(tenant)).await;
        for method in served() {
            let Access::Permission { name, .. } = method.access else {
                continue;
            };
            // An empty message names no tenant, and with that the platform.
            let refused = call(&in_tenant, method).await.unwrap_err().code();
            assert_eq!(refused, Code::PermissionDenied, "{role:?}: {}", method.path);
            let code = call(&on_platform, method).await.err().map(|s| s.code());
            let let_in = code != Some(Code::PermissionDenied);
            assert_eq!(
                let_in,
                role.permissions().contains(&name),
                "{role:?}: {} answered {code:?}",
                method.path
            );
        }
    }
}

#[tokio::test]
async fn an_account_is_no_substitute_for_a_certificate() {
    let panel = Panel::start().await;
    let admin = panel.admin().await;
    let signer = served()
        .find(|method| method.service.ends_with("SignerService"))
        .unwrap();
    let refused = call(&admin, signer).await;
    assert_refused(refused, Code::PermissionDenied, "CERTIFICATE_REQUIRED");
    let refused = call(&panel.service("gateway"), signer).await;
    assert_refused(refused, Code::PermissionDenied, "CERTIFICATE_REQUIRED");
}

fn get_user(tenant: TenantId, user: &str) -> GetUserRequest {
    GetUserRequest {
        tenant_id: tenant.to_string(),
        user_id: user.to_owned(),
    }
}

#[tokio::test]
async fn what_belongs_to_another_tenant_does_not_exist() {
    let panel = Panel::start().await;
    let (ours, theirs) = (
        panel.default_tenant().await,
        panel.new_tenant("theirs").await,
    );
    let owner = panel.signed_in(Role::Owner, Some(ours)).await;
    let stranger = panel.signed_in(Role::Owner, Some(theirs)).await;
    let user = owner.new_user(ours, "ada", &[]).await;

    // By its own address: the tenant is none of the stranger's.
    let ask = |caller: &Caller, tenant, id: &str| caller.ask(get_user(tenant, id));
    let got = stranger
        .users()
        .get_user(ask(&stranger, ours, &user.id))
        .await;
    assert_refused(got, Code::NotFound, "TENANT_NOT_FOUND");
    // Under the stranger's tenant: no such user there.
    let got = stranger
        .users()
        .get_user(ask(&stranger, theirs, &user.id))
        .await;
    assert_refused(got, Code::NotFound, "USER_NOT_FOUND");
    // Not to be told from a tenant that never was.
    let nowhere = TenantId::from_parts(1, [1; 10]);
    let got = stranger
        .users()
        .get_user(ask(&stranger, nowhere, &user.id))
        .await;
    assert_refused(got, Code::NotFound, "TENANT_NOT_FOUND");
    let changed = UpdateUserRequest {
        user: Some(User {
            tenant_id: theirs.to_string(),
            ..user.clone()
        }),
        update_mask: None,
    };
    let changed = stranger.users().update_user(stranger.ask(changed)).await;
    assert_refused(changed, Code::NotFound, "USER_NOT_FOUND");
    // One for whom every tenant is visible sees which do not exist.
    let admin = panel.admin().await;
    let got = admin.users().get_user(ask(&admin, nowhere, &user.id)).await;
    assert_refused(got, Code::NotFound, "USER_NOT_FOUND");
}

#[tokio::test]
async fn who_may_not_read_secrets_sees_none() {
    let panel = Panel::start().await;
    let tenant = panel.default_tenant().await;
    let admin = panel.admin().await;
    let node = admin.new_node("n1", None).await;
    let inbound = admin.new_inbound("main", 51820).await;
    let group = admin.new_group(tenant, "all", &[&inbound.id]).await;
    let user = admin.new_user(tenant, "ada", &[&group.id]).await;

    let auditor = panel.signed_in(Role::Auditor, Some(tenant)).await;
    let connections = ListUserConnectionsRequest {
        tenant_id: tenant.to_string(),
        user_id: user.id.clone(),
    };
    let refused = auditor
        .users()
        .list_user_connections(auditor.ask(connections.clone()))
        .await;
    assert_refused(refused, Code::PermissionDenied, "PERMISSION_DENIED");

    let shown = admin
        .users()
        .list_user_connections(admin.ask(connections))
        .await
        .unwrap()
        .into_inner();
    let config = &shown.connections[0].wireguard_config;
    let secrets: Vec<&str> = config
        .lines()
        .filter_map(|line| {
            line.strip_prefix("PrivateKey = ")
                .or(line.strip_prefix("PresharedKey = "))
        })
        .collect();
    assert_eq!(secrets.len(), 2);
    let got = auditor
        .users()
        .get_user(auditor.ask(get_user(tenant, &user.id)))
        .await;
    let readable = format!("{:?} {:?} {inbound:?} {node:?}", got.unwrap(), group);
    for secret in secrets {
        assert!(!readable.contains(secret));
        // Nor does the Debug form of the answer that holds it.
        assert!(!format!("{shown:?}").contains(secret));
    }
}
