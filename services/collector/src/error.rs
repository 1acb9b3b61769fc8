//! Everything that can go wrong in the collector, and how agents see it.

use std::time::Duration;

use tonic::Status;
use vpnpanel_link::collector::session::Close;
use vpnpanel_runtime::status::{ErrorCode, Failure};
use vpnpanel_store::StoreError;

/// An error of the collector.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The caller's certificate names no node.
    #[error("the certificate names no node")]
    NotANode,
    /// The certificate is not the node's current or next one, or the node is gone or disabled.
    #[error("the certificate is not accepted: {0}")]
    CertificateRefused(&'static str),
    /// The certificate was replaced, and its successor used: a second agent shows it.
    #[error(
        "the certificate was replaced and its successor used: this host is a copy of the node, or was \
         set back to an older disk; the node is quarantined until its host enrols again"
    )]
    CertificateSuperseded,
    /// This process holds as many streams as it may.
    #[error("too many streams are open here")]
    TooManyStreams,
    /// The process is about to stop.
    #[error("the collector is stopping")]
    Stopping,
    /// A frame is not what any agent sends.
    #[error("malformed frame: {0}")]
    MalformedFrame(#[source] vpnpanel_link::Error),
    /// A frame is no message at all, or too large a one.
    #[error("malformed frame: {0}")]
    Unframed(String),
    /// The connection broke.
    #[error("the stream broke: {0}")]
    Broken(String),
    /// The agent does not take what it is sent.
    #[error("the agent reads too slowly")]
    SlowAgent,
    /// The session ended by its rules.
    #[error("{}", describe(.0))]
    Closed(Close),
    /// A secret does not open, or a stored value is damaged.
    #[error("{what} cannot be read: another master key, or a damaged database")]
    Unreadable {
        /// Which.
        what: String,
    },
    /// control-api cannot be reached, or failed.
    #[error("certificates cannot be signed right now")]
    SignerUnavailable,
    /// The contract's descriptors cannot be served.
    #[error(transparent)]
    Reflection(#[from] vpnpanel_runtime::reflection::ReflectionError),
    /// The database could not do it.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Error {
    /// A short name for metrics and logs.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::NotANode => "not_a_node",
            Self::CertificateRefused(_) => "certificate_refused",
            Self::CertificateSuperseded => "certificate_superseded",
            Self::TooManyStreams => "too_many_streams",
            Self::Stopping => "stopping",
            Self::MalformedFrame(_) | Self::Unframed(_) => "malformed_frame",
            Self::Unreadable { .. } => "unreadable",
            Self::Broken(_) => "broken",
            Self::SlowAgent => "slow_agent",
            Self::SignerUnavailable => "signer_unavailable",
            Self::Reflection(_) => "reflection",
            Self::Store(_) => "store",
            Self::Closed(close) => match close {
                Close::Goodbye(_) => "goodbye",
                Close::Refused(_) => "protocol_unsupported",
                Close::Violation(_) => "protocol_violation",
                Close::HelloTimeout => "hello_timeout",
                Close::Silent => "silent",
                Close::ConfigTimeout => "config_timeout",
                Close::Superseded => "superseded",
                Close::IngestFailed => "ingest_failed",
            },
        }
    }
}

/// What a closed session tells the agent.
fn describe(close: &Close) -> String {
    match close {
        Close::Goodbye(reason) => format!("the agent said goodbye: {reason}"),
        Close::Refused(refusal) => refusal.to_string(),
        Close::Violation(what) => format!("the agent broke the contract: {what}"),
        Close::HelloTimeout => "no Hello within the deadline".to_owned(),
        Close::Silent => "nothing was heard for too long".to_owned(),
        Close::ConfigTimeout => "the desired state was not answered in time".to_owned(),
        Close::Superseded => "a newer stream of this node was opened".to_owned(),
        Close::IngestFailed => "usage could not be committed".to_owned(),
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let retry = Duration::from_secs(1);
        let fail = |code, reason| Failure::new(code, reason, error.to_string());
        let failure = match &error {
            Error::NotANode => fail(ErrorCode::PermissionDenied, "NODE_CERTIFICATE_REQUIRED"),
            Error::CertificateRefused(_) => {
                fail(ErrorCode::PermissionDenied, "CERTIFICATE_REFUSED")
            }
            Error::CertificateSuperseded => {
                fail(ErrorCode::PermissionDenied, "CERTIFICATE_SUPERSEDED")
            }
            Error::TooManyStreams => {
                fail(ErrorCode::Unavailable, "TOO_MANY_STREAMS").retry_after(retry)
            }
            Error::Stopping => fail(ErrorCode::Unavailable, "STOPPING").retry_after(retry),
            Error::MalformedFrame(_) | Error::Unframed(_) => {
                fail(ErrorCode::InvalidArgument, "MALFORMED_FRAME")
            }
            Error::Broken(_) => fail(ErrorCode::Cancelled, "STREAM_BROKEN"),
            Error::SlowAgent => fail(ErrorCode::DeadlineExceeded, "SLOW_AGENT"),
            Error::SignerUnavailable => {
                fail(ErrorCode::Unavailable, "SIGNER_UNAVAILABLE").retry_after(retry)
            }
            Error::Closed(close) => match close {
                Close::Goodbye(_) => fail(ErrorCode::Cancelled, "GOODBYE"),
                Close::Refused(_) => fail(ErrorCode::FailedPrecondition, "PROTOCOL_UNSUPPORTED"),
                Close::Violation(_) => fail(ErrorCode::InvalidArgument, "PROTOCOL_VIOLATION"),
                Close::HelloTimeout => fail(ErrorCode::DeadlineExceeded, "HELLO_TIMEOUT"),
                Close::Silent => fail(ErrorCode::DeadlineExceeded, "STREAM_SILENT"),
                Close::ConfigTimeout => fail(ErrorCode::DeadlineExceeded, "CONFIG_TIMEOUT"),
                Close::Superseded => fail(ErrorCode::Aborted, "STREAM_SUPERSEDED"),
                Close::IngestFailed => {
                    fail(ErrorCode::Unavailable, "INGEST_FAILED").retry_after(retry)
                }
            },
            Error::Store(StoreError::StreamSuperseded) => {
                Failure::new(ErrorCode::Aborted, "STREAM_SUPERSEDED", error.to_string())
            }
            Error::Store(StoreError::ReportLost) => {
                Failure::new(ErrorCode::Aborted, "REPORT_LOST", error.to_string())
            }
            Error::Store(cause) if cause.is_transient() => Failure::new(
                ErrorCode::Unavailable,
                "DATABASE_UNAVAILABLE",
                "the database is busy or away",
            )
            .retry_after(retry),
            Error::Store(_) | Error::Reflection(_) | Error::Unreadable { .. } => {
                Failure::internal()
            }
        };
        failure.into_status()
    }
}
