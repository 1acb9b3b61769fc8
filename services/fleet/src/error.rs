//! What can go wrong, in words for the person who started it.

use std::time::Duration;

/// Why a simulation did not come to its end, or ended badly.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The process may not open that many files.
    #[error(
        "{needed} open files are needed and this process may have {allowed}: raise the limit \
         (`ulimit -Hn {needed}` as root, LimitNOFILE= of a unit), or take fewer nodes"
    )]
    OpenFiles {
        /// How many.
        needed: u64,
        /// The hard limit.
        allowed: u64,
    },
    /// The limit cannot be read or raised.
    #[error("the limit of open files: {0}")]
    Limit(#[from] nix::Error),
    /// A file, a folder, a process, the terminal.
    #[error("{what}: {source}")]
    Io {
        /// What it was about.
        what: String,
        /// Why.
        source: std::io::Error,
    },
    /// The control plane ended, or did not become ready.
    #[error("the control plane {0}; its log is {1}")]
    ControlPlane(&'static str, String),
    /// The API.
    #[error("API, {0}: {1}")]
    Api(&'static str, #[source] vpnpanel_client::Error),
    /// An answer of the API that lacks something.
    #[error("API, {0}: the answer lacks what was asked for")]
    Answer(&'static str),
    /// A node did not become one.
    #[error("enrolment: {0}")]
    Enrolment(#[from] vpnpanel_node_agent::enrollment::EnrollmentError),
    /// A simulated disk.
    #[error(transparent)]
    Spool(#[from] vpnpanel_node_agent::spool::SpoolError),
    /// Certificates.
    #[error(transparent)]
    Tls(#[from] vpnpanel_runtime::tls::TlsError),
    /// Certificates of the bare server.
    #[error("certificates: {0}")]
    Pki(#[from] vpnpanel_pki::Error),
    /// An identity's name.
    #[error(transparent)]
    Identity(#[from] vpnpanel_runtime::identity::IdentityError),
    /// gRPC without the product around it.
    #[error("bare gRPC: {0}")]
    Transport(#[from] tonic::transport::Error),
    /// A bare stream did not open.
    #[error("bare stream: {0}")]
    BareStream(Box<tonic::Status>),
    /// Something took too long.
    #[error("{what}: only {done} of {of} within {limit:?}")]
    Deadline {
        /// What was waited for.
        what: &'static str,
        /// How many came.
        done: usize,
        /// Of how many.
        of: usize,
        /// How long.
        limit: Duration,
    },
    /// Settings that do not fit together.
    #[error("{0}")]
    Settings(String),
    /// Billed is not counted; the report says how.
    #[error("the books differ: see the report above")]
    BooksDiffer,
}

impl Error {
    /// An I/O error with what it was about.
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }

    /// An error of the API with what was being done.
    pub(crate) fn api(doing: &'static str) -> impl FnOnce(vpnpanel_client::Error) -> Self {
        move |source| Self::Api(doing, source)
    }

    /// Whether other settings are needed rather than another try.
    #[must_use]
    pub fn is_configuration(&self) -> bool {
        matches!(self, Self::OpenFiles { .. } | Self::Settings(_))
    }
}
