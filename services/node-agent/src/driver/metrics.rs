//! What the agent counts of itself. No user and no peer is ever a label.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use vpnpanel_link::agent::Agent;
use vpnpanel_runtime::metrics::Metrics;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

/// The agent's metrics; clones share them.
#[derive(Debug, Clone, Default)]
pub struct AgentMetrics {
    connected: Gauge,
    applied_revision: Gauge,
    held_batches: Gauge,
    reads: Family<Outcome, Counter>,
    alarms: Counter,
    disk_failures: Counter,
}

impl AgentMetrics {
    /// Registers them.
    #[must_use]
    pub fn register(registry: &Metrics) -> Self {
        let metrics = Self::default();
        registry.register(
            "agent_link_connected",
            "1 while the node link is up",
            metrics.connected.clone(),
        );
        registry.register(
            "agent_applied_revision",
            "The desired state in force",
            metrics.applied_revision.clone(),
        );
        registry.register(
            "agent_spool_batches",
            "Batches on disk, acknowledged ones within retention included",
            metrics.held_batches.clone(),
        );
        registry.register(
            "agent_counter_reads",
            "Reads of the counters",
            metrics.reads.clone(),
        );
        registry.register("agent_alarms", "Alarms of the link", metrics.alarms.clone());
        registry.register(
            "agent_spool_failures",
            "Writes to the spool that failed",
            metrics.disk_failures.clone(),
        );
        metrics
    }

    /// Whether the node link is up.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.connected.get() == 1
    }

    pub(super) fn observe(&self, machine: &Agent) {
        self.connected.set(i64::from(machine.is_connected()));
        let revision = machine
            .durable()
            .applied
            .map_or(0, |state| state.revision.get());
        self.applied_revision
            .set(i64::try_from(revision).unwrap_or(i64::MAX));
        let batches = machine.durable().batches.len();
        self.held_batches
            .set(i64::try_from(batches).unwrap_or(i64::MAX));
    }

    pub(super) fn read(&self, worked: bool) {
        let outcome = if worked { "ok" } else { "failed" };
        self.reads.get_or_create(&Outcome { outcome }).inc();
    }

    pub(super) fn alarm(&self) {
        self.alarms.inc();
    }

    pub(super) fn disk_failed(&self) {
        self.disk_failures.inc();
    }
}
