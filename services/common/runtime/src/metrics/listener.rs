//! Connections of each listener: how many are open, and which were ended by us, and why.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use super::Metrics;

#[derive(Debug, Clone, Default)]
pub(super) struct ConnectionMetrics {
    open: Family<OpenLabels, Gauge>,
    ended: Family<EndedLabels, Counter>,
    cut: Family<OpenLabels, Counter>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OpenLabels {
    listener: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EndedLabels {
    listener: &'static str,
    reason: &'static str,
}

impl ConnectionMetrics {
    pub(super) fn register(&self, metrics: &Metrics) {
        metrics.register(
            "connections_open",
            "Connections open, by listener",
            self.open.clone(),
        );
        metrics.register(
            "connections_ended",
            "Connections ended by us, by listener and reason",
            self.ended.clone(),
        );
        metrics.register(
            "answers_cut",
            "Answers over HTTP/2 cut off because their client took nothing of them, by listener",
            self.cut.clone(),
        );
    }

    pub(super) fn of(&self, listener: &'static str) -> ListenerMetrics {
        ListenerMetrics {
            listener,
            open: self.open.get_or_create_owned(&OpenLabels { listener }),
            ended: self.ended.clone(),
            cut: self.cut.get_or_create_owned(&OpenLabels { listener }),
        }
    }
}

/// The figures of one listener.
#[derive(Debug, Clone)]
pub(crate) struct ListenerMetrics {
    listener: &'static str,
    open: Gauge,
    ended: Family<EndedLabels, Counter>,
    cut: Counter,
}

impl ListenerMetrics {
    /// Counts a connection until what it returns is dropped.
    pub(crate) fn opened(&self) -> OpenConnection {
        self.open.inc();
        OpenConnection(self.open.clone())
    }

    pub(crate) fn ended(&self, reason: &'static str) {
        let listener = self.listener;
        self.ended
            .get_or_create(&EndedLabels { listener, reason })
            .inc();
    }

    /// Counts an answer that was cut off while its connection goes on.
    pub(crate) fn cut(&self) {
        self.cut.inc();
    }
}

#[derive(Debug)]
pub(crate) struct OpenConnection(Gauge);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.dec();
    }
}
