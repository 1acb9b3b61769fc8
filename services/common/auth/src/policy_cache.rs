//! Remembers what roles permit, around whatever knows it: in process, and among all replicas. An
//! answer is believed for [`TRUST`] from the moment the database was asked, wherever it has been
//! in between, and no longer than until the policy is said to have changed.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;

use crate::{
    PermissionSet, Policy, SourceError,
    forgotten::Forgotten,
    signals::{Listener, Signal, Signals, TRUST},
};

/// Roles that are remembered at a time.
const MAX_ROLES: u64 = 1_000;
const ATTEMPTS: u32 = 3;

/// What a shared cache knows of a role.
#[derive(Debug, Clone)]
pub enum SharedRole {
    /// An answer, believed for so long from the moment the cache was asked.
    Known {
        /// `None` where there is no such role.
        permissions: Option<Arc<PermissionSet>>,
        /// What is left of [`TRUST`].
        left: Duration,
    },
    /// None. The ticket is needed to put the answer in: it says when, and of which version of the
    /// policy, the database was asked.
    Unknown {
        /// Opaque.
        ticket: RoleTicket,
    },
    /// The cache cannot be asked.
    Away,
}

/// When a role was asked for, in the terms of the shared cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoleTicket {
    /// Version of the policy.
    pub version: String,
    /// When, by the shared cache's clock, in milliseconds.
    pub asked_ms: i64,
}

/// What roles permit, remembered among replicas. Each method takes a bounded time.
#[async_trait]
pub trait SharedPolicy: Send + Sync + 'static {
    /// What is known of a role.
    async fn read(&self, role: &str) -> SharedRole;

    /// Remembers what the database said. Refused when the policy has changed since.
    async fn write(&self, role: &str, permissions: Option<&PermissionSet>, ticket: RoleTicket);

    /// Forgets everything: the policy has changed.
    async fn changed(&self);
}

/// Nothing is shared.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoSharedPolicy;

#[async_trait]
impl SharedPolicy for NoSharedPolicy {
    async fn read(&self, _role: &str) -> SharedRole {
        SharedRole::Away
    }

    async fn write(&self, _role: &str, _permissions: Option<&PermissionSet>, _ticket: RoleTicket) {}

    async fn changed(&self) {}
}

/// A policy that remembers what another one says. Cheap to clone.
#[derive(Clone)]
pub struct CachedPolicy(Arc<Inner>);

struct Inner {
    policy: Arc<dyn Policy>,
    shared: Arc<dyn SharedPolicy>,
    signals: Arc<dyn Signals>,
    known: moka::future::Cache<String, Arc<Answer>>,
    forgotten: Arc<ForgottenPolicy>,
}

struct Answer {
    asked: Instant,
    permissions: Option<Arc<PermissionSet>>,
}

/// One mark for all roles: they change rarely, and are few.
struct ForgottenPolicy(Forgotten);

impl Listener for ForgottenPolicy {
    fn heard(&self, signal: &Signal) {
        if matches!(signal, Signal::PolicyChanged | Signal::Everything) {
            self.0.forget_all();
        }
    }
}

impl std::fmt::Debug for CachedPolicy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CachedPolicy")
            .field("entries", &self.0.known.entry_count())
            .finish_non_exhaustive()
    }
}

impl CachedPolicy {
    /// Remembers what `policy` says, here and in `shared`.
    pub fn new(
        policy: Arc<dyn Policy>,
        shared: Arc<dyn SharedPolicy>,
        signals: Arc<dyn Signals>,
    ) -> Self {
        let known = moka::future::Cache::builder()
            .max_capacity(MAX_ROLES)
            .time_to_live(TRUST)
            .build();
        let forgotten = Arc::new(ForgottenPolicy(Forgotten::new(TRUST)));
        signals.listen(Arc::clone(&forgotten) as _);
        Self(Arc::new(Inner {
            policy,
            shared,
            signals,
            known,
            forgotten,
        }))
    }

