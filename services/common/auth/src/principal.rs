//! The caller of a method: an account, its session, and what it may do where.

use std::{sync::Arc, time::Duration};

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

type Known = Option<Arc<Standing>>;

/// Remembers standings for a few seconds: the bound on how long a revocation made by another
/// replica goes unnoticed. Changes made here are forgotten at once.
#[derive(Clone)]
pub struct StandingCache {
    source: Arc<dyn StandingSource>,
    known: moka::future::Cache<(AccountId, SessionId), Known>,
}

impl std::fmt::Debug for StandingCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StandingCache")
            .field("entries", &self.known.entry_count())
            .finish_non_exhaustive()
    }
}

impl StandingCache {
    /// Remembers what `source` says for `time_to_live`, of at most 10,000 sessions.
    pub fn new(source: Arc<dyn StandingSource>, time_to_live: Duration) -> Self {
        let known = moka::future::Cache::builder()
            .max_capacity(10_000)
            .time_to_live(time_to_live)
            .support_invalidation_closures()
            .build();
        Self { source, known }
    }

    /// The standing of an account in a session; `None` when it may not act any more.
    ///
    /// # Errors
    /// What the source answers.
    pub async fn standing(
        &self,
        account: AccountId,
        session: SessionId,
    ) -> Result<Known, Arc<SourceError>> {
        self.known
            .try_get_with((account, session), async {
                let standing = self.source.standing(account, session).await?;
                Ok::<_, SourceError>(standing.map(Arc::new))
            })
            .await
    }

    /// Forgets one session.
    pub async fn forget_session(&self, account: AccountId, session: SessionId) {
        self.known.invalidate(&(account, session)).await;
    }

    /// Forgets every session of an account.
    pub fn forget_account(&self, account: AccountId) {
        let of_account = move |key: &(AccountId, SessionId), _: &Known| key.0 == account;
        if self.known.invalidate_entries_if(of_account).is_err() {
            // Cannot be, since the cache was built for it; forgetting all is right too.
            self.known.invalidate_all();
        }
    }

    /// Forgets every session of every member of a tenant.
    pub fn forget_tenant(&self, tenant: TenantId) {
        let of_member = move |_: &(AccountId, SessionId), known: &Known| {
            known.as_ref().is_some_and(|standing| {
                let held = &standing.memberships;
                held.iter().any(|held| held.tenant == Some(tenant))
            })
        };
        if self.known.invalidate_entries_if(of_member).is_err() {
            self.known.invalidate_all();
        }
    }
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
    use std::sync::atomic::{AtomicUsize, Ordering};

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

    struct Counting(AtomicUsize);

    #[async_trait]
    impl StandingSource for Counting {
        async fn standing(
            &self,
            _account: AccountId,
            _session: SessionId,
        ) -> Result<Option<Standing>, SourceError> {
            if self.0.fetch_add(1, Ordering::Relaxed) == 0 {
                return Err("the first look-up fails".into());
            }
            Ok(Some(Standing {
                password_change_required: false,
                memberships: vec![Membership {
                    tenant: Some(tenant(1)),
                    role: "owner".to_owned(),
                    suspended: false,
                }],
            }))
        }
    }

    #[tokio::test]
    async fn standings_are_remembered_failures_are_not_and_a_change_is_seen_at_once() {
        let source = Arc::new(Counting(AtomicUsize::new(0)));
        let cache = StandingCache::new(Arc::clone(&source) as _, Duration::from_secs(3600));
        let (account, session) = (
            AccountId::from_parts(1, [0; 10]),
            SessionId::from_parts(1, [0; 10]),
        );
        assert!(cache.standing(account, session).await.is_err());
        for _ in 0..3 {
            cache.standing(account, session).await.unwrap().unwrap();
        }
        assert_eq!(source.0.load(Ordering::Relaxed), 2);
        cache.forget_account(account);
        cache.standing(account, session).await.unwrap().unwrap();
        cache.forget_session(account, session).await;
        cache.standing(account, session).await.unwrap().unwrap();
        assert_eq!(source.0.load(Ordering::Relaxed), 4);
        cache.forget_tenant(tenant(2));
        cache.standing(account, session).await.unwrap().unwrap();
        assert_eq!(source.0.load(Ordering::Relaxed), 4);
        cache.forget_tenant(tenant(1));
        cache.standing(account, session).await.unwrap().unwrap();
        assert_eq!(source.0.load(Ordering::Relaxed), 5);
    }
}
