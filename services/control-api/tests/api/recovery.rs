//! What an administrator does for somebody who has lost a device: sessions ended, a second factor
//! taken away. And what nobody does to their own account that way.

use tonic::{Code, Status};
use vpnpanel_api::{
    account::v1::{
        ResetAccountPasswordRequest, ResetAccountSecondFactorRequest, RevokeAccountSessionsRequest,
    },
    auth::v1::{
        ApiToken, ConfirmTotpRequest, CreateApiTokenRequest, EnrollTotpRequest, GetMeRequest,
        LoginRequest, LoginResponse,
    },
};
use vpnpanel_auth::{Role, TotpSecret};
use vpnpanel_domain::AccountId;
use vpnpanel_pki::context;

use crate::support::{Caller, PASSWORD, Panel, assert_refused};

async fn may_act(caller: &Caller) -> Result<(), Status> {
    let request = caller.ask(GetMeRequest {});
    caller.auth().get_me(request).await.map(drop)
}

async fn sign_in(panel: &Panel, email: &str, recovery: &str) -> Result<LoginResponse, Status> {
    let request = LoginRequest {
        email: email.to_owned(),
        password: PASSWORD.to_owned(),
        recovery_code: recovery.to_owned(),
        ..LoginRequest::default()
    };
    let tokens = panel.anybody().auth().login(request).await?;
    Ok(tokens.into_inner())
}

/// Puts a second factor into force; gives its recovery codes.
async fn enroll(panel: &Panel, who: AccountId, caller: &Caller) -> Vec<String> {
    let request = EnrollTotpRequest {
        password: PASSWORD.to_owned(),
    };
    let made = caller.auth().enroll_totp(caller.ask(request)).await;
    made.unwrap();
    let factor = panel.store.second_factor(who).await.unwrap().unwrap();
    let sealed = context::second_factor(who);
    let secret = panel.sealer.open(&sealed, &factor.sealed_secret).unwrap();
    let code = TotpSecret::from_bytes(&secret).code(panel.store.now_ms() / 30_000);
    let request = ConfirmTotpRequest {
        totp_code: code.to_string(),
    };
    let confirmed = caller.auth().confirm_totp(caller.ask(request)).await;
    confirmed.unwrap().into_inner().recovery_codes
}

async fn end_sessions(caller: &Caller, who: AccountId) -> Result<i32, Status> {
    let request = caller.ask(RevokeAccountSessionsRequest {
        account_id: who.to_string(),
    });
    let ended = caller.accounts().revoke_account_sessions(request).await?;
    Ok(ended.into_inner().revoked_count)
}

async fn reset_factor(caller: &Caller, who: AccountId) -> Result<(), Status> {
    let request = caller.ask(ResetAccountSecondFactorRequest {
        account_id: who.to_string(),
    });
    let reset = caller.accounts().reset_account_second_factor(request).await;
    reset.map(drop)
}

async fn reset_password(caller: &Caller, who: AccountId) -> Result<(), Status> {
    let request = caller.ask(ResetAccountPasswordRequest {
        account_id: who.to_string(),
    });
    caller
        .accounts()
        .reset_account_password(request)
        .await
        .map(drop)
}

async fn id(caller: &Caller) -> AccountId {
    let me = caller.auth().get_me(caller.ask(GetMeRequest {})).await;
    me.unwrap()
        .into_inner()
        .account
        .unwrap()
        .id
        .parse()
        .unwrap()
}

#[tokio::test]
async fn an_administrator_ends_the_sessions_of_somebody_at_once() {
    let panel = Panel::start().await;
    let (admin, tenant) = (panel.admin().await, panel.default_tenant().await);
    let (ada, email) = panel.account(Role::Operator, Some(tenant)).await;
    let devices = [
        panel.sign_in(&email, PASSWORD).await,
        panel.sign_in(&email, PASSWORD).await,
    ];
    for device in &devices {
        may_act(device).await.unwrap();
    }
    assert_eq!(end_sessions(&admin, ada).await.unwrap(), 2);
    for device in &devices {
        assert_refused(
            may_act(device).await,
            Code::Unauthenticated,
            "SESSION_ENDED",
        );
    }
    assert_eq!(end_sessions(&admin, ada).await.unwrap(), 0);
    sign_in(&panel, &email, "").await.unwrap();
    let nobody = AccountId::from_parts(1, [1; 10]);
    let refused = end_sessions(&admin, nobody).await;
    assert_refused(refused, Code::NotFound, "ACCOUNT_NOT_FOUND");
    // It takes away, and so a token may do it; one's own sessions are no exception.
    assert_eq!(
        end_sessions(&token(&panel, &admin).await, id(&admin).await)
            .await
            .unwrap(),
        1
    );
    assert_refused(
        may_act(&admin).await,
        Code::Unauthenticated,
        "SESSION_ENDED",
    );
}

