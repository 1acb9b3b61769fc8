//! What a call has to answer by what the contract declares and the roles in the database permit.
//! Written from docs/adr/0006 and the options of the contract, apart from the guard that decides.

use std::collections::{BTreeMap, BTreeSet};

use tonic::Code;
use vpnpanel_api::{Access, Method};
use vpnpanel_domain::TenantId;
use vpnpanel_runtime::PeerIdentity;

use crate::calls::Answer;

/// What each role permits, as the database has it.
pub(crate) type Roles = BTreeMap<String, BTreeSet<String>>;

/// Reasons by which a caller is kept out, whatever the handler thinks.
const REFUSALS: &[&str] = &[
    "NO_CREDENTIALS",
    "TOKEN_INVALID",
    "TOKEN_EXPIRED",
    "SESSION_ENDED",
    "PASSWORD_CHANGE_REQUIRED",
    "SECOND_FACTOR_REQUIRED",
    "SESSION_REQUIRED",
    "PERMISSION_DENIED",
    "TENANT_SUSPENDED",
    "TENANT_NOT_FOUND",
    "CERTIFICATE_REQUIRED",
    "ADMIN_NETWORK_REQUIRED",
];

/// Who calls.
#[derive(Debug, Clone)]
pub(crate) enum Who {
    /// Somebody whose credentials are none, or not right: the reason.
    Nobody(&'static str),
    /// An account.
    Account(Held),
    /// A node or service, by its certificate.
    Certified(PeerIdentity),
}

/// What an account holds, and by what it calls.
#[derive(Debug, Clone, Default)]
pub(crate) struct Held {
    pub(crate) roles: Vec<(Option<TenantId>, String)>,
    /// What an API token lists; `None` is a session.
    pub(crate) token: Option<BTreeSet<String>>,
    /// How far the credential reaches.
    pub(crate) reach: Reach,
    /// What has to be done before anything else.
    pub(crate) pending: Pending,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Reach {
    #[default]
    Account,
    Tenant(TenantId),
    Platform,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Pending {
    #[default]
    Nothing,
    Password,
    SecondFactor,
}

/// What a cell has to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Expected {
    /// The handler decides.
    Admitted,
    /// Exactly this.
    Refused(Answer),
}

impl Expected {
    /// Whether an answer is the one.
    pub(crate) fn is(&self, answer: &Answer) -> bool {
        match self {
            Self::Admitted => !REFUSALS.contains(&answer.reason.as_str()),
            Self::Refused(expected) => expected == answer,
        }
    }
}

/// What the rules are read from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Policy<'a> {
    pub(crate) roles: &'a Roles,
    pub(crate) suspended: TenantId,
}

impl Policy<'_> {
    /// What a caller has to be told who calls a method and names a tenant or the platform.
    pub(crate) fn expected(&self, method: &Method, who: &Who, scope: Option<TenantId>) -> Expected {
        let refused = |code, reason| Expected::Refused(Answer::of(code, reason));
        let denied = |reason| refused(Code::PermissionDenied, reason);
        let certified = match (method.access, who) {
            (Access::Public | Access::JoinToken | Access::CertificateProof, _) => {
                return Expected::Admitted;
            }
            (Access::NodeCertificate, Who::Certified(PeerIdentity::Node { .. })) => true,
            (
                Access::ControlPlaneCertificate { services },
                Who::Certified(PeerIdentity::ControlPlane { service }),
            ) => services.contains(&service.as_str()),
            _ => false,
        };
        if certified {
            return Expected::Admitted;
        }
        let needs = match method.access {
            Access::Permission { name, .. } => Some(name),
            Access::Authenticated => None,
            _ => return denied("CERTIFICATE_REQUIRED"),
        };
        let held = match who {
            Who::Account(held) => held,
            Who::Nobody(reason) => return refused(Code::Unauthenticated, reason),
            Who::Certified(_) => return refused(Code::Unauthenticated, "NO_CREDENTIALS"),
        };
        if method.session_only && held.token.is_some() {
            return denied("SESSION_REQUIRED");
        }
        match held.pending {
            Pending::Password if !method.before_password_change => {
                return denied("PASSWORD_CHANGE_REQUIRED");
            }
            Pending::SecondFactor if !method.before_second_factor => {
                return denied("SECOND_FACTOR_REQUIRED");
            }
            _ => {}
        }
        let Some(permission) = needs else {
            return Expected::Admitted;
        };
        // A method of the platform means nothing else, whatever tenant its request names.
        let scope = scope.filter(|_| {
            matches!(
                method.access,
                Access::Permission {
                    tenant_field: Some(_),
                    ..
                }
            )
        });
        let counting = self.counting(held, scope);
        let by: Vec<_> = counting
            .iter()
            .filter(|(_, role)| self.permits(held, role, permission))
            .collect();
        if by.is_empty() {
            return if scope.is_some() && counting.is_empty() {
                refused(Code::NotFound, "TENANT_NOT_FOUND")
            } else {
                denied("PERMISSION_DENIED")
            };
        }
        let only_suspended = by.iter().all(|(at, _)| *at == Some(self.suspended));
        if method.audited && only_suspended {
            return denied("TENANT_SUSPENDED");
        }
        Expected::Admitted
    }

    /// The roles that count in a tenant or on the platform.
    fn counting(&self, held: &Held, scope: Option<TenantId>) -> Vec<(Option<TenantId>, String)> {
        let reaches = match held.reach {
            Reach::Account | Reach::Platform => true,
            Reach::Tenant(only) => scope == Some(only),
        };
        let roles = held.roles.iter().filter(|(at, _)| {
            let within = match held.reach {
                Reach::Account => true,
                Reach::Platform => at.is_none(),
                Reach::Tenant(only) => at.is_none() || *at == Some(only),
            };
            reaches && within && (at.is_none() || *at == scope)
        });
        roles.cloned().collect()
    }

    fn permits(&self, held: &Held, role: &str, permission: &str) -> bool {
        let by_role = self
            .roles
            .get(role)
            .is_some_and(|it| it.contains(permission));
        let by_token = held.token.as_ref().is_none_or(|it| it.contains(permission));
        by_role && by_token
    }
}
