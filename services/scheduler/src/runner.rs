//! The job loop: looks for due jobs with jitter, runs a bounded number of them under renewed leases,
//! and stops in order. What makes effects commit once is not here but in the store's fence; this loop
//! only decides when.

use std::{collections::HashMap, fmt, sync::Arc, time::Duration};

use futures::FutureExt;
use rand::RngExt;
use tokio::{
    sync::{Notify, Semaphore},
    task::JoinSet,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, debug, error, info, info_span, warn};
use uuid::Uuid;
use vpnpanel_store::{JobEnd, JobLease, Store};

use crate::{
    error::Error,
    jobs::{Job, Run},
    metrics::Metrics,
    settings::Settings,
};

/// The loop of one replica.
pub struct Runner {
    store: Store,
    jobs: HashMap<&'static str, Arc<dyn Job>>,
    settings: Settings,
    metrics: Metrics,
    /// This replica, for people who read the job rows.
    owner: String,
    slots: Arc<Semaphore>,
    bell: Arc<Notify>,
}

impl fmt::Debug for Runner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Runner")
            .field("owner", &self.owner)
            .finish_non_exhaustive()
    }
}

impl Runner {
    /// A loop over `jobs`; nothing runs before [`Runner::run`].
    #[must_use]
    pub fn new(
        store: Store,
        jobs: Vec<Arc<dyn Job>>,
        settings: Settings,
        metrics: Metrics,
    ) -> Self {
        Self {
            store,
            jobs: jobs.into_iter().map(|job| (job.name(), job)).collect(),
            slots: Arc::new(Semaphore::new(usize::from(settings.concurrency))),
            settings,
            metrics,
            owner: Uuid::now_v7().to_string(),
            bell: Arc::new(Notify::new()),
        }
    }

    /// Wakes the loop at once, for a job that was just asked for in this process.
    #[must_use]
    pub fn bell(&self) -> Arc<Notify> {
        Arc::clone(&self.bell)
    }

