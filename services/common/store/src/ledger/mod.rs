//! The ledger: usage in, exactly once. One transaction for many nodes: the rows that the link's
//! decision needs are loaded locked by set queries, [`vpnpanel_link::collector::ingest::decide`]
//! says what follows, and its effects are written in bulk. No rule of the link is repeated here.
//!
//! Locks: the installation, shared, which says whether anything may be granted; the links of the nodes, which guard their cursors, digests and marks; then the periods,
//! which guard their leases; then users whose clock begins or who cross their limit; last of all the
//! months of tenants. Each in the order of ids.

mod ahead;
pub(crate) mod first_use;
mod floors;
mod leases;
pub(crate) mod load;
pub(crate) mod months;
mod partitions;
mod review;
mod rollup;
mod streams;
pub(crate) mod write;

use sha2::{Digest as _, Sha256};
use vpnpanel_domain::PeriodId;
use vpnpanel_link::Entropy;
use vpnpanel_link::collector::Policy;
use vpnpanel_link::collector::ingest::{self, Reply, Submission};

use crate::connect::Store;
use crate::error::{Result, StoreError};

pub use ahead::{AheadCursor, NodesAhead};
pub use floors::UsageKept;
pub use leases::LEASES_AHEAD_MS;
pub(crate) use leases::reserve;
pub use months::TenantMonth;
pub use partitions::PARTITION_MS;
pub use review::LedgerTotals;
pub(crate) use rollup::{DAY_MS, HOUR_MS};
pub use rollup::{ROLL_AFTER_MS, UsageRoll};
pub use streams::{FirstLook, Greeting, Seen};
pub(crate) use streams::{fenced, forget_agents, generations};
pub(crate) use write::quarantine;
#[cfg(feature = "testing")]
pub(crate) use {
    ahead::ending,
    leases::{idle, lacking},
};

/// What came of a group of submissions; it is committed.
#[derive(Debug, Clone, Default)]
pub struct Ingested {
    /// What each stream is told; in the order of the submissions.
    pub replies: Vec<Reply>,
    /// Periods whose limit leaves too little to grant while other nodes may hold idle
    /// allowance: see [`Store::rebalance_leases`].
    pub starved: Vec<PeriodId>,
    /// Users that crossed their limit.
    pub limited: usize,
    /// Rows of usage that could not be billed to anybody.
    pub orphans: usize,
    /// Rows of usage that wait for a person.
    pub held: usize,
    /// Batches that were taken out of a stream.
    pub dead_letters: usize,
}

impl Store {
    /// Commits what streams have sent. Where the database refuses a statement, the submissions
    /// are tried in halves, down to the one batch that it refuses: that one becomes a dead
    /// letter, and its cursor advances.
    ///
    /// # Errors
    /// [`StoreError::Contention`] and [`StoreError::Unavailable`]: nothing, or only a part of the
    /// submissions, was committed; sending them again is harmless.
    pub async fn ingest(&self, submissions: Vec<Submission>, policy: &Policy) -> Result<Ingested> {
        let mut done = Ingested::default();
        // Parts that are still to be committed, the next one last.
        let mut parts = vec![submissions];
        while let Some(part) = parts.pop() {
            match self.ingest_once(part.clone(), policy).await {
                Ok(ingested) => done.add(ingested),
                Err(error) if error.is_transient() => return Err(error),
                Err(error) => {
                    tracing::warn!(
                        event = "ingest.refused",
                        submissions = part.len(),
                        error = %error,
                        cause = std::error::Error::source(&error).map(tracing::field::display),
                        "the database refused usage; trying smaller parts"
                    );
                    parts.extend(smaller(part, error)?);
                }
            }
        }
        done.join_replies();
        Ok(done)
    }

