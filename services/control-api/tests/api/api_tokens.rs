//! API tokens: what they may do, whom they follow, and how they end.

use std::collections::BTreeSet;

use tonic::{Code, Status};
use vpnpanel_api::{
    auth::v1::{
        ApiToken, ChangePasswordRequest, CreateApiTokenRequest, CreateApiTokenResponse,
        GetMeRequest, ListApiTokensRequest, ListSessionsRequest, ListTenantApiTokensRequest,
        RevokeApiTokenRequest, RevokeTenantApiTokenRequest,
    },
    node::v1::ListNodesRequest,
    tenant::v1::ListTenantsRequest,
    user::v1::ListUsersRequest,
};
use vpnpanel_auth::Role;
use vpnpanel_domain::TenantId;

use crate::support::{Caller, PASSWORD, Panel, assert_refused, create_user, fields};

fn wanted(tenant: Option<TenantId>, permissions: &[&str]) -> ApiToken {
    ApiToken {
        name: "backup".to_owned(),
        tenant_id: tenant.map(|id| id.to_string()).unwrap_or_default(),
        permissions: permissions.iter().map(|&p| p.to_owned()).collect(),
        ..ApiToken::default()
    }
}

async fn mint(caller: &Caller, wanted: ApiToken) -> Result<CreateApiTokenResponse, Status> {
    let request = CreateApiTokenRequest {
        api_token: Some(wanted),
    };
    let answer = caller.auth().create_api_token(caller.ask(request)).await?;
    Ok(answer.into_inner())
}

async fn users(caller: &Caller, tenant: TenantId) -> Result<(), Status> {
    let request = ListUsersRequest {
        tenant_id: tenant.to_string(),
        ..ListUsersRequest::default()
    };
    caller
        .users()
        .list_users(caller.ask(request))
        .await
        .map(drop)
}

async fn new_user(caller: &Caller, tenant: TenantId) -> Result<(), Status> {
    let request = create_user(tenant, "ada", &[]);
    caller
        .users()
        .create_user(caller.ask(request))
        .await
        .map(drop)
}

async fn own(caller: &Caller) -> Vec<ApiToken> {
    let request = caller.ask(ListApiTokensRequest::default());
    let answer = caller.auth().list_api_tokens(request).await.unwrap();
    answer.into_inner().api_tokens
}

#[tokio::test]
async fn a_token_permits_what_it_lists_where_it_is_for_and_nothing_else() {
    let panel = Panel::start().await;
    let (ours, theirs) = (
        panel.default_tenant().await,
        panel.new_tenant("theirs").await,
    );
    let admin = panel.admin().await;
    let made = mint(&admin, wanted(Some(ours), &["user.read"]))
        .await
        .unwrap();
    assert!(made.token.starts_with("vpt_") && made.token.len() == 52);
    let token = panel.with_token(&made.token);
    users(&token, ours).await.unwrap();
    let denied = new_user(&token, ours).await;
    assert_refused(denied, Code::PermissionDenied, "PERMISSION_DENIED");
    let foreign = users(&token, theirs).await;
    assert_refused(foreign, Code::NotFound, "TENANT_NOT_FOUND");
    let request = token.ask(ListNodesRequest::default());
    let platform = token.nodes().list_nodes(request).await;
    assert_refused(platform, Code::PermissionDenied, "PERMISSION_DENIED");
    let request = token.ask(ListTenantsRequest::default());
    let seen = token.tenants().list_tenants(request).await.unwrap();
    assert_eq!(seen.get_ref().tenants.len(), 1, "the account sees two");
    let me = token
        .auth()
        .get_me(token.ask(GetMeRequest {}))
        .await
        .unwrap();
    let [held] = me.get_ref().memberships.as_slice() else {
        panic!("{me:?}")
    };
    assert_eq!(held.permissions, ["user.read"]);
    assert_eq!(held.tenant_id, ours.to_string());

    let made = mint(&admin, wanted(None, &["user.read", "node.read"]))
        .await
        .unwrap();
    let everywhere = panel.with_token(&made.token);
    users(&everywhere, theirs).await.unwrap();
    let request = everywhere.ask(ListNodesRequest::default());
    everywhere.nodes().list_nodes(request).await.unwrap();
}

