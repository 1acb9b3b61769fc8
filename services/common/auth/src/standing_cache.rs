//! Remembers how accounts stand, so that not every call asks the database: for [`TRUST`] at most,
//! and no longer than until somebody says that it changed.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use vpnpanel_domain::{AccountId, ApiTokenId, SessionId, TenantId};

use crate::{
    SourceError, Standing, StandingSource,
    forgotten::{Forgotten, Subject},
    revocation::{Credential, Listed, NoRevocationList, RevocationList},
    signals::{LocalSignals, Signal, Signals, TRUST},
};

/// Credentials that are remembered at a time.
const MAX_CREDENTIALS: u64 = 10_000;
/// How often an answer is asked for again that was outdated when it came.
const ATTEMPTS: u32 = 3;

type Known = Option<Arc<Standing>>;
type Key = (AccountId, Credential);

/// Standings of accounts by their credentials. Cheap to clone: clones share what they remember.
#[derive(Clone)]
pub struct StandingCache(Arc<Inner>);

struct Inner {
    source: Arc<dyn StandingSource>,
    known: moka::future::Cache<Key, Arc<Answer>>,
    forgotten: Arc<Forgotten>,
    signals: Arc<dyn Signals>,
    revocations: Arc<dyn RevocationList>,
}

struct Answer {
    asked: Instant,
    standing: Known,
}

impl std::fmt::Debug for StandingCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StandingCache")
            .field("entries", &self.0.known.entry_count())
            .finish_non_exhaustive()
    }
}

impl StandingCache {
    /// Remembers what `source` says for `believed`, for a process without replicas.
    pub fn new(source: Arc<dyn StandingSource>, believed: Duration) -> Self {
        let signals = Arc::new(LocalSignals::default());
        Self::with(source, believed, signals, Arc::new(NoRevocationList))
    }

    /// Remembers what `source` says for [`TRUST`]; tells other replicas what is forgotten here,
    /// and forgets what they tell.
    pub fn shared(
        source: Arc<dyn StandingSource>,
        signals: Arc<dyn Signals>,
        revocations: Arc<dyn RevocationList>,
    ) -> Self {
        Self::with(source, TRUST, signals, revocations)
    }

    fn with(
        source: Arc<dyn StandingSource>,
        believed: Duration,
        signals: Arc<dyn Signals>,
        revocations: Arc<dyn RevocationList>,
    ) -> Self {
        let known = moka::future::Cache::builder()
            .max_capacity(MAX_CREDENTIALS)
            .time_to_live(believed)
            .build();
        let forgotten = Arc::new(Forgotten::new(believed));
        signals.listen(Arc::clone(&forgotten) as _);
        Self(Arc::new(Inner {
            source,
            known,
            forgotten,
            signals,
            revocations,
        }))
    }

    /// The standing of an account by a credential; `None` when it may not act any more.
    ///
    /// # Errors
    /// What the source answers.
    pub async fn standing(
        &self,
        account: AccountId,
        credential: Credential,
    ) -> Result<Known, Arc<SourceError>> {
        let listed = self.0.revocations.check(credential);
        let (listed, known) = tokio::join!(listed, self.known(account, credential));
        match listed {
            Listed::Revoked => Ok(None),
            // What the database said a moment ago.
            Listed::Clear | Listed::Unknown => known,
        }
    }

    async fn known(
        &self,
        account: AccountId,
        credential: Credential,
    ) -> Result<Known, Arc<SourceError>> {
        let (inner, key) = (&*self.0, (account, credential));
        for _ in 0..ATTEMPTS {
            let looked_up = inner.known.try_get_with(key, async {
                let asked = Instant::now();
                let standing = inner.source.standing(account, credential).await?;
                let standing = standing.map(Arc::new);
                Ok::<_, SourceError>(Arc::new(Answer { asked, standing }))
            });
            let answer = looked_up.await?;
            if inner.forgotten.holds(answer.asked, answer.about(key)) {
                return Ok(answer.standing.clone());
            }
            inner.known.invalidate(&key).await;
        }
        // Changes come faster than answers: this call asks for itself alone.
        let standing = inner.source.standing(account, credential).await;
        Ok(standing.map_err(Arc::new)?.map(Arc::new))
    }

