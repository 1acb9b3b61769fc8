//! The second factor: enrolled, asked for, used once, and required by tenants.

use tonic::{Code, Status};
use tonic_types::StatusExt;
use vpnpanel_api::{
    auth::v1::{
        ConfirmTotpRequest, CreateApiTokenRequest, DisableTotpRequest, EnrollTotpRequest,
        GetTotpRequest, LoginRequest, LoginResponse, RegenerateRecoveryCodesRequest,
    },
    system::v1::GetSystemInfoRequest,
    tenant::v1::{Tenant, UpdateTenantRequest},
};
use vpnpanel_auth::{Role, TotpSecret};
use vpnpanel_domain::AccountId;
use vpnpanel_pki::context;

use crate::support::{Caller, PASSWORD, Panel, assert_refused, fields};

const STEP_MS: i64 = 30_000;

/// An account, and the app that makes its codes.
struct Person<'a> {
    panel: &'a Panel,
    id: AccountId,
    email: String,
    caller: Caller,
}

impl<'a> Person<'a> {
    async fn new(panel: &'a Panel, role: Role, tenant: Option<vpnpanel_domain::TenantId>) -> Self {
        let (id, email) = panel.account(role, tenant).await;
        let caller = panel.sign_in(&email, PASSWORD).await;
        Self {
            panel,
            id,
            email,
            caller,
        }
    }

    /// With a second factor; returns its recovery codes.
    async fn enrolled(panel: &'a Panel) -> (Self, Vec<String>) {
        let person = Self::new(panel, Role::Admin, None).await;
        person.enroll().await.unwrap();
        let codes = person.confirm(&person.code().await).await.unwrap();
        person.wait_for_next_code();
        (person, codes)
    }

    async fn enroll(&self) -> Result<(String, String), Status> {
        let request = EnrollTotpRequest {
            password: PASSWORD.to_owned(),
        };
        let mut auth = self.caller.auth();
        let answer = auth.enroll_totp(self.caller.ask(request)).await?;
        let answer = answer.into_inner();
        Ok((answer.secret, answer.uri))
    }

    async fn confirm(&self, code: &str) -> Result<Vec<String>, Status> {
        let request = ConfirmTotpRequest {
            totp_code: code.to_owned(),
        };
        let mut auth = self.caller.auth();
        let answer = auth.confirm_totp(self.caller.ask(request)).await?;
        Ok(answer.into_inner().recovery_codes)
    }

    /// The code that the app shows now.
    async fn code(&self) -> String {
        let factor = self.panel.store.second_factor(self.id).await.unwrap();
        let sealed = factor.unwrap().sealed_secret;
        let context = context::second_factor(self.id);
        let secret = self.panel.sealer.open(&context, &sealed).unwrap();
        let step = self.panel.store.now_ms() / STEP_MS;
        TotpSecret::from_bytes(&secret).code(step).to_string()
    }

    fn wait_for_next_code(&self) {
        self.panel.database.clock.advance(STEP_MS);
    }

    async fn login(&self, totp_code: &str) -> Result<LoginResponse, Status> {
        self.login_with(PASSWORD, totp_code, "").await
    }

    async fn login_with(
        &self,
        password: &str,
        totp_code: &str,
        recovery_code: &str,
    ) -> Result<LoginResponse, Status> {
        let request = LoginRequest {
            email: self.email.clone(),
            password: password.to_owned(),
            totp_code: totp_code.to_owned(),
            recovery_code: recovery_code.to_owned(),
            tenant_id: String::new(),
        };
        let answer = self.panel.anybody().auth().login(request).await?;
        Ok(answer.into_inner())
    }

    async fn disable(&self, password: &str, code: &str) -> Result<(), Status> {
        let request = DisableTotpRequest {
            password: password.to_owned(),
            totp_code: code.to_owned(),
            recovery_code: String::new(),
        };
        let mut auth = self.caller.auth();
        let answer = auth.disable_totp(self.caller.ask(request)).await;
        answer.map(drop)
    }

