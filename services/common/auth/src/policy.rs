//! What each role permits. Permissions are the `resource.verb` names that the contract declares
//! on its methods; what a role does not list it does not permit. The sets here are the seed: at
//! run time the database says what a role permits (docs/adr/0006).

use std::{
    collections::{BTreeSet, HashMap},
    str::FromStr,
    sync::Arc,
};

use async_trait::async_trait;
use vpnpanel_api::{Access, METHODS};

use crate::SourceError;

/// Names of permissions, sorted.
pub type PermissionSet = BTreeSet<String>;

/// Says what a role permits.
#[async_trait]
pub trait Policy: Send + Sync + 'static {
    /// The permissions of a role; `None` when there is no such role, which permits nothing.
    async fn permissions(&self, role: &str) -> Result<Option<Arc<PermissionSet>>, SourceError>;
}

/// The roles that come with the product (ADR 0002).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Runs the platform.
    Admin,
    /// Runs a tenant.
    Owner,
    /// Looks after a tenant's users.
    Operator,
    /// Looks at a tenant or the platform, and changes nothing.
    Auditor,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 4] = [Self::Admin, Self::Owner, Self::Operator, Self::Auditor];

    /// The name in the API and the database.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Owner => "owner",
            Self::Operator => "operator",
            Self::Auditor => "auditor",
        }
    }

    /// What the role is for, for people.
    pub const fn description(self) -> &'static str {
        match self {
            Self::Admin => "Runs the platform",
            Self::Owner => "Runs a tenant",
            Self::Operator => "Looks after a tenant's users",
            Self::Auditor => "Looks at everything and changes nothing",
        }
    }

    /// What the role permits, sorted.
    pub const fn permissions(self) -> &'static [&'static str] {
        match self {
            Self::Admin => &[
                "account.read",
                "account.write",
                "apiToken.read",
                "apiToken.write",
                "audit.read",
                "audit.readOwn",
                "group.read",
                "group.write",
                "inbound.read",
                "inbound.write",
                "job.read",
                "job.run",
                "member.read",
                "member.write",
                "node.read",
                "node.write",
                "operation.cancel",
                "operation.read",
                "plan.read",
                "plan.write",
                "restore.declare",
                "restore.read",
                "role.read",
                "role.write",
                "signingKey.read",
                "signingKey.write",
                "system.reflect",
                "tenant.create",
                "tenant.limit",
                "tenant.read",
                "tenant.suspend",
                "tenant.write",
                "usage.read",
                "user.read",
                "user.readSecrets",
                "user.write",
            ],
            Self::Owner => &[
                "apiToken.read",
                "apiToken.write",
                "audit.read",
                "audit.readOwn",
                "group.read",
                "group.write",
                "inbound.read",
                "inbound.write",
                "member.read",
                "member.write",
                "node.read",
                "node.write",
                "operation.cancel",
                "operation.read",
                "plan.read",
                "plan.write",
                "role.read",
                "tenant.read",
                "tenant.write",
                "usage.read",
                "user.read",
                "user.readSecrets",
                "user.write",
            ],
            Self::Operator => &[
                "audit.readOwn",
                "group.read",
                "inbound.read",
                "node.read",
                "operation.cancel",
                "operation.read",
                "plan.read",
                "tenant.read",
                "usage.read",
                "user.read",
                "user.readSecrets",
                "user.write",
            ],
            Self::Auditor => &[
                "account.read",
                "apiToken.read",
                "audit.read",
                "audit.readOwn",
                "group.read",
                "inbound.read",
                "job.read",
                "member.read",
                "node.read",
                "operation.read",
                "plan.read",
                "restore.read",
                "role.read",
                "signingKey.read",
                "tenant.read",
                "usage.read",
                "user.read",
            ],
        }
    }
}

/// Every permission that there is. Administrators hold them all, those included that are asked
/// for outside of the contract.
pub fn all_permissions() -> PermissionSet {
    Role::Admin
        .permissions()
        .iter()
        .map(|&name| name.to_owned())
        .collect()
}