    /// Forgets one session, here and on other replicas: to be called when it was ended.
    pub async fn forget_session(&self, account: AccountId, session: SessionId) {
        self.forget_sessions(account, &[session]).await;
    }

    /// Forgets some sessions of an account, here and on other replicas: to be called when they
    /// were ended.
    pub async fn forget_sessions(&self, account: AccountId, sessions: &[SessionId]) {
        for &session in sessions {
            let ended = Subject::Credential(Credential::Session(session));
            self.0.forgotten.forget(ended);
            self.0
                .signals
                .ring(Signal::SessionEnded { account, session });
        }
        let ended: Vec<_> = sessions.iter().copied().map(Credential::Session).collect();
        self.0.revocations.revoke(&ended).await;
    }

    /// Forgets an API token, here and on other replicas: to be called when it was revoked.
    pub async fn forget_api_token(&self, token: ApiTokenId) {
        let ended = Credential::ApiToken(token);
        self.0.forgotten.forget(Subject::Credential(ended));
        self.0.signals.ring(Signal::ApiTokenChanged(token));
        self.0.revocations.revoke(&[ended]).await;
    }

    /// Forgets every credential of an account, here and on other replicas: to be called when it was
    /// disabled, or its password or memberships were changed.
    pub fn forget_account(&self, account: AccountId) {
        self.0.forgotten.forget(Subject::Account(account));
        self.0.signals.ring(Signal::AccountChanged(account));
    }

    /// Forgets everybody who has a role in a tenant, here and on other replicas: to be called when
    /// the tenant was changed in a way that concerns its members, for example suspended.
    pub fn forget_tenant(&self, tenant: TenantId) {
        self.0.forgotten.forget(Subject::Tenant(tenant));
        self.0.signals.ring(Signal::TenantChanged(tenant));
    }

    /// Forgets everything, here and on other replicas.
    pub fn forget_all(&self) {
        self.0.forgotten.forget_all();
        self.0.signals.ring(Signal::Everything);
    }
}

