//! What the job loop counts, in the registry of the process.

use std::{sync::atomic::AtomicU64, time::Duration};

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
use vpnpanel_store::{AuditTail, FleetFigures};

use crate::error::Error;

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct JobLabel {
    job: &'static str,
}

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RunLabels {
    job: &'static str,
    outcome: &'static str,
}

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct StateLabel {
    state: &'static str,
}

/// How the fleet is; clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct FleetMetrics {
    nodes: Family<StateLabel, Gauge>,
    certificates: Family<StateLabel, Gauge>,
    behind: Gauge,
}

impl FleetMetrics {
    fn register(&self, registry: &Registry) {
        registry.register(
            "fleet_nodes",
            "Nodes that are enrolled and not disabled, by whether they are connected",
            self.nodes.clone(),
        );
        registry.register(
            "fleet_node_certificates",
            "Nodes whose certificate was not renewed in time: it is overdue, or has ended",
            self.certificates.clone(),
        );
        registry.register(
            "fleet_nodes_behind",
            "Connected nodes that have left what they were told unanswered for five minutes",
            self.behind.clone(),
        );
    }

    pub(crate) fn show(&self, figures: &FleetFigures) {
        let set = |family: &Family<StateLabel, Gauge>, state, figure: u64| {
            let figure = i64::try_from(figure).unwrap_or(i64::MAX);
            family.get_or_create(&StateLabel { state }).set(figure);
        };
        set(&self.nodes, "online", figures.online);
        set(&self.nodes, "offline", figures.offline);
        set(&self.certificates, "overdue", figures.certificates_overdue);
        set(&self.certificates, "ended", figures.certificates_ended);
        self.behind
            .set(i64::try_from(figures.behind).unwrap_or(i64::MAX));
    }
}

/// Handles to what the chainer counts; clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct AuditMetrics {
    chained: Counter,
    unchained: Gauge,
    oldest: Gauge<f64, AtomicU64>,
}

impl AuditMetrics {
    fn register(&self, registry: &Registry) {
        registry.register(
            "audit_chained_events",
            "Audit events that this process chained",
            self.chained.clone(),
        );
        registry.register(
            "audit_unchained_events",
            "Audit events that wait to be chained",
            self.unchained.clone(),
        );
        registry.register(
            "audit_unchained_oldest_age_seconds",
            "Age of the oldest audit event that waits to be chained",
            self.oldest.clone(),
        );
    }

    pub(crate) fn chained(&self, count: u64) {
        self.chained.inc_by(count);
    }

    pub(crate) fn waiting(&self, tail: AuditTail, now_ms: i64) {
        self.unchained
            .set(i64::try_from(tail.count).unwrap_or(i64::MAX));
        let age_ms = tail
            .oldest_at_ms
            .map_or(0, |oldest| (now_ms - oldest).max(0));
        self.oldest
            .set(Duration::from_millis(age_ms.unsigned_abs()).as_secs_f64());
    }
}

/// Handles to the job metrics; clones share them.
#[derive(Debug, Clone)]
pub struct Metrics {
    runs: Family<RunLabels, Counter>,
    running: Family<JobLabel, Gauge>,
    effects: Family<JobLabel, Counter>,
    duration: Family<JobLabel, Histogram, fn() -> Histogram>,
    pub(crate) audit: AuditMetrics,
    pub(crate) fleet: FleetMetrics,
}

impl Metrics {
    /// Registers the metrics as `scheduler_job_*`.
    #[must_use]
    pub fn register(registry: &Registry) -> Self {
        let metrics = Self {
            runs: Family::default(),
            running: Family::default(),
            effects: Family::default(),
            duration: Family::new_with_constructor(|| {
                Histogram::new(exponential_buckets(0.001, 4.0, 10))
            }),
            audit: AuditMetrics::default(),
            fleet: FleetMetrics::default(),
        };
        metrics.audit.register(registry);
        metrics.fleet.register(registry);
        registry.register(
            "scheduler_job_runs",
            "Runs that ended",
            metrics.runs.clone(),
        );
        registry.register(
            "scheduler_job_running",
            "Runs going on",
            metrics.running.clone(),
        );
        registry.register(
            "scheduler_job_effects",
            "Rows that jobs changed, committed",
            metrics.effects.clone(),
        );
        registry.register(
            "scheduler_job_duration_seconds",
            "Length of a run",
            metrics.duration.clone(),
        );
        metrics
    }

    pub(crate) fn effects(&self, job: &'static str, count: u64) {
        self.effects.get_or_create(&JobLabel { job }).inc_by(count);
    }

    pub(crate) fn started(&self, job: &'static str) {
        self.running.get_or_create(&JobLabel { job }).inc();
    }

    pub(crate) fn finished(
        &self,
        job: &'static str,
        result: &Result<u64, Error>,
        elapsed: Duration,
    ) {
        let outcome = match result {
            Ok(_) => "succeeded",
            Err(Error::LeaseLost) => "lease_lost",
            Err(Error::RunTimedOut) => "timed_out",
            Err(_) => "failed",
        };
        self.running.get_or_create(&JobLabel { job }).dec();
        self.runs.get_or_create(&RunLabels { job, outcome }).inc();
        self.duration
            .get_or_create(&JobLabel { job })
            .observe(elapsed.as_secs_f64());
    }
}
