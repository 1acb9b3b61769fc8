//! Rate, errors, duration of every gRPC method. The labels are the contract's methods and gRPC's
//! codes, so that no caller can grow them.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};

use super::Metrics;

/// The RPC figures of a service, filled by the layers of [`crate::rpc`].
#[derive(Debug, Clone)]
pub struct RpcMetrics {
    pub(crate) handled: Family<HandledLabels, Counter>,
    pub(crate) duration: Family<MethodLabels, Histogram, DurationBuckets>,
    pub(crate) in_flight: Family<MethodLabels, Gauge>,
}

impl Default for RpcMetrics {
    fn default() -> Self {
        Self {
            handled: Family::default(),
            duration: Family::new_with_constructor(DurationBuckets),
            in_flight: Family::default(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct MethodLabels {
    pub(crate) method: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct HandledLabels {
    pub(crate) method: &'static str,
    pub(crate) code: &'static str,
}

/// 0.5 ms to 8 s, doubling: one row of buckets for everything from cache hits to Argon2.
#[derive(Debug, Clone)]
pub(crate) struct DurationBuckets;

impl MetricConstructor<Histogram> for DurationBuckets {
    fn new_metric(&self) -> Histogram {
        Histogram::new(exponential_buckets(0.0005, 2.0, 15))
    }
}

impl RpcMetrics {
    pub(super) fn register(&self, metrics: &Metrics) {
        metrics.register(
            "rpc_server_handled",
            "RPCs that ended, by method and gRPC code",
            self.handled.clone(),
        );
        metrics.register(
            "rpc_server_duration_seconds",
            "Time until an RPC ended, streams included",
            self.duration.clone(),
        );
        metrics.register(
            "rpc_server_in_flight",
            "RPCs under way",
            self.in_flight.clone(),
        );
    }
}