impl Answer {
    fn about(&self, (account, credential): Key) -> impl Iterator<Item = Subject> {
        let tenants = self.standing.iter().flat_map(|standing| {
            let held = standing.memberships.iter();
            held.filter_map(|membership| membership.tenant.map(Subject::Tenant))
        });
        [Subject::Account(account), Subject::Credential(credential)]
            .into_iter()
            .chain(tenants)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use async_trait::async_trait;
    use tokio::sync::Notify;

    use super::*;
    use crate::Membership;

    const LONG: Duration = Duration::from_secs(3600);

    fn somebody() -> Key {
        (
            AccountId::from_parts(1, [0; 10]),
            Credential::Session(session()),
        )
    }

    fn session() -> SessionId {
        SessionId::from_parts(1, [0; 10])
    }

    fn tenant() -> TenantId {
        TenantId::from_parts(1, [7; 10])
    }

    fn standing() -> Standing {
        Standing {
            password_change_required: false,
            second_factor_owed: Vec::new(),
            memberships: vec![Membership {
                tenant: Some(tenant()),
                role: "owner".to_owned(),
                suspended: false,
            }],
        }
    }

    /// Counts look-ups; the first one fails.
    struct Counting(AtomicUsize);

    #[async_trait]
    impl StandingSource for Counting {
        async fn standing(
            &self,
            _account: AccountId,
            _credential: Credential,
        ) -> Result<Option<Standing>, SourceError> {
            if self.0.fetch_add(1, Ordering::Relaxed) == 0 {
                return Err("the first look-up fails".into());
            }
            Ok(Some(standing()))
        }
    }

    #[tokio::test]
    async fn standings_are_remembered_failures_are_not_and_a_change_is_seen_at_once() {
        let source = Arc::new(Counting(AtomicUsize::new(0)));
        let cache = StandingCache::new(Arc::clone(&source) as _, LONG);
        let (account, credential) = somebody();
        assert!(cache.standing(account, credential).await.is_err());
        for _ in 0..3 {
            cache.standing(account, credential).await.unwrap().unwrap();
        }
        assert_eq!(source.0.load(Ordering::Relaxed), 2);
        cache.forget_account(account);
        cache.standing(account, credential).await.unwrap().unwrap();
        cache.forget_session(account, session()).await;
        cache.standing(account, credential).await.unwrap().unwrap();
        cache.forget_tenant(tenant());
        cache.standing(account, credential).await.unwrap().unwrap();
        cache.forget_all();
        cache.standing(account, credential).await.unwrap().unwrap();
        assert_eq!(source.0.load(Ordering::Relaxed), 6);
        cache.forget_tenant(TenantId::from_parts(1, [8; 10]));
        cache.forget_account(AccountId::from_parts(1, [9; 10]));
        cache.standing(account, credential).await.unwrap().unwrap();
        assert_eq!(source.0.load(Ordering::Relaxed), 6);
    }

    #[tokio::test]
    async fn what_another_replica_tells_is_forgotten() {
        let source = Arc::new(Counting(AtomicUsize::new(1)));
        let signals = Arc::new(LocalSignals::default());
        let list = Arc::new(NoRevocationList);
        let cache =
            StandingCache::shared(Arc::clone(&source) as _, Arc::clone(&signals) as _, list);
        let (account, credential) = somebody();
        for (asked, signal) in [
            Signal::AccountChanged(account),
            Signal::SessionEnded {
                account,
                session: session(),
            },
            Signal::TenantChanged(tenant()),
            Signal::Everything,
        ]
        .into_iter()
        .enumerate()
        {
            cache.standing(account, credential).await.unwrap().unwrap();
            assert_eq!(source.0.load(Ordering::Relaxed), 2 + asked);
            signals.ring(signal);
        }
        cache.standing(account, credential).await.unwrap().unwrap();
        assert_eq!(source.0.load(Ordering::Relaxed), 6);
    }

    #[tokio::test]
    async fn a_revoked_api_token_is_forgotten_here_and_where_it_is_told() {
        let source = Arc::new(Counting(AtomicUsize::new(1)));
        let signals = Arc::new(LocalSignals::default());
        let list = Arc::new(NoRevocationList);
        let here = StandingCache::shared(Arc::clone(&source) as _, Arc::clone(&signals) as _, list);
        let token = ApiTokenId::from_parts(1, [5; 10]);
        let (account, credential) = (somebody().0, Credential::ApiToken(token));
        here.standing(account, credential).await.unwrap().unwrap();
        here.forget_api_token(token).await;
        here.standing(account, credential).await.unwrap().unwrap();
        signals.ring(Signal::ApiTokenChanged(token));
        here.standing(account, credential).await.unwrap().unwrap();
        assert_eq!(source.0.load(Ordering::Relaxed), 4);
    }

    /// Answers what it saw before it was held up.
    #[derive(Default)]
    struct Slow {
        disabled: AtomicBool,
        asked: Notify,
        go_on: Notify,
    }

    #[async_trait]
    impl StandingSource for Slow {
        async fn standing(
            &self,
            _account: AccountId,
            _credential: Credential,
        ) -> Result<Option<Standing>, SourceError> {
            if self.disabled.load(Ordering::SeqCst) {
                return Ok(None);
            }
            self.asked.notify_one();
            self.go_on.notified().await;
            Ok(Some(standing()))
        }
    }

    #[tokio::test]
    async fn a_change_during_a_look_up_is_not_covered_by_its_answer() {
        let source = Arc::new(Slow::default());
        let cache = StandingCache::new(Arc::clone(&source) as _, LONG);
        let (account, credential) = somebody();
        let call = tokio::spawn({
            let cache = cache.clone();
            async move { cache.standing(account, credential).await }
        });
        source.asked.notified().await;
        source.disabled.store(true, Ordering::SeqCst);
        cache.forget_account(account);
        source.go_on.notify_one();
        assert!(call.await.unwrap().unwrap().is_none());
        assert!(cache.standing(account, credential).await.unwrap().is_none());
    }

    struct AllRevoked;

    #[async_trait]
    impl RevocationList for AllRevoked {
        async fn revoke(&self, _credentials: &[Credential]) {}

        async fn check(&self, _credential: Credential) -> Listed {
            Listed::Revoked
        }
    }

    #[tokio::test]
    async fn a_revoked_session_may_not_act_whatever_is_remembered() {
        let source = Arc::new(Counting(AtomicUsize::new(1)));
        let signals = Arc::new(LocalSignals::default());
        let cache = StandingCache::shared(source, signals, Arc::new(AllRevoked));
        let (account, credential) = somebody();
        assert!(cache.standing(account, credential).await.unwrap().is_none());
    }
}
