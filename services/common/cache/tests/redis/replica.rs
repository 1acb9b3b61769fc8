//! Replicas of a service, as far as the cache can tell.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use tokio_util::sync::{CancellationToken, DropGuard};
use vpnpanel_auth::{
    SourceError,
    revocation::{Credential, Listed, Revocation, RevocationSource},
    signals::{Listener, Signal},
};
use vpnpanel_cache::{
    Cache,
    testing::{PlainSeal, TestRedis, eventually},
};
use vpnpanel_domain::SessionId;

pub(crate) const LIFE: Duration = Duration::from_secs(900);

/// The database of a test: the sessions that were ended.
#[derive(Debug, Clone, Default)]
pub(crate) struct Database(Arc<Mutex<Vec<Revocation>>>);

impl Database {
    pub(crate) fn end(&self, credential: Credential, at_ms: i64) {
        let revocation = Revocation { credential, at_ms };
        self.0.lock().unwrap().push(revocation);
    }
}

#[async_trait]
impl RevocationSource for Database {
    async fn revoked_since(&self, since_ms: i64) -> Result<Vec<Revocation>, SourceError> {
        let ended = self.0.lock().unwrap();
        let since = ended.iter().filter(|one| one.at_ms >= since_ms);
        Ok(since.copied().collect())
    }
}

/// A replica; stops when dropped.
pub(crate) struct Replica {
    pub(crate) cache: Cache,
    pub(crate) heard: Arc<Heard>,
    _stop: DropGuard,
}

/// Every signal that a replica heard.
#[derive(Debug, Default)]
pub(crate) struct Heard(Mutex<Vec<Signal>>);

impl Heard {
    pub(crate) fn has(&self, signal: Signal) -> bool {
        self.0.lock().unwrap().contains(&signal)
    }

    pub(crate) fn clear(&self) {
        self.0.lock().unwrap().clear();
    }
}

impl Listener for Heard {
    fn heard(&self, signal: &Signal) {
        self.0.lock().unwrap().push(*signal);
    }
}

impl Replica {
    /// Connected, and following the others.
    pub(crate) async fn start(redis: &TestRedis, database: &Database) -> Self {
        let replica = Self::away(redis, database);
        replica.is_following().await;
        replica.has_complete_list().await;
        replica
    }

    /// Of which nobody knows whether it is connected.
    pub(crate) fn away(redis: &TestRedis, database: &Database) -> Self {
        vpnpanel_runtime::install_crypto_provider();
        let cache = Cache::open(&redis.settings(), LIFE, Arc::new(PlainSeal)).unwrap();
        let heard = Arc::new(Heard::default());
        cache.signals.listen(Arc::clone(&heard) as _);
        let stop = CancellationToken::new();
        tokio::spawn(cache.clone().run(Arc::new(database.clone()), stop.clone()));
        Self {
            cache,
            heard,
            _stop: stop.drop_guard(),
        }
    }

    /// It says that it may have missed something when it begins to follow.
    pub(crate) async fn is_following(&self) {
        let heard = &self.heard;
        eventually("a replica follows the signals", async || {
            heard.has(Signal::Everything)
        })
        .await;
    }

    pub(crate) async fn has_complete_list(&self) {
        let revocations = &self.cache.revocations;
        eventually("the list of revocations is complete", async || {
            revocations.check(session(250)).await == Listed::Clear
        })
        .await;
    }
}

pub(crate) fn session(n: u8) -> Credential {
    Credential::Session(SessionId::from_parts(1, [n; 10]))
}
