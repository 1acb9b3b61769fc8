//! Prometheus metrics: one registry per service (several may share a process), with what every
//! service reports from the start: `service_info`, the process's own figures, its RPCs.

mod listener;
mod process;
mod rpc;

use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Metric, Registry};

pub(crate) use listener::ListenerMetrics;
pub use rpc::RpcMetrics;
pub(crate) use rpc::{HandledLabels, MethodLabels};

/// A service's registry; cheap to clone.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Arc<Mutex<Registry>>,
    rpc: RpcMetrics,
    connections: listener::ConnectionMetrics,
    certificate_expiry: Family<CertificateLabels, Gauge>,
    certificate_refused: Family<CertificateLabels, Gauge>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ServiceLabels {
    service: &'static str,
    version: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CertificateLabels {
    listener: String,
}

impl Metrics {
    /// A registry with `service_info{service, version} 1` and the figures that all services share.
    pub fn new(service: &'static str) -> Self {
        let info = Family::<ServiceLabels, Gauge>::default();
        info.get_or_create(&ServiceLabels {
            service,
            version: crate::VERSION,
        })
        .set(1);
        let metrics = Self {
            registry: Arc::new(Mutex::new(Registry::default())),
            rpc: RpcMetrics::default(),
            connections: listener::ConnectionMetrics::default(),
            certificate_expiry: Family::default(),
            certificate_refused: Family::default(),
        };
        metrics.register("service_info", "The service and its version", info);
        metrics.register(
            "certificate_expiry_timestamp_seconds",
            "When the certificate that a listener shows ends, in Unix seconds",
            metrics.certificate_expiry.clone(),
        );
        metrics.register(
            "certificate_refused",
            "1 while the certificate files of a listener cannot be taken into use",
            metrics.certificate_refused.clone(),
        );
        metrics.rpc.register(&metrics);
        metrics.connections.register(&metrics);
        metrics.with(|registry| registry.register_collector(Box::new(process::ProcessCollector)));
        metrics
    }

    /// Adds a metric. Counters get their `_total` from the encoder: leave it off the name.
    pub fn register(&self, name: &str, help: &str, metric: impl Metric) {
        // The encoder ends the help text with a full stop.
        self.with(|registry| registry.register(name, help.trim_end_matches('.'), metric));
    }

    /// Tells when the certificate of `listener` ends, in Unix seconds.
    pub fn certificate_expiry(&self, listener: &str, unix_seconds: i64) {
        self.certificate_expiry
            .get_or_create(&CertificateLabels {
                listener: listener.to_owned(),
            })
            .set(unix_seconds);
    }

    /// Tells whether the files that should replace the certificate of `listener` are unfit.
    pub fn certificate_refused(&self, listener: &str, refused: bool) {
        self.certificate_refused
            .get_or_create(&CertificateLabels {
                listener: listener.to_owned(),
            })
            .set(i64::from(refused));
    }

    /// The figures of the listener `name`.
    pub(crate) fn listener(&self, name: &'static str) -> ListenerMetrics {
        self.connections.of(name)
    }

    /// The RPC figures, filled by the layers of [`crate::rpc`].
    pub fn rpc(&self) -> &RpcMetrics {
        &self.rpc
    }

    /// All metrics in the OpenMetrics text format.
    pub fn encode(&self) -> String {
        let mut text = String::with_capacity(16 * 1024);
        // Writing to a String fails only if a metric's own encoder does.
        let result =
            self.with(|registry| prometheus_client::encoding::text::encode(&mut text, registry));
        if result.is_err() {
            tracing::warn!("a metric could not be encoded");
        }
        text
    }

    fn with<R>(&self, action: impl FnOnce(&mut Registry) -> R) -> R {
        // A panic while registering leaves the registry as usable as before it.
        action(&mut self.registry.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::counter::Counter;

    use super::*;

    #[test]
    fn every_service_names_itself_and_its_version() {
        let metrics = Metrics::new("scheduler");
        metrics.register("jobs_run", "Jobs that ran.", Counter::<u64>::default());
        metrics.certificate_expiry("node-link", 1_800_000_000);
        let text = metrics.encode();
        let info = format!(
            "service_info{{service=\"scheduler\",version=\"{}\"}} 1",
            crate::VERSION
        );
        for line in [
            info.as_str(),
            "jobs_run_total 0",
            "certificate_expiry_timestamp_seconds{listener=\"node-link\"} 1800000000",
            "process_open_fds ",
            "# EOF",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
    }
}
