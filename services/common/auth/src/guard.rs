//! Authorization: decides each call from what its method declares, the tenant that the request
//! names, and what the layer and the TLS listener found out about the caller. What no arm
//! permits is refused.

use std::sync::Arc;

use tonic::{Extensions, Status};
use vpnpanel_api::{Access, Call, Guard};
use vpnpanel_domain::TenantId;
use vpnpanel_runtime::{PeerIdentity, reflection, tls::Peer};

use crate::{AuthError, AuthLayer, Authentication, Authenticator, Principal, admission::Withheld};

/// The guard of every service that accounts, nodes or the control plane call.
#[derive(Debug, Clone)]
pub struct AuthGuard {
    authenticator: Arc<Authenticator>,
}

impl AuthGuard {
    /// A guard that asks `authenticator` where no layer in front has done so.
    pub fn new(authenticator: Arc<Authenticator>) -> Self {
        Self { authenticator }
    }

    /// The layer around a router that has reflection: in development anybody may ask for it,
    /// otherwise whoever holds `system.reflect`.
    pub fn layer(&self, development: bool) -> AuthLayer {
        let layer = AuthLayer::new(Arc::clone(&self.authenticator));
        if development {
            layer
        } else {
            layer.gate(reflection::PATH_PREFIX, "system.reflect")
        }
    }

    /// What authenticates, to build an [`crate::AuthLayer`] of.
    pub fn authenticator(&self) -> &Arc<Authenticator> {
        &self.authenticator
    }
}

impl Guard for AuthGuard {
    async fn check(&self, call: Call<'_>) -> Result<(), Status> {
        if call.extensions.get::<Authentication>().is_none() {
            self.authenticator
                .admit(call.metadata.as_ref(), call.extensions)
                .await?;
        }
        decide(&call).map_err(|refused| {
            tracing::debug!(
                event = "call_refused",
                method = call.method.path,
                reason = refused.reason(),
                account_id = principal(call.extensions)
                    .ok()
                    .map(|p| p.account.to_string()),
            );
            refused.into()
        })
    }
}

/// The caller, for handlers of methods that need one.
///
/// # Errors
/// What a caller without a right access token is told.
pub fn principal(extensions: &Extensions) -> Result<&Arc<Principal>, AuthError> {
    match extensions.get::<Authentication>() {
        Some(Authentication::Verified(principal)) => Ok(principal),
        Some(Authentication::Refused(refusal)) => Err((*refusal).into()),
        Some(Authentication::Anonymous) | None => Err(AuthError::NoCredentials),
    }
}

fn decide(call: &Call<'_>) -> Result<(), AuthError> {
    match call.method.access {
        // Join tokens and proofs are inside the message: handlers check them.
        Access::Public | Access::JoinToken | Access::CertificateProof => Ok(()),
        Access::Authenticated => admitted(call).map(|_| ()),
        Access::Permission { name, tenant_field } => permitted(call, name, tenant_field),
        Access::NodeCertificate => match peer(call.extensions) {
            Some(PeerIdentity::Node { .. }) => Ok(()),
            _ => Err(AuthError::CertificateRequired {
                expected: "nodes".to_owned(),
            }),
        },
        Access::ControlPlaneCertificate { services } => match peer(call.extensions) {
            Some(PeerIdentity::ControlPlane { service })
                if services.contains(&service.as_str()) =>
            {
                Ok(())
            }
            _ => Err(AuthError::CertificateRequired {
                expected: services.join(", "),
            }),
        },
    }
}

/// Who a verified client certificate belongs to. The TLS listener leaves a [`Peer`]; a caller in
/// the same process, which has no connection, is given a bare identity by whoever built it.
fn peer(extensions: &Extensions) -> Option<&PeerIdentity> {
    extensions
        .get::<Peer>()
        .map(Peer::identity)
        .or_else(|| extensions.get::<PeerIdentity>())
}

