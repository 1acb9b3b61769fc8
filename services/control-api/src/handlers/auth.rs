//! Signing in, and the signed-in account.

use secrecy::{ExposeSecret, SecretString};
use vpnpanel_api::auth::v1::{
    Account, ChangePasswordRequest, ChangePasswordResponse, GetMeRequest, GetMeResponse,
    LoginRequest, LoginResponse, LogoutRequest, LogoutResponse, Membership, RefreshRequest,
    RefreshResponse,
};
use vpnpanel_audit::network;
use vpnpanel_auth::{
    Asking, AuthError, PasswordProof, Reach, RefreshToken, SignInMethod, strength,
};
use vpnpanel_domain::{AccountId, SessionId, TenantId};
use vpnpanel_store::{self as store, NewSession, Proof, Rotation, Store, fresh_id};

use crate::{
    Error,
    caller::Caller,
    context::Context,
    second_factor::{self, Shown},
    wire::{IntoWire, ids, time},
};

/// Tokens of a session, as every method here hands them out.
struct Tokens {
    access: String,
    refresh: String,
    expires_in: prost_types::Duration,
}

pub(crate) async fn login(
    context: &Context,
    caller: &Caller,
    message: LoginRequest,
) -> Result<LoginResponse, Error> {
    let shown = Shown::of(message.totp_code, message.recovery_code)?;
    let tenant = ids::optional("tenant_id", &message.tenant_id)?;
    // Before a password costs anything.
    if let Err(limited) = context.limits.sign_in(&message.email, caller.ip).await {
        note_refusal(context, caller, &message.email, &limited).await?;
        return Err(limited.into());
    }
    let proof = PasswordProof {
        email: message.email.clone(),
        password: message.password.into(),
        address: caller.ip,
    };
    let proven = match prove(context, caller, proof, shown).await {
        Ok(proven) => proven,
        Err(error) => {
            if let Error::Auth(refused) = &error {
                note_refusal(context, caller, &message.email, refused).await?;
            }
            return Err(error);
        }
    };
    let id = proven.account;
    let account = context.store.account(id).await?;
    check_scope(context, id, tenant).await?;
    let owed = context.store.second_factor_owed(id).await?;
    let tokens = open_session(context, caller, proven, tenant).await?;
    tracing::info!(event = "signed_in", account_id = %id, address = caller.address());
    Ok(LoginResponse {
        access_token: tokens.access,
        refresh_token: tokens.refresh,
        expires_in: Some(tokens.expires_in),
        password_change_required: account.password_change_required,
        second_factor_required: owed
            .iter()
            .any(|owed| tenant.is_none_or(|tenant| tenant == *owed)),
    })
}

pub(crate) async fn refresh(
    context: &Context,
    caller: &Caller,
    message: RefreshRequest,
) -> Result<RefreshResponse, Error> {
    let spent = RefreshToken::parse(&message.refresh_token).ok_or(Error::RefreshTokenRefused)?;
    let tenant = ids::optional("tenant_id", &message.tenant_id)?;
    if tenant.is_some()
        && let Some(account) = context.store.refreshing_account(&spent.hash()).await?
    {
        // Looked at first: a token must not be spent for an answer that says no.
        check_scope(context, account, tenant).await?;
    }
    let next = RefreshToken::generate()?;
    let rotation = context
        .acting(caller)
        .rotate_refresh_token(&spent.hash(), &next.hash())
        .await?;
    let session = match rotation {
        Rotation::Rotated(session) => session,
        Rotation::Reused(session) => {
            let (account, id) = (session.account_id, session.id);
            tracing::warn!(event = "refresh_token_reused", account_id = %account, session_id = %id);
            context.standings.forget_session(account, id).await;
            return Err(Error::RefreshTokenReused);
        }
        Rotation::Refused => return Err(Error::RefreshTokenRefused),
    };
    let tokens = tokens_of(context, session.account_id, session.id, tenant, &next)?;
    Ok(RefreshResponse {
        access_token: tokens.access,
        refresh_token: tokens.refresh,
        expires_in: Some(tokens.expires_in),
    })
}

