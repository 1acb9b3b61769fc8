//! Partitions of usage ahead of time, and the end of what is kept no longer (docs/adr/0014).

use std::time::Duration;

use async_trait::async_trait;
use vpnpanel_runtime::settings::HumanDuration;
use vpnpanel_store::UsageKept;

use super::{Job, Run};
use crate::{error::Error, settings::Settings};

const EVERY: Duration = Duration::from_secs(3_600);

/// For how many weeks there are partitions ahead.
const WEEKS_AHEAD: u32 = 4;

/// Makes partitions of usage, and removes usage in 15-minute steps and hours that is older than
/// they are kept, a piece per transaction.
#[derive(Debug)]
pub struct RetainUsage {
    keep: UsageKept,
}

impl RetainUsage {
    /// The job with its times of keeping out of `settings`.
    #[must_use]
    pub fn new(settings: &Settings) -> Self {
        Self {
            keep: UsageKept {
                quarters_ms: kept(settings.usage_quarters_retention),
                hours_ms: kept(settings.usage_hours_retention),
            },
        }
    }
}

/// Nothing is for good.
fn kept(time: HumanDuration) -> Option<i64> {
    let ms = i64::try_from(time.0.as_millis()).unwrap_or(i64::MAX);
    (ms > 0).then_some(ms)
}

#[async_trait]
impl Job for RetainUsage {
    fn name(&self) -> &'static str {
        "retain-usage"
    }

    fn description(&self) -> &'static str {
        "Makes partitions for usage to come, and removes usage in steps that are kept no longer"
    }

    fn every(&self) -> Duration {
        EVERY
    }

    async fn run(&self, run: &Run<'_>) -> Result<u64, Error> {
        run.store.ensure_usage_partitions(WEEKS_AHEAD).await?;
        let mut removed = 0;
        while !run.cancelled.is_cancelled() {
            let Some(piece) = run.store.retain_usage(run.lease, self.keep).await? else {
                break;
            };
            removed += piece;
            run.metrics.effects(self.name(), piece);
        }
        Ok(removed)
    }
}
