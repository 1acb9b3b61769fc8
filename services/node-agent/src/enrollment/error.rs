//! Why a host did not become a node.

use std::path::PathBuf;

/// An error of enrolment or of the kept identity.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EnrollmentError {
    /// There is no identity yet, and no token to get one with.
    #[error(
        "this host is not enrolled: set VPNPANEL_ENROLLMENT_URL, VPNPANEL_JOIN_TOKEN and \
         VPNPANEL_CA_PIN, as the install command of a node gives them"
    )]
    NotEnrolled,
    /// The URL names no host.
    #[error("VPNPANEL_ENROLLMENT_URL names no host")]
    NoHost,
    /// The control plane said no.
    #[error("enrolment refused: {message} (ask for a new join token; one lives 15 minutes)")]
    Refused {
        /// What it said.
        message: String,
    },
    /// The control plane could not be reached or asked.
    #[error("enrolment failed: {0}")]
    Unreachable(String),
    /// The answer cannot be trusted.
    #[error("the control plane's answer is refused: {0}")]
    Reply(&'static str),
    /// The token is for another node than the one that this host is.
    #[error(
        "this host is node {is}, and the join token was for node {asked}: use a token of its own \
         node, or give the agent another data folder"
    )]
    AnotherNode {
        /// What the host is.
        is: vpnpanel_domain::NodeId,
        /// What it would have become.
        asked: vpnpanel_domain::NodeId,
    },
    /// The process is about to end.
    #[error("interrupted")]
    Interrupted,
    /// Certificates that do not fit.
    #[error(transparent)]
    Tls(#[from] vpnpanel_runtime::tls::TlsError),
    /// An address that is none.
    #[error("address: {0}")]
    Address(#[from] tonic::transport::Error),
    /// Making a key failed.
    #[error("cannot make a key: {0}")]
    Key(#[from] rcgen::Error),
    /// A file of the data folder cannot be read or written.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What failed.
        source: std::io::Error,
    },
    /// The kept identity is damaged.
    #[error("{path}: damaged; enrol this host again with a new join token ({reason})")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: &'static str,
    },
}

impl EnrollmentError {
    /// Tells a token that is refused from a control plane that cannot answer now.
    pub(super) fn refused(status: tonic::Status) -> Self {
        match status.code() {
            tonic::Code::Unauthenticated
            | tonic::Code::InvalidArgument
            | tonic::Code::PermissionDenied
            | tonic::Code::FailedPrecondition => Self::Refused {
                message: status.message().to_owned(),
            },
            _ => Self::Unreachable(format!("{}: {}", status.code(), status.message())),
        }
    }

    /// Whether the same attempt may succeed later.
    pub fn is_temporary(&self) -> bool {
        matches!(self, Self::Unreachable(_))
    }

    pub(super) fn file(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        |source| Self::File { path, source }
    }
}
