//! The second factor of an account, wherever one has to be shown.

use std::time::Duration;

use vpnpanel_auth::{AuthError, RecoveryCode, TotpSecret, recovery_code::RECOVERY_CODES};
use vpnpanel_domain::AccountId;
use vpnpanel_pki::context as sealed;
use vpnpanel_store::{CodeUse, SecondFactor, Store};

use crate::{Error, context::Context};

/// What somebody shows beside the password.
#[derive(Debug)]
pub(crate) enum Shown {
    /// Nothing.
    Nothing,
    /// A code of the app.
    Code(String),
    /// A recovery code.
    Recovery(String),
}

impl Shown {
    /// The code among two fields, of which one may be set.
    pub(crate) fn of(totp_code: String, recovery_code: String) -> Result<Self, Error> {
        match (totp_code.is_empty(), recovery_code.is_empty()) {
            (true, true) => Ok(Self::Nothing),
            (false, true) => Ok(Self::Code(totp_code)),
            (true, false) => Ok(Self::Recovery(recovery_code)),
            (false, false) => Err(Error::field(
                "recovery_code",
                "must be empty when totp_code is set",
            )),
        }
    }
}

/// Uses up what is shown, where the account has a second factor; says whether it has. `store`
/// acts for the caller.
///
/// # Errors
/// [`AuthError::TotpRequired`], [`AuthError::SignInRefused`], [`AuthError::TooManyCodes`].
pub(crate) async fn check(
    context: &Context,
    store: &Store,
    account: AccountId,
    shown: Shown,
) -> Result<bool, Error> {
    let factor = context.store.second_factor(account).await?;
    let Some(factor) = factor.filter(|factor| factor.confirmed_at_ms.is_some()) else {
        return Ok(false);
    };
    let used = match shown {
        Shown::Nothing => return Err(AuthError::TotpRequired.into()),
        Shown::Code(code) => {
            let step = secret(context, &factor)?.step_of(&code, context.store.now_ms());
            store.use_totp(&factor, step).await?
        }
        Shown::Recovery(text) => match RecoveryCode::parse(&text) {
            Some(code) => {
                store
                    .use_recovery_code(account, &code.hash(account))
                    .await?
            }
            None => CodeUse::Refused,
        },
    };
    match used {
        CodeUse::Accepted => Ok(true),
        CodeUse::Refused => Err(AuthError::SignInRefused.into()),
        CodeUse::Blocked { until_ms } => {
            tracing::warn!(event = "second_factor_guessed", account_id = %account);
            let wait = until_ms.saturating_sub(context.store.now_ms());
            let wait = u64::try_from(wait).unwrap_or(0);
            Err(AuthError::TooManyCodes {
                retry_after: Duration::from_millis(wait),
            }
            .into())
        }
    }
}

/// The secret that codes are made of.
pub(crate) fn secret(context: &Context, factor: &SecondFactor) -> Result<TotpSecret, Error> {
    let sealed = sealed::second_factor(factor.account_id);
    let bytes = context.vault.open(&sealed, &factor.sealed_secret)?;
    Ok(TotpSecret::from_bytes(&bytes))
}

/// Fresh recovery codes: what the account is shown, and what is kept.
pub(crate) fn recovery_codes(account: AccountId) -> Result<(Vec<String>, Vec<[u8; 32]>), Error> {
    let mut codes = (Vec::new(), Vec::new());
    for _ in 0..RECOVERY_CODES {
        let code = RecoveryCode::generate()?;
        codes.0.push(code.expose());
        codes.1.push(code.hash(account));
    }
    Ok(codes)
}
