//! The messages of a stream, typed. Each is the parsed form of its namesake in
//! `vpnpanel/agent/v1/node_link.proto`, whose comments are the contract; `wire` converts.

use bytes::Bytes;

use crate::{
    Attribution, Batch, BatchRef, BootId, Command, CommandResult, CounterKey, Digest, Epoch,
    Generation, Grant, Incarnation, LeaseState, RemovalBound, Revision, Row, Seq, SpoolId,
    StateEpoch, Totals,
};

/// The protocol version that this code speaks.
pub const PROTOCOL: u32 = 1;

/// From the agent to the collector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Up {
    /// First on every stream.
    Hello(Box<Hello>),
    /// Result of a revision.
    ConfigAck(ConfigAck),
    /// Usage, exactly as stored.
    Batch(Batch),
    /// Leases that changed or run low.
    LeaseReport(Vec<LeaseState>),
    /// How the node is.
    Health(Health),
    /// Answer to [`UsageAck::missing_segments`].
    Segments(Segments),
    /// The agent ends the stream on purpose.
    Goodbye(String),
    /// The agent's certificate is due: a PKCS #10 request, DER, for a new key.
    RenewalRequest(Bytes),
    /// What came of a command.
    CommandResult(CommandResult),
    /// Batches that are past retention here and were never committed there: the newest of each
    /// epoch.
    Lost(Vec<BatchRef>),
    /// All leases have been reported, and all usage that there was at Welcome is committed.
    Reported(StateEpoch),
}

/// From the collector to the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Down {
    /// Answer to Hello.
    Welcome(Box<Welcome>),
    /// A piece of desired state.
    ConfigUpdate(ConfigChunk),
    /// What is committed, what is missing, what may be spent.
    UsageAck(UsageAck),
    /// Reconnect at a random moment within this time.
    Drain {
        /// Milliseconds.
        spread_ms: u64,
    },
    /// Answer to [`Up::RenewalRequest`]; the driver's, no machine of an agent heeds it.
    RenewalAnswer(Result<Box<IssuedCertificate>, RenewalRefusal>),
    /// Something to do, once.
    Command(Command),
}

/// A certificate for an agent's new key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssuedCertificate {
    /// The certificate, then intermediates, each DER.
    pub chain: Vec<Bytes>,
    /// Every authority to trust, each DER.
    pub trust_bundle: Vec<Bytes>,
    /// Sequence number of the trust bundle.
    pub trust_bundle_sequence: u64,
    /// When the certificate ends, milliseconds of the Unix epoch.
    pub expires_at_ms: i64,
}

/// Why there is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RenewalRefusal {
    /// For machines: UPPER_SNAKE_CASE.
    pub reason: String,
    /// For people.
    pub message: String,
}

/// First message of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// Lowest protocol version spoken.
    pub protocol_min: u32,
    /// Highest.
    pub protocol_max: u32,
    /// Beyond the base protocol.
    pub capabilities: Vec<String>,
    /// Of the agent's software.
    pub agent_version: String,
    /// This start of the process.
    pub boot: BootId,
    /// This life of the agent's disk: another one means that the old disk was lost, and the
    /// leases on it with it.
    pub spool: SpoolId,
    /// The desired state in force.
    pub applied: Option<AppliedState>,
    /// Epochs in the spool, oldest first; the current one is last, where it has batches.
    pub epochs: Vec<EpochSummary>,
    /// Engines.
    pub engines: Vec<EngineStatus>,
    /// Counters without a baseline on this disk.
    pub unknown_baselines: Vec<CounterKey>,
    /// Leases held.
    pub leases: Vec<LeaseState>,
    /// Of the newest stream on which this disk was welcomed; 0 before the first.
    pub generation: Generation,
    /// What that stream was welcomed under; 0 before the first.
    pub state_epoch: StateEpoch,
}

/// A desired state by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct AppliedState {
    /// Where it was read.
    pub revision: Revision,
    /// Of its resources.
    pub digest: Digest,
}

/// An epoch in the agent's spool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EpochSummary {
    /// The epoch.
    pub epoch: Epoch,
    /// First batch still held; `Seq(0)` when none.
    pub first: Seq,
    /// Last batch written.
    pub last: Seq,
    /// Digest of the last batch.
    pub tail: Digest,
    /// Newest batch known to be committed; `Seq(0)` when none.
    pub acked: Seq,
}

/// State of an engine.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct EngineStatus {
    /// For example "wireguard".
    pub kind: String,
    /// Implementation and version.
    pub version: String,
    /// It runs and is configured.
    pub healthy: bool,
    /// What is wrong and what to do.
    pub problem: String,
    /// Peers in force.
    pub peers: u32,
    /// Of its counters.
    pub incarnation: Option<Incarnation>,
}

