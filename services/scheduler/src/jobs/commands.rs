//! Commands of nodes whose time is over. The collector sends none of them and the agent begins none;
//! this sweep makes the rows say so, and forgets those that ended long ago.

use std::time::Duration;

use async_trait::async_trait;

use super::{Job, Run};
use crate::error::Error;

const EVERY: Duration = Duration::from_secs(60);
/// Rows that one transaction marks, and deletes.
const BATCH: u32 = 1_000;

/// Marks commands as expired, and deletes old ones, a batch per transaction.
#[derive(Debug)]
pub struct ExpireNodeCommands;

#[async_trait]
impl Job for ExpireNodeCommands {
    fn name(&self) -> &'static str {
        "expire-node-commands"
    }

    fn description(&self) -> &'static str {
        "Marks commands of nodes whose time is over as expired, and deletes those that ended 30 days ago"
    }

    fn every(&self) -> Duration {
        EVERY
    }

    async fn run(&self, run: &Run<'_>) -> Result<u64, Error> {
        let mut swept = 0;
        while !run.cancelled.is_cancelled() {
            let batch = run.store.expire_node_commands(run.lease, BATCH).await?;
            swept += batch;
            run.metrics.effects(self.name(), batch);
            if batch < u64::from(BATCH) {
                break;
            }
        }
        Ok(swept)
    }
}
