//! What can go wrong here, and the one place that turns it into a `tonic::Status`.

use std::time::Duration;

use tonic::Status;
use vpnpanel_runtime::status::{ErrorCode, Failure};

use crate::{SourceError, limits::Limit};

/// Why a caller is refused, or could not be judged.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// No credentials came with the call.
    #[error("this method needs an access token: send it as `authorization: Bearer …`")]
    NoCredentials,
    /// The access token is malformed, of an unknown key, of another audience, or altered.
    #[error("the access token is not valid")]
    TokenInvalid,
    /// The access token ran out.
    #[error("the access token has expired")]
    TokenExpired,
    /// The session of the access token was ended, or its account disabled or deleted.
    #[error("the session has ended: sign in again")]
    SessionEnded,
    /// The password was given out by somebody else and has not been changed yet.
    #[error("the password must be changed first")]
    PasswordChangeRequired,
    /// A tenant requires a second factor, which the account has not enrolled yet.
    #[error("a second factor must be enrolled first: see EnrollTotp")]
    SecondFactorRequired,
    /// The method is for people who are signed in.
    #[error("an API token may not do this: sign in")]
    SessionRequired,
    /// Wrong password, wrong code or unknown account: the same on purpose.
    #[error("e-mail address, password or code is wrong")]
    SignInRefused,
    /// The password is right; the account has a second factor, and no code came.
    #[error("this account has a second factor: send totp_code or recovery_code as well")]
    TotpRequired,
    /// Too many codes were wrong: none is looked at for a while.
    #[error("too many wrong codes: wait, or use a recovery code")]
    TooManyCodes {
        /// When to try again.
        retry_after: Duration,
    },
    /// The caller does not hold the permission.
    #[error("this needs the permission {permission}")]
    PermissionDenied {
        /// `resource.verb`.
        permission: &'static str,
    },
    /// The tenant is suspended, and the method changes something in it.
    #[error("the tenant is suspended: until its provider resumes it, it can only be read")]
    TenantSuspended,
    /// The tenant does not exist, or is none of the caller's: the same on purpose.
    #[error("tenant not found")]
    TenantNotFound,
    /// The text that names the tenant is no id.
    #[error("{field} must be a UUID")]
    TenantMalformed {
        /// The field of the request.
        field: &'static str,
    },
    /// The method is for callers with a client certificate of this installation.
    #[error("this method is for {expected} only, by client certificate")]
    CertificateRequired {
        /// Who may call.
        expected: String,
    },
    /// More than is permitted of something that is counted.
    #[error("too many requests: the limit is {limit}")]
    TooMany {
        /// What is counted.
        limit: Limit,
        /// When to try again.
        retry_after: Duration,
    },
    /// The call needs a role that is held on the platform, and comes from outside of the networks
    /// that such roles act from.
    #[error("administration is permitted from the configured networks only")]
    AdminNetwork,
    /// Too many passwords are being checked.
    #[error("too many sign-ins at once")]
    Saturated {
        /// When to try again.
        retry_after: Duration,
    },
    /// A password hash is not in the form that this crate writes.
    #[error("stored password hash is malformed: {0}")]
    MalformedHash(&'static str),
    /// Parameters of the password hash are out of their range.
    #[error("password hash parameters: {0}")]
    HashParameters(String),
    /// A signing key cannot be read or used.
    #[error("signing key: {0}")]
    Key(String),
    /// The operating system gave no random bytes.
    #[error("no random bytes: {0}")]
    Random(String),
    /// What has to be looked up could not be.
    #[error("account data is not available: {0}")]
    Source(#[source] SourceError),
    /// A task of the runtime ended early.
    #[error("interrupted")]
    Interrupted,
}

impl AuthError {
    /// Stable code for programs, UPPER_SNAKE_CASE.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoCredentials => "NO_CREDENTIALS",
            Self::TokenInvalid => "TOKEN_INVALID",
            Self::TokenExpired => "TOKEN_EXPIRED",
            Self::SessionEnded => "SESSION_ENDED",
            Self::PasswordChangeRequired => "PASSWORD_CHANGE_REQUIRED",
            Self::SecondFactorRequired => "SECOND_FACTOR_REQUIRED",
            Self::SessionRequired => "SESSION_REQUIRED",
            Self::SignInRefused => "SIGN_IN_REFUSED",
            Self::TotpRequired => "TOTP_REQUIRED",
            Self::TooManyCodes { .. } => "TOO_MANY_CODES",
            Self::PermissionDenied { .. } => "PERMISSION_DENIED",
            Self::TenantSuspended => "TENANT_SUSPENDED",
            Self::TenantNotFound => "TENANT_NOT_FOUND",
            Self::TenantMalformed { .. } => "INVALID_FIELDS",
            Self::CertificateRequired { .. } => "CERTIFICATE_REQUIRED",
            Self::TooMany { .. } => "RATE_LIMITED",
            Self::AdminNetwork => "ADMIN_NETWORK_REQUIRED",
            Self::Saturated { .. } => "SIGN_INS_SATURATED",
            Self::Source(_) => "ACCOUNTS_UNAVAILABLE",
            Self::MalformedHash(_)
            | Self::HashParameters(_)
            | Self::Key(_)
            | Self::Random(_)
            | Self::Interrupted => "INTERNAL",
        }
    }

    fn code(&self) -> ErrorCode {
        match self {
            Self::NoCredentials
            | Self::TokenInvalid
            | Self::TokenExpired
            | Self::SessionEnded
            | Self::SignInRefused
            | Self::TotpRequired => ErrorCode::Unauthenticated,
            Self::PasswordChangeRequired
            | Self::SecondFactorRequired
            | Self::SessionRequired
            | Self::PermissionDenied { .. }
            | Self::AdminNetwork
            | Self::TenantSuspended
            | Self::CertificateRequired { .. } => ErrorCode::PermissionDenied,
            Self::TenantNotFound => ErrorCode::NotFound,
            Self::TenantMalformed { .. } => ErrorCode::InvalidArgument,
            Self::TooMany { .. } | Self::Saturated { .. } | Self::TooManyCodes { .. } => {
                ErrorCode::ResourceExhausted
            }
            Self::Source(_) => ErrorCode::Unavailable,
            Self::MalformedHash(_)
            | Self::HashParameters(_)
            | Self::Key(_)
            | Self::Random(_)
            | Self::Interrupted => ErrorCode::Internal,
        }
    }
}