#[tokio::test]
async fn a_lost_second_factor_is_taken_away_and_its_sessions_end() {
    let panel = Panel::start().await;
    let (admin, tenant) = (panel.admin().await, panel.default_tenant().await);
    let (ada, email) = panel.account(Role::Operator, Some(tenant)).await;
    let device = panel.sign_in(&email, PASSWORD).await;
    let codes = enroll(&panel, ada, &device).await;
    let refused = sign_in(&panel, &email, "").await;
    assert_refused(refused, Code::Unauthenticated, "TOTP_REQUIRED");

    reset_factor(&admin, ada).await.unwrap();
    assert_refused(
        may_act(&device).await,
        Code::Unauthenticated,
        "SESSION_ENDED",
    );
    sign_in(&panel, &email, "").await.unwrap();
    let again = reset_factor(&admin, ada).await;
    assert_refused(again, Code::NotFound, "SECOND_FACTOR_NOT_FOUND");
    // The codes of the one before open nothing of the next.
    let device = panel.sign_in(&email, PASSWORD).await;
    enroll(&panel, ada, &device).await;
    let refused = sign_in(&panel, &email, &codes[0]).await;
    assert_refused(refused, Code::Unauthenticated, "SIGN_IN_REFUSED");
}

#[tokio::test]
async fn a_session_alone_does_not_replace_what_its_owner_signs_in_by() {
    let panel = Panel::start().await;
    let (who, email) = panel.account(Role::Admin, None).await;
    let admin = panel.sign_in(&email, PASSWORD).await;
    enroll(&panel, who, &admin).await;
    for refused in [
        reset_factor(&admin, who).await,
        reset_password(&admin, who).await,
    ] {
        assert_refused(refused, Code::FailedPrecondition, "OWN_ACCOUNT");
    }
    assert!(panel.store.second_factor(who).await.unwrap().is_some());
    may_act(&admin).await.unwrap();
}

#[tokio::test]
async fn who_holds_less_ends_nobodys_sessions_and_resets_nothing() {
    let panel = Panel::start().await;
    let (boss, email) = panel.account(Role::Admin, None).await;
    let admin = panel.sign_in(&email, PASSWORD).await;
    enroll(&panel, boss, &admin).await;
    let by = vpnpanel_store::Grantor {
        account: boss,
        credential: vpnpanel_auth::policy::all_permissions(),
        platform_only: Default::default(),
    };
    let clerk = vpnpanel_store::NewRole {
        name: "clerk".to_owned(),
        description: String::new(),
        permissions: ["account.read".to_owned(), "account.write".to_owned()].into(),
    };
    panel.store.create_role(&by, clerk).await.unwrap();
    let (lesser, email) = panel.account(Role::Auditor, None).await;
    panel
        .store
        .set_membership(lesser, None, "clerk")
        .await
        .unwrap();
    let clerk = panel.sign_in(&email, PASSWORD).await;
    let denied = (Code::PermissionDenied, "GRANT_EXCEEDS_OWN");
    assert_refused(end_sessions(&clerk, boss).await, denied.0, denied.1);
    assert_refused(reset_factor(&clerk, boss).await, denied.0, denied.1);
    may_act(&admin).await.unwrap();
    let program = token(&panel, &admin).await;
    let refused = reset_factor(&program, lesser).await;
    assert_refused(refused, Code::PermissionDenied, "SESSION_REQUIRED");
}

/// An API token of all that its account holds on the platform.
async fn token(panel: &Panel, caller: &Caller) -> Caller {
    let permissions = Role::Admin.permissions().iter();
    let request = caller.ask(CreateApiTokenRequest {
        api_token: Some(ApiToken {
            name: "backup".to_owned(),
            permissions: permissions.map(|&it| it.to_owned()).collect(),
            ..ApiToken::default()
        }),
    });
    let made = caller.auth().create_api_token(request).await.unwrap();
    panel.with_token(&made.into_inner().token)
}