    /// Makes the rows of jobs that are new to this database. Idempotent; replicas may race.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub async fn register(&self) -> Result<(), Error> {
        for job in self.jobs.values() {
            self.store
                .register_job(job.name(), job.description(), job.every())
                .await?;
        }
        Ok(())
    }

    /// Runs until `shutdown` fires and every run in hand has come to the end of its batch.
    pub async fn run(self, shutdown: CancellationToken) {
        let runner = Arc::new(self);
        let mut runs = JoinSet::new();
        while let Some(permit) = runner.slot(&shutdown).await {
            while runs.try_join_next().is_some() {}
            match runner.claim().await {
                Ok(Some((job, lease))) => {
                    let run = Arc::clone(&runner).execute(job, lease, shutdown.child_token());
                    runs.spawn(async move {
                        run.await;
                        drop(permit);
                    });
                }
                Ok(None) => {
                    drop(permit);
                    runner.rest(&shutdown).await;
                }
                Err(error) => {
                    drop(permit);
                    warn!(event = "job.claim_failed", %error, "could not look for due jobs");
                    runner.rest(&shutdown).await;
                }
            }
        }
        while runs.join_next().await.is_some() {}
    }

    /// A free slot, or nothing when the process stops.
    async fn slot(
        &self,
        shutdown: &CancellationToken,
    ) -> Option<tokio::sync::OwnedSemaphorePermit> {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => None,
            permit = Arc::clone(&self.slots).acquire_owned() => permit.ok(),
        }
    }

    async fn claim(&self) -> Result<Option<(Arc<dyn Job>, JobLease)>, Error> {
        let names: Vec<&str> = self.jobs.keys().copied().collect();
        let lease = self
            .store
            .claim_job(&names, &self.owner, self.settings.lease.0)
            .await?;
        Ok(lease.and_then(|lease| {
            let job = self.jobs.get(lease.job.as_str()).map(Arc::clone)?;
            Some((job, lease))
        }))
    }

    /// One jittered poll interval, or less when the bell rings.
    async fn rest(&self, shutdown: &CancellationToken) {
        let wait = self
            .settings
            .poll_interval
            .0
            .mul_f64(rand::rng().random_range(0.8..1.2));
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = self.bell.notified() => {}
            () = tokio::time::sleep(wait) => {}
        }
    }

    async fn execute(
        self: Arc<Self>,
        job: Arc<dyn Job>,
        lease: JobLease,
        cancelled: CancellationToken,
    ) {
        let name = job.name();
        let span = info_span!("job", job = name, run = lease.fence);
        async {
            debug!(event = "job.started", "job run started");
            let started = Instant::now();
            self.metrics.started(name);
            let result = self.work(job.as_ref(), &lease, &cancelled).await;
            self.metrics.finished(name, &result, started.elapsed());
            self.conclude(job.as_ref(), &lease, result, &cancelled)
                .await;
        }
        .instrument(span)
        .await;
    }

    /// The job itself, with the lease renewed beside it; whichever ends first ends both.
    async fn work(
        &self,
        job: &dyn Job,
        lease: &JobLease,
        cancelled: &CancellationToken,
    ) -> Result<u64, Error> {
        let run = Run {
            store: &self.store,
            lease,
            cancelled,
            metrics: &self.metrics,
        };
        let mut work = std::pin::pin!(std::panic::AssertUnwindSafe(job.run(&run)).catch_unwind());
        let renewals = self.keep_renewed(lease);
        let lost = tokio::select! {
            done = &mut work => return done.unwrap_or(Err(Error::Panicked)),
            lost = renewals => lost,
            () = tokio::time::sleep(self.settings.run_timeout.0) => Error::RunTimedOut,
        };
        cancelled.cancel();
        // the batch in hand either commits under the fence or is refused by it: let it end
        match timeout(self.settings.lease.0, work).await {
            Ok(_) | Err(_) => Err(lost),
        }
    }

    /// Renews at a third of the lease's length, so that two renewals may fail; returns when the
    /// lease is lost.
    async fn keep_renewed(&self, lease: &JobLease) -> Error {
        let mut deadline = Instant::now() + self.settings.lease.0;
        loop {
            tokio::time::sleep(self.settings.lease.0 / 3).await;
            let asked = Instant::now();
            match self.store.renew_job(lease, self.settings.lease.0).await {
                Ok(()) => deadline = asked + self.settings.lease.0,
                Err(error) => {
                    let error = Error::from(error);
                    if matches!(error, Error::LeaseLost) || Instant::now() >= deadline {
                        return Error::LeaseLost;
                    }
                    warn!(event = "job.renewal_failed", %error, "could not renew a job's lease");
                }
            }
        }
    }

    /// Gives the lease back with the run's outcome. A failure to do so only delays the next run
    /// until the lease ends.
    async fn conclude(
        &self,
        job: &dyn Job,
        lease: &JobLease,
        result: Result<u64, Error>,
        cancelled: &CancellationToken,
    ) {
        let end = match result {
            // what is left is due at once, for another replica
            Ok(_) if cancelled.is_cancelled() => JobEnd {
                error: None,
                due_in: Duration::ZERO,
            },
            Ok(changed) => {
                if changed > 0 {
                    info!(event = "job.finished", changed, "job run finished");
                }
                JobEnd {
                    error: None,
                    due_in: job.every(),
                }
            }
            Err(Error::LeaseLost) => {
                warn!(
                    event = "job.lease_lost",
                    "another replica has taken the job over"
                );
                return;
            }
            Err(error) => {
                error!(event = "job.failed", %error, "job run failed");
                JobEnd {
                    error: Some(error.to_string()),
                    due_in: job.every(),
                }
            }
        };
        if let Err(error) = self.store.finish_job(lease, end).await {
            warn!(event = "job.release_failed", %error, "could not give a job's lease back");
        }
    }
}
