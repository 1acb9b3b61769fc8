//! Months of tenants that had used up what they may use in one: with the next their users' traffic
//! passes again.

use std::time::Duration;

use async_trait::async_trait;

use super::{Job, Run};
use crate::{error::Error, settings::Settings};

/// Tenants that one transaction looks at.
const BATCH: u32 = 100;

/// Begins the month of tenants that were over the limit of the one before, a batch per transaction.
#[derive(Debug)]
pub struct BeginMonths {
    every: Duration,
}

impl BeginMonths {
    /// The job with its interval out of `settings`.
    #[must_use]
    pub fn new(settings: &Settings) -> Self {
        Self {
            every: settings.period_interval.0,
        }
    }
}

#[async_trait]
impl Job for BeginMonths {
    fn name(&self) -> &'static str {
        "begin-months"
    }

    fn description(&self) -> &'static str {
        "Lets users on again whose tenant had used up its bytes of the month before"
    }

    fn every(&self) -> Duration {
        self.every
    }

    async fn run(&self, run: &Run<'_>) -> Result<u64, Error> {
        let mut begun = 0;
        while !run.cancelled.is_cancelled() {
            let batch = run.store.begin_months(run.lease, BATCH).await?;
            begun += batch;
            run.metrics.effects(self.name(), batch);
            if batch < u64::from(BATCH) {
                break;
            }
        }
        Ok(begun)
    }
}