    /// Forgets every role, here and on other replicas: to be called when what roles permit was
    /// changed, after the commit.
    pub async fn forget(&self) {
        self.0.forgotten.0.forget_all();
        self.0.shared.changed().await;
        self.0.signals.ring(Signal::PolicyChanged);
    }
}

impl Inner {
    async fn look_up(&self, role: &str) -> Result<Arc<Answer>, SourceError> {
        let asked = Instant::now();
        let ticket = match self.shared.read(role).await {
            SharedRole::Known { permissions, left } => {
                // As old as the answer is: whoever asked the database did so before we asked.
                let age = TRUST.saturating_sub(left);
                let asked = asked.checked_sub(age).unwrap_or(asked);
                return Ok(Arc::new(Answer { asked, permissions }));
            }
            SharedRole::Unknown { ticket } => Some(ticket),
            SharedRole::Away => None,
        };
        let asked = Instant::now();
        let permissions = self.policy.permissions(role).await?;
        if let Some(ticket) = ticket {
            self.shared
                .write(role, permissions.as_deref(), ticket)
                .await;
        }
        Ok(Arc::new(Answer { asked, permissions }))
    }
}

#[async_trait]
impl Policy for CachedPolicy {
    async fn permissions(&self, role: &str) -> Result<Option<Arc<PermissionSet>>, SourceError> {
        let inner = &*self.0;
        for _ in 0..ATTEMPTS {
            let looked_up = inner.known.entry_by_ref(role);
            let answer = looked_up
                .or_try_insert_with(inner.look_up(role))
                .await
                .map_err(|error: Arc<SourceError>| -> SourceError { error.to_string().into() })?
                .into_value();
            if inner.forgotten.0.holds(answer.asked, []) {
                return Ok(answer.permissions.clone());
            }
            inner.known.invalidate(role).await;
        }
        inner.policy.permissions(role).await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::signals::LocalSignals;

    /// Permits one thing more each time it is asked.
    #[derive(Default)]
    struct Growing(AtomicUsize);

    #[async_trait]
    impl Policy for Growing {
        async fn permissions(&self, role: &str) -> Result<Option<Arc<PermissionSet>>, SourceError> {
            let asked = self.0.fetch_add(1, Ordering::SeqCst) + 1;
            let names = (0..asked).map(|n| format!("{role}.{n}"));
            Ok(Some(Arc::new(names.collect())))
        }
    }

    async fn count(policy: &CachedPolicy) -> usize {
        policy.permissions("owner").await.unwrap().unwrap().len()
    }

    #[tokio::test]
    async fn a_role_is_remembered_until_the_policy_changes_here_or_elsewhere() {
        let signals = Arc::new(LocalSignals::default());
        let policy = CachedPolicy::new(
            Arc::new(Growing::default()),
            Arc::new(NoSharedPolicy),
            Arc::clone(&signals) as _,
        );
        assert_eq!((count(&policy).await, count(&policy).await), (1, 1));
        policy.forget().await;
        assert_eq!((count(&policy).await, count(&policy).await), (2, 2));
        signals.ring(Signal::PolicyChanged);
        assert_eq!(count(&policy).await, 3);
        signals.ring(Signal::Everything);
        assert_eq!(count(&policy).await, 4);
        signals.ring(Signal::SigningKeysChanged);
        assert_eq!(count(&policy).await, 4);
    }

    /// Knows an answer that has hardly any time left.
    struct Old;

    #[async_trait]
    impl SharedPolicy for Old {
        async fn read(&self, _role: &str) -> SharedRole {
            SharedRole::Known {
                permissions: None,
                left: Duration::ZERO,
            }
        }

        async fn write(&self, _: &str, _: Option<&PermissionSet>, _: RoleTicket) {}

        async fn changed(&self) {}
    }

    #[tokio::test]
    async fn an_answer_does_not_live_longer_for_having_been_shared() {
        let signals = Arc::new(LocalSignals::default());
        let policy = CachedPolicy::new(Arc::new(Growing::default()), Arc::new(Old), signals);
        assert_eq!((count(&policy).await, count(&policy).await), (1, 2));
    }
}
