//! Certificates of nodes that are over: a node gets a hundred a year.

use std::time::Duration;

use async_trait::async_trait;

use super::{Job, Run};
use crate::error::Error;

const EVERY: Duration = Duration::from_secs(3_600);
/// Rows that one transaction deletes.
const BATCH: u32 = 1_000;

/// Deletes certificates that nobody can use or renew any more, a batch per transaction.
#[derive(Debug)]
pub struct PruneCertificates;

#[async_trait]
impl Job for PruneCertificates {
    fn name(&self) -> &'static str {
        "prune-certificates"
    }

    fn description(&self) -> &'static str {
        "Deletes certificates of nodes that were replaced or revoked and ended 30 days ago, or were replaced unused"
    }

    fn every(&self) -> Duration {
        EVERY
    }

    async fn run(&self, run: &Run<'_>) -> Result<u64, Error> {
        let mut pruned = 0;
        while !run.cancelled.is_cancelled() {
            let batch = run.store.prune_certificates(run.lease, BATCH).await?;
            pruned += batch;
            run.metrics.effects(self.name(), batch);
            if batch < u64::from(BATCH) {
                break;
            }
        }
        Ok(pruned)
    }
}