pub(crate) async fn logout(
    context: &Context,
    caller: &Caller,
    _message: LogoutRequest,
) -> Result<LogoutResponse, Error> {
    let principal = caller.principal()?;
    let session = principal.session().ok_or(AuthError::SessionRequired)?;
    let account = principal.account;
    context
        .acting(caller)
        .revoke_session(account, session, "logout")
        .await?;
    context.standings.forget_session(account, session).await;
    Ok(LogoutResponse {})
}

pub(crate) async fn me(
    context: &Context,
    caller: &Caller,
    _message: GetMeRequest,
) -> Result<GetMeResponse, Error> {
    let principal = caller.principal()?;
    let account = context.store.account(principal.account).await?;
    let names = context.store.memberships(principal.account).await?;
    let mut memberships = Vec::with_capacity(principal.held.len());
    for held in &principal.held {
        let tenant = match principal.reach {
            Reach::Tenant(tenant) => Some(tenant),
            Reach::Account | Reach::Platform => held.tenant,
        };
        let named = names.iter().find(|it| it.tenant_id == tenant);
        let tenant_name = match (named, tenant) {
            (Some(named), _) => named.tenant_name.clone(),
            // An account of the platform, whose credential is for one tenant.
            (None, Some(tenant)) => context.store.tenant(tenant).await?.name,
            (None, None) => String::new(),
        };
        memberships.push(Membership {
            tenant_id: tenant.map(|id| id.to_string()).unwrap_or_default(),
            tenant_name,
            role: held.role.clone(),
            permissions: held.permissions.iter().cloned().collect(),
        });
    }
    Ok(GetMeResponse {
        account: Some(Account {
            second_factor_required: principal.second_factor_required,
            ..account.into_wire()
        }),
        memberships,
    })
}

pub(crate) async fn change_password(
    context: &Context,
    caller: &Caller,
    message: ChangePasswordRequest,
) -> Result<ChangePasswordResponse, Error> {
    let principal = caller.principal()?;
    context.limits.confirmation(principal).await?;
    let account = context.store.account(principal.account).await?;
    if message.new_password == message.current_password {
        return Err(Error::field("new_password", "must not be the current one"));
    }
    let read = account.password_hash.unwrap_or_default();
    let known = (!read.is_empty()).then_some(read.as_str());
    let verdict = context
        .hasher
        .verify(message.current_password.into(), known, Asking::Known)
        .await?;
    if !verdict.matches {
        return Err(Error::field("current_password", "is wrong"));
    }
    let new_password = SecretString::from(message.new_password);
    let judged = strength::judge(new_password.clone(), account.email.clone());
    if let Some(weakness) = judged.await? {
        return Err(Error::field("new_password", weakness.to_string()));
    }
    let new = context.hasher.hash(new_password).await?;
    // The session was opened with it: one that comes into force meanwhile is not known here.
    let factor = context.store.second_factor(account.id).await?;
    let had_second_factor = factor.is_some_and(|factor| factor.confirmed_at_ms.is_some());
    // Whoever knew the old password is signed out, this session too; the answer opens a new one.
    context
        .acting(caller)
        .change_password(account.id, &read, &new)
        .await?;
    context.standings.forget_account(account.id);
    tracing::info!(event = "password_changed", account_id = %account.id);
    let tenant = match principal.reach {
        Reach::Tenant(tenant) => Some(tenant),
        Reach::Account | Reach::Platform => None,
    };
    let proven = Proven {
        account: account.id,
        store: context.acting(caller),
        proof: Proof {
            password_hash: Some(new),
            second_factor: had_second_factor,
        },
    };
    let tokens = open_session(context, caller, proven, tenant).await?;
    Ok(ChangePasswordResponse {
        access_token: tokens.access,
        refresh_token: tokens.refresh,
        expires_in: Some(tokens.expires_in),
    })
}

