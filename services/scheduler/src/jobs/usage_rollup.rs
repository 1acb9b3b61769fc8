//! Sums of usage by hours and days, from which long series are read (docs/adr/0014).

use std::time::Duration;

use async_trait::async_trait;
use vpnpanel_store::UsageRoll;

use super::{Job, Run};
use crate::{error::Error, settings::Settings};

/// Hours of users that one transaction adds up.
const BATCH: u32 = 4_000;

/// Adds what 15-minute rows say to the sums of their hours and days, a part of a tenant's users
/// per transaction.
#[derive(Debug)]
pub struct RollUsage {
    every: Duration,
}

impl RollUsage {
    /// The job with its interval out of `settings`.
    #[must_use]
    pub fn new(settings: &Settings) -> Self {
        Self {
            every: settings.usage_roll_interval.0,
        }
    }
}

#[async_trait]
impl Job for RollUsage {
    fn name(&self) -> &'static str {
        "roll-usage"
    }

    fn description(&self) -> &'static str {
        "Adds usage up to hours and days"
    }

    fn every(&self) -> Duration {
        self.every
    }

    async fn run(&self, run: &Run<'_>) -> Result<u64, Error> {
        let mut roll = UsageRoll::default();
        let mut rolled = 0;
        while !run.cancelled.is_cancelled() {
            let Some(batch) = run.store.roll_usage(run.lease, &mut roll, BATCH).await? else {
                break;
            };
            rolled += batch;
            run.metrics.effects(self.name(), batch);
        }
        Ok(rolled)
    }
}
