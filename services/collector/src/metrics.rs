//! What the collector counts, in the registry of the process.

use std::time::Duration;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
};
use vpnpanel_runtime::metrics::Metrics as Registry;
use vpnpanel_store::Ingested;

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

/// Handles to the collector's metrics; clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    streams: Gauge,
    streams_ended: Family<Reason, Counter>,
    queue_rows: Gauge,
    rows: Counter,
    batches: Counter,
    commits: Histogram,
    commit_rows: Histogram,
    commit_failures: Counter,
    dead_letters: Counter,
    orphans: Counter,
    held: Counter,
    limited: Counter,
    quarantines: Counter,
    snapshots: Counter,
    deltas: Counter,
    state_bytes: Counter,
    refused_updates: Counter,
    change_positions: Gauge,
    restore_open: Gauge,
    restore_awaited: Gauge,
}

impl Metrics {
    /// Registers the metrics as `collector_*`.
    #[must_use]
    pub(crate) fn register(registry: &Registry) -> Self {
        let metrics = Self {
            streams: Gauge::default(),
            streams_ended: Family::default(),
            queue_rows: Gauge::default(),
            rows: Counter::default(),
            batches: Counter::default(),
            commits: Histogram::new(exponential_buckets(0.001, 2.0, 14)),
            commit_rows: Histogram::new(exponential_buckets(1.0, 4.0, 10)),
            commit_failures: Counter::default(),
            dead_letters: Counter::default(),
            orphans: Counter::default(),
            held: Counter::default(),
            limited: Counter::default(),
            quarantines: Counter::default(),
            snapshots: Counter::default(),
            deltas: Counter::default(),
            state_bytes: Counter::default(),
            refused_updates: Counter::default(),
            change_positions: Gauge::default(),
            restore_open: Gauge::default(),
            restore_awaited: Gauge::default(),
        };
        let m = metrics.clone();
        registry.register("collector_streams", "Node streams open", m.streams);
        registry.register(
            "collector_streams_ended",
            "Node streams that ended, by reason",
            m.streams_ended,
        );
        registry.register(
            "collector_ingest_queue_rows",
            "Usage rows that wait for the database",
            m.queue_rows,
        );
        registry.register("collector_ingest_rows", "Usage rows committed", m.rows);
        registry.register(
            "collector_ingest_batches",
            "Usage batches committed",
            m.batches,
        );
        registry.register(
            "collector_ingest_commit_seconds",
            "Length of an ingest transaction",
            m.commits,
        );
        registry.register(
            "collector_ingest_commit_rows",
            "Usage rows of an ingest transaction",
            m.commit_rows,
        );
        registry.register(
            "collector_ingest_commit_failures",
            "Ingest transactions that failed; all are tried again or set aside",
            m.commit_failures,
        );
        registry.register(
            "collector_ingest_dead_letters",
            "Batches that could not be taken and were set aside: look at them",
            m.dead_letters,
        );
        registry.register(
            "collector_ingest_orphan_rows",
            "Usage rows that belong to nobody known, kept apart: look at them",
            m.orphans,
        );
        registry.register(
            "collector_ingest_held_rows",
            "Usage rows that are not plausible, kept for a person to decide",
            m.held,
        );
        registry.register(
            "collector_users_limited",
            "Users that crossed their limit",
            m.limited,
        );
        registry.register(
            "collector_quarantines",
            "Streams that were quarantined: two agents with one identity",
            m.quarantines,
        );
        registry.register(
            "collector_snapshots",
            "Desired states sent to nodes whole",
            m.snapshots,
        );
        registry.register(
            "collector_deltas",
            "Changes of desired states sent to nodes",
            m.deltas,
        );
        registry.register(
            "collector_state_bytes",
            "Bytes of desired states and changes of them sent to nodes",
            m.state_bytes,
        );
        registry.register(
            "collector_refused_updates",
            "Desired states of which a node could not apply everything",
            m.refused_updates,
        );
        registry.register(
            "collector_change_log_revision",
            "Revision up to which the change log has been read",
            m.change_positions,
        );
        registry.register(
            "collector_restore_open_seconds",
            "For how long the restore barrier has been up, 0 while it is not: nothing is granted then",
            m.restore_open,
        );
        registry.register(
            "collector_restore_nodes_awaited",
            "Nodes that the restore barrier waits for: they report, or have to be written off",
            m.restore_awaited,
        );
        metrics
    }

    pub(crate) fn restore(&self, open_seconds: i64, awaited: u64) {
        self.restore_open.set(open_seconds);
        self.restore_awaited
            .set(i64::try_from(awaited).unwrap_or(i64::MAX));
    }

    pub(crate) fn stream_opened(&self) {
        self.streams.inc();
    }

    pub(crate) fn stream_closed(&self) {
        self.streams.dec();
    }

    pub(crate) fn stream_ended(&self, reason: &'static str) {
        self.streams_ended.get_or_create(&Reason { reason }).inc();
    }

    pub(crate) fn queued(&self, rows: u32) {
        self.queue_rows.inc_by(i64::from(rows));
    }

    pub(crate) fn taken(&self, rows: u32) {
        self.queue_rows.dec_by(i64::from(rows));
    }

    pub(crate) fn committed(
        &self,
        rows: u32,
        batches: usize,
        ingested: &Ingested,
        elapsed: Duration,
    ) {
        self.rows.inc_by(u64::from(rows));
        self.batches.inc_by(batches as u64);
        self.dead_letters.inc_by(ingested.dead_letters as u64);
        self.orphans.inc_by(ingested.orphans as u64);
        self.held.inc_by(ingested.held as u64);
        self.limited.inc_by(ingested.limited as u64);
        self.commits.observe(elapsed.as_secs_f64());
        self.commit_rows.observe(f64::from(rows));
    }

    pub(crate) fn commit_failed(&self) {
        self.commit_failures.inc();
    }

    pub(crate) fn quarantined(&self) {
        self.quarantines.inc();
    }

    pub(crate) fn state_sent(&self, whole: bool, bytes: usize) {
        if whole {
            self.snapshots.inc();
        } else {
            self.deltas.inc();
        }
        self.state_bytes.inc_by(bytes as u64);
    }

    pub(crate) fn refused_update(&self) {
        self.refused_updates.inc();
    }

    pub(crate) fn read_up_to(&self, revision: u64) {
        self.change_positions
            .set(i64::try_from(revision).unwrap_or(i64::MAX));
    }
}
