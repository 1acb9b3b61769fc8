//! What the job loop counts, in the registry of the process.

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

/// Handles to the job metrics; clones share them.
#[derive(Debug, Clone)]
pub struct Metrics {
    runs: Family<RunLabels, Counter>,
    running: Family<JobLabel, Gauge>,
    effects: Family<JobLabel, Counter>,
    duration: Family<JobLabel, Histogram, fn() -> Histogram>,
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
        };
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