/// Answer to Hello.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Welcome {
    /// The version that holds on this stream.
    pub protocol: u32,
    /// Of this stream.
    pub generation: Generation,
    /// Of the control plane's database.
    pub state_epoch: StateEpoch,
    /// The control plane's clock, milliseconds of the Unix epoch.
    pub server_time_ms: i64,
    /// Rhythm of the stream.
    pub pace: Pace,
    /// The newest batch committed of each epoch that is known.
    pub cursors: Vec<BatchRef>,
    /// Of the counters asked for; those that are not listed were never billed.
    pub marks: Vec<CounterMark>,
    /// Why the node is quarantined, where it is.
    pub quarantined: Option<String>,
    /// The control plane does not know what this node holds: it is to report all of it
    /// ([`Up::Reported`]), and gets no grants before.
    pub report: bool,
}

/// Rhythm of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// Between reads of the counters, milliseconds.
    pub poll_ms: u64,
    /// Between reports when nothing presses, milliseconds.
    pub report_ms: u64,
    /// Between Health messages, milliseconds.
    pub health_ms: u64,
    /// Most batches in flight.
    pub window: u32,
}

/// Up to where a counter has been billed, and to whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CounterMark {
    /// The counter.
    pub counter: CounterKey,
    /// Billed so far.
    pub totals: Totals,
    /// Whom the counter belongs to, where the control plane knows: lets the agent close the
    /// books of a user that was removed while the disk was lost.
    pub attribution: Option<Attribution>,
}

/// Answer to batches, segments and lease reports, after their transaction has committed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UsageAck {
    /// The newest batch committed of each epoch that moved.
    pub committed: Vec<BatchRef>,
    /// Send again from this batch.
    pub resend_from: Option<(Epoch, Seq)>,
    /// Why the stream was quarantined, where it was.
    pub quarantined: Option<String>,
    /// Counters whose rows began beyond their mark, with that mark.
    pub missing_segments: Vec<CounterMark>,
    /// Allowances.
    pub grants: Vec<Grant>,
}

/// What an update of desired state is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpdateKind {
    /// A whole state with this digest.
    Whole(Digest),
    /// What has changed since the state with this digest.
    Delta(Digest),
}

impl UpdateKind {
    /// What a delta builds on.
    pub fn base(self) -> Option<Digest> {
        match self {
            Self::Whole(_) => None,
            Self::Delta(base) => Some(base),
        }
    }

    /// What a whole state is.
    pub fn state(self) -> Option<Digest> {
        match self {
            Self::Whole(state) => Some(state),
            Self::Delta(_) => None,
        }
    }
}

/// A piece of an update of desired state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigChunk {
    /// What the update leads to.
    pub revision: Revision,
    /// What it is.
    pub kind: UpdateKind,
    /// How many users it may take away; `None` is any number.
    pub removals: Option<RemovalBound>,
    /// From 0.
    pub chunk: u32,
    /// How many there are.
    pub chunks: u32,
    /// Over all pieces.
    pub digest: Digest,
    /// A part of what is encoded.
    pub data: Bytes,
}

/// Result of applying a revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigAck {
    /// Which.
    pub state: AppliedState,
    /// What could not be applied; the rest was.
    pub errors: Vec<ConfigError>,
    /// The update was a delta over another state than the agent's: it waits for the whole.
    pub resync: bool,
    /// The update was not taken, because it would have taken away so many users; 0 where it was.
    pub held_removals: u32,
    /// The state came with an update of an earlier stream: nothing of this one is answered.
    pub earlier: bool,
}

impl ConfigAck {
    /// All of a state is in force.
    pub fn of(state: AppliedState) -> Self {
        Self {
            state,
            errors: Vec::new(),
            resync: false,
            held_removals: 0,
            earlier: false,
        }
    }
}

/// A resource that could not be applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// "inbound", "peer" or "state".
    pub kind: String,
    /// Its id.
    pub id: String,
    /// What was wrong and what to do.
    pub message: String,
}

/// How the node is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Hash)]
pub struct Health {
    /// Engines.
    pub engines: Vec<EngineStatus>,
    /// Batches not acknowledged.
    pub unacked_batches: u64,
    /// Their bytes.
    pub unacked_bytes: u64,
    /// The revision in force.
    pub applied_revision: Revision,
}

/// What the agent still knows of counters that were asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Segments {
    /// One for each segment, in order of each counter.
    pub rows: Vec<Row>,
    /// Nothing is known of these any more.
    pub unknown: Vec<CounterKey>,
}

/// A stream's pace when the control plane does not say otherwise.
impl Default for Pace {
    fn default() -> Self {
        Self {
            poll_ms: 2_000,
            report_ms: 5_000,
            health_ms: 5_000,
            window: 16,
        }
    }
}