#[tokio::test]
async fn a_token_for_the_platform_tells_no_tenants_of_its_account() {
    let panel = Panel::start().await;
    let tenant = panel.default_tenant().await;
    let (account, email) = panel.account(Role::Admin, None).await;
    let membership = panel.store.set_membership(account, Some(tenant), "owner");
    membership.await.unwrap();
    let caller = panel.sign_in(&email, PASSWORD).await;
    let tenants = async |permission| {
        let made = mint(&caller, wanted(None, &[permission])).await.unwrap();
        let token = panel.with_token(&made.token);
        let request = token.ask(ListTenantsRequest::default());
        let seen = token.tenants().list_tenants(request).await.unwrap();
        seen.into_inner().tenants.len()
    };
    assert_eq!(tenants("node.read").await, 0);
    assert_eq!(tenants("tenant.read").await, 1);
}

#[tokio::test]
async fn a_token_manages_no_credentials() {
    let panel = Panel::start().await;
    let admin = panel.admin().await;
    let all: Vec<&str> = Role::Admin.permissions().to_vec();
    let made = mint(&admin, wanted(None, &all)).await.unwrap();
    let token = panel.with_token(&made.token);
    let denied = (Code::PermissionDenied, "SESSION_REQUIRED");
    let minted = mint(&token, wanted(None, &["user.read"])).await;
    assert_refused(minted, denied.0, denied.1);
    let request = ChangePasswordRequest {
        current_password: PASSWORD.to_owned(),
        new_password: "another password of theirs".to_owned(),
    };
    let changed = token.auth().change_password(token.ask(request)).await;
    assert_refused(changed, denied.0, denied.1);
    let request = token.ask(ListSessionsRequest::default());
    let sessions = token.auth().list_sessions(request).await;
    assert_refused(sessions, denied.0, denied.1);
}

