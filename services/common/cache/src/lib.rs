//! What the replicas of an installation share and may forget: signals, revocations, what roles
//! permit, and the counts of rate limits. In Redis or Valkey, or, without one, in process.
//!
//! It is a cache and a doorbell, never the only copy of anything, and never what opens a door:
//! - every command takes a bounded time, and a Redis that does not answer is left alone for a while;
//! - where it is away, wiped or slow, the database answers, and limits are counted by a stricter
//!   guard in process;
//! - what a replica remembers is believed for `vpnpanel_auth::signals::TRUST` after the database
//!   was asked, whatever Redis says or does not say.
//!
//! What lies where is in [`keyspace`], and in docs/redis.md.

mod error;
pub mod keyspace;
mod limiter;
mod local;
mod metrics;
mod redis;
mod settings;
#[cfg(feature = "testing")]
pub mod testing;

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;
use vpnpanel_auth::{
    RateLimiter, RevocationList, RevocationSource, Seal, SharedPolicy, Signals,
    policy_cache::NoSharedPolicy, signals::LocalSignals,
};
use vpnpanel_runtime::metrics::Metrics;

pub use error::CacheError;
pub use settings::CacheSettings;

use crate::{limiter::LocalLimiter, local::LocalRevocations, metrics::CacheMetrics, redis::Redis};

/// What is shared, behind the traits of the auth crate. Cheap to clone.
#[derive(Clone)]
pub struct Cache {
    /// Tells other replicas what changed.
    pub signals: Arc<dyn Signals>,
    /// Credentials that were ended before their time.
    pub revocations: Arc<dyn RevocationList>,
    /// What roles permit.
    pub policy: Arc<dyn SharedPolicy>,
    /// Counts what is limited.
    pub limiter: Arc<dyn RateLimiter>,
    redis: Option<Arc<Redis>>,
    metrics: CacheMetrics,
}

impl std::fmt::Debug for Cache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cache")
            .field("redis", &self.redis.is_some())
            .finish_non_exhaustive()
    }
}

impl Cache {
    /// By the settings: in Redis, or in process where none is named. Nothing is connected before
    /// [`Cache::run`]; until then, and whenever Redis is away, everything works without it.
    ///
    /// `credential_life` is how long a credential can be presented after it was ended, at most;
    /// `seal` keeps what roles permit from being changed by whoever can write to Redis.
    ///
    /// # Errors
    /// [`CacheError`] for settings that make no sense.
    pub fn open(
        settings: &CacheSettings,
        credential_life: Duration,
        seal: Arc<dyn Seal>,
    ) -> Result<Self, CacheError> {
        let Some(url) = &settings.redis_url else {
            return Ok(Self::in_process(credential_life));
        };
        let metrics = CacheMetrics::default();
        let redis = Redis::new(settings, url, credential_life, seal, &metrics)?;
        Ok(Self {
            signals: redis.signals.clone(),
            revocations: redis.revocations.clone(),
            policy: redis.policy.clone(),
            limiter: redis.limiter.clone(),
            redis: Some(Arc::new(redis)),
            metrics,
        })
    }

    /// For a process that shares nothing with others.
    pub fn in_process(credential_life: Duration) -> Self {
        let metrics = CacheMetrics::default();
        Self {
            signals: Arc::new(LocalSignals::default()),
            revocations: Arc::new(LocalRevocations::new(credential_life)),
            policy: Arc::new(NoSharedPolicy),
            limiter: Arc::new(LocalLimiter::new(metrics.clone())),
            redis: None,
            metrics,
        }
    }

    /// Reports in `metrics`.
    pub fn register(&self, metrics: &Metrics) {
        self.metrics.register(metrics);
    }

    /// Keeps the connections and follows the others' signals until `stop`; a list of revocations
    /// that was lost is built again from `source`. Redis being away is no failure.
    pub async fn run(self, source: Arc<dyn RevocationSource>, stop: CancellationToken) {
        match self.redis {
            Some(redis) => redis.run(source, stop).await,
            None => stop.cancelled().await,
        }
    }
}
