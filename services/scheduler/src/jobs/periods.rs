//! Rollover of periods. Nodes roll over by themselves, on time and without anybody; this sweep makes
//! the next period the current one, lets those on again who had used up the old one, and announces
//! the period after it (docs/adr/0016).

use std::time::Duration;

use async_trait::async_trait;
use vpnpanel_store::RollCursor;

use super::{Job, Run};
use crate::{error::Error, settings::Settings};

/// Rolls over users whose current period has ended, a batch per transaction.
#[derive(Debug)]
pub struct RollPeriods {
    every: Duration,
    batch: u32,
}

impl RollPeriods {
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
impl Job for RollPeriods {
    fn name(&self) -> &'static str {
        "roll-periods"
    }

    fn description(&self) -> &'static str {
        "Begins the next period of users whose current one has ended, and announces the one after it"
    }

    fn every(&self) -> Duration {
        self.every
    }

    async fn run(&self, run: &Run<'_>) -> Result<u64, Error> {
        let mut cursor = RollCursor::default();
        let mut rolled = 0;
        while !run.cancelled.is_cancelled() {
            let roll = run
                .store
                .roll_periods(run.lease, &mut cursor, self.batch)
                .await?;
            let Some(batch) = roll else { break };
            rolled += batch;
            run.metrics.effects(self.name(), batch);
        }
        Ok(rolled)
    }
}
