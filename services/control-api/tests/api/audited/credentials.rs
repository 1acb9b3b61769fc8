//! The audited methods that manage credentials.

use vpnpanel_api::{
    Method,
    account::v1::{ResetAccountSecondFactorRequest, ResetAccountSecondFactorResponse},
    auth::v1::{
        ApiToken, ConfirmTotpRequest, ConfirmTotpResponse, CreateApiTokenRequest,
        CreateApiTokenResponse, DisableTotpRequest, DisableTotpResponse, EnrollTotpRequest,
        EnrollTotpResponse, ListSessionsRequest, RegenerateRecoveryCodesRequest,
        RegenerateRecoveryCodesResponse, RevokeApiTokenRequest, RevokeApiTokenResponse,
        RevokeOtherSessionsRequest, RevokeOtherSessionsResponse, RevokeSessionRequest,
        RevokeSessionResponse, RevokeSigningKeyRequest, RevokeSigningKeyResponse,
        RevokeTenantApiTokenRequest, RevokeTenantApiTokenResponse, RotateSigningKeysRequest,
        RotateSigningKeysResponse, SigningKeyState,
    },
};
use vpnpanel_auth::{Role, TotpSecret};
use vpnpanel_domain::AccountId;
use vpnpanel_pki::context;

use super::{Expected, Stage, call};
use crate::support::{Caller, PASSWORD};

const CREATE_API_TOKEN: &str = "/vpnpanel.auth.v1.AuthService/CreateApiToken";
const ENROLL_TOTP: &str = "/vpnpanel.auth.v1.AuthService/EnrollTotp";
const CONFIRM_TOTP: &str = "/vpnpanel.auth.v1.AuthService/ConfirmTotp";
const ROTATE_SIGNING_KEYS: &str = "/vpnpanel.auth.v1.SigningKeyService/RotateSigningKeys";
const STEP_MS: i64 = 30_000;

/// Calls the method as it is meant to be called; `None` where it is another kind of method.
pub(super) async fn perform(
    stage: &mut Stage,
    method: &'static Method,
    id: &str,
) -> Option<Expected> {
    let path = method.path;
    let admin = stage.admin.clone();
    Some(match method.name {
        "RevokeSession" => {
            let (who, caller) = somebody(stage, 2).await;
            let request = caller.ask(ListSessionsRequest::default());
            let listed = caller.auth().list_sessions(request).await.unwrap();
            let sessions = listed.into_inner().sessions;
            let other = sessions.into_iter().find(|it| !it.current).unwrap().id;
            let request = RevokeSessionRequest {
                session_id: other.clone(),
            };
            let _ended: RevokeSessionResponse = call(&caller, path, id, request).await;
            by(who, "session", Some(other))
        }
        "RevokeOtherSessions" => {
            let (who, caller) = somebody(stage, 2).await;
            let request = RevokeOtherSessionsRequest {};
            let ended: RevokeOtherSessionsResponse = call(&caller, path, id, request).await;
            assert_eq!(ended.revoked_count, 1);
            by(who, "session", None)
        }
        "EnrollTotp" => {
            let (who, caller) = somebody(stage, 1).await;
            enroll(stage, &caller, path, id).await;
            by(who, "secondFactor", Some(who.to_string()))
        }
        "ConfirmTotp" => {
            let (who, caller) = somebody(stage, 1).await;
            confirm(stage, who, &caller, path, id).await;
            by(who, "secondFactor", Some(who.to_string()))
        }
        "DisableTotp" => {
            let (who, caller) = with_second_factor(stage).await;
            let request = DisableTotpRequest {
                password: PASSWORD.to_owned(),
                totp_code: code(stage, who).await,
                recovery_code: String::new(),
            };
            let _off: DisableTotpResponse = call(&caller, path, id, request).await;
            by(who, "secondFactor", Some(who.to_string()))
        }
        "RegenerateRecoveryCodes" => {
            let (who, caller) = with_second_factor(stage).await;
            let request = RegenerateRecoveryCodesRequest {
                password: PASSWORD.to_owned(),
                totp_code: code(stage, who).await,
                recovery_code: String::new(),
            };
            let made: RegenerateRecoveryCodesResponse = call(&caller, path, id, request).await;
            stage.secrets.extend(made.recovery_codes);
            by(who, "secondFactor", Some(who.to_string()))
        }
        "ResetAccountSecondFactor" => {
            let (who, _) = with_second_factor(stage).await;
            let request = ResetAccountSecondFactorRequest {
                account_id: who.to_string(),
            };
            let _off: ResetAccountSecondFactorResponse = call(&admin, path, id, request).await;
            stage.done("secondFactor", &who.to_string())
        }
        "CreateApiToken" => {
            let token = new_token(stage, path, id).await;
            stage.done("apiToken", &token)
        }
        "RevokeApiToken" => {
            let api_token_id = new_token(stage, CREATE_API_TOKEN, "unused").await;
            let request = RevokeApiTokenRequest {
                api_token_id: api_token_id.clone(),
            };
            let _ended: RevokeApiTokenResponse = call(&admin, path, id, request).await;
            stage.done("apiToken", &api_token_id)
        }
        "RevokeTenantApiToken" => {
            let api_token_id = new_token(stage, CREATE_API_TOKEN, "unused").await;
            let request = RevokeTenantApiTokenRequest {
                tenant_id: stage.tenant.to_string(),
                api_token_id: api_token_id.clone(),
            };
            let _ended: RevokeTenantApiTokenResponse = call(&admin, path, id, request).await;
            stage.done("apiToken", &api_token_id)
        }
        "RotateSigningKeys" => {
            let kid = rotate(&admin, path, id).await;
            stage.done("signingKey", &kid)
        }
        "RevokeSigningKey" => {
            let kid = rotate(&admin, ROTATE_SIGNING_KEYS, "unused").await;
            let request = RevokeSigningKeyRequest { kid: kid.clone() };
            let _ended: RevokeSigningKeyResponse = call(&admin, path, id, request).await;
            stage.done("signingKey", &kid)
        }
        _ => return None,
    })
}

