//! A writer commits usage. It tells streams what became of theirs after the commit and never before, and it never gives a row up: a database that is away is waited for, and
//! what the database refuses the store sets aside, so that the rest of the fleet goes on.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};
use vpnpanel_link::collector::{Policy, ingest::Submission};
use vpnpanel_store::{Backend, Ingested, Store, StoreError};

use super::{
    intake::{Group, Intake},
    slice::Slice,
};
use crate::{allowances::Allowances, metrics::Metrics, settings::Settings};

/// First pause after a failure that time may heal; doubled each time.
const PAUSE: Duration = Duration::from_millis(20);
/// Longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Commits what streams hand in.
#[derive(Debug)]
pub(crate) struct Writer {
    store: Store,
    intake: Arc<Intake>,
    slice: Slice,
    policy: Policy,
    allowances: Arc<Allowances>,
    metrics: Metrics,
}

impl Writer {
    /// How many there are: SQLite has one writer. PostgreSQL works on one transaction while another is
    /// decided on here; which submission is in which does not matter, as with several collectors.
    pub(crate) fn count(store: &Store, settings: &Settings) -> u32 {
        match store.backend() {
            Backend::Sqlite => 1,
            Backend::Postgres => settings.ingest_writers,
        }
    }

    pub(crate) fn new(
        store: Store,
        intake: &Arc<Intake>,
        settings: &Settings,
        allowances: Arc<Allowances>,
        metrics: Metrics,
    ) -> Self {
        let target = match store.backend() {
            Backend::Sqlite => Some(settings.ingest_slice.0),
            Backend::Postgres => None,
        };
        let slice = Slice::new(target, settings.ingest_commit_rows);
        Self {
            store,
            intake: Arc::clone(intake),
            slice,
            policy: settings.policy(),
            allowances,
            metrics,
        }
    }

    /// Runs until `stop`. What is not committed by then is still on the agents' disks.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        while let Some(group) = self.intake.group(self.slice.rows(), &stop).await {
            let rows = group.rows;
            let go_on = self.commit(group, &stop).await;
            self.metrics.taken(rows);
            if !go_on {
                return;
            }
        }
    }

    /// Commits a group and tells its streams; `false` when the process stops before it could.
    async fn commit(&mut self, group: Group, stop: &CancellationToken) -> bool {
        let Group {
            submissions,
            replies,
            rows,
        } = group;
        let Some(result) = self.attempt(submissions, rows, stop).await else {
            return false;
        };
        match result {
            Ok(ingested) => {
                for (waiting, reply) in replies.into_iter().zip(ingested.replies) {
                    // a stream that has ended meanwhile needs no reply: its agent asks again
                    let _gone = waiting.send(reply);
                }
                self.allowances.starved(ingested.starved);
            }
            // without a reply the streams end, and their agents send again
            Err(error) => error!(
                event = "ingest.refused",
                %error,
                streams = replies.len(),
                "the database refused usage that could not be set aside: its streams end"
            ),
        }
        true
    }

    /// One group, tried until it is committed or refused for good; `None` when the process stops.
    async fn attempt(
        &mut self,
        submissions: Vec<Submission>,
        rows: u32,
        stop: &CancellationToken,
    ) -> Option<Result<Ingested, StoreError>> {
        let batches = submissions.iter().map(|one| one.batches.len()).sum();
        let mut pause = PAUSE;
        loop {
            let started = Instant::now();
            let error = match self.store.ingest(submissions.clone(), &self.policy).await {
                Ok(ingested) => {
                    self.slice.learn(rows, started.elapsed());
                    self.metrics
                        .committed(rows, batches, &ingested, started.elapsed());
                    return Some(Ok(ingested));
                }
                Err(error) => error,
            };
            self.metrics.commit_failed();
            if !error.is_transient() {
                return Some(Err(error));
            }
            if stop.is_cancelled() {
                return None;
            }
            warn!(
                event = "ingest.delayed",
                %error,
                pause_ms = pause.as_millis() as u64,
                "usage could not be committed, trying again"
            );
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(pause) => {}
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}