/// The caller, unless it has to do something else first, or the method is not for its kind of
/// credential.
fn admitted<'a>(call: &'a Call<'_>) -> Result<&'a Principal, AuthError> {
    let principal = principal(call.extensions)?;
    let method = call.method;
    if method.session_only && principal.session().is_none() {
        Err(AuthError::SessionRequired)
    } else if principal.password_change_required && !method.before_password_change {
        Err(AuthError::PasswordChangeRequired)
    } else if principal.second_factor_required && !method.before_second_factor {
        Err(AuthError::SecondFactorRequired)
    } else {
        Ok(principal)
    }
}

fn permitted(
    call: &Call<'_>,
    permission: &'static str,
    tenant_field: Option<&'static str>,
) -> Result<(), AuthError> {
    let principal = admitted(call)?;
    let scope = match (tenant_field, call.tenant) {
        (Some(field), Some(text)) => {
            let tenant = text.parse::<TenantId>();
            Some(tenant.map_err(|_| AuthError::TenantMalformed { field })?)
        }
        _ => None,
    };
    if principal.permits(permission, scope) {
        // What a method declares says whether it changes anything: only then it is audited.
        if call.method.audited && !principal.permits_change(permission, scope) {
            return Err(AuthError::TenantSuspended);
        }
        return Ok(());
    }
    let refused = if scope.is_some() && !principal.belongs_to(scope) {
        // The tenants of others must not be told from tenants that do not exist.
        AuthError::TenantNotFound
    } else {
        AuthError::PermissionDenied { permission }
    };
    Err(explained(refused, permission, call.extensions))
}

/// The refusal, or that a role would have permitted it which does not count where the call comes
/// from: told to the holder of that role alone.
pub(crate) fn explained(
    refused: AuthError,
    permission: &'static str,
    extensions: &Extensions,
) -> AuthError {
    match extensions.get::<Withheld>() {
        Some(withheld) if withheld.permits(permission) => AuthError::AdminNetwork,
        _ => refused,
    }
}

#[cfg(test)]
mod tests {
    use tonic::{Code, metadata::MetadataMap};
    use uuid::Uuid;
    use vpnpanel_api::{METHODS, Method, method};
    use vpnpanel_domain::{AccountId, ApiTokenId, SessionId};

    use super::*;
    use crate::{BuiltinPolicy, Credential, Held, Policy, Role, principal::Reach};

    fn tenant(n: u8) -> TenantId {
        TenantId::from_parts(1, [n; 10])
    }

    async fn caller(roles: &[(Role, Option<TenantId>)]) -> Principal {
        let policy = BuiltinPolicy::default();
        let mut held = Vec::new();
        for &(role, tenant) in roles {
            let permissions = policy.permissions(role.as_str()).await.unwrap().unwrap();
            held.push(Held {
                tenant,
                suspended: false,
                role: role.as_str().to_owned(),
                permissions,
            });
        }
        Principal {
            account: AccountId::from_parts(1, [0; 10]),
            credential: Credential::Session(SessionId::from_parts(1, [0; 10])),
            reach: Reach::Account,
            password_change_required: false,
            second_factor_required: false,
            held,
        }
    }

    fn check(method: &'static Method, tenant: Option<&str>, extensions: &mut Extensions) -> Code {
        let call = Call {
            method,
            tenant,
            metadata: &MetadataMap::new(),
            extensions,
        };
        decide(&call).map_or_else(|refused| Status::from(refused).code(), |()| Code::Ok)
    }

    fn check_as(caller: Principal, method: &'static Method, tenant: Option<&str>) -> Code {
        let mut extensions = Extensions::new();
        extensions.insert(Authentication::Verified(Arc::new(caller)));
        check(method, tenant, &mut extensions)
    }

    fn needs_account(method: &Method) -> bool {
        matches!(
            method.access,
            Access::Authenticated | Access::Permission { .. }
        )
    }

