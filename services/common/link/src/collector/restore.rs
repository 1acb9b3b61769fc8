//! When the control plane's database turns out to be an older one than before. A Hello can only be
//! older than the truth, never newer: an agent that knows of what the database does not know has
//! met a later life of it. That opens the *restore barrier*: the database does not know what nodes
//! hold, and nothing is granted or freed before every one of them has reported.
//!
//! Nodes of tenants run on hosts that tenants control, and may say anything. One of them alone only
//! speaks for itself: it gets nothing before it has reported, and nobody else is concerned.

use std::fmt;

use vpnpanel_domain::{LeaseId, TenantId};

use super::open::StreamFacts;
use crate::{Epoch, Generation, Hello, Revision, Seq, StateEpoch};

/// Where the installation stands; read under lock by every transaction that grants or frees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// Of the database.
    pub epoch: StateEpoch,
    /// The restore barrier is up: nodes are awaited.
    pub held: bool,
}

/// What the store knows of other nodes, for the word of one of them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Witnesses {
    /// Whose the other nodes are that gave evidence under this epoch which did not carry alone; a few
    /// are enough.
    pub others: Vec<Option<TenantId>>,
    /// Every node of the installation belongs to the tenant of this one.
    pub sole_tenant: bool,
}

/// What an agent knows and the database does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Evidence {
    /// A batch was acknowledged that is not committed.
    Acked {
        /// Its epoch.
        epoch: Epoch,
        /// Newest acknowledged.
        acked: Seq,
        /// Newest committed.
        committed: Seq,
    },
    /// A stream was welcomed that was never opened.
    Generation {
        /// Its number.
        held: Generation,
        /// The newest opened.
        known: Generation,
    },
    /// A stream was welcomed under a later epoch.
    StateEpoch {
        /// The agent's.
        seen: StateEpoch,
        /// The database's.
        known: StateEpoch,
    },
    /// A lease is held in a version that was never granted.
    Lease {
        /// The lease.
        lease: LeaseId,
        /// The agent's version.
        held: u64,
        /// The newest granted; 0 for a lease that was never opened.
        known: u64,
    },
    /// A desired state is in force that was read beyond the end of the change log.
    Revision {
        /// Its revision.
        applied: Revision,
        /// The end of the log.
        head: Revision,
    },
}

/// What follows from a Hello's evidence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// There is none, or it is known already what it says.
    Nothing,
    /// The database was restored.
    Restored(Evidence),
    /// The node alone says so: it has to report, and nobody else.
    Alone(Evidence),
}

impl Default for Standing {
    fn default() -> Self {
        Self {
            epoch: StateEpoch::FIRST,
            held: false,
        }
    }
}

/// Weighs what a Hello says that the database does not know.
pub(super) fn judge(facts: &StreamFacts, hello: &Hello) -> Verdict {
    if facts.node.quarantined.is_some() {
        return Verdict::Nothing;
    }
    let Some(evidence) = evidence(facts, hello) else {
        return Verdict::Nothing;
    };
    let epoch = facts.standing.epoch;
    let is_later = matches!(evidence, Evidence::StateEpoch { .. });
    let node = &facts.node;
    // Awaited: what the database does not know is why the barrier is up. An epoch beyond its own
    // it can only know from before it was welcomed under this one.
    let awaited = node.reported < epoch;
    let welcomed = epoch.floor() > 0 && node.generation.get() >= epoch.floor();
    if awaited && (welcomed || !is_later) {
        return Verdict::Nothing;
    }
    // Once it has reported there is nothing that it could know and the database could not.
    let contradicts = node.reported_itself && !awaited;
    let Witnesses {
        others,
        sole_tenant,
    } = &facts.witnesses;
    let trusted = *sole_tenant
        || node.tenant.is_none()
        || others
            .iter()
            .any(|other| other.is_none() || *other != node.tenant);
    let carries = trusted && (!contradicts || !others.is_empty());
    if carries {
        Verdict::Restored(evidence)
    } else {
        Verdict::Alone(evidence)
    }
}

/// What of a Hello cannot be, were the database the newest. A later state epoch comes first: the next
/// one has to be above it.
fn evidence(facts: &StreamFacts, hello: &Hello) -> Option<Evidence> {
    let known = facts.standing.epoch;
    let seen = hello.state_epoch;
    if seen > known && seen < StateEpoch::LAST {
        return Some(Evidence::StateEpoch { seen, known });
    }
    let (held, known) = (hello.generation, facts.node.generation);
    if held > known {
        return Some(Evidence::Generation { held, known });
    }
    acked(facts, hello)
        .or_else(|| lease(facts, hello))
        .or_else(|| revision(facts, hello))
}

fn acked(facts: &StreamFacts, hello: &Hello) -> Option<Evidence> {
    hello.epochs.iter().find_map(|summary| {
        let cursor = facts.cursors.get(&summary.epoch);
        let committed = cursor.map_or(Seq(0), |cursor| cursor.seq);
        (summary.acked > committed).then_some(Evidence::Acked {
            epoch: summary.epoch,
            acked: summary.acked,
            committed,
        })
    })
}

fn lease(facts: &StreamFacts, hello: &Hello) -> Option<Evidence> {
    hello.leases.iter().find_map(|held| {
        let known = facts.versions.get(&held.lease).copied();
        let forgotten = known.is_none()
            && match facts.periods.get(&held.period) {
                // Leases of a period that is over are forgotten here, and not yet there.
                Some(over) => *over,
                // What a node has reported of a period that an older database has not got is on no
                // record, and is named as long as the node remembers it.
                None => facts.node.reported_itself && facts.node.reported >= facts.standing.epoch,
            };
        let known = known.unwrap_or(0);
        (held.version > known && !forgotten).then_some(Evidence::Lease {
            lease: held.lease,
            held: held.version,
            known,
        })
    })
}

fn revision(facts: &StreamFacts, hello: &Hello) -> Option<Evidence> {
    let applied = hello.applied?.revision;
    let head = facts.head?;
    (applied > head).then_some(Evidence::Revision { applied, head })
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Acked {
                epoch,
                acked,
                committed,
            } => write!(
                f,
                "batch {acked} of spool epoch {epoch} was acknowledged, {committed} is the newest committed"
            ),
            Self::Generation { held, known } => write!(
                f,
                "stream {held} was welcomed, {known} is the newest on record"
            ),
            Self::StateEpoch { seen, known } => write!(
                f,
                "a stream was welcomed under state epoch {seen}, the database is at {known}"
            ),
            Self::Lease { lease, held, known } => write!(
                f,
                "lease {lease} is held in version {held}, {known} is the newest on record"
            ),
            Self::Revision { applied, head } => write!(
                f,
                "revision {applied} is in force, the change log ends at {head}"
            ),
        }
    }
}

#[cfg(test)]
mod tests;
