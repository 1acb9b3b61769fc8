//! What lies on the agent's disk, and the transactions that change it. [`Durable`] is the image
//! that the machine works with; the driver keeps the same records in redb and hands the image
//! back at the next start. Payloads of batches and the desired state stay on disk only: they may be
//! large.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use vpnpanel_domain::{CommandId, PeriodId, UserId};

use super::command::CommandRecord;
use crate::{
    AppliedState, Attribution, CounterKey, Digest, EngineKind, Epoch, Generation, Incarnation,
    LeaseState, Segment, Seq, SpoolId, StateEpoch, Totals,
};

/// The agent's disk, without payloads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Durable {
    /// Drawn when the disk was found empty, and written before anything else.
    pub spool: SpoolId,
    /// The life of each engine's counters as last seen.
    pub incarnations: BTreeMap<EngineKind, Incarnation>,
    /// Engines whose counters could not be read when others could, or when time was written:
    /// when they last were, server time, milliseconds of the Unix epoch.
    pub unread: BTreeMap<EngineKind, i64>,
    /// What is known of each counter.
    pub counters: BTreeMap<CounterKey, CounterRecord>,
    /// Epochs by their order.
    pub epochs: BTreeMap<EpochNumber, EpochRecord>,
    /// Batches that are held.
    pub batches: BTreeMap<(EpochNumber, Seq), BatchRecord>,
    /// Leases.
    pub leases: BTreeMap<(UserId, PeriodId), LeaseState>,
    /// What ties the server's time to this host's clock.
    pub anchor: Option<TimeAnchor>,
    /// The last desired state that came whole: what the node should do, also after a restart.
    pub target: Option<AppliedState>,
    /// Its encoded bytes without the users; empty when there is none. Like the users it is given
    /// from the disk at the start, and not kept here afterwards.
    pub target_head: Bytes,
    /// Its users, each an encoded `DesiredUser`.
    pub target_users: BTreeMap<UserId, Bytes>,
    /// The desired state that the engines were brought to.
    pub applied: Option<AppliedState>,
    /// Commands that were seen and may come again.
    pub commands: BTreeMap<CommandId, CommandRecord>,
    /// The newest stream that the control plane has welcomed.
    pub welcomed: Option<Welcomed>,
}

/// The order of an epoch on its disk, from 1.
pub type EpochNumber = u64;

/// What is known of one counter: where it stands on the books, and how it came there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CounterRecord {
    /// Stretches in order, the last one growing; its end is the baseline. Never empty.
    pub segments: Vec<Segment>,
}

/// An epoch on the disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EpochRecord {
    /// Its name.
    pub epoch: Epoch,
    /// Last batch written.
    pub last: Seq,
    /// Digest of that batch.
    pub tail: Digest,
    /// Newest batch known to be committed.
    pub acked: Seq,
    /// When batches were acknowledged, in steps of some minutes: a batch may go 48 h after.
    pub acked_at: Vec<(Seq, i64)>,
}

/// A stream as the control plane has welcomed it: a database that does not know of it is an older
/// one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcomed {
    /// Its number.
    pub generation: Generation,
    /// Of the database.
    pub state_epoch: StateEpoch,
}

/// A batch on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchRecord {
    /// Of its payload.
    pub digest: Digest,
    /// Length of its payload.
    pub bytes: u32,
}

/// A pair of simultaneous readings of the server's time and the host's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimeAnchor {
    /// The server's time, milliseconds of the Unix epoch.
    pub server_ms: i64,
    /// `CLOCK_BOOTTIME`, milliseconds.
    pub boottime_ms: i64,
    /// The kernel's boot id: the clock above starts anew with each.
    pub host_boot: [u8; 16],
}

/// A set of writes that become durable together or not at all.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Transaction {
    /// In order.
    pub writes: Vec<Write>,
}

/// One record written or removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// The life of an engine's counters.
    Incarnation(EngineKind, Incarnation),
    /// The engine's counters were read last then, and could not be since; `None` when they can.
    Unread(EngineKind, Option<i64>),
    /// The books of a counter.
    Counter(CounterKey, CounterRecord),
    /// The counter's incarnation and periods are long gone.
    DropCounter(CounterKey),
    /// An epoch.
    Epoch(EpochNumber, EpochRecord),
    /// No batch of the epoch has been held for long, and a later epoch has batches.
    DropEpoch(EpochNumber),
    /// A batch. One that was never sent may be written again, longer.
    Batch {
        /// Its epoch.
        epoch: EpochNumber,
        /// Its number.
        seq: Seq,
        /// Of the payload.
        digest: Digest,
        /// Exactly what will be sent, each time.
        payload: Bytes,
    },
    /// Retention is over.
    DropBatch(EpochNumber, Seq),
    /// A lease.
    Lease(LeaseState),
    /// The lease's period is long over.
    DropLease(UserId, PeriodId),
    /// The anchor of time.
    Anchor(TimeAnchor),
    /// A desired state that came whole, in place of the one before.
    Target {
        /// Its name.
        state: AppliedState,
        /// An encoded `DesiredState` without users.
        head: Bytes,
        /// Its users, each an encoded `DesiredUser`.
        users: Vec<(UserId, Bytes)>,
    },
    /// A desired state that came about from the one before by a change of users.
    TargetUsers {
        /// Its name.
        state: AppliedState,
        /// Users that are new or have changed.
        users: Vec<(UserId, Bytes)>,
        /// Users that are gone.
        removed: Vec<UserId>,
    },
    /// What the engines were brought to.
    Applied(AppliedState),
    /// A command that was seen.
    Command(CommandId, CommandRecord),
    /// The command's time is long over.
    DropCommand(CommandId),
    /// A stream was welcomed.
    Welcomed(Welcomed),
}

