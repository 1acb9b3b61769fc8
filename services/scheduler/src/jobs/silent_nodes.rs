//! Nodes that nobody vouches for. A collector notes the end of each stream; one that was killed does
//! not, and its nodes would stay online for good where they never come back.

use std::time::Duration;

use async_trait::async_trait;
use tracing::warn;

use super::{Job, Run};
use crate::error::Error;

const EVERY: Duration = Duration::from_secs(10);
/// Nodes that one transaction marks.
const BATCH: u32 = 500;

/// Marks nodes as offline whose last sign of life is not good any more, a batch per transaction.
#[derive(Debug)]
pub struct MarkSilentNodes;

#[async_trait]
impl Job for MarkSilentNodes {
    fn name(&self) -> &'static str {
        "mark-silent-nodes"
    }

    fn description(&self) -> &'static str {
        "Marks nodes as offline whose collector went away without a word"
    }

    fn every(&self) -> Duration {
        EVERY
    }

    async fn run(&self, run: &Run<'_>) -> Result<u64, Error> {
        let mut marked = 0;
        while !run.cancelled.is_cancelled() {
            let silent = run.store.mark_silent_nodes(run.lease, BATCH).await?;
            for node in &silent {
                warn!(
                    event = "node.silent",
                    node_id = %node.node_id,
                    collector = node.collector,
                    seen_at_ms = node.seen_at_ms,
                    "a node is offline: its collector said nothing more of it"
                );
            }
            let batch = silent.len() as u64;
            marked += batch;
            run.metrics.effects(self.name(), batch);
            if batch < u64::from(BATCH) {
                break;
            }
        }
        Ok(marked)
    }
}
