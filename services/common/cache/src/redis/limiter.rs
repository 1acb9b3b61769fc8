//! Counting together with all replicas (GCRA: <https://en.wikipedia.org/wiki/Generic_cell_rate_algorithm>).

use std::{num::NonZeroU32, time::Duration};

use async_trait::async_trait;
use vpnpanel_auth::limits::{Limit, Quota, RateLimiter, Verdict};

use super::{link::Link, script::Script};
use crate::{limiter::LocalLimiter, metrics::CacheMetrics};

/// While Redis is away each replica counts alone, and permits so much less.
const GUARD_PARTS: NonZeroU32 = NonZeroU32::new(4).unwrap();

/// One key holds the time at which its caller will have used nothing (µs of Redis's own clock).
/// Returns 0, or the microseconds until the next call is permitted. A clock that was put back
/// cannot keep anybody out for longer than the quota's own time.
const COUNT: &str = r"
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local interval, tolerance = tonumber(ARGV[1]), tonumber(ARGV[2])
local free = tonumber(redis.call('GET', KEYS[1]) or now)
if free < now then free = now end
if free > now + tolerance then free = now + tolerance end
local next_free = free + interval
if next_free - tolerance > now then return next_free - tolerance - now end
redis.call('SET', KEYS[1], string.format('%.0f', next_free),
  'PX', math.ceil((next_free - now) / 1000))
return 0
";

pub(crate) struct RedisLimiter {
    link: Link,
    count: Script,
    guard: LocalLimiter,
    metrics: CacheMetrics,
}

impl RedisLimiter {
    pub(super) fn new(link: Link, metrics: CacheMetrics) -> Self {
        Self {
            link,
            count: Script::new(COUNT),
            guard: LocalLimiter::new(metrics.clone()),
            metrics,
        }
    }

    pub(super) fn link(&self) -> &Link {
        &self.link
    }
}

#[async_trait]
impl RateLimiter for RedisLimiter {
    async fn count(&self, limit: Limit, key: &str, quota: Quota) -> Verdict {
        let interval = micros(quota.interval());
        let tolerance = interval.saturating_mul(i64::from(quota.count.get()));
        let counted = self.link.ask(async |connection| {
            let keys = vec![self.link.key(&format!("{limit}:{key}"))];
            let arguments = vec![interval.into(), tolerance.into()];
            self.count.run::<i64>(connection, keys, arguments).await
        });
        match counted.await {
            Ok(wait) if wait <= 0 => Verdict::Permitted,
            Ok(wait) => {
                self.metrics.refused(limit);
                Verdict::Refused {
                    retry_after: Duration::from_micros(wait.unsigned_abs()),
                }
            }
            Err(_away) => {
                self.metrics.guarded();
                self.guard
                    .count_now(limit, key, quota.divided_by(GUARD_PARTS))
            }
        }
    }
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}