impl From<AuthError> for Status {
    fn from(error: AuthError) -> Self {
        let (code, reason) = (error.code(), error.reason());
        let failure = match &error {
            AuthError::Saturated { retry_after } | AuthError::TooManyCodes { retry_after } => {
                Failure::new(code, reason, error.to_string()).retry_after(*retry_after)
            }
            AuthError::TooMany { limit, retry_after } => {
                Failure::new(code, reason, error.to_string())
                    .metadata("limit", limit.as_str())
                    .retry_after(*retry_after)
            }
            AuthError::TenantMalformed { field } => {
                Failure::new(code, reason, error.to_string()).field(*field, "must be a UUID")
            }
            // Ours to repair: told to the log, where the error ends, and not to the caller.
            AuthError::Source(_) => {
                tracing::error!(event = "account_lookup_failed", error = %error);
                Failure::new(code, reason, "account data is not available, try again")
            }
            _ if code == ErrorCode::Internal => {
                tracing::error!(event = "auth_failed", error = %error);
                Failure::internal()
            }
            _ => Failure::new(code, reason, error.to_string()),
        };
        failure.into_status()
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;
    use tonic_types::StatusExt;

    use super::*;

    #[test]
    fn what_is_too_much_says_when_to_try_again() {
        let wait = Duration::from_secs(2);
        for (error, reason) in [
            (
                AuthError::Saturated { retry_after: wait },
                "SIGN_INS_SATURATED",
            ),
            (
                AuthError::TooManyCodes { retry_after: wait },
                "TOO_MANY_CODES",
            ),
        ] {
            let status = Status::from(error);
            assert_eq!(status.code(), Code::ResourceExhausted);
            let details = status.get_error_details();
            assert_eq!(details.error_info().unwrap().reason, reason);
            assert_eq!(details.retry_info().unwrap().retry_delay, Some(wait));
        }
    }
}
