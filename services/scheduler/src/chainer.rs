//! The chainer: gives new audit events their places in the hash chain, within a second. It is a
//! loop of its own and no job among the others, because it must not wait for a slot behind them;
//! its lease is the row of a job, so that of all replicas one chains, and one that was taken for
//! dead commits nothing (docs/adr/0005, 0009). While nothing happens it only reads.

use std::fmt;
use std::time::Duration;

use rand::RngExt;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};
use uuid::Uuid;
use vpnpanel_store::{JobEnd, JobLease, Store, StoreError};

use crate::error::Error;
use crate::metrics::{AuditMetrics, Metrics};
use crate::settings::Settings;

/// Name of the job whose row is the lease.
const JOB: &str = "chain-audit";

const DESCRIPTION: &str = "Gives new audit events their places in the hash chain";

/// How long the lease lasts: so long a chainer that died keeps the next one waiting.
const LEASE: Duration = Duration::from_secs(5);

/// The longest that a run lasts, so that a chainer which is never idle can be paused too.
const RUN: Duration = Duration::from_secs(60);

/// Events that one transaction chains.
const BATCH: u32 = 500;

/// The chainer of one replica.
pub struct Chainer {
    store: Store,
    metrics: AuditMetrics,
    every: Duration,
    /// This replica, for people who read the job rows.
    owner: String,
    held: Option<Held>,
}

/// A lease, and until when it is not worth to renew it.
struct Held {
    lease: JobLease,
    fresh_until: Instant,
    /// It is given back then, and taken anew.
    ends: Instant,
}

impl fmt::Debug for Chainer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chainer")
            .field("owner", &self.owner)
            .finish_non_exhaustive()
    }
}

impl Chainer {
    /// A chainer over `store`; nothing runs before [`Chainer::run`].
    #[must_use]
    pub fn new(store: Store, settings: &Settings, metrics: &Metrics) -> Self {
        Self {
            store,
            metrics: metrics.audit.clone(),
            every: settings.audit_chain_interval.0,
            owner: Uuid::now_v7().to_string(),
            held: None,
        }
    }

    /// Makes the row that is leased. Idempotent; replicas may race.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub async fn register(&self) -> Result<(), Error> {
        let every = self.every;
        Ok(self.store.register_job(JOB, DESCRIPTION, every).await?)
    }

    /// Runs until `shutdown` fires; the batch in hand is committed then.
    pub async fn run(mut self, shutdown: CancellationToken) {
        while !shutdown.is_cancelled() {
            match self.round(&shutdown).await {
                Ok(()) => {}
                Err(StoreError::LeaseLost) => {
                    warn!(event = "audit.lease_lost", "another replica chains now");
                    self.held = None;
                }
                Err(error) => {
                    warn!(event = "audit.chaining_failed", %error, "audit events wait to be chained");
                }
            }
            let wait = self.every.mul_f64(rand::rng().random_range(0.8..1.2));
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
        self.give_back().await;
    }

    async fn round(&mut self, shutdown: &CancellationToken) -> Result<(), StoreError> {
        if !self.store.has_audit_work().await? {
            self.metrics.waiting(Default::default(), 0);
            if self.is_stale() {
                self.give_back().await;
            }
            return Ok(());
        }
        while !shutdown.is_cancelled() {
            let Some(lease) = self.lease().await? else {
                break;
            };
            self.store.record_refusals(&lease).await?;
            let chained = self.store.chain_audit(&lease, BATCH).await?;
            self.metrics.chained(chained);
            if chained < u64::from(BATCH) {
                break;
            }
        }
        let tail = self.store.audit_tail().await?;
        self.metrics.waiting(tail, self.store.now_ms());
        Ok(())
    }

    /// The lease, taken or renewed where that is due; `None` while another replica has it.
    async fn lease(&mut self) -> Result<Option<JobLease>, StoreError> {
        let asked = Instant::now();
        if self.held.as_ref().is_some_and(|held| asked >= held.ends) {
            self.give_back().await;
        }
        let (lease, ends) = match &self.held {
            Some(held) if !self.is_stale() => return Ok(Some(held.lease.clone())),
            Some(held) => {
                self.store.renew_job(&held.lease, LEASE).await?;
                (held.lease.clone(), held.ends)
            }
            None => {
                let claimed = self.store.claim_job(&[JOB], &self.owner, LEASE).await?;
                let Some(lease) = claimed else {
                    return Ok(None);
                };
                debug!(
                    event = "audit.chaining",
                    fence = lease.fence,
                    "this replica chains now"
                );
                (lease, asked + RUN)
            }
        };
        self.held = Some(Held {
            lease: lease.clone(),
            fresh_until: asked + LEASE / 2,
            ends,
        });
        Ok(Some(lease))
    }

    fn is_stale(&self) -> bool {
        let held = self.held.as_ref();
        held.is_some_and(|held| Instant::now() >= held.fresh_until)
    }

    /// Gives the lease back. A failure to do so only makes the next chainer wait until it ends.
    async fn give_back(&mut self) {
        let Some(held) = self.held.take() else {
            return;
        };
        let end = JobEnd {
            error: None,
            due_in: Duration::ZERO,
        };
        match self.store.finish_job(&held.lease, end).await {
            Ok(()) | Err(StoreError::LeaseLost) => {}
            Err(error) => {
                warn!(event = "audit.release_failed", %error, "could not give the lease back");
            }
        }
    }
}
