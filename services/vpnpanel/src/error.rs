//! Why a command failed, in the words of the part that did.

use vpnpanel_runtime::process::Fault;
use vpnpanel_store::StoreError;

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
    Store(#[from] StoreError),
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
    #[error("fleet: {0}")]
    Fleet(#[from] vpnpanel_fleet::Error),
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

impl Fault for Error {
    fn is_configuration(&self) -> bool {
        use vpnpanel_control_api::Error as ControlApi;
        use vpnpanel_gateway::GatewayError as Gateway;
        match self {
            Self::Installation(InstallationError::Store(error)) | Self::Store(error) => {
                matches!(error, StoreError::Configuration(_))
            }
            Self::ControlApi(error) => matches!(
                error,
                ControlApi::Tls(_)
                    | ControlApi::Cache(_)
                    | ControlApi::BootstrapPassword(_)
                    | ControlApi::CertificateLifetime
                    | ControlApi::CertificateLog(_)
            ),
            Self::Fleet(error) => error.is_configuration(),
            Self::Gateway(error) => {
                matches!(error, Gateway::Certificate(_) | Gateway::Origin { .. })
            }
            _ => false,
        }
    }
}