/// An account that a caller has proven to be.
struct Proven {
    account: AccountId,
    /// Acts for it.
    store: Store,
    proof: Proof,
}

/// The account that a caller has proven to be, with its second factor where it has one.
async fn prove(
    context: &Context,
    caller: &Caller,
    proof: PasswordProof,
    shown: Shown,
) -> Result<Proven, Error> {
    let proven = context.password_sign_in.verify(proof).await?;
    let account = proven.account;
    let store = context.acting_as(account, caller).await?;
    let second_factor = second_factor::check(context, &store, account, shown).await?;
    Ok(Proven {
        account,
        store,
        proof: Proof {
            password_hash: proven.password_hash,
            second_factor,
        },
    })
}

/// Notes a refused sign-in, alike whether or not the account exists.
async fn note_refusal(
    context: &Context,
    caller: &Caller,
    email: &str,
    refused: &AuthError,
) -> Result<(), Error> {
    let (reason, address) = (refused.reason(), caller.address());
    tracing::info!(event = "sign_in_refused", reason, address);
    let (store, network) = (context.acting(caller), network(address));
    match refused {
        AuthError::SignInRefused | AuthError::TooManyCodes { .. } => {
            store.refuse_sign_in(email, &network, reason).await?;
        }
        AuthError::TooMany { limit, .. } => {
            let now_ms = context.store.now_ms();
            if context.held_back.is_news(*limit, email, &network, now_ms) {
                store.hold_sign_in_back(email, reason).await?;
            }
        }
        _ => {}
    }
    Ok(())
}

/// An access token may be narrowed to a tenant in which its account may act.
async fn check_scope(
    context: &Context,
    account: AccountId,
    tenant: Option<TenantId>,
) -> Result<(), Error> {
    let Some(tenant) = tenant else { return Ok(()) };
    let memberships = context.store.memberships(account).await?;
    if memberships.iter().any(|it| it.tenant_id == Some(tenant)) {
        return Ok(());
    }
    if memberships.iter().any(|it| it.tenant_id.is_none()) {
        context.store.tenant(tenant).await?;
        return Ok(());
    }
    Err(AuthError::TenantNotFound.into())
}

/// Opens a session, unless what it was proven by has changed meanwhile.
async fn open_session(
    context: &Context,
    caller: &Caller,
    proven: Proven,
    tenant: Option<TenantId>,
) -> Result<Tokens, Error> {
    let account = proven.account;
    let refresh = RefreshToken::generate()?;
    let lifetime = context.tokens.settings().refresh_lifetime.as_millis();
    let lifetime = i64::try_from(lifetime).unwrap_or(i64::MAX);
    let session = NewSession {
        id: fresh_id(),
        account_id: account,
        user_agent: caller.user_agent().to_owned(),
        address: caller.address().to_owned(),
        expires_at_ms: context.store.now_ms().saturating_add(lifetime),
        proof: proven.proof,
    };
    let opened = proven.store.create_session(session, &refresh.hash()).await;
    let session = opened?.ok_or(AuthError::SignInRefused)?;
    tokens_of(context, account, session.id, tenant, &refresh)
}

fn tokens_of(
    context: &Context,
    account: AccountId,
    session: SessionId,
    tenant: Option<TenantId>,
    refresh: &RefreshToken,
) -> Result<Tokens, Error> {
    let access = context
        .tokens
        .issue(account, session, tenant, context.store.now_ms())?;
    Ok(Tokens {
        access: access.token.expose_secret().to_owned(),
        refresh: refresh.expose().to_owned(),
        expires_in: time::duration(access.expires_in),
    })
}

impl IntoWire for store::Account {
    type Wire = Account;

    fn into_wire(self) -> Account {
        Account {
            id: self.id.to_string(),
            email: self.email,
            display_name: self.display_name,
            password_change_required: self.password_change_required,
            create_time: Some(time::timestamp(self.created_at_ms)),
            second_factor_required: false,
        }
    }
}