    #[tokio::test]
    async fn without_credentials_only_public_methods_join_tokens_and_proofs_pass() {
        for method in METHODS {
            let expected = match method.access {
                Access::Public | Access::JoinToken | Access::CertificateProof => Code::Ok,
                Access::Authenticated | Access::Permission { .. } => Code::Unauthenticated,
                _ => Code::PermissionDenied,
            };
            let id = tenant(1).to_string();
            for named in [None, Some(id.as_str())] {
                let code = check(method, named, &mut Extensions::new());
                assert_eq!(code, expected, "{}", method.path);
            }
        }
    }

    #[tokio::test]
    async fn a_refused_token_helps_nobody_and_hinders_no_public_method() {
        for method in METHODS.iter().filter(|m| needs_account(m)) {
            let mut extensions = Extensions::new();
            extensions.insert(Authentication::Refused(crate::layer::Refusal::Expired));
            let code = check(method, None, &mut extensions);
            assert_eq!(code, Code::Unauthenticated, "{}", method.path);
        }
        let login = method("/vpnpanel.auth.v1.AuthService/Login").unwrap();
        let mut extensions = Extensions::new();
        extensions.insert(Authentication::Refused(crate::layer::Refusal::Invalid));
        assert_eq!(check(login, None, &mut extensions), Code::Ok);
    }

    #[tokio::test]
    async fn every_role_is_let_into_exactly_what_its_permissions_name() {
        let policy = BuiltinPolicy::default();
        let ours = tenant(1).to_string();
        let theirs = tenant(2).to_string();
        for role in Role::ALL {
            let set = policy.permissions(role.as_str()).await.unwrap().unwrap();
            for method in METHODS {
                let Access::Permission { name, tenant_field } = method.access else {
                    continue;
                };
                let holds = set.contains(name);
                let in_tenant = caller(&[(role, Some(tenant(1)))]).await;
                let on_platform = caller(&[(role, None)]).await;
                let allowed = if holds {
                    Code::Ok
                } else {
                    Code::PermissionDenied
                };
                assert_eq!(check_as(on_platform.clone(), method, None), allowed);
                assert_eq!(
                    check_as(in_tenant.clone(), method, None),
                    Code::PermissionDenied,
                    "{role:?} of a tenant on the platform: {}",
                    method.path
                );
                if tenant_field.is_some() {
                    assert_eq!(check_as(on_platform, method, Some(&theirs)), allowed);
                    assert_eq!(check_as(in_tenant.clone(), method, Some(&ours)), allowed);
                    assert_eq!(
                        check_as(in_tenant, method, Some(&theirs)),
                        Code::NotFound,
                        "{role:?}: {}",
                        method.path
                    );
                }
            }
        }
    }

    #[tokio::test]
    async fn members_of_a_suspended_tenant_only_read_it() {
        let ours = tenant(1).to_string();
        let mut owner = caller(&[(Role::Owner, Some(tenant(1)))]).await;
        owner.held[0].suspended = true;
        let admin = caller(&[(Role::Admin, None)]).await;
        let held = Role::Owner.permissions();
        for method in METHODS {
            let Access::Permission {
                name,
                tenant_field: Some(_),
            } = method.access
            else {
                continue;
            };
            let expected = if method.audited || !held.contains(&name) {
                Code::PermissionDenied
            } else {
                Code::Ok
            };
            let code = check_as(owner.clone(), method, Some(&ours));
            assert_eq!(code, expected, "{}", method.path);
            let code = check_as(admin.clone(), method, Some(&ours));
            assert_eq!(code, Code::Ok, "{}", method.path);
        }
        // What concerns the account itself is not the tenant's.
        let logout = method("/vpnpanel.auth.v1.AuthService/Logout").unwrap();
        assert_eq!(check_as(owner, logout, None), Code::Ok);
    }