    async fn codes_left(&self) -> Option<i32> {
        let mut auth = self.caller.auth();
        let answer = auth.get_totp(self.caller.ask(GetTotpRequest {})).await;
        let answer = answer.unwrap().into_inner();
        answer.enabled.then_some(answer.recovery_codes_left)
    }
}

async fn may_act(caller: &Caller) -> Result<(), Status> {
    let request = caller.ask(GetSystemInfoRequest {});
    caller.system().get_system_info(request).await.map(drop)
}

#[tokio::test]
async fn a_second_factor_is_in_force_from_its_first_code_on() {
    let panel = Panel::start().await;
    let person = Person::new(&panel, Role::Admin, None).await;
    let elsewhere = panel.sign_in(&person.email, PASSWORD).await;
    let early = person.confirm("123456").await;
    assert_refused(early, Code::FailedPrecondition, "TOTP_NOT_ENROLLED");
    let (secret, uri) = person.enroll().await.unwrap();
    assert!(uri.starts_with("otpauth://totp/vpnpanel:") && uri.contains(&secret));
    person.login("").await.expect("not asked for yet");
    assert_eq!(fields(person.confirm("12345").await), ["totp_code"]);
    assert_eq!(person.codes_left().await, None);

    let codes = person.confirm(&person.code().await).await.unwrap();
    assert_eq!(codes.len(), 10);
    assert_eq!(person.codes_left().await, Some(10));
    assert_refused(
        person.login("").await,
        Code::Unauthenticated,
        "TOTP_REQUIRED",
    );
    may_act(&person.caller).await.expect("this session stays");
    let ended = may_act(&elsewhere).await;
    assert_refused(ended, Code::Unauthenticated, "SESSION_ENDED");
    let again = person.enroll().await;
    assert_refused(again, Code::FailedPrecondition, "TOTP_ENROLLED");

    let replayed = person.login(&person.code().await).await;
    assert_refused(replayed, Code::Unauthenticated, "SIGN_IN_REFUSED");
    person.wait_for_next_code();
    person.login(&person.code().await).await.unwrap();
}

#[tokio::test]
async fn a_code_that_was_used_is_refused_within_its_window() {
    let panel = Panel::start().await;
    let (person, _) = Person::enrolled(&panel).await;
    let code = person.code().await;
    let (one, two) = tokio::join!(person.login(&code), person.login(&code));
    assert!(one.is_ok() != two.is_ok(), "exactly one of them");
    let replayed = person.login(&code).await;
    assert_refused(replayed, Code::Unauthenticated, "SIGN_IN_REFUSED");
    person.wait_for_next_code();
    let replayed = person.login(&code).await;
    assert_refused(replayed, Code::Unauthenticated, "SIGN_IN_REFUSED");
    person.login(&person.code().await).await.unwrap();
}

#[tokio::test]
async fn without_the_right_password_nothing_is_said_about_the_second_factor() {
    let panel = Panel::start().await;
    let (person, codes) = Person::enrolled(&panel).await;
    for (totp, recovery) in [
        (String::new(), String::new()),
        ("000000".to_owned(), String::new()),
        (person.code().await, String::new()),
        (String::new(), codes[0].clone()),
    ] {
        let refused = person.login_with("wrong", &totp, &recovery).await;
        assert_refused(refused, Code::Unauthenticated, "SIGN_IN_REFUSED");
    }
    person.login(&person.code().await).await.expect("not spent");
    person
        .login_with(PASSWORD, "", &codes[0])
        .await
        .expect("not spent");
    let both = person.login_with(PASSWORD, "123456", &codes[1]).await;
    assert_eq!(fields(both), ["recovery_code"]);
}

