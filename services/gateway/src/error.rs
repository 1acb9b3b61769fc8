//! Why a gateway cannot be built.

use crate::http_rule::BindingError;

/// A contract, or settings, that the gateway cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// A REST binding that cannot work.
    #[error(transparent)]
    Binding(#[from] BindingError),
    /// The standard error details do not decode.
    #[error("standard error details: {0}")]
    Descriptor(#[from] prost_reflect::DescriptorError),
    /// A method whose name is no request path.
    #[error("{method} is not a request path")]
    MethodName {
        /// The path.
        method: String,
    },
    /// An allowed origin that is none.
    #[error("{origin:?} is not an origin such as https://panel.example.com")]
    Origin {
        /// What was set.
        origin: String,
    },
    /// A service is to be reached over TLS and cannot be.
    #[error("TLS to {service}: {problem}")]
    Tls {
        /// The service.
        service: &'static str,
        /// What is missing or wrong.
        problem: String,
    },
    /// The listener's own certificate.
    #[error("VPNPANEL_GATEWAY_TLS_CERT: {0}")]
    Certificate(#[from] vpnpanel_runtime::tls::TlsError),
    /// An endpoint that no channel can be made for.
    #[error("endpoint {endpoint}: {source}")]
    Endpoint {
        /// The address.
        endpoint: String,
        /// What is wrong with it.
        source: tonic::transport::Error,
    },
}
