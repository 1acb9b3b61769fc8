//! Signing in, and the signed-in account.

use vpnpanel_api::auth::v1::{
    Account, ChangePasswordRequest, ChangePasswordResponse, GetMeRequest, GetMeResponse,
    LoginRequest, LoginResponse, LogoutRequest, LogoutResponse, Membership, RefreshRequest,
    RefreshResponse,
};
use vpnpanel_audit::network;
use vpnpanel_auth::{AuthError, PasswordProof, RefreshToken, SignInMethod};
use vpnpanel_domain::{AccountId, SessionId};
use vpnpanel_store::{self as store, NewSession, Rotation, fresh_id};

use crate::{
    Error,
    caller::Caller,
    context::Context,
    wire::{IntoWire, time},
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
    // Before a password costs anything.
    let counted = context.limits.sign_in(&message.email, caller.ip).await;
    counted.inspect_err(|error| {
        tracing::info!(
            event = "sign_in_refused",
            reason = error.reason(),
            address = caller.address()
        );
    })?;
    let email = message.email;
    let proof = PasswordProof {
        email: email.clone(),
        password: message.password.into(),
    };
    let account = match context.password_sign_in.verify(proof).await {
        Ok(id) => context.store.account(id).await?,
        Err(error) => {
            tracing::info!(
                event = "sign_in_refused",
                reason = error.reason(),
                address = caller.address()
            );
            if matches!(error, AuthError::SignInRefused) {
                refused(context, caller, &email, error.reason()).await?;
            }
            return Err(error.into());
        }
    };
    let tokens = open_session(context, caller, account.id).await?;
    tracing::info!(event = "signed_in", account_id = %account.id, address = caller.address());
    Ok(LoginResponse {
        access_token: tokens.access,
        refresh_token: tokens.refresh,
        expires_in: Some(tokens.expires_in),
        password_change_required: account.password_change_required,
    })
}

pub(crate) async fn refresh(
    context: &Context,
    caller: &Caller,
    message: RefreshRequest,
) -> Result<RefreshResponse, Error> {
    let spent = RefreshToken::parse(&message.refresh_token).ok_or(Error::RefreshTokenRefused)?;
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
    let tokens = tokens_of(context, session.account_id, session.id, &next)?;
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
    let (account, session) = (principal.account, principal.session);
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
    let memberships = context.store.memberships(principal.account).await?;
    let permissions = |membership: &store::Membership| {
        let held = principal
            .held
            .iter()
            .find(|held| held.tenant == membership.tenant_id && held.role == membership.role);
        held.map(|held| held.permissions.iter().cloned().collect())
            .unwrap_or_default()
    };
    let memberships = memberships
        .into_iter()
        .map(|membership| Membership {
            permissions: permissions(&membership),
            tenant_id: membership
                .tenant_id
                .map(|id| id.to_string())
                .unwrap_or_default(),
            tenant_name: membership.tenant_name,
            role: membership.role,
        })
        .collect();
    Ok(GetMeResponse {
        account: Some(account.into_wire()),
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
        .verify(message.current_password.into(), known)
        .await?;
    if !verdict.matches {
        return Err(Error::field("current_password", "is wrong"));
    }
    let new = context.hasher.hash(message.new_password.into()).await?;
    // Whoever knew the old password is signed out, this session too; the answer opens a new one.
    context
        .acting(caller)
        .change_password(account.id, &read, &new)
        .await?;
    context.standings.forget_account(account.id);
    tracing::info!(event = "password_changed", account_id = %account.id);
    let tokens = open_session(context, caller, account.id).await?;
    Ok(ChangePasswordResponse {
        access_token: tokens.access,
        refresh_token: tokens.refresh,
        expires_in: Some(tokens.expires_in),
    })
}

/// Notes a refused sign-in, alike whether or not the account exists.
async fn refused(
    context: &Context,
    caller: &Caller,
    email: &str,
    reason: &'static str,
) -> Result<(), Error> {
    let network = network(caller.address());
    let noted = context.acting(caller);
    Ok(noted.refuse_sign_in(email, &network, reason).await?)
}

async fn open_session(
    context: &Context,
    caller: &Caller,
    account: AccountId,
) -> Result<Tokens, Error> {
    let refresh = RefreshToken::generate()?;
    let lifetime = context.tokens.settings().refresh_lifetime.as_millis();
    let lifetime = i64::try_from(lifetime).unwrap_or(i64::MAX);
    let session = NewSession {
        id: fresh_id(),
        account_id: account,
        user_agent: caller.user_agent().to_owned(),
        address: caller.address().to_owned(),
        expires_at_ms: context.store.now_ms().saturating_add(lifetime),
    };
    let session = context
        .acting_as(account, caller)
        .create_session(session, &refresh.hash())
        .await?;
    tokens_of(context, account, session.id, &refresh)
}

fn tokens_of(
    context: &Context,
    account: AccountId,
    session: SessionId,
    refresh: &RefreshToken,
) -> Result<Tokens, Error> {
    use secrecy::ExposeSecret;
    let access = context
        .tokens
        .issue(account, session, context.store.now_ms())?;
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
        }
    }
}
