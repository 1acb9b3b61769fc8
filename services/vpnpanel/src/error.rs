//! Why a command failed, in the words of the part that did.

use crate::certificates::CertificateError;
use crate::installation::InstallationError;
use crate::local_node::LocalNodeError;

/// An error of a command.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Installation(#[from] InstallationError),
    #[error("certificates: {0}")]
    Certificates(#[from] CertificateError),
    #[error("tls: {0}")]
    Tls(#[from] vpnpanel_runtime::tls::TlsError),
    #[error("database: {0}")]
    Store(#[from] vpnpanel_store::StoreError),
    #[error("control-api: {0}")]
    ControlApi(#[from] vpnpanel_control_api::Error),
    #[error("argon2: {0}")]
    Argon2(#[from] vpnpanel_auth::AuthError),
    #[error("collector: {0}")]
    Collector(#[from] vpnpanel_collector::Error),
    #[error("scheduler: {0}")]
    Scheduler(#[from] vpnpanel_scheduler::Error),
    #[error("gateway: {0}")]
    Gateway(#[from] vpnpanel_gateway::GatewayError),
    #[error("local node: {0}")]
    LocalNode(#[from] LocalNodeError),
    #[error(transparent)]
    Start(#[from] vpnpanel_runtime::supervisor::StartError),
    #[error("identity: {0}")]
    Identity(#[from] vpnpanel_runtime::identity::IdentityError),
    #[error("address: {0}")]
    Address(#[from] tonic::transport::Error),
    #[error("stdout: {0}")]
    Output(#[from] std::io::Error),
    /// Said on stdout in full.
    #[error("{0} of the audit log's chains are not as they were written")]
    ChainBroken(usize),
    /// A router that a service is documented to have.
    #[error("the service {0} has no gRPC router")]
    NoRouter(&'static str),
}