    /// Checks every method that accounts call, by an administrator who `is` something; permitted
    /// are `exactly` these.
    async fn permitted_to(is: impl Fn(&mut Principal), exactly: &[&str]) {
        for method in METHODS.iter().filter(|m| needs_account(m)) {
            let mut admin = caller(&[(Role::Admin, None)]).await;
            is(&mut admin);
            let name = method.path.strip_prefix("/vpnpanel.auth.v1.AuthService/");
            let expected = match name {
                Some(name) if exactly.contains(&name) => Code::Ok,
                _ => Code::PermissionDenied,
            };
            assert_eq!(check_as(admin, method, None), expected, "{}", method.path);
        }
    }

    #[tokio::test]
    async fn until_the_password_is_changed_nothing_else_is_permitted() {
        let pending = |admin: &mut Principal| {
            admin.password_change_required = true;
            admin.second_factor_required = true;
        };
        permitted_to(pending, &["ChangePassword", "GetMe", "Logout"]).await;
    }

    #[tokio::test]
    async fn until_the_second_factor_is_enrolled_nothing_else_is_permitted() {
        let exactly = [
            "ChangePassword",
            "ConfirmTotp",
            "EnrollTotp",
            "GetMe",
            "GetTotp",
            "Logout",
        ];
        permitted_to(|admin| admin.second_factor_required = true, &exactly).await;
    }

    #[tokio::test]
    async fn an_api_token_manages_no_credentials_and_lets_nobody_in() {
        let refused = [
            "AccountService/CreateAccount",
            "AccountService/EnableAccount",
            "AccountService/ResetAccountPassword",
            "AccountService/ResetAccountSecondFactor",
            "AccountService/UpdateAccount",
            "AuthService/ChangePassword",
            "AuthService/ConfirmTotp",
            "AuthService/CreateApiToken",
            "AuthService/DisableTotp",
            "AuthService/EnrollTotp",
            "AuthService/GetTotp",
            "AuthService/ListApiTokens",
            "AuthService/ListSessions",
            "AuthService/Logout",
            "AuthService/RegenerateRecoveryCodes",
            "AuthService/RevokeApiToken",
            "AuthService/RevokeOtherSessions",
            "AuthService/RevokeSession",
            "RoleService/CreateRole",
            "RoleService/UpdateRole",
            "TenantService/AddMember",
            "TenantService/UpdateMember",
        ];
        for method in METHODS.iter().filter(|m| needs_account(m)) {
            let mut admin = caller(&[(Role::Admin, None)]).await;
            admin.credential = Credential::ApiToken(ApiTokenId::from_parts(1, [0; 10]));
            let name = method.path.rsplit('.').next();
            let expected = match name {
                Some(name) if refused.contains(&name) => Code::PermissionDenied,
                _ => Code::Ok,
            };
            assert_eq!(check_as(admin, method, None), expected, "{}", method.path);
        }
    }

    #[tokio::test]
    async fn a_tenant_that_is_no_id_is_an_invalid_argument() {
        let method = method("/vpnpanel.user.v1.UserService/GetUser").unwrap();
        let admin = caller(&[(Role::Admin, None)]).await;
        assert_eq!(check_as(admin, method, Some("x")), Code::InvalidArgument);
    }

    #[tokio::test]
    async fn certificates_open_only_what_is_declared_for_them() {
        let signer = method("/vpnpanel.pki.v1.SignerService/SignJoiningNode").unwrap();
        let link = method("/vpnpanel.agent.v1.NodeLinkService/Connect").unwrap();
        let node = PeerIdentity::Node {
            tenant: None,
            node: Uuid::nil(),
        };
        let service = |name| PeerIdentity::control_plane(name).unwrap();
        for (identity, method, expected) in [
            (service("collector"), signer, Code::Ok),
            (service("scheduler"), signer, Code::PermissionDenied),
            (node.clone(), signer, Code::PermissionDenied),
            (node, link, Code::Ok),
            (service("collector"), link, Code::PermissionDenied),
        ] {
            let mut extensions = Extensions::new();
            extensions.insert(identity);
            assert_eq!(check(method, None, &mut extensions), expected);
        }
        let admin = caller(&[(Role::Admin, None)]).await;
        assert_eq!(check_as(admin, signer, None), Code::PermissionDenied);
    }
}
