//! What is reported: whether Redis answers, and who was refused by limits.

use std::sync::atomic::AtomicU64;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
};
use vpnpanel_auth::limits::Limit;
use vpnpanel_runtime::metrics::Metrics;

use crate::keyspace::Concern;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ConcernLabels {
    concern: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LimitLabels {
    limit: &'static str,
}

/// The figures of one process.
#[derive(Debug, Clone, Default)]
pub(crate) struct CacheMetrics {
    up: Family<ConcernLabels, Gauge>,
    failures: Family<ConcernLabels, Counter>,
    refused: Family<LimitLabels, Counter>,
    guarded: Counter,
    lost_signals: Counter<u64, AtomicU64>,
}

impl CacheMetrics {
    pub(crate) fn register(&self, metrics: &Metrics) {
        metrics.register(
            "cache_redis_up",
            "Whether Redis answered the last command of the concern",
            self.up.clone(),
        );
        metrics.register(
            "cache_redis_failures",
            "Commands that Redis did not answer in time, or with an error",
            self.failures.clone(),
        );
        metrics.register(
            "cache_signals_lost",
            "Signals that other replicas could not be told in time",
            self.lost_signals.clone(),
        );
        metrics.register(
            "rate_limit_refusals",
            "Calls that were refused by a limit",
            self.refused.clone(),
        );
        metrics.register(
            "rate_limit_guarded",
            "Calls that were counted in process because Redis was away",
            self.guarded.clone(),
        );
    }

    pub(crate) fn up(&self, concern: Concern, up: bool) {
        self.up.get_or_create(&label(concern)).set(i64::from(up));
    }

    pub(crate) fn failed(&self, concern: Concern) {
        self.failures.get_or_create(&label(concern)).inc();
    }

    pub(crate) fn refused(&self, limit: Limit) {
        let limit = limit.as_str();
        self.refused.get_or_create(&LimitLabels { limit }).inc();
    }

    pub(crate) fn guarded(&self) {
        self.guarded.inc();
    }

    pub(crate) fn lost_signal(&self) {
        self.lost_signals.inc();
    }
}

fn label(concern: Concern) -> ConcernLabels {
    ConcernLabels {
        concern: concern.name(),
    }
}