/// The permissions that mean nothing in a tenant: no method asks for them in one.
pub fn platform_only() -> PermissionSet {
    let in_tenants = METHODS.iter().filter_map(|method| match method.access {
        Access::Permission {
            name,
            tenant_field: Some(_),
        } => Some(name),
        _ => None,
    });
    let mut names = all_permissions();
    for name in in_tenants {
        names.remove(name);
    }
    names
}

impl FromStr for Role {
    type Err = UnknownRole;

    fn from_str(text: &str) -> Result<Self, UnknownRole> {
        Self::ALL
            .into_iter()
            .find(|role| role.as_str() == text)
            .ok_or(UnknownRole)
    }
}

/// The text names no role that comes with the product.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("unknown role")]
pub struct UnknownRole;

/// The four roles that come with the product.
#[derive(Debug)]
pub struct BuiltinPolicy {
    sets: HashMap<&'static str, Arc<PermissionSet>>,
}

impl Default for BuiltinPolicy {
    fn default() -> Self {
        let set = |role: Role| {
            let names = role.permissions().iter().map(|&name| name.to_owned());
            (role.as_str(), Arc::new(names.collect()))
        };
        Self {
            sets: Role::ALL.into_iter().map(set).collect(),
        }
    }
}

#[async_trait]
impl Policy for BuiltinPolicy {
    async fn permissions(&self, role: &str) -> Result<Option<Arc<PermissionSet>>, SourceError> {
        Ok(self.sets.get(role).cloned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn declared() -> BTreeSet<&'static str> {
        METHODS
            .iter()
            .filter_map(|method| match method.access {
                Access::Permission { name, .. } => Some(name),
                _ => None,
            })
            .collect()
    }

    #[test]
    fn what_a_role_permits_is_sorted_and_said_once() {
        for role in Role::ALL {
            let names = role.permissions();
            assert!(names.is_sorted_by(|a, b| a < b), "{role:?}: {names:?}");
        }
    }

    #[test]
    fn an_admin_holds_every_permission_that_a_method_declares() {
        let admin = Role::Admin.permissions();
        for name in declared() {
            assert!(admin.contains(&name), "{name}");
        }
    }

    #[test]
    fn no_role_lists_a_permission_that_nothing_asks_for() {
        let mut declared = declared();
        declared.insert("system.reflect");
        for role in Role::ALL {
            for name in role.permissions() {
                assert!(declared.contains(name), "{role:?}: {name}");
            }
        }
    }

    #[test]
    fn an_auditor_changes_nothing_and_sees_no_secret() {
        for name in Role::Auditor.permissions() {
            let (_, verb) = name.split_once('.').unwrap();
            assert!(["read", "readOwn"].contains(&verb), "{name}");
        }
    }

    #[test]
    fn roles_of_a_tenant_grow_from_auditor_to_owner() {
        let set = |role: Role| role.permissions().iter().collect::<BTreeSet<_>>();
        assert!(set(Role::Owner).is_superset(&set(Role::Operator)));
        assert!(set(Role::Admin).is_superset(&set(Role::Owner)));
    }

    #[test]
    fn an_owner_may_give_every_role_of_a_tenant() {
        let inert = platform_only();
        for role in [Role::Owner, Role::Operator, Role::Auditor] {
            for name in role.permissions() {
                let owner_may = Role::Owner.permissions().contains(name);
                assert!(owner_may || inert.contains(*name), "{role:?}: {name}");
            }
        }
        assert!(inert.contains("tenant.suspend") && !inert.contains("member.write"));
    }

    #[tokio::test]
    async fn an_unknown_role_permits_nothing() {
        let policy = BuiltinPolicy::default();
        assert!(policy.permissions("root").await.unwrap().is_none());
        assert!("root".parse::<Role>().is_err());
    }
}
