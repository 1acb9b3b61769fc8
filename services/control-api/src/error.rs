//! What can go wrong in this service, and the one place that makes a `tonic::Status` of it.

use tonic::Status;
use vpnpanel_auth::AuthError;
use vpnpanel_runtime::status::{ErrorCode, Failure};
use vpnpanel_store::{RenewalRefusal, StoreError};

/// Why a call, or the start of the service, failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store refused or failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The caller is refused, or could not be judged.
    #[error(transparent)]
    Auth(#[from] AuthError),
    /// A field of the request does not hold what it must.
    #[error("{field}: {description}")]
    Field {
        /// Path of the field, for example `user.group_ids[2]`.
        field: String,
        /// What it must hold.
        description: String,
    },
    /// A page token of another list or filter, or none at all.
    #[error("page_token is not one of this list with these filters")]
    PageToken,
    /// The etag is not the resource's current one.
    #[error("the resource was changed since it was read")]
    Stale,
    /// The join token is unknown, expired, or was used with another key.
    #[error("the join token is not valid")]
    JoinTokenRefused,
    /// A node's certificate is not renewed.
    #[error("{0}")]
    RenewalRefused(RenewalRefusal),
    /// The key of the certificate did not sign the request.
    #[error("the proof is not by the certificate's key, or for another request")]
    ProofRefused,
    /// A proof of another time.
    #[error(
        "the proof was made more than 5 minutes before or after now: set the clock of this host"
    )]
    ProofStale,
    /// A setting that no certificate can have.
    #[error("VPNPANEL_NODE_CERTIFICATE_LIFETIME: from 10s to 90d")]
    CertificateLifetime,
    /// The log of certificates cannot be written or read.
    #[error("VPNPANEL_CERTIFICATE_LOG_DIR: {0}")]
    CertificateLog(#[from] vpnpanel_pki::LogError),
    /// A node is reached neither directly nor over its link.
    #[error("the node is reached neither at its control address nor over its link right now")]
    NodeUnreachable,
    /// A refresh token is unknown, or of a session that is over.
    #[error("the session has ended: sign in again")]
    RefreshTokenRefused,
    /// A refresh token was used before: two hold it, and its session is over now.
    #[error("the refresh token was used before; its session has been ended")]
    RefreshTokenReused,
    /// The certificate authority or the sealer failed, or a certificate request is refused.
    #[error(transparent)]
    Pki(#[from] vpnpanel_pki::Error),
    /// The contract's descriptors cannot be served.
    #[error(transparent)]
    Reflection(#[from] vpnpanel_runtime::reflection::ReflectionError),
    /// The settings of what replicas share make no sense.
    #[error(transparent)]
    Cache(#[from] vpnpanel_cache::CacheError),
    /// The listener's own certificate.
    #[error("VPNPANEL_CONTROL_API_TLS_CERT: {0}")]
    Tls(#[from] vpnpanel_runtime::tls::TlsError),
    /// What the store holds does not make sense.
    #[error("{0}")]
    Corrupt(&'static str),
    /// The password of the first administrator, in the settings, is too weak.
    #[error("VPNPANEL_BOOTSTRAP_PASSWORD {0}")]
    BootstrapPassword(vpnpanel_auth::strength::Weakness),
    /// The account has no second factor, or none that waits for its first code.
    #[error("there is no second factor to do this with: see EnrollTotp")]
    TotpNotEnrolled,
    /// A format that has no place for any of a subscription's connections.
    #[error("no connection of this subscription has a place in {0}: ask for another format")]
    FormatUnavailable(&'static str),
    /// As many watch live rates as may.
    #[error("as many watch these live rates as may: try again in a minute")]
    TooManyWatchers,
    /// The operating system gave no random bytes.
    #[error("no random bytes: {0}")]
    Random(String),
}

impl Error {
    /// A field that does not hold what it must.
    pub(crate) fn field(field: impl Into<String>, description: impl Into<String>) -> Self {
        Self::Field {
            field: field.into(),
            description: description.into(),
        }
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        match error {
            Error::Store(error) => store_failure(&error).into_status(),
            Error::Auth(error) => error.into(),
            Error::Field { field, description } => {
                Failure::invalid_field(field, description).into_status()
            }
            Error::PageToken => Failure::new(
                ErrorCode::InvalidArgument,
                "PAGE_TOKEN_INVALID",
                error.to_string(),
            )
            .field(
                "page_token",
                "must come from the page before, with the same filters",
            )
            .into_status(),
            Error::Stale => stale(error.to_string()).into_status(),
            Error::JoinTokenRefused => unauthenticated("JOIN_TOKEN_REFUSED", &error).into_status(),
            Error::RenewalRefused(refusal) => renewal_failure(refusal).into_status(),
            Error::ProofRefused => unauthenticated("PROOF_REFUSED", &error).into_status(),
            Error::ProofStale => unauthenticated("PROOF_STALE", &error).into_status(),
            Error::RefreshTokenRefused => {
                unauthenticated("REFRESH_TOKEN_REFUSED", &error).into_status()
            }
            Error::RefreshTokenReused => {
                unauthenticated("REFRESH_TOKEN_REUSED", &error).into_status()
            }
            Error::Pki(vpnpanel_pki::Error::Csr(why)) => {
                Failure::invalid_field("csr_der", why).into_status()
            }
            Error::TotpNotEnrolled => Failure::new(
                ErrorCode::FailedPrecondition,
                "TOTP_NOT_ENROLLED",
                error.to_string(),
            )
            .into_status(),
            Error::FormatUnavailable(_) => Failure::new(
                ErrorCode::FailedPrecondition,
                "FORMAT_UNAVAILABLE",
                error.to_string(),
            )
            .into_status(),
            Error::TooManyWatchers => Failure::new(
                ErrorCode::ResourceExhausted,
                "WATCHERS_EXHAUSTED",
                error.to_string(),
            )
            .retry_after(std::time::Duration::from_secs(60))
            .into_status(),
            Error::NodeUnreachable => Failure::new(
                ErrorCode::Unavailable,
                "NODE_UNREACHABLE",
                error.to_string(),
            )
            .retry_after(std::time::Duration::from_secs(5))
            .into_status(),
            Error::CertificateLog(error) => {
                tracing::error!(event = "certificate_log_failed", %error);
                Failure::new(
                    ErrorCode::Unavailable,
                    "CERTIFICATE_LOG_UNAVAILABLE",
                    "what is done about certificates cannot be written down right now",
                )
                .retry_after(std::time::Duration::from_secs(1))
                .into_status()
            }
            Error::Pki(_)
            | Error::Cache(_)
            | Error::Corrupt(_)
            | Error::Random(_)
            | Error::Reflection(_)
            | Error::Tls(_)
            | Error::CertificateLifetime
            | Error::BootstrapPassword(_) => {
                // Ours to repair: told to the log, where the error ends, and not to the caller.
                tracing::error!(event = "call_failed", error = %error);
                Failure::internal().into_status()
            }
        }
    }
}

fn unauthenticated(reason: &'static str, error: &Error) -> Failure {
    Failure::new(ErrorCode::Unauthenticated, reason, error.to_string())
}

fn renewal_failure(refusal: RenewalRefusal) -> Failure {
    let message = refusal.to_string();
    let fail = |code, reason| Failure::new(code, reason, message.clone());
    match refusal {
        RenewalRefusal::Unknown | RenewalRefusal::Superseded => {
            fail(ErrorCode::Unauthenticated, "CERTIFICATE_REFUSED")
        }
        RenewalRefusal::TooOld => fail(ErrorCode::FailedPrecondition, "ENROLMENT_REQUIRED"),
        RenewalRefusal::Disabled => fail(ErrorCode::FailedPrecondition, "NODE_DISABLED"),
        RenewalRefusal::Replayed => fail(ErrorCode::Unauthenticated, "PROOF_REPLAYED"),
        RenewalRefusal::SameKey => Failure::invalid_field("csr_der", message),
        RenewalRefusal::TooSoon => fail(ErrorCode::ResourceExhausted, "RENEWAL_TOO_SOON")
            .retry_after(std::time::Duration::from_secs(10)),
    }
}

fn stale(message: String) -> Failure {
    Failure::new(ErrorCode::Aborted, "STALE_ETAG", message)
}

fn store_failure(error: &StoreError) -> Failure {
    let message = error.to_string();
    match error {
        StoreError::NotFound(what) => {
            Failure::new(ErrorCode::NotFound, not_found_reason(what), message).resource(*what, "")
        }
        StoreError::AlreadyExists { what } => {
            Failure::new(ErrorCode::AlreadyExists, "ALREADY_EXISTS", message)
                .metadata("field", *what)
        }
        StoreError::StaleVersion => stale(message),
        StoreError::RequestIdReused => {
            Failure::new(ErrorCode::InvalidArgument, "REQUEST_ID_REUSED", message)
                .field("request_id", "was used for a different request")
        }
        StoreError::InvalidReference { what, .. } => Failure::new(
            ErrorCode::InvalidArgument,
            "INVALID_REFERENCE",
            message.clone(),
        )
        .field(*what, message),
        StoreError::InvalidArgument { what, reason } => {
            Failure::invalid_field(*what, reason.clone())
        }
        StoreError::PortInUse(taken) => {
            let failure = Failure::new(ErrorCode::FailedPrecondition, "PORT_IN_USE", message)
                .metadata("port", taken.port.to_string())
                .metadata("transport", taken.transport)
                .metadata("node_id", taken.node.to_string());
            match &taken.inbound {
                Some((inbound, _)) => failure.metadata("inbound_id", inbound.to_string()),
                None => failure,
            }
        }
        StoreError::PoolExhausted { inbound } => {
            Failure::new(ErrorCode::ResourceExhausted, "POOL_EXHAUSTED", message)
                .metadata("inbound_id", inbound.clone())
        }
        StoreError::PoolInUse => {
            Failure::new(ErrorCode::FailedPrecondition, "POOL_IN_USE", message)
        }
        StoreError::LimitReached { what } => Failure::new(
            ErrorCode::ResourceExhausted,
            "LIMIT_REACHED",
            message.clone(),
        )
        .quota(*what, message),
        StoreError::PlanArchived => {
            Failure::new(ErrorCode::FailedPrecondition, "PLAN_ARCHIVED", message)
        }
        StoreError::NoExpireTime => {
            Failure::new(ErrorCode::FailedPrecondition, "NO_EXPIRE_TIME", message)
        }
        StoreError::NoDataLimit => {
            Failure::new(ErrorCode::FailedPrecondition, "NO_DATA_LIMIT", message)
        }
        StoreError::CommandNotPending => Failure::new(
            ErrorCode::FailedPrecondition,
            "COMMAND_NOT_PENDING",
            message,
        ),
        StoreError::TooManyCommands => {
            Failure::new(ErrorCode::ResourceExhausted, "TOO_MANY_COMMANDS", message)
        }
        StoreError::SecondFactorExists => {
            Failure::new(ErrorCode::FailedPrecondition, "TOTP_ENROLLED", message)
        }
        StoreError::LastOfRole { .. } => {
            Failure::new(ErrorCode::FailedPrecondition, "LAST_OF_ROLE", message)
        }
        StoreError::GrantExceedsOwn { permission } => {
            Failure::new(ErrorCode::PermissionDenied, "GRANT_EXCEEDS_OWN", message)
                .metadata("permission", permission.clone())
        }
        StoreError::OwnAccount => {
            Failure::new(ErrorCode::FailedPrecondition, "OWN_ACCOUNT", message)
        }
        StoreError::RoleBuiltIn => {
            Failure::new(ErrorCode::FailedPrecondition, "ROLE_BUILT_IN", message)
        }
        StoreError::RoleInUse => {
            Failure::new(ErrorCode::FailedPrecondition, "ROLE_IN_USE", message)
        }
        StoreError::Contention(_) => Failure::new(ErrorCode::Aborted, "BUSY", message)
            .retry_after(std::time::Duration::from_millis(100)),
        StoreError::Unavailable(cause) => {
            tracing::error!(event = "database_unavailable", error = %cause);
            Failure::new(ErrorCode::Unavailable, "DATABASE_UNAVAILABLE", message)
                .retry_after(std::time::Duration::from_secs(1))
        }
        _ => {
            let cause = std::error::Error::source(error).map(ToString::to_string);
            tracing::error!(event = "call_failed", error = %error, cause);
            Failure::internal()
        }
    }
}

/// `user` → `USER_NOT_FOUND`: reasons are static texts, so that the list of them is finite.
fn not_found_reason(what: &str) -> &'static str {
    match what {
        "tenant" => "TENANT_NOT_FOUND",
        "user" => "USER_NOT_FOUND",
        "group" => "GROUP_NOT_FOUND",
        "plan" => "PLAN_NOT_FOUND",
        "device" => "DEVICE_NOT_FOUND",
        "operation" => "OPERATION_NOT_FOUND",
        "inbound" => "INBOUND_NOT_FOUND",
        "endpoint template" => "ENDPOINT_TEMPLATE_NOT_FOUND",
        "node" => "NODE_NOT_FOUND",
        "account" => "ACCOUNT_NOT_FOUND",
        "session" => "SESSION_NOT_FOUND",
        "second factor" => "SECOND_FACTOR_NOT_FOUND",
        "audit event" => "AUDIT_EVENT_NOT_FOUND",
        "member" => "MEMBER_NOT_FOUND",
        "role" => "ROLE_NOT_FOUND",
        "API token" => "API_TOKEN_NOT_FOUND",
        "signing key" => "SIGNING_KEY_NOT_FOUND",
        "subscription" => "SUBSCRIPTION_NOT_FOUND",
        _ => "NOT_FOUND",
    }
}
