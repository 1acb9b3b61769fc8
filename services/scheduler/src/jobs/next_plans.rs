//! Plans that follow others. Nodes have stopped a user whose plan is over, or let it on in its next
//! period, by themselves; this sweep gives it what it waits for.

use std::time::Duration;

use async_trait::async_trait;
use tracing::warn;
use vpnpanel_store::{Attribution, PlanCursor, StoreError};

use super::{Job, Run};
use crate::{audit, error::Error, settings::Settings};

/// Gives users whose plans are over the ones that they wait for, each in a transaction of its own: one
/// who cannot be given it (an inbound without free addresses) keeps nobody else waiting.
#[derive(Debug)]
pub struct GiveNextPlans {
    every: Duration,
    batch: u32,
}

impl GiveNextPlans {
    /// The job with its interval and batch size out of `settings`.
    #[must_use]
    pub fn new(settings: &Settings) -> Self {
        Self {
            every: settings.period_interval.0,
            batch: settings.period_batch,
        }
    }
}

#[async_trait]
impl Job for GiveNextPlans {
    fn name(&self) -> &'static str {
        "give-next-plans"
    }

    fn description(&self) -> &'static str {
        "Gives users whose plan is over the plan that they wait for"
    }

    fn every(&self) -> Duration {
        self.every
    }

    async fn run(&self, run: &Run<'_>) -> Result<u64, Error> {
        let who = Attribution::system("scheduler/next-plans", audit::describe);
        let store = run.store.acting(who);
        let mut cursor = PlanCursor::default();
        let mut given = 0;
        loop {
            let found = store.users_with_plan_over(&mut cursor, self.batch).await?;
            if found.is_empty() {
                return Ok(given);
            }
            for over in found {
                if run.cancelled.is_cancelled() {
                    return Ok(given);
                }
                match store.give_next_plan(run.lease, over).await {
                    Ok(false) => {}
                    Ok(true) => {
                        given += 1;
                        run.metrics.effects(self.name(), 1);
                    }
                    Err(StoreError::LeaseLost) => return Err(Error::LeaseLost),
                    Err(error @ StoreError::Unavailable(_)) => return Err(error.into()),
                    Err(error) => warn!(
                        event = "job.next_plan_failed",
                        tenant_id = %over.tenant,
                        user_id = %over.user,
                        %error,
                        "a user could not be given its next plan; it is tried again"
                    ),
                }
            }
        }
    }
}
