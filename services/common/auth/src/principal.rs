//! The caller of a method: an account, its session, and what it may do where.

use std::sync::Arc;

use async_trait::async_trait;
use vpnpanel_domain::{AccountId, SessionId, TenantId};

use crate::{PermissionSet, SourceError};

/// Account × tenant × role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Membership {
    /// Where the role is held; `None` is the platform.
    pub tenant: Option<TenantId>,
    /// Name of the role.
    pub role: String,
    /// The tenant is suspended.
    pub suspended: bool,
}

/// How an account stands at the moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// The password was given out by somebody else and has not been changed yet.
    pub password_change_required: bool,
    /// Roles and where they are held.
    pub memberships: Vec<Membership>,
}

/// Looks up how an account stands.
#[async_trait]
pub trait StandingSource: Send + Sync + 'static {
    /// The standing of an account in a session; `None` when the session has ended, or the
    /// account is disabled or gone.
    async fn standing(
        &self,
        account: AccountId,
        session: SessionId,
    ) -> Result<Option<Standing>, SourceError>;
}

/// A role held somewhere, with what it permits.
#[derive(Debug, Clone)]
pub struct Held {
    /// Where; `None` is the platform, and therefore everywhere.
    pub tenant: Option<TenantId>,
    /// Name of the role.
    pub role: String,
    /// What it permits.
    pub permissions: Arc<PermissionSet>,
    /// The tenant is suspended: nothing but reading is permitted by it.
    pub suspended: bool,
}

/// A caller whose access token was found right.
#[derive(Debug, Clone)]
pub struct Principal {
    /// The account.
    pub account: AccountId,
    /// The session of the token.
    pub session: SessionId,
    /// Nothing but changing the password is permitted.
    pub password_change_required: bool,
    /// Roles, where they are held and what they permit.
    pub held: Vec<Held>,
}

impl Principal {
    /// Whether a permission is held in a tenant, or (`None`) on the platform. What is held on
    /// the platform is held in every tenant.
    pub fn permits(&self, permission: &str, scope: Option<TenantId>) -> bool {
        self.within(scope)
            .any(|held| held.permissions.contains(permission))
    }

    /// As [`Principal::permits`], for what changes something: in a suspended tenant its members
    /// may only read, and the platform may do what it could.
    pub fn permits_change(&self, permission: &str, scope: Option<TenantId>) -> bool {
        self.within(scope)
            .any(|held| !held.suspended && held.permissions.contains(permission))
    }

    /// Everything that is permitted in a tenant, or (`None`) on the platform.
    pub fn permissions(&self, scope: Option<TenantId>) -> PermissionSet {
        self.within(scope)
            .flat_map(|held| held.permissions.iter().cloned())
            .collect()
    }

    /// Whether the caller has any role in a tenant, or (`None`) on the platform.
    pub fn belongs_to(&self, scope: Option<TenantId>) -> bool {
        self.within(scope).next().is_some()
    }

    /// Whether the caller has a role on the platform.
    pub fn is_of_platform(&self) -> bool {
        self.belongs_to(None)
    }

    fn within(&self, scope: Option<TenantId>) -> impl Iterator<Item = &Held> {
        self.held
            .iter()
            .filter(move |held| held.tenant.is_none() || held.tenant == scope)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant(n: u8) -> TenantId {
        TenantId::from_parts(1, [n; 10])
    }

    fn principal(held: &[(Option<TenantId>, &str)]) -> Principal {
        Principal {
            account: AccountId::from_parts(1, [0; 10]),
            session: SessionId::from_parts(1, [0; 10]),
            password_change_required: false,
            held: held
                .iter()
                .map(|&(tenant, permission)| Held {
                    tenant,
                    role: "some".to_owned(),
                    permissions: Arc::new([permission.to_owned()].into()),
                    suspended: false,
                })
                .collect(),
        }
    }

    #[test]
    fn a_permission_holds_in_its_tenant_only() {
        let caller = principal(&[
            (Some(tenant(1)), "user.read"),
            (Some(tenant(2)), "user.write"),
        ]);
        assert!(caller.permits("user.read", Some(tenant(1))));
        assert!(!caller.permits("user.write", Some(tenant(1))));
        assert!(!caller.permits("user.read", Some(tenant(3))));
        assert!(!caller.permits("user.read", None));
        assert!(!caller.is_of_platform());
    }

    #[test]
    fn what_the_platform_permits_holds_everywhere() {
        let caller = principal(&[(None, "user.read")]);
        assert!(caller.permits("user.read", Some(tenant(9))));
        assert!(caller.permits("user.read", None));
        assert!(!caller.permits("user.write", None));
    }

    #[test]
    fn in_a_suspended_tenant_its_members_change_nothing_and_the_platform_does() {
        let (ours, write) = (Some(tenant(1)), "user.write");
        let mut caller = principal(&[(ours, write), (Some(tenant(2)), write)]);
        caller.held[0].suspended = true;
        assert!(caller.permits(write, ours) && !caller.permits_change(write, ours));
        assert!(caller.permits_change(write, Some(tenant(2))));
        caller
            .held
            .extend(principal(&[(None, write)]).held.into_iter());
        assert!(caller.permits_change(write, ours));
    }
}
