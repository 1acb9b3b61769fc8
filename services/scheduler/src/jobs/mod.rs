//! The jobs there are, and what each of them is given. A job is a sweep over sets of rows: it may be
//! cut after any batch and run again by anybody, because every batch is committed under the fence of
//! its lease (docs/adr/0005).

mod audit_retention;
mod certificates;
mod commands;
mod credentials;
mod expiry;
mod months;
mod next_plans;
mod operations;
mod overdue_certificates;
mod periods;
mod signing_keys;
mod silent_nodes;
mod sync_repair;
mod usage_retention;
mod usage_rollup;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;
use vpnpanel_store::{JobLease, Store};

use crate::{error::Error, metrics::Metrics, settings::Settings};

pub use audit_retention::RetainAudit;
pub use certificates::PruneCertificates;
pub use commands::ExpireNodeCommands;
pub use credentials::ForgetCredentials;
pub use expiry::ExpireUsers;
pub use months::BeginMonths;
pub use next_plans::GiveNextPlans;
pub use operations::ForgetOperations;
pub use overdue_certificates::WatchCertificates;
pub use periods::RollPeriods;
pub use signing_keys::{RotateSigningKeys, SigningKeys};
pub use silent_nodes::MarkSilentNodes;
pub use sync_repair::RepairSync;
pub use usage_retention::RetainUsage;
pub use usage_rollup::RollUsage;

/// One named periodic job.
#[async_trait]
pub trait Job: Send + Sync + 'static {
    /// The name of its row, of its metrics' label and of its resource in the API. Never changes.
    fn name(&self) -> &'static str;

    /// What it does, in one sentence, for people.
    fn description(&self) -> &'static str;

    /// The time from the end of one run to the start of the next.
    fn every(&self) -> Duration;

    /// Works until nothing is left to do or `run.cancelled` fires, whichever is first.
    ///
    /// # Errors
    /// [`Error::LeaseLost`] when another replica has taken the job over: nothing of the batch in
    /// hand was committed. Any other error fails the run; the next one starts at its usual time.
    async fn run(&self, run: &Run<'_>) -> Result<u64, Error>;
}

/// What a running job stands on.
#[derive(Debug)]
pub struct Run<'a> {
    /// The store.
    pub store: &'a Store,
    /// The lease under which every effect of this run is committed.
    pub lease: &'a JobLease,
    /// Fires when the lease is lost, the run takes too long, or the process stops.
    pub cancelled: &'a CancellationToken,
    /// Counters of effects.
    pub metrics: &'a Metrics,
}

/// All jobs of this service, as `settings` wants them.
#[must_use]
pub fn all(settings: &Settings, keys: SigningKeys) -> Vec<Arc<dyn Job>> {
    vec![
        Arc::new(ExpireUsers::new(settings)),
        Arc::new(RollPeriods::new(settings)),
        Arc::new(GiveNextPlans::new(settings)),
        Arc::new(BeginMonths::new(settings)),
        Arc::new(ForgetOperations),
        Arc::new(RetainAudit::new(settings)),
        Arc::new(RotateSigningKeys::new(settings, keys)),
        Arc::new(ForgetCredentials),
        Arc::new(ExpireNodeCommands),
        Arc::new(PruneCertificates),
        Arc::new(MarkSilentNodes),
        Arc::new(WatchCertificates),
        Arc::new(RepairSync),
        Arc::new(RollUsage::new(settings)),
        Arc::new(RetainUsage::new(settings)),
    ]
}