#[tokio::test]
async fn nobody_makes_a_token_of_what_they_do_not_hold() {
    let panel = Panel::start().await;
    let (ours, theirs) = (
        panel.default_tenant().await,
        panel.new_tenant("theirs").await,
    );
    let operator = panel.signed_in(Role::Operator, Some(ours)).await;
    for (tenant, permission, code) in [
        (Some(ours), "group.write", Code::PermissionDenied),
        (None, "user.read", Code::PermissionDenied),
        (Some(ours), "no.such", Code::PermissionDenied),
        (Some(theirs), "user.read", Code::NotFound),
    ] {
        let refused = mint(&operator, wanted(tenant, &["user.read", permission])).await;
        assert_eq!(refused.unwrap_err().code(), code, "{permission}");
    }
    let nothing = mint(&operator, wanted(Some(ours), &[])).await;
    assert_eq!(fields(nothing), ["api_token.permissions"]);
    let unnamed = ApiToken {
        name: " ".to_owned(),
        ..wanted(Some(ours), &["user.read"])
    };
    assert_eq!(fields(mint(&operator, unnamed).await), ["api_token.name"]);
    mint(&operator, wanted(Some(ours), &["user.read"]))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_token_follows_its_owner_who_is_demoted_or_leaves() {
    let panel = Panel::start().await;
    let tenant = panel.default_tenant().await;
    let (id, email) = panel.account(Role::Owner, Some(tenant)).await;
    let owner = panel.sign_in(&email, PASSWORD).await;
    let both = wanted(Some(tenant), &["user.read", "user.write"]);
    let made = mint(&owner, both).await.unwrap();
    // Processes that have not seen the token: what they remember is no excuse.
    let before = panel.another(&[]).await.with_token(&made.token);
    new_user(&before, tenant).await.unwrap();
    let set = panel
        .store
        .set_membership(id, Some(tenant), "auditor")
        .await;
    set.unwrap();
    let demoted = panel.another(&[]).await.with_token(&made.token);
    users(&demoted, tenant).await.unwrap();
    let denied = new_user(&demoted, tenant).await;
    assert_refused(denied, Code::PermissionDenied, "PERMISSION_DENIED");
}

#[tokio::test]
async fn a_token_ends_when_it_is_revoked_and_when_its_time_is_over() {
    let panel = Panel::start().await;
    let tenant = panel.default_tenant().await;
    let admin = panel.admin().await;
    let now = panel.store.now_ms();
    let until = |ms: i64| prost_types::Timestamp {
        seconds: (now + ms) / 1000,
        nanos: 0,
    };
    let expiring = |at| ApiToken {
        expire_time: Some(at),
        ..wanted(Some(tenant), &["user.read"])
    };
    for wrong in [until(-1_000), until(366 * 24 * 3_600_000)] {
        let refused = mint(&admin, expiring(wrong)).await;
        assert_eq!(fields(refused), ["api_token.expire_time"]);
    }
    let short = mint(&admin, expiring(until(60_000))).await.unwrap();
    let long = mint(&admin, wanted(Some(tenant), &["user.read"]))
        .await
        .unwrap();
    assert_eq!(own(&admin).await.len(), 2);
    let (short, long) = (
        panel.with_token(&short.token),
        (panel.with_token(&long.token), long.api_token.unwrap().id),
    );
    users(&short, tenant).await.unwrap();
    panel.database.clock.advance(61_000);
    let over = users(&panel.another(&[]).await.with_token(short.token()), tenant).await;
    assert_refused(over, Code::Unauthenticated, "SESSION_ENDED");
    users(&long.0, tenant).await.unwrap();
    let request = RevokeApiTokenRequest {
        api_token_id: long.1,
    };
    admin
        .auth()
        .revoke_api_token(admin.ask(request))
        .await
        .unwrap();
    let revoked = users(&long.0, tenant).await;
    assert_refused(revoked, Code::Unauthenticated, "SESSION_ENDED");
    assert!(own(&admin).await.is_empty());
    for junk in ["vpt_", "vpt_AAAA", &long.0.token()[..51]] {
        let refused = users(&panel.with_token(junk), tenant).await;
        assert_refused(refused, Code::Unauthenticated, "TOKEN_INVALID");
    }
}

#[tokio::test]
async fn an_owner_sees_and_ends_the_tokens_for_the_tenant() {
    let panel = Panel::start().await;
    let (ours, theirs) = (
        panel.default_tenant().await,
        panel.new_tenant("theirs").await,
    );
    let operator = panel.signed_in(Role::Operator, Some(ours)).await;
    let owner = panel.signed_in(Role::Owner, Some(ours)).await;
    let stranger = panel.signed_in(Role::Owner, Some(theirs)).await;
    let admin = panel.admin().await;
    let made = mint(&operator, wanted(Some(ours), &["user.read"]))
        .await
        .unwrap();
    mint(&admin, wanted(None, &["user.read"])).await.unwrap();
    let token = panel.with_token(&made.token);
    users(&token, ours).await.unwrap();

    let list = async |caller: &Caller, tenant: Option<TenantId>| {
        let request = ListTenantApiTokensRequest {
            tenant_id: tenant.map(|id| id.to_string()).unwrap_or_default(),
            ..ListTenantApiTokensRequest::default()
        };
        let answer = caller
            .auth()
            .list_tenant_api_tokens(caller.ask(request))
            .await;
        answer.map(|answer| answer.into_inner().api_tokens)
    };
    let listed = list(&owner, Some(ours)).await.unwrap();
    assert_eq!(listed.len(), 1);
    assert!(made.token.starts_with(&listed[0].hint));
    assert!(listed[0].account_email.ends_with("@example.com"));
    assert_eq!(list(&admin, None).await.unwrap().len(), 1);
    let denied = list(&owner, None).await;
    assert_refused(denied, Code::PermissionDenied, "PERMISSION_DENIED");

    let revoke = async |caller: &Caller, tenant: TenantId| {
        let request = RevokeTenantApiTokenRequest {
            tenant_id: tenant.to_string(),
            api_token_id: listed[0].id.clone(),
        };
        caller
            .auth()
            .revoke_tenant_api_token(caller.ask(request))
            .await
    };
    let denied = revoke(&operator, ours).await;
    assert_refused(denied, Code::PermissionDenied, "PERMISSION_DENIED");
    let foreign = revoke(&stranger, theirs).await;
    assert_refused(foreign, Code::NotFound, "API_TOKEN_NOT_FOUND");
    revoke(&owner, ours).await.unwrap();
    let ended = users(&token, ours).await;
    assert_refused(ended, Code::Unauthenticated, "SESSION_ENDED");
}

#[tokio::test]
async fn the_last_use_is_noted_later_and_for_all_tokens_at_once() {
    let panel = Panel::start().await;
    let tenant = panel.default_tenant().await;
    let admin = panel.admin().await;
    let made = mint(&admin, wanted(Some(tenant), &["user.read", "user.write"]))
        .await
        .unwrap();
    let unused = mint(&admin, wanted(Some(tenant), &["user.read"]))
        .await
        .unwrap();
    let token = panel.with_token(&made.token);
    users(&token, tenant).await.unwrap();
    let never = own(&admin).await;
    assert!(
        never.iter().all(|it| it.last_use_time.is_none()),
        "no write by a call"
    );
    // What is noted is written down when the process stops, too.
    let stop = tokio_util::sync::CancellationToken::new();
    stop.cancel();
    panel.access.clone().follow(stop).await;
    let used: BTreeSet<String> = own(&admin)
        .await
        .into_iter()
        .filter(|it| it.last_use_time.is_some())
        .map(|it| it.id)
        .collect();
    assert_eq!(used, [made.api_token.unwrap().id].into());
    assert!(!used.contains(&unused.api_token.unwrap().id));
}
