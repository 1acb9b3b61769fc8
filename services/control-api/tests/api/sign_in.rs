//! Signing in, sessions, and the first start.

use tonic::Code;
use vpnpanel_api::{
    auth::v1::{
        ChangePasswordRequest, GetMeRequest, LoginRequest, LoginResponse, LogoutRequest,
        RefreshRequest,
    },
    system::v1::GetSystemInfoRequest,
    tenant::v1::ListTenantsRequest,
};

use crate::support::{ADMIN, Caller, ONE_TIME_PASSWORD, PASSWORD, Panel, assert_refused, fields};

async fn login(panel: &Panel, email: &str, password: &str) -> Result<LoginResponse, tonic::Status> {
    let request = LoginRequest {
        email: email.to_owned(),
        password: password.to_owned(),
        ..LoginRequest::default()
    };
    let answer = panel.anybody().auth().login(request).await;
    answer.map(tonic::Response::into_inner)
}

async fn change(caller: &Caller, current: &str, new: &str) -> Result<String, tonic::Status> {
    let request = ChangePasswordRequest {
        current_password: current.to_owned(),
        new_password: new.to_owned(),
    };
    let answer = caller.auth().change_password(caller.ask(request)).await?;
    Ok(answer.into_inner().access_token)
}

async fn refresh(panel: &Panel, token: &str) -> Result<(String, String), tonic::Status> {
    let request = RefreshRequest {
        refresh_token: token.to_owned(),
        ..RefreshRequest::default()
    };
    let answer = panel.anybody().auth().refresh(request).await?.into_inner();
    Ok((answer.access_token, answer.refresh_token))
}

async fn may_act(caller: &Caller) -> Result<(), tonic::Status> {
    let request = caller.ask(GetSystemInfoRequest {});
    caller.system().get_system_info(request).await.map(drop)
}

#[tokio::test]
async fn the_one_time_password_permits_nothing_but_to_change_it() {
    let panel = Panel::start().await;
    let tokens = login(&panel, ADMIN, ONE_TIME_PASSWORD).await.unwrap();
    assert!(tokens.password_change_required);
    let admin = panel.with_token(&tokens.access_token);
    let denied = (Code::PermissionDenied, "PASSWORD_CHANGE_REQUIRED");
    assert_refused(may_act(&admin).await, denied.0, denied.1);
    let tenants = admin.tenants();
    let listed = tenants
        .clone()
        .list_tenants(admin.ask(ListTenantsRequest::default()))
        .await;
    assert_refused(listed, denied.0, denied.1);

    let me = admin.auth().get_me(admin.ask(GetMeRequest {})).await;
    assert!(
        me.unwrap()
            .into_inner()
            .account
            .unwrap()
            .password_change_required
    );
    let token = change(&admin, ONE_TIME_PASSWORD, PASSWORD).await.unwrap();
    may_act(&panel.with_token(&token)).await.unwrap();
    assert!(
        !login(&panel, ADMIN, PASSWORD)
            .await
            .unwrap()
            .password_change_required
    );
}

