//! Retention of the audit log: events that are older than the settings keep them go, from the
//! beginning of their chains, and leave a checkpoint and an event that says so.

use std::time::Duration;

use async_trait::async_trait;
use vpnpanel_store::Attribution;

use super::{Job, Run};
use crate::{audit, error::Error, settings::Settings};

/// Events that one transaction removes.
const BATCH: u32 = 1_000;

const EVERY: Duration = Duration::from_secs(6 * 3_600);

/// Removes audit events whose time of keeping is over, a batch of one chain per transaction.
#[derive(Debug)]
pub struct RetainAudit {
    keep_ms: i64,
}

impl RetainAudit {
    /// The job with its time of keeping out of `settings`.
    #[must_use]
    pub fn new(settings: &Settings) -> Self {
        let keep = settings.audit_retention.0.as_millis();
        Self {
            keep_ms: i64::try_from(keep).unwrap_or(i64::MAX),
        }
    }
}

#[async_trait]
impl Job for RetainAudit {
    fn name(&self) -> &'static str {
        "retain-audit"
    }

    fn description(&self) -> &'static str {
        "Removes audit events that are older than they are kept"
    }

    fn every(&self) -> Duration {
        EVERY
    }

    async fn run(&self, run: &Run<'_>) -> Result<u64, Error> {
        if self.keep_ms == 0 {
            return Ok(0);
        }
        let who = Attribution::system("scheduler/audit-retention", audit::describe);
        let store = run.store.acting(who);
        let before_ms = store.now_ms().saturating_sub(self.keep_ms).max(0);
        let mut removed = 0;
        while !run.cancelled.is_cancelled() {
            let batch = store.trim_audit(run.lease, before_ms, BATCH).await?;
            removed += batch;
            run.metrics.effects(self.name(), batch);
            if batch == 0 {
                break;
            }
        }
        Ok(removed)
    }
}