    async fn ingest_once(&self, submissions: Vec<Submission>, policy: &Policy) -> Result<Ingested> {
        let needs = ingest::needs(&submissions);
        let mut tx = self.begin().await?;
        let (loaded, clocks) = load::load(&tx, &needs).await?;
        let effects = ingest::decide(loaded, submissions, policy, tx.now, &mut Drawn::seeded()?);
        write::write(&mut tx, &effects, &clocks).await?;
        tx.commit().await?;
        Ok(Ingested {
            replies: effects.replies,
            starved: effects.starved,
            limited: effects.limited.len(),
            orphans: effects.orphans.len(),
            held: effects.held.len(),
            dead_letters: effects.dead_letters.len(),
        })
    }
}

/// Halves of a refused part, in the order in which they are to be popped; a single batch is
/// turned into one that cannot be taken.
fn smaller(mut part: Vec<Submission>, error: StoreError) -> Result<Vec<Vec<Submission>>> {
    if part.len() > 1 {
        let second = part.split_off(part.len() / 2);
        return Ok(vec![second, part]);
    }
    let Some(mut one) = part.pop() else {
        return Err(error);
    };
    if !one.segments.is_empty() || !one.leases.is_empty() || one.reported.is_some() {
        // Batches first; what rides with them is not lost by a refusal of theirs.
        let rest = Submission {
            batches: Vec::new(),
            lost: Vec::new(),
            segments: std::mem::take(&mut one.segments),
            leases: std::mem::take(&mut one.leases),
            reported: one.reported.take(),
            ..one.clone()
        };
        if one.batches.is_empty() {
            return Err(error);
        }
        return Ok(vec![vec![rest], vec![one]]);
    }
    if one.batches.len() > 1 {
        let second = Submission {
            batches: one.batches.split_off(one.batches.len() / 2),
            ..one.clone()
        };
        return Ok(vec![vec![second], vec![one]]);
    }
    match one.batches.first_mut() {
        Some(batch) if batch.payload.is_ok() => {
            batch.payload = Err(format!("the database refused it: {error}"));
            Ok(vec![vec![one]])
        }
        _ => Err(error),
    }
}

impl Ingested {
    fn add(&mut self, other: Self) {
        self.replies.extend(other.replies);
        self.starved.extend(other.starved);
        self.limited += other.limited;
        self.orphans += other.orphans;
        self.held += other.held;
        self.dead_letters += other.dead_letters;
    }

    /// One reply for each stream, also where its submission was cut into parts.
    fn join_replies(&mut self) {
        let mut joined: Vec<Reply> = Vec::with_capacity(self.replies.len());
        for reply in std::mem::take(&mut self.replies) {
            let same =
                |kept: &&mut Reply| kept.node == reply.node && kept.generation == reply.generation;
            match joined.iter_mut().rev().take(1).find(same) {
                Some(kept) => {
                    kept.committed
                        .retain(|old| !reply.committed.iter().any(|new| new.epoch == old.epoch));
                    kept.committed.extend(reply.committed);
                    kept.resend_from = reply.resend_from.or(kept.resend_from);
                    kept.quarantined = reply.quarantined.or(kept.quarantined.take());
                    kept.missing_segments.extend(reply.missing_segments);
                    kept.grants.extend(reply.grants);
                    kept.reported = reply.reported.or(kept.reported);
                    kept.superseded |= reply.superseded;
                }
                None => joined.push(reply),
            }
        }
        self.replies = joined;
    }
}

/// Random bytes for one transaction, out of a seed of the operating system's: SHA-256 over the seed
/// and a counter, because the seed may fail to come and the bytes may not.
struct Drawn {
    seed: [u8; 32],
    blocks: u64,
}

impl Drawn {
    fn seeded() -> Result<Self> {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).map_err(|error| StoreError::key(Box::new(error)))?;
        Ok(Self { seed, blocks: 0 })
    }
}

impl Entropy for Drawn {
    fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(32) {
            let block = Sha256::new()
                .chain_update(self.seed)
                .chain_update(self.blocks.to_le_bytes())
                .finalize();
            self.blocks += 1;
            chunk.copy_from_slice(&block[..chunk.len()]);
        }
    }
}