#[tokio::test]
async fn wrong_password_and_unknown_account_are_told_alike() {
    let panel = Panel::start().await;
    for (email, password) in [(ADMIN, "wrong"), ("nobody@localhost", ONE_TIME_PASSWORD)] {
        let refused = login(&panel, email, password).await;
        assert_refused(refused, Code::Unauthenticated, "SIGN_IN_REFUSED");
    }
    login(&panel, " ADMIN@localhost ", ONE_TIME_PASSWORD)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_refresh_token_works_once_and_its_reuse_ends_the_session() {
    let panel = Panel::start().await;
    panel.admin().await;
    let tokens = login(&panel, ADMIN, ONE_TIME_PASSWORD).await.unwrap();
    let (access, next) = refresh(&panel, &tokens.refresh_token).await.unwrap();
    let caller = panel.with_token(&access);
    caller
        .auth()
        .get_me(caller.ask(GetMeRequest {}))
        .await
        .unwrap();

    let reused = refresh(&panel, &tokens.refresh_token).await;
    assert_refused(reused, Code::Unauthenticated, "REFRESH_TOKEN_REUSED");
    let next = refresh(&panel, &next).await;
    assert_refused(next, Code::Unauthenticated, "REFRESH_TOKEN_REFUSED");
    let me = caller.auth().get_me(caller.ask(GetMeRequest {})).await;
    assert_refused(me, Code::Unauthenticated, "SESSION_ENDED");
    for junk in ["vpr_junk", "x"] {
        let refused = refresh(&panel, junk).await;
        assert_refused(refused, Code::Unauthenticated, "REFRESH_TOKEN_REFUSED");
    }
}

#[tokio::test]
async fn a_sign_out_ends_its_session_and_no_other() {
    let panel = Panel::start().await;
    let staying = login(&panel, ADMIN, ONE_TIME_PASSWORD).await.unwrap();
    let leaving = login(&panel, ADMIN, ONE_TIME_PASSWORD).await.unwrap();
    let caller = panel.with_token(&leaving.access_token);
    caller
        .auth()
        .logout(caller.ask(LogoutRequest {}))
        .await
        .unwrap();
    let me = caller.auth().get_me(caller.ask(GetMeRequest {})).await;
    assert_refused(me, Code::Unauthenticated, "SESSION_ENDED");
    let refused = refresh(&panel, &leaving.refresh_token).await;
    assert_refused(refused, Code::Unauthenticated, "REFRESH_TOKEN_REFUSED");
    refresh(&panel, &staying.refresh_token).await.unwrap();
}

#[tokio::test]
async fn a_new_password_ends_every_other_session() {
    let panel = Panel::start().await;
    let other = login(&panel, ADMIN, ONE_TIME_PASSWORD).await.unwrap();
    let mine = login(&panel, ADMIN, ONE_TIME_PASSWORD).await.unwrap();
    let caller = panel.with_token(&mine.access_token);
    let wrong = change(&caller, "not it", PASSWORD).await;
    assert_eq!(fields(wrong), ["current_password"]);
    for weak in [
        "short",
        "password123456",
        "admin@localhost1",
        "qwertyuiop12",
    ] {
        let refused = change(&caller, ONE_TIME_PASSWORD, weak).await;
        assert_eq!(fields(refused), ["new_password"], "{weak}");
    }
    let same = change(&caller, ONE_TIME_PASSWORD, ONE_TIME_PASSWORD).await;
    assert_eq!(fields(same), ["new_password"]);

    let token = change(&caller, ONE_TIME_PASSWORD, PASSWORD).await.unwrap();
    may_act(&panel.with_token(&token)).await.unwrap();
    for ended in [other, mine] {
        let refused = refresh(&panel, &ended.refresh_token).await;
        assert_refused(refused, Code::Unauthenticated, "REFRESH_TOKEN_REFUSED");
        let refused = may_act(&panel.with_token(&ended.access_token)).await;
        assert_refused(refused, Code::Unauthenticated, "SESSION_ENDED");
    }
    let refused = login(&panel, ADMIN, ONE_TIME_PASSWORD).await;
    assert_refused(refused, Code::Unauthenticated, "SIGN_IN_REFUSED");
}

#[tokio::test]
async fn an_account_is_told_where_it_may_do_what() {
    let panel = Panel::start().await;
    let tenant = panel.default_tenant().await;
    let operator = panel
        .signed_in(vpnpanel_auth::Role::Operator, Some(tenant))
        .await;
    let me = operator.auth().get_me(operator.ask(GetMeRequest {})).await;
    let me = me.unwrap().into_inner();
    let [membership] = me.memberships.as_slice() else {
        panic!("{me:?}")
    };
    assert_eq!(membership.tenant_id, tenant.to_string());
    assert_eq!(membership.tenant_name, "default");
    assert_eq!(membership.role, "operator");
    assert!(membership.permissions.contains(&"user.write".to_owned()));
    assert!(membership.permissions.is_sorted());
}

#[tokio::test]
async fn tokens_of_another_installation_are_refused() {
    let (panel, other) = (Panel::start().await, Panel::start().await);
    let theirs = login(&other, ADMIN, ONE_TIME_PASSWORD).await.unwrap();
    for token in [theirs.access_token.as_str(), "junk", ""] {
        let refused = may_act(&panel.with_token(token)).await;
        assert_refused(refused, Code::Unauthenticated, "TOKEN_INVALID");
    }
}
