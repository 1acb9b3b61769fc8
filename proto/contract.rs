//! The table of methods and what each declares about who may call it.

include!(concat!(env!("OUT_DIR"), "/methods.rs"));

/// A method of the contract.
#[derive(Debug, Clone, Copy)]
pub struct Method {
    /// Path of its HTTP/2 requests, `/package.Service/Method`.
    pub path: &'static str,
    /// Full name of its service.
    pub service: &'static str,
    /// Its name inside the service.
    pub name: &'static str,
    /// Who may call it.
    pub access: Access,
    /// A call writes an audit event.
    pub audited: bool,
    /// It has no REST binding.
    pub grpc_only: bool,
    /// API tokens may not call it.
    pub session_only: bool,
    /// Permitted while the password has to be changed.
    pub before_password_change: bool,
    /// Permitted while a second factor has to be enrolled.
    pub before_second_factor: bool,
}

/// Who may call a method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Anybody.
    Public,
    /// Any signed-in account.
    Authenticated,
    /// An account that holds the permission in the tenant the request names, or on the platform
    /// when the request names none.
    Permission {
        /// `resource.verb`.
        name: &'static str,
        /// Path of the request field that names the tenant; `None` is always the platform.
        tenant_field: Option<&'static str>,
    },
    /// Whoever presents a join token inside the request; the handler checks it.
    JoinToken,
    /// A node that proves inside the request that it holds the key of its certificate; the handler
    /// checks it.
    CertificateProof,
    /// A node, by its verified client certificate.
    NodeCertificate,
    /// One of these services of the control plane, by its verified client certificate.
    ControlPlaneCertificate {
        /// Names of the services.
        services: &'static [&'static str],
    },
}

/// The method of a request path, where the contract has it.
pub fn method(path: &str) -> Option<&'static Method> {
    METHODS
        .binary_search_by(|m| m.path.cmp(path))
        .ok()
        .map(|at| &METHODS[at])
}
