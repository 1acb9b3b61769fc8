//! Counting in process, by governor: for a process that has no replicas, and as the guard while
//! Redis is away.

use std::{
    collections::HashMap,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
};

use async_trait::async_trait;
use governor::{
    Quota as Cells, RateLimiter as Governor,
    clock::{Clock, DefaultClock},
    state::keyed::DashMapStateStore,
};
use vpnpanel_auth::limits::{Limit, Quota, RateLimiter, Verdict};

use crate::metrics::CacheMetrics;

/// Keys that one limit remembers, of about 50 bytes each.
const MAX_KEYS: usize = 100_000;
/// How many calls pass between two looks at the number of keys.
const LOOK_EVERY: u32 = 1_024;
/// Keys are shared by that many callers together when there are more than fit.
const CROWD: u128 = 4_096;

type Counts = Governor<u128, DashMapStateStore<u128>, DefaultClock>;

/// Counts in process. Memory is bounded: keys that are as if they had never called are dropped, and
/// when even then there are too many, callers share keys. Nobody passes for want of memory.
pub(crate) struct LocalLimiter {
    limits: RwLock<HashMap<(Limit, Quota), Arc<Counter>>>,
    /// Keys are hashed under a secret: nobody can choose whom they share one with.
    hasher: [std::hash::RandomState; 2],
    max_keys: usize,
    clock: DefaultClock,
    metrics: CacheMetrics,
}

struct Counter {
    counts: Counts,
    calls: AtomicU32,
    crowded: AtomicBool,
}

impl LocalLimiter {
    pub(crate) fn new(metrics: CacheMetrics) -> Self {
        Self {
            limits: RwLock::default(),
            hasher: Default::default(),
            max_keys: MAX_KEYS,
            clock: DefaultClock::default(),
            metrics,
        }
    }

    fn counter(&self, limit: Limit, quota: Quota) -> Arc<Counter> {
        let known = self.limits.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(counter) = known.get(&(limit, quota)) {
            return Arc::clone(counter);
        }
        drop(known);
        let mut limits = self.limits.write().unwrap_or_else(PoisonError::into_inner);
        let counter = limits.entry((limit, quota)).or_insert_with(|| {
            // The interval is never zero.
            let cells = Cells::with_period(quota.interval())
                .unwrap_or(Cells::per_second(quota.count))
                .allow_burst(quota.count);
            Arc::new(Counter {
                counts: Governor::dashmap(cells),
                calls: AtomicU32::new(0),
                crowded: AtomicBool::new(false),
            })
        });
        Arc::clone(counter)
    }

    fn hash(&self, key: &str) -> u128 {
        use std::hash::BuildHasher as _;
        let [high, low] = self.hasher.each_ref().map(|half| half.hash_one(key));
        (u128::from(high) << 64) | u128::from(low)
    }

    pub(crate) fn count_now(&self, limit: Limit, key: &str, quota: Quota) -> Verdict {
        let counter = self.counter(limit, quota);
        counter.look_after(self.max_keys);
        let mut key = self.hash(key);
        if counter.crowded.load(Ordering::Relaxed) {
            key %= CROWD;
        }
        match counter.counts.check_key(&key) {
            Ok(()) => Verdict::Permitted,
            Err(refused) => {
                self.metrics.refused(limit);
                Verdict::Refused {
                    retry_after: refused.wait_time_from(self.clock.now()),
                }
            }
        }
    }
}

impl Counter {
    fn look_after(&self, max_keys: usize) {
        let calls = self.calls.fetch_add(1, Ordering::Relaxed);
        if !calls.is_multiple_of(LOOK_EVERY) {
            return;
        }
        if self.counts.len() < max_keys / 2 {
            self.crowded.store(false, Ordering::Relaxed);
            return;
        }
        self.counts.retain_recent();
        self.counts.shrink_to_fit();
        let crowded = self.counts.len() >= max_keys;
        if crowded && !self.crowded.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                event = "rate_limit_crowded",
                "more callers than are counted apart: they share counts now"
            );
        }
    }
}

#[async_trait]
impl RateLimiter for LocalLimiter {
    async fn count(&self, limit: Limit, key: &str, quota: Quota) -> Verdict {
        self.count_now(limit, key, quota)
    }
}

#[cfg(test)]
mod tests {
    use std::{num::NonZeroU32, time::Duration};

    use super::*;

    fn quota(count: u32) -> Quota {
        Quota {
            count: NonZeroU32::new(count).unwrap(),
            per: Duration::from_secs(600),
        }
    }

    #[test]
    fn a_caller_has_its_quota_at_once_and_no_more() {
        let limiter = LocalLimiter::new(CacheMetrics::default());
        for _ in 0..5 {
            let verdict = limiter.count_now(Limit::Anonymous, "a", quota(5));
            assert_eq!(verdict, Verdict::Permitted);
        }
        let Verdict::Refused { retry_after } = limiter.count_now(Limit::Anonymous, "a", quota(5))
        else {
            panic!("the sixth is one too many");
        };
        assert!(retry_after <= Duration::from_secs(120), "{retry_after:?}");
        assert!(retry_after > Duration::from_secs(110), "{retry_after:?}");
        for (limit, key) in [(Limit::Anonymous, "b"), (Limit::SignInAddress, "a")] {
            assert_eq!(limiter.count_now(limit, key, quota(5)), Verdict::Permitted);
        }
    }

    #[test]
    fn memory_is_bounded_and_nobody_passes_for_want_of_it() {
        let limiter = LocalLimiter {
            max_keys: 2_000,
            ..LocalLimiter::new(CacheMetrics::default())
        };
        let mut permitted = 0;
        for n in 0..50_000 {
            let verdict = limiter.count_now(Limit::Anonymous, &n.to_string(), quota(1));
            permitted += u32::from(verdict == Verdict::Permitted);
        }
        let counter = limiter.counter(Limit::Anonymous, quota(1));
        let bound = 2_000 + LOOK_EVERY as usize + CROWD as usize;
        assert!(counter.counts.len() <= bound, "{}", counter.counts.len());
        assert!(permitted as usize <= bound, "{permitted}");
    }
}
