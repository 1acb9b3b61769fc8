//! Sessions and API tokens that ended long ago: nobody looks at them any more, and every sign-in
//! leaves one.

use std::time::Duration;

use async_trait::async_trait;

use super::{Job, Run};
use crate::error::Error;

const EVERY: Duration = Duration::from_secs(3600);
/// Rows that one transaction deletes of each kind.
const BATCH: u32 = 1_000;

/// Deletes sessions and API tokens some time after their end, a batch per transaction.
#[derive(Debug)]
pub struct ForgetCredentials;

#[async_trait]
impl Job for ForgetCredentials {
    fn name(&self) -> &'static str {
        "forget-credentials"
    }

    fn description(&self) -> &'static str {
        "Deletes sessions and API tokens that ended 30 days ago"
    }

    fn every(&self) -> Duration {
        EVERY
    }

    async fn run(&self, run: &Run<'_>) -> Result<u64, Error> {
        let mut forgotten = 0;
        while !run.cancelled.is_cancelled() {
            let batch = run.store.forget_ended_credentials(run.lease, BATCH).await?;
            forgotten += batch;
            run.metrics.effects(self.name(), batch);
            if batch == 0 {
                break;
            }
        }
        Ok(forgotten)
    }
}
