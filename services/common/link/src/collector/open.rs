//! How a stream opens: the node's row gets a new generation, which fences every older stream,
//! and the agent learns what is committed. Two agents with one identity show here first: a start
//! that was superseded comes back.

use std::collections::HashMap;

use vpnpanel_domain::{LeaseId, PeriodId};

use super::restore::{self, Evidence, Standing, Verdict, Witnesses};
use super::{Cursor, NodeFacts};
use crate::{
    AppliedState, CounterKey, CounterMark, Epoch, Generation, Grant, Hello, PROTOCOL, Pace,
    Revision, StateEpoch, UsageAck, Welcome,
};

/// How many starts of an agent are remembered.
pub const BOOTS_KEPT: usize = 8;

/// How often superseded starts may come back before a new one is seen. It happens a few times:
/// connections of a dead process that were still in a queue, each of which makes the living one
/// come back too. Two living agents go on and on.
pub const BOOT_STRIKES: u32 = 8;

/// What the store loads, the node's row locked.
#[derive(Debug, Clone, Default)]
pub struct StreamFacts {
    /// The node.
    pub node: NodeFacts,
    /// Cursors of the epochs in Hello.
    pub cursors: HashMap<Epoch, Cursor>,
    /// Marks of the counters in `Hello::unknown_baselines`. A counter without a mark is listed
    /// with zero totals where its peer is known, so that the agent learns whom it belongs to.
    pub marks: Vec<CounterMark>,
    /// Marks of the node that await segments.
    pub awaited: Vec<CounterMark>,
    /// Current leases of the node whose newest version is not answered.
    pub unanswered: Vec<Grant>,
    /// The installation.
    pub standing: Standing,
    /// The newest versions on record of the leases in Hello, current or not.
    pub versions: HashMap<LeaseId, u64>,
    /// Periods of the leases in Hello, as far as they are on record, and whether they are over.
    pub periods: HashMap<PeriodId, bool>,
    /// The end of the change log, where the database can tell.
    pub head: Option<Revision>,
    /// Other nodes, for what this one says of the database.
    pub witnesses: Witnesses,
    /// The desired state that the node last answered, under the newest revision at which its
    /// content was found right; `None` where it was not.
    pub applied: Option<AppliedState>,
}

/// What follows from a Hello. The node's row is written before anything is sent.
#[derive(Debug, Clone)]
pub struct Opening {
    /// The node's row.
    pub node: NodeFacts,
    /// The agent's disk is another one than before: its current leases become stranded (they
    /// keep what they have reserved), and users get new ones.
    pub strand_leases: bool,
    /// Sent first.
    pub welcome: Welcome,
    /// Sent next, unless it says nothing.
    pub ack: UsageAck,
    /// The desired state that is on record as the node's.
    pub on_record: Option<AppliedState>,
    /// The database is an older one than before: `welcome.state_epoch` is new, and the restore
    /// barrier goes up with it.
    pub restored: Option<Evidence>,
}

/// Why a stream is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// FAILED_PRECONDITION, reason PROTOCOL_UNSUPPORTED.
    #[error("the agent speaks versions {min} to {max} of the protocol, this side {PROTOCOL}")]
    Protocol {
        /// Lowest that the agent speaks.
        min: u32,
        /// Highest.
        max: u32,
    },
}

/// Opens a stream.
///
/// # Errors
/// [`Refusal::Protocol`] when there is no common version.
pub fn open(
    facts: StreamFacts,
    hello: &Hello,
    pace: Pace,
    now_ms: i64,
) -> Result<Opening, Refusal> {
    if !(hello.protocol_min..=hello.protocol_max).contains(&PROTOCOL) {
        return Err(Refusal::Protocol {
            min: hello.protocol_min,
            max: hello.protocol_max,
        });
    }
    let verdict = restore::judge(&facts, hello);
    let mut epoch = facts.standing.epoch;
    let mut node = facts.node;
    let mut newest = node.generation;
    let restored = match verdict {
        Verdict::Nothing => {
            // What has been lost since the restore that everybody reports for may be an opening of
            // this node's: its generation is not drawn a second time.
            if (epoch.floor()..epoch.middle()).contains(&hello.generation.get()) {
                newest = newest.max(hello.generation);
            }
            None
        }
        Verdict::Restored(evidence) => {
            epoch = epoch.restored(hello.state_epoch, now_ms);
            Some(evidence)
        }
        Verdict::Alone(evidence) => {
            node.spoke = epoch;
            node.suspicion = Some(evidence.to_string());
            // Its streams of a later life stay behind this one, as far as it names them.
            newest = newest.max(hello.generation.min(Generation(StateEpoch::LAST.floor())));
            None
        }
    };
    node.generation = Generation(epoch.after(newest.get()));
    node.lease_reports = 0;
    remember_boot(&mut node, hello);
    // Hello may be late: what it does not know proves nothing. Batches themselves do.
    if node.quarantined.is_none() && node.boot_strikes >= BOOT_STRIKES {
        node.quarantined = Some("two agents with this node's identity alternate".to_owned());
    }
    let strand_leases = node.spool.is_some_and(|spool| spool != hello.spool);
    node.spool = Some(hello.spool);
    let mut cursors: Vec<_> = hello
        .epochs
        .iter()
        .filter_map(|summary| {
            let cursor = facts.cursors.get(&summary.epoch)?;
            Some(crate::BatchRef {
                epoch: summary.epoch,
                seq: cursor.seq,
                digest: cursor.digest,
            })
        })
        .collect();
    cursors.dedup();
    let grants = if node.is_trusted(epoch) && !strand_leases {
        facts.unanswered
    } else {
        Vec::new()
    };
    let welcome = Welcome {
        protocol: PROTOCOL,
        generation: node.generation,
        state_epoch: epoch,
        server_time_ms: now_ms,
        pace,
        cursors,
        marks: known_marks(facts.marks, &hello.unknown_baselines),
        quarantined: node.quarantined.clone(),
        report: node.quarantined.is_none() && node.must_report(epoch),
    };
    let ack = UsageAck {
        missing_segments: facts.awaited,
        grants,
        ..UsageAck::default()
    };
    Ok(Opening {
        node,
        strand_leases,
        welcome,
        ack,
        on_record: facts.applied,
        restored,
    })
}

/// A start that comes back after a later one was seen is a strike.
fn remember_boot(node: &mut NodeFacts, hello: &Hello) {
    if node.boots.last() == Some(&hello.boot) {
        return;
    }
    if let Some(place) = node.boots.iter().position(|boot| *boot == hello.boot) {
        node.boots.remove(place);
        node.boot_strikes = node.boot_strikes.saturating_add(1);
    } else {
        node.boot_strikes = 0;
    }
    node.boots.push(hello.boot);
    let excess = node.boots.len().saturating_sub(BOOTS_KEPT);
    node.boots.drain(..excess);
}

/// Marks are told only where they were asked for.
fn known_marks(marks: Vec<CounterMark>, asked: &[CounterKey]) -> Vec<CounterMark> {
    let asked: std::collections::HashSet<_> = asked.iter().collect();
    marks
        .into_iter()
        .filter(|mark| asked.contains(&mark.counter))
        .collect()
}