#[tokio::test]
async fn a_recovery_code_signs_in_once() {
    let panel = Panel::start().await;
    let (person, codes) = Person::enrolled(&panel).await;
    let typed = codes[3].to_uppercase().replace('-', " ");
    person.login_with(PASSWORD, "", &typed).await.unwrap();
    for reused in [codes[3].as_str(), "not a code", "aaaa-aaaa-aaaa-aaaa"] {
        let refused = person.login_with(PASSWORD, "", reused).await;
        assert_refused(refused, Code::Unauthenticated, "SIGN_IN_REFUSED");
    }
    assert_eq!(person.codes_left().await, Some(9));
    let request = RegenerateRecoveryCodesRequest {
        password: PASSWORD.to_owned(),
        totp_code: person.code().await,
        recovery_code: String::new(),
    };
    let mut auth = person.caller.auth();
    let fresh = auth
        .regenerate_recovery_codes(person.caller.ask(request))
        .await;
    let fresh = fresh.unwrap().into_inner().recovery_codes;
    assert_eq!(person.codes_left().await, Some(10));
    let old = person.login_with(PASSWORD, "", &codes[4]).await;
    assert_refused(old, Code::Unauthenticated, "SIGN_IN_REFUSED");
    person.login_with(PASSWORD, "", &fresh[0]).await.unwrap();
}

#[tokio::test]
async fn codes_cannot_be_guessed_and_the_owner_gets_in_by_a_recovery_code() {
    let panel = Panel::start().await;
    let (person, codes) = Person::enrolled(&panel).await;
    for _ in 0..5 {
        let wrong = person.login("000000x").await;
        assert_refused(wrong, Code::Unauthenticated, "SIGN_IN_REFUSED");
    }
    let blocked = person.login(&person.code().await).await.unwrap_err();
    assert_eq!(blocked.code(), Code::ResourceExhausted);
    let details = blocked.get_error_details();
    assert_eq!(details.error_info().unwrap().reason, "TOO_MANY_CODES");
    assert!(details.retry_info().unwrap().retry_delay.is_some());
    let wrong = person.login_with("wrong", "000000", "").await;
    assert_refused(wrong, Code::Unauthenticated, "SIGN_IN_REFUSED");
    person.login_with(PASSWORD, "", &codes[0]).await.unwrap();
    person.login(&person.code().await).await.unwrap();
}

#[tokio::test]
async fn a_second_factor_is_taken_away_by_password_and_code() {
    let panel = Panel::start().await;
    let (person, _) = Person::enrolled(&panel).await;
    let code = person.code().await;
    assert_eq!(fields(person.disable("wrong", &code).await), ["password"]);
    assert_eq!(fields(person.disable(PASSWORD, "").await), ["totp_code"]);
    assert_eq!(fields(person.disable(PASSWORD, "1").await), ["totp_code"]);
    person.disable(PASSWORD, &code).await.unwrap();
    person.login("").await.unwrap();
    let none = person.disable(PASSWORD, &code).await;
    assert_refused(none, Code::FailedPrecondition, "TOTP_NOT_ENROLLED");
}

#[tokio::test]
async fn a_tenant_that_requires_a_second_factor_lets_members_do_nothing_but_enrol_it() {
    let panel = Panel::start().await;
    let tenant = panel.default_tenant().await;
    let member = Person::new(&panel, Role::Owner, Some(tenant)).await;
    let owner = &member.caller;
    let request = UpdateTenantRequest {
        tenant: Some(Tenant {
            id: tenant.to_string(),
            require_second_factor: true,
            ..Tenant::default()
        }),
        update_mask: None,
    };
    may_act(owner).await.unwrap();
    let changed = owner.tenants().update_tenant(owner.ask(request)).await;
    let changed = changed.unwrap().into_inner().tenant.unwrap();
    assert!(changed.require_second_factor);

    let required = (Code::PermissionDenied, "SECOND_FACTOR_REQUIRED");
    assert_refused(may_act(owner).await, required.0, required.1);
    let request = owner.ask(CreateApiTokenRequest::default());
    let minted = owner.auth().create_api_token(request).await;
    assert_refused(minted, required.0, required.1);
    assert!(member.login("").await.unwrap().second_factor_required);
    may_act(&panel.admin().await).await.expect("no member");

    member.enroll().await.unwrap();
    member.confirm(&member.code().await).await.unwrap();
    may_act(owner).await.unwrap();
    member.wait_for_next_code();
    let tokens = member.login(&member.code().await).await.unwrap();
    assert!(!tokens.second_factor_required);
}
