//! Operations that ended long ago, with what became of each of their items.

use std::time::Duration;

use async_trait::async_trait;

use super::{Job, Run};
use crate::error::Error;

const EVERY: Duration = Duration::from_secs(3600);
/// Items of an operation that one transaction deletes.
const BATCH: u32 = 2_000;
/// How long they are kept: 30 days.
const KEPT_MS: i64 = 30 * 24 * 3_600_000;

/// Deletes operations some time after their end, a batch per transaction.
#[derive(Debug)]
pub struct ForgetOperations;

#[async_trait]
impl Job for ForgetOperations {
    fn name(&self) -> &'static str {
        "forget-operations"
    }

    fn description(&self) -> &'static str {
        "Deletes operations that ended 30 days ago"
    }

    fn every(&self) -> Duration {
        EVERY
    }

    async fn run(&self, run: &Run<'_>) -> Result<u64, Error> {
        let before_ms = run.store.now_ms().saturating_sub(KEPT_MS);
        let mut forgotten = 0;
        while !run.cancelled.is_cancelled() {
            let batch = run
                .store
                .forget_operations(run.lease, before_ms, BATCH)
                .await?;
            forgotten += batch;
            run.metrics.effects(self.name(), batch);
            if batch == 0 {
                break;
            }
        }
        Ok(forgotten)
    }
}
