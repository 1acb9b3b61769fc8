//! The second factor of the signed-in account: enrolled with the password, in force from its first
//! code on, and taken away with both.

use vpnpanel_api::auth::v1::{
    ConfirmTotpRequest, ConfirmTotpResponse, DisableTotpRequest, DisableTotpResponse,
    EnrollTotpRequest, EnrollTotpResponse, GetTotpRequest, GetTotpResponse,
    RegenerateRecoveryCodesRequest, RegenerateRecoveryCodesResponse,
};
use vpnpanel_auth::{Asking, AuthError, TotpSecret};
use vpnpanel_domain::AccountId;
use vpnpanel_pki::context as sealed;

use crate::{
    Error,
    caller::Caller,
    context::Context,
    second_factor::{self, Shown},
    wire::time,
};

pub(crate) async fn get(
    context: &Context,
    caller: &Caller,
    _message: GetTotpRequest,
) -> Result<GetTotpResponse, Error> {
    let account = caller.principal()?.account;
    let factor = context.store.second_factor(account).await?;
    let in_force = factor.and_then(|factor| Some((factor.confirmed_at_ms?, factor)));
    Ok(match in_force {
        Some((since, factor)) => GetTotpResponse {
            enabled: true,
            confirm_time: Some(time::timestamp(since)),
            recovery_codes_left: i32::try_from(factor.recovery_codes_left).unwrap_or(i32::MAX),
        },
        None => GetTotpResponse::default(),
    })
}

pub(crate) async fn enroll(
    context: &Context,
    caller: &Caller,
    message: EnrollTotpRequest,
) -> Result<EnrollTotpResponse, Error> {
    let principal = caller.principal()?;
    context.limits.confirmation(principal).await?;
    let account = principal.account;
    let email = check_password(context, account, message.password).await?;
    let secret = TotpSecret::generate()?;
    let sealed = sealed::second_factor(account);
    let sealed = context.vault.seal(&sealed, secret.bytes())?;
    context
        .acting(caller)
        .enroll_second_factor(account, &sealed)
        .await?;
    let issuer = &context.tokens.settings().issuer;
    Ok(EnrollTotpResponse {
        secret: secret.base32().to_string(),
        uri: secret.uri(issuer, &email).to_string(),
    })
}

pub(crate) async fn confirm(
    context: &Context,
    caller: &Caller,
    message: ConfirmTotpRequest,
) -> Result<ConfirmTotpResponse, Error> {
    let principal = caller.principal()?;
    let account = principal.account;
    let session = principal.session().ok_or(AuthError::SessionRequired)?;
    context.limits.confirmation(principal).await?;
    let factor = context.store.second_factor(account).await?;
    let factor = factor
        .filter(|factor| factor.confirmed_at_ms.is_none())
        .ok_or(Error::TotpNotEnrolled)?;
    let step = second_factor::secret(context, &factor)?
        .step_of(&message.totp_code, context.store.now_ms())
        .ok_or_else(wrong_code)?;
    let (recovery_codes, hashes) = second_factor::recovery_codes(account)?;
    context
        .acting(caller)
        .confirm_second_factor(&factor, step, &hashes, session)
        .await?;
    context.standings.forget_account(account);
    tracing::info!(event = "second_factor_confirmed", account_id = %account);
    Ok(ConfirmTotpResponse { recovery_codes })
}

pub(crate) async fn disable(
    context: &Context,
    caller: &Caller,
    message: DisableTotpRequest,
) -> Result<DisableTotpResponse, Error> {
    let account = caller.principal()?.account;
    let shown = Shown::of(message.totp_code, message.recovery_code)?;
    show_both(context, caller, account, message.password, shown).await?;
    context.acting(caller).remove_second_factor(account).await?;
    context.standings.forget_account(account);
    tracing::info!(event = "second_factor_removed", account_id = %account);
    Ok(DisableTotpResponse {})
}

pub(crate) async fn regenerate(
    context: &Context,
    caller: &Caller,
    message: RegenerateRecoveryCodesRequest,
) -> Result<RegenerateRecoveryCodesResponse, Error> {
    let account = caller.principal()?.account;
    let shown = Shown::of(message.totp_code, message.recovery_code)?;
    show_both(context, caller, account, message.password, shown).await?;
    let (recovery_codes, hashes) = second_factor::recovery_codes(account)?;
    context
        .acting(caller)
        .replace_recovery_codes(account, &hashes)
        .await?;
    Ok(RegenerateRecoveryCodesResponse { recovery_codes })
}

/// The password and a code of the second factor, which there has to be.
async fn show_both(
    context: &Context,
    caller: &Caller,
    account: AccountId,
    password: String,
    shown: Shown,
) -> Result<(), Error> {
    let factor = context.store.second_factor(account).await?;
    if factor.is_none_or(|factor| factor.confirmed_at_ms.is_none()) {
        return Err(Error::TotpNotEnrolled);
    }
    if matches!(shown, Shown::Nothing) {
        return Err(Error::field("totp_code", "or recovery_code is required"));
    }
    context.limits.confirmation(caller.principal()?).await?;
    check_password(context, account, password).await?;
    let field = match shown {
        Shown::Recovery(_) => "recovery_code",
        _ => "totp_code",
    };
    let checked = second_factor::check(context, &context.acting(caller), account, shown).await;
    checked.map(drop).map_err(|error| match error {
        // Who asks is known: there is nothing to hide, but which field is wrong.
        Error::Auth(AuthError::SignInRefused) => Error::field(field, "is wrong, or was used"),
        other => other,
    })
}

/// Checks the account's password; returns its e-mail address.
async fn check_password(
    context: &Context,
    account: AccountId,
    password: String,
) -> Result<String, Error> {
    let account = context.store.account(account).await?;
    let known = account.password_hash.as_deref();
    let verdict = context
        .hasher
        .verify(password.into(), known, Asking::Known)
        .await?;
    if verdict.matches {
        Ok(account.email)
    } else {
        Err(Error::field("password", "is wrong"))
    }
}

fn wrong_code() -> Error {
    Error::field("totp_code", "is not the code that the app shows now")
}
