//! Expiry of users. Nodes cut a user at `not_after` by themselves; this sweep makes the status, the
//! change log and with them every panel say so, and frees the user's place on the nodes.

use std::time::Duration;

use async_trait::async_trait;
use vpnpanel_store::Attribution;

use super::{Job, Run};
use crate::{audit, error::Error, settings::Settings};

/// Turns users whose time has ended into `expired` ones, a batch per transaction.
#[derive(Debug)]
pub struct ExpireUsers {
    every: Duration,
    batch: u32,
}

impl ExpireUsers {
    /// The job with its interval and batch size out of `settings`.
    #[must_use]
    pub fn new(settings: &Settings) -> Self {
        Self {
            every: settings.expiry_interval.0,
            batch: settings.expiry_batch,
        }
    }
}

#[async_trait]
impl Job for ExpireUsers {
    fn name(&self) -> &'static str {
        "expire-users"
    }

    fn description(&self) -> &'static str {
        "Marks users whose expiry time has passed as expired and takes them off their nodes"
    }

    fn every(&self) -> Duration {
        self.every
    }

    async fn run(&self, run: &Run<'_>) -> Result<u64, Error> {
        let mut expired = 0;
        let who = Attribution::system("scheduler/expiry", audit::describe);
        let store = run.store.acting(who);
        while !run.cancelled.is_cancelled() {
            let batch = store.expire_users(run.lease, self.batch).await?;
            expired += batch;
            run.metrics.effects(self.name(), batch);
            if batch < u64::from(self.batch) {
                break;
            }
        }
        Ok(expired)
    }
}
