//! Nodes that leave their desired state unanswered. Their collector tells them again, on one stream
//! after another; what that does not heal is asked for as a whole.

use std::time::Duration;

use async_trait::async_trait;
use tracing::warn;
use vpnpanel_store::Attribution;

use super::{Job, Run};
use crate::{audit, error::Error};

const EVERY: Duration = Duration::from_secs(60);
/// Nodes that one transaction looks at.
const BATCH: u32 = 100;

/// Has nodes that are behind ask for the whole state, a batch per transaction.
#[derive(Debug)]
pub struct RepairSync;

#[async_trait]
impl Job for RepairSync {
    fn name(&self) -> &'static str {
        "repair-sync"
    }

    fn description(&self) -> &'static str {
        "Has connected nodes that answered no change for five minutes ask for their whole desired state"
    }

    fn every(&self) -> Duration {
        EVERY
    }

    async fn run(&self, run: &Run<'_>) -> Result<u64, Error> {
        let who = Attribution::system("scheduler/sync-repair", audit::describe);
        let store = run.store.acting(who);
        let mut asked = 0;
        while !run.cancelled.is_cancelled() {
            let repair = store.repair_sync(run.lease, BATCH).await?;
            for (node_id, behind_since_ms) in &repair.asked {
                warn!(
                    event = "node.behind",
                    %node_id,
                    behind_s = (store.now_ms() - behind_since_ms) / 1_000,
                    "a node does not answer what it is told: it is asked for the whole state"
                );
            }
            let batch = repair.asked.len() as u64;
            asked += batch;
            run.metrics.effects(self.name(), batch);
            if repair.looked_at < u64::from(BATCH) {
                break;
            }
        }
        Ok(asked)
    }
}