impl Durable {
    /// An empty disk.
    pub fn new(spool: SpoolId) -> Self {
        Self {
            spool,
            incarnations: BTreeMap::new(),
            unread: BTreeMap::new(),
            counters: BTreeMap::new(),
            epochs: BTreeMap::new(),
            batches: BTreeMap::new(),
            leases: BTreeMap::new(),
            anchor: None,
            target: None,
            target_head: Bytes::new(),
            target_users: BTreeMap::new(),
            applied: None,
            commands: BTreeMap::new(),
            welcomed: None,
        }
    }

    /// Makes the writes of a transaction to the image, as a disk does.
    pub fn apply(&mut self, transaction: &Transaction) {
        for write in &transaction.writes {
            match write {
                Write::Target { head, users, .. } => {
                    self.target_head = head.clone();
                    self.target_users = users.iter().cloned().collect();
                }
                Write::TargetUsers { users, removed, .. } => {
                    for user in removed {
                        self.target_users.remove(user);
                    }
                    self.target_users.extend(users.iter().cloned());
                }
                _ => {}
            }
            self.note(write);
        }
    }

    /// Notes a write in the machine's image, which does without what is large.
    pub(super) fn note(&mut self, write: &Write) {
        match write.clone() {
            Write::Incarnation(kind, name) => {
                self.incarnations.insert(kind, name);
            }
            Write::Unread(kind, Some(since)) => {
                self.unread.insert(kind, since);
            }
            Write::Unread(kind, None) => {
                self.unread.remove(&kind);
            }
            Write::Counter(key, record) => {
                self.counters.insert(key, record);
            }
            Write::DropCounter(key) => {
                self.counters.remove(&key);
            }
            Write::Epoch(number, record) => {
                self.epochs.insert(number, record);
            }
            Write::DropEpoch(number) => {
                self.epochs.remove(&number);
            }
            Write::Batch {
                epoch,
                seq,
                digest,
                payload,
            } => {
                let bytes = u32::try_from(payload.len()).unwrap_or(u32::MAX);
                self.batches
                    .insert((epoch, seq), BatchRecord { digest, bytes });
            }
            Write::DropBatch(epoch, seq) => {
                self.batches.remove(&(epoch, seq));
            }
            Write::Lease(lease) => {
                self.leases.insert((lease.user, lease.period), lease);
            }
            Write::DropLease(user, period) => {
                self.leases.remove(&(user, period));
            }
            Write::Anchor(anchor) => self.anchor = Some(anchor),
            Write::Target { state, .. } | Write::TargetUsers { state, .. } => {
                self.target = Some(state);
            }
            Write::Applied(state) => self.applied = Some(state),
            Write::Command(id, record) => {
                self.commands.insert(id, record);
            }
            Write::DropCommand(id) => {
                self.commands.remove(&id);
            }
            Write::Welcomed(stream) => self.welcomed = Some(stream),
        }
    }
}

impl CounterRecord {
    /// Books that open at `totals`.
    pub fn open(attribution: Attribution, totals: Totals, at_ms: i64) -> Self {
        let segment = Segment {
            attribution,
            from: totals,
            to: totals,
            grown_at_ms: at_ms,
        };
        Self {
            segments: vec![segment],
        }
    }

    /// The counter as of the last reading on the books, and whom what follows is billed to.
    pub fn baseline(&self) -> (Totals, Attribution) {
        // `segments` is never empty; an empty one read from a damaged disk counts from zero,
        // and the collector's mark keeps that from being billed twice.
        self.segments.last().map_or_else(
            || {
                let nobody = Attribution {
                    user: UserId::from_bytes([0; 16]),
                    period: PeriodId::from_bytes([0; 16]),
                    multiplier: vpnpanel_domain::Multiplier::ONE,
                    leased: false,
                };
                (Totals::default(), nobody)
            },
            |segment| (segment.to, segment.attribution),
        )
    }
}

impl Transaction {
    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }
}
