//! The caller of a method: an account, its session, and what it may do where.

use std::sync::Arc;

use async_trait::async_trait;
use vpnpanel_domain::{AccountId, SessionId, TenantId};

use crate::{Credential, PermissionSet, SourceError};

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
    /// Tenants that require a second factor, where the account has none.
    pub second_factor_owed: Vec<TenantId>,
    /// Roles and where they are held.
    pub memberships: Vec<Membership>,
}

/// Looks up how an account stands.
#[async_trait]
pub trait StandingSource: Send + Sync + 'static {
    /// The standing of an account by a credential; `None` when the credential has ended, or the
    /// account is disabled or gone.
    async fn standing(
        &self,
        account: AccountId,
        credential: Credential,
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

/// How far a credential reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Wherever the account has a role.
    Account,
    /// One tenant.
    Tenant(TenantId),
    /// The platform, and therefore every tenant.
    Platform,
}

impl Reach {
    /// Whether a role counts that is held in a tenant or (`None`) on the platform.
    fn takes_in(self, held_in: Option<TenantId>) -> bool {
        match self {
            Self::Account => true,
            Self::Tenant(tenant) => held_in.is_none_or(|held_in| held_in == tenant),
            Self::Platform => held_in.is_none(),
        }
    }

    /// Whether a tenant, or (`None`) the platform, is within reach.
    fn goes_to(self, scope: Option<TenantId>) -> bool {
        match self {
            Self::Account | Self::Platform => true,
            Self::Tenant(tenant) => scope == Some(tenant),
        }
    }
}

/// A caller whose credential was found right.
#[derive(Debug, Clone)]
pub struct Principal {
    /// The account.
    pub account: AccountId,
    /// What it acts by.
    pub credential: Credential,
    /// How far that reaches.
    pub reach: Reach,
    /// Nothing but changing the password is permitted.
    pub password_change_required: bool,
    /// Nothing but enrolling a second factor is permitted.
    pub second_factor_required: bool,
    /// Roles, where they are held and what they permit: those of the account that count within
    /// the credential's reach, cut down to what it grants.
    pub held: Vec<Held>,
}

impl Principal {
    /// Who an account is by a credential that reaches so far.
    pub(crate) fn new(
        account: AccountId,
        credential: Credential,
        reach: Reach,
        standing: &Standing,
        held: Vec<Held>,
    ) -> Self {
        let owed = &standing.second_factor_owed;
        Self {
            account,
            credential,
            reach,
            password_change_required: standing.password_change_required,
            second_factor_required: owed.iter().any(|&owed| reach.takes_in(Some(owed))),
            held: held
                .into_iter()
                .filter(|held| reach.takes_in(held.tenant))
                .collect(),
        }
    }

    /// The session, where the caller has signed in.
    pub fn session(&self) -> Option<SessionId> {
        match self.credential {
            Credential::Session(id) => Some(id),
            Credential::ApiToken(_) => None,
        }
    }

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
        let held = if self.reach.goes_to(scope) {
            self.held.as_slice()
        } else {
            &[]
        };
        held.iter()
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
            credential: Credential::Session(SessionId::from_parts(1, [0; 10])),
            reach: Reach::Account,
            password_change_required: false,
            second_factor_required: false,
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
        caller.held.extend(principal(&[(None, write)]).held);
        assert!(caller.permits_change(write, ours));
    }

    #[test]
    fn a_credential_reaches_no_further_than_it_says() {
        let account = principal(&[
            (None, "tenant.read"),
            (Some(tenant(1)), "user.read"),
            (Some(tenant(2)), "user.write"),
        ]);
        let standing = Standing {
            password_change_required: false,
            second_factor_owed: vec![tenant(2)],
            memberships: Vec::new(),
        };
        let by = |reach| {
            let (id, credential) = (account.account, account.credential);
            Principal::new(id, credential, reach, &standing, account.held.clone())
        };
        let all = by(Reach::Account);
        assert!(all.permits("tenant.read", None) && all.permits("user.write", Some(tenant(2))));
        assert!(all.second_factor_required);
        let one = by(Reach::Tenant(tenant(1)));
        assert!(one.permits("user.read", Some(tenant(1))));
        assert!(one.permits("tenant.read", Some(tenant(1))));
        assert!(!one.permits("tenant.read", None) && !one.permits("tenant.read", Some(tenant(2))));
        assert!(!one.belongs_to(Some(tenant(2))) && !one.is_of_platform());
        assert!(!one.second_factor_required, "that tenant asks for none");
        let platform = by(Reach::Platform);
        assert!(platform.permits("tenant.read", Some(tenant(2))));
        assert!(!platform.permits("user.write", Some(tenant(2))));
    }
}
