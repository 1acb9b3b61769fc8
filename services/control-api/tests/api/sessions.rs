//! Sessions: listed and ended; and access tokens for one tenant.

use tonic::Code;
use vpnpanel_api::{
    auth::v1::{
        GetMeRequest, ListSessionsRequest, LoginRequest, LoginResponse, RefreshRequest,
        RevokeOtherSessionsRequest, RevokeSessionRequest, Session,
    },
    tenant::v1::{GetTenantRequest, ListTenantsRequest},
};
use vpnpanel_auth::Role;
use vpnpanel_domain::TenantId;

use crate::support::{Caller, PASSWORD, Panel, assert_refused};

async fn login(panel: &Panel, email: &str, tenant: &str) -> Result<LoginResponse, tonic::Status> {
    let request = LoginRequest {
        email: email.to_owned(),
        password: PASSWORD.to_owned(),
        tenant_id: tenant.to_owned(),
        ..LoginRequest::default()
    };
    let answer = panel.anybody().auth().login(request).await?;
    Ok(answer.into_inner())
}

async fn sessions(caller: &Caller) -> Vec<Session> {
    let request = caller.ask(ListSessionsRequest::default());
    let answer = caller.auth().list_sessions(request).await.unwrap();
    answer.into_inner().sessions
}

async fn me(caller: &Caller) -> Result<(), tonic::Status> {
    let answer = caller.auth().get_me(caller.ask(GetMeRequest {})).await;
    answer.map(drop)
}

#[tokio::test]
async fn an_account_sees_its_sessions_and_ends_them_one_by_one_or_all_others() {
    let panel = Panel::start().await;
    let (_, email) = panel.account(Role::Admin, None).await;
    let stranger = panel.admin().await;
    let mut callers = Vec::new();
    for _ in 0..4 {
        let tokens = login(&panel, &email, "").await.unwrap();
        callers.push(panel.with_token(&tokens.access_token));
    }
    let listed = sessions(&callers[1]).await;
    let current: Vec<bool> = listed.iter().map(|it| it.current).collect();
    assert_eq!(current, [false, true, false, false]);
    let seen = &listed[0];
    let ends = seen.expire_time.unwrap().seconds;
    assert!(seen.create_time.is_some() && ends > seen.last_use_time.unwrap().seconds);

    let revoke = async |caller: &Caller, id: &str| {
        let request = RevokeSessionRequest {
            session_id: id.to_owned(),
        };
        caller.auth().revoke_session(caller.ask(request)).await
    };
    let foreign = revoke(&stranger, &listed[0].id).await;
    assert_refused(foreign, Code::NotFound, "SESSION_NOT_FOUND");
    revoke(&callers[1], &listed[0].id).await.unwrap();
    assert_refused(
        me(&callers[0]).await,
        Code::Unauthenticated,
        "SESSION_ENDED",
    );
    let again = revoke(&callers[1], &listed[0].id).await;
    assert_refused(again, Code::NotFound, "SESSION_NOT_FOUND");

    let others = callers[1].ask(RevokeOtherSessionsRequest {});
    let ended = callers[1].auth().revoke_other_sessions(others).await;
    assert_eq!(ended.unwrap().into_inner().revoked_count, 2);
    for other in &callers[2..] {
        assert_refused(me(other).await, Code::Unauthenticated, "SESSION_ENDED");
    }
    assert_eq!(sessions(&callers[1]).await.len(), 1);
    me(&stranger).await.unwrap();
}

async fn tenants(caller: &Caller) -> Vec<String> {
    let request = caller.ask(ListTenantsRequest::default());
    let answer = caller.tenants().list_tenants(request).await.unwrap();
    let tenants = answer.into_inner().tenants;
    tenants.into_iter().map(|tenant| tenant.id).collect()
}

async fn read(caller: &Caller, tenant: TenantId) -> Result<(), tonic::Status> {
    let request = GetTenantRequest {
        tenant_id: tenant.to_string(),
    };
    let answer = caller.tenants().get_tenant(caller.ask(request)).await;
    answer.map(drop)
}

#[tokio::test]
async fn a_token_for_one_tenant_reaches_no_other_and_not_the_platform() {
    let panel = Panel::start().await;
    let (ours, theirs) = (
        panel.default_tenant().await,
        panel.new_tenant("theirs").await,
    );
    let (_, admin) = panel.account(Role::Admin, None).await;
    let tokens = login(&panel, &admin, &ours.to_string()).await.unwrap();
    let narrow = panel.with_token(&tokens.access_token);
    read(&narrow, ours).await.unwrap();
    assert_refused(
        read(&narrow, theirs).await,
        Code::NotFound,
        "TENANT_NOT_FOUND",
    );
    assert_eq!(tenants(&narrow).await, [ours.to_string()]);
    let request = vpnpanel_api::node::v1::ListNodesRequest::default();
    let platform = narrow.nodes().list_nodes(narrow.ask(request)).await;
    assert_refused(platform, Code::PermissionDenied, "PERMISSION_DENIED");
    let shown = narrow.auth().get_me(narrow.ask(GetMeRequest {})).await;
    let shown = shown.unwrap().into_inner().memberships;
    let places: Vec<_> = shown.iter().map(|it| it.tenant_name.as_str()).collect();
    assert_eq!(places, ["default"]);

    // The session is of the account: the next token may be for another tenant, or all.
    let request = RefreshRequest {
        refresh_token: tokens.refresh_token,
        tenant_id: String::new(),
    };
    let next = panel.anybody().auth().refresh(request).await.unwrap();
    let wide = panel.with_token(&next.get_ref().access_token);
    read(&wide, theirs).await.unwrap();
}

#[tokio::test]
async fn a_token_is_narrowed_only_to_a_tenant_of_the_account() {
    let panel = Panel::start().await;
    let (ours, theirs) = (
        panel.default_tenant().await,
        panel.new_tenant("theirs").await,
    );
    let (_, owner) = panel.account(Role::Owner, Some(ours)).await;
    let (_, admin) = panel.account(Role::Admin, None).await;
    let nowhere = vpnpanel_store::fresh_id::<TenantId>().to_string();
    for (email, tenant) in [
        (&owner, &theirs.to_string()),
        (&owner, &nowhere),
        (&admin, &nowhere),
    ] {
        let refused = login(&panel, email, tenant).await;
        assert_refused(refused, Code::NotFound, "TENANT_NOT_FOUND");
    }
    let tokens = login(&panel, &owner, &ours.to_string()).await.unwrap();
    let refresh = async |tenant: &str| {
        let request = RefreshRequest {
            refresh_token: tokens.refresh_token.clone(),
            tenant_id: tenant.to_owned(),
        };
        panel.anybody().auth().refresh(request).await
    };
    let refused = refresh(&theirs.to_string()).await;
    assert_refused(refused, Code::NotFound, "TENANT_NOT_FOUND");
    refresh(&ours.to_string()).await.expect("it was not spent");
}