fn by(who: AccountId, resource_type: &'static str, resource_id: Option<String>) -> Expected {
    Expected {
        actor: format!("account:{who}"),
        resource_type,
        resource_id,
    }
}

/// An account that has signed in so many times; the caller is of the last one.
async fn somebody(stage: &Stage, sessions: usize) -> (AccountId, Caller) {
    let (who, email) = stage.panel.account(Role::Auditor, None).await;
    let mut caller = stage.panel.anybody();
    for _ in 0..sessions {
        caller = stage.panel.sign_in(&email, PASSWORD).await;
    }
    (who, caller)
}

async fn enroll(stage: &mut Stage, caller: &Caller, path: &'static str, id: &str) {
    let request = EnrollTotpRequest {
        password: PASSWORD.to_owned(),
    };
    let made: EnrollTotpResponse = call(caller, path, id, request).await;
    stage.secrets.extend([made.secret, made.uri]);
}

async fn confirm(stage: &mut Stage, who: AccountId, caller: &Caller, path: &'static str, id: &str) {
    enroll(stage, caller, ENROLL_TOTP, "unused").await;
    let request = ConfirmTotpRequest {
        totp_code: code(stage, who).await,
    };
    let made: ConfirmTotpResponse = call(caller, path, id, request).await;
    stage.secrets.extend(made.recovery_codes);
}

async fn with_second_factor(stage: &mut Stage) -> (AccountId, Caller) {
    let (who, caller) = somebody(stage, 1).await;
    confirm(stage, who, &caller, CONFIRM_TOTP, "unused").await;
    stage.panel.database.clock.advance(STEP_MS);
    (who, caller)
}

/// The code that the app shows now.
async fn code(stage: &Stage, who: AccountId) -> String {
    let factor = stage.panel.store.second_factor(who).await.unwrap().unwrap();
    let context = context::second_factor(who);
    let secret = stage.panel.sealer.open(&context, &factor.sealed_secret);
    let step = stage.panel.store.now_ms() / STEP_MS;
    let secret = TotpSecret::from_bytes(&secret.unwrap());
    secret.code(step).to_string()
}

/// An API token for the tenant; its id.
async fn new_token(stage: &mut Stage, path: &'static str, id: &str) -> String {
    let request = CreateApiTokenRequest {
        api_token: Some(ApiToken {
            name: "backup".to_owned(),
            tenant_id: stage.tenant.to_string(),
            permissions: vec!["user.read".to_owned()],
            ..ApiToken::default()
        }),
    };
    let made: CreateApiTokenResponse = call(&stage.admin, path, id, request).await;
    stage.secrets.push(made.token);
    made.api_token.unwrap().id
}

/// The key that signs after a rotation.
async fn rotate(admin: &Caller, path: &'static str, id: &str) -> String {
    let request = RotateSigningKeysRequest {};
    let rotated: RotateSigningKeysResponse = call(admin, path, id, request).await;
    let mut keys = rotated.signing_keys.into_iter();
    let active = keys.find(|key| key.state() == SigningKeyState::Active);
    active.unwrap().kid
}
