//! What happens to the agent and what it does about it. Effects are carried out in order, one
//! after the other: a [`Effect::Commit`] is durable before the next effect begins. That order is
//! the whole of the contract between this machine and its driver.

use vpnpanel_domain::{CommandId, PeerId, SpeedLimit, UserId};

use super::durable::{EpochNumber, Transaction};
use crate::{
    Command, CommandAnswer, CommandKind, CommandResult, ConfigError, DesiredInbound, DesiredPeer,
    Down, EngineKind, EngineStatus, Incarnation, Seq, Totals, Up,
};

/// The clocks, read when an event is handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// `CLOCK_BOOTTIME`, milliseconds: goes on during suspend and is never set.
    pub boottime_ms: i64,
    /// `CLOCK_REALTIME`, milliseconds of the Unix epoch: believed only until the control plane
    /// has told the time once.
    pub wall_ms: i64,
}

/// Names a request to engines, so that an answer to an older one is not taken for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Ticket(pub u64);

/// Something happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// [`super::Agent::deadline`] has come. Harmless at any other time.
    Tick,
    /// An engine runs. It or [`Event::EngineDown`] is said of each kind first after each start,
    /// and again after each restart of the engine and whenever its peers were listed.
    EngineUp {
        /// Which.
        kind: EngineKind,
        /// The life of its counters.
        incarnation: Incarnation,
        /// Peers that it has.
        peers: Vec<PeerId>,
    },
    /// An engine died, cannot be reached or is not there; `EngineUp` follows when it is back.
    EngineDown {
        /// Which.
        kind: EngineKind,
    },
    /// What health says of the engines.
    EngineStatus(Vec<EngineStatus>),
    /// Answer to [`Effect::ReadCounters`]. An engine that could not be read gives no sample, and
    /// where none could be [`Event::ReadFailed`] is sent: an error is never an empty sample.
    Sampled {
        /// Of the request.
        ticket: Ticket,
        /// Of each engine that could be read, one.
        samples: Vec<Sample>,
    },
    /// No counters could be read.
    ReadFailed {
        /// Of the request.
        ticket: Ticket,
    },
    /// Answer to [`Effect::Apply`].
    Applied {
        /// Of the request.
        ticket: Ticket,
        /// What could not be applied.
        errors: Vec<ConfigError>,
    },
    /// Answer to [`Effect::Connect`]: the stream is open.
    Connected,
    /// The stream ended, or could not be opened.
    Disconnected,
    /// A message came.
    Message(Down),
    /// Answer to [`Effect::Run`].
    CommandDone {
        /// Of the command.
        id: CommandId,
        /// What came of it.
        answer: CommandAnswer,
    },
    /// A command was given directly, and not over the stream: one that is not about the stream.
    CommandAsked(Command),
    /// The node has a new certificate: what was refused so far may be let in with it.
    CertificateRenewed,
}

/// All counters of an engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// Which engine's.
    pub kind: EngineKind,
    /// The incarnation, read before the counters.
    pub before: Incarnation,
    /// The incarnation, read after the counters.
    pub after: Incarnation,
    /// The counters.
    pub readings: Vec<Reading>,
    /// Nothing has passed since under this incarnation, and nothing will: the engine was ended on
    /// purpose.
    pub is_last: bool,
}

/// A counter pair as the engine has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// Whose.
    pub peer: PeerId,
    /// Since the incarnation began, never reset.
    pub totals: Totals,
}

/// Something to do. In order; see the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Make the writes durable, all of them or none, before the next effect. On failure (disk
    /// full, disk broken) drop this machine and the rest of the effects, and start again from
    /// what is on disk: the engine goes on meanwhile.
    Commit(Transaction),
    /// Open the stream; answer with `Connected` or `Disconnected`.
    Connect,
    /// End the stream; `Disconnected` follows.
    Disconnect {
        /// For the log.
        reason: &'static str,
    },
    /// Send a message on the present stream; drop it when there is none.
    Send(Up),
    /// Send a batch: exactly the stored bytes.
    SendBatch {
        /// Its epoch.
        epoch: EpochNumber,
        /// Its number.
        seq: Seq,
    },
    /// Find out whether an engine runs, its incarnation and peers; answer with `EngineUp` or
    /// `EngineDown`.
    Inspect {
        /// Which.
        kind: EngineKind,
        /// There is something for it to do, or it had counters: it is started where it does not run.
        wanted: bool,
    },
    /// Read all counters of all engines **now**, after every effect before this one; answer with
    /// `Sampled` or `ReadFailed`.
    ReadCounters(Ticket),
    /// Drop the traffic of these peers of an engine until they are upserted or removed; their
    /// counters stay. Done when the next effect begins.
    Block(EngineKind, Vec<PeerId>),
    /// Let users' traffic through an engine or not. A gate may name a user whose peers do not exist
    /// yet: remember it and make it hold from the first packet.
    Gates(EngineKind, Vec<(UserId, Gate)>),
    /// Change an engine; answer with `Applied`.
    Apply(Change),
    /// Do what a command asks for, once; answer with `CommandDone`. Only those kinds come here that
    /// are not the machine's own.
    Run {
        /// Of the command.
        id: CommandId,
        /// What to do.
        kind: CommandKind,
    },
    /// What came of a command, for those who have given it directly and wait.
    CommandAnswered(CommandResult),
    /// Something that a person should look at: log it as a warning.
    Alarm(Alarm),
}

/// Whether a user's traffic passes an engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// Without a limit.
    Open,
    /// Up to a number of bytes, cut in the kernel where the engine can.
    Quota {
        /// Raw bytes, both directions of all peers of the user together, that may still pass. Each
        /// engine is told all that remains; what passes the one takes from the other's gate with the
        /// next reading.
        remaining: u64,
        /// What the counters of the user's peers on this engine stood at (sum of both directions)
        /// when `remaining` was true: a driver that reads them again subtracts the difference.
        counted: u64,
    },
    /// Not at all.
    Blocked,
}

/// A change of an engine. Idempotent: it may be repeated after a crash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Which engine's.
    pub kind: EngineKind,
    /// Of the answer.
    pub ticket: Ticket,
    /// The life of the counters that the books are open for. An engine that is in another one
    /// by now changes nothing and answers with `EngineUp`.
    pub incarnation: Incarnation,
    /// The inbounds that this engine should have, all of them: open those that are missing, reload those that
    /// differ, close the others. Nothing but a changed inbound may be reloaded.
    pub inbounds: Vec<DesiredInbound>,
    /// Take no new sessions, or take them again; those that live go on.
    pub draining: bool,
    /// Peers to have: add those that are missing, modify those that differ,
    /// lift a block.
    /// Their counters start at zero unless they exist in this incarnation; a counter that
    /// exists goes on.
    pub upsert: Vec<Upsert>,
    /// Peers to remove. Their counters must stay, or never restart, in this incarnation.
    pub remove: Vec<PeerId>,
}

/// A peer to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upsert {
    /// Whose it is.
    pub user: UserId,
    /// How fast that user may be, all of its peers together.
    pub speed: SpeedLimit,
    /// Addresses that it may come from at a time, of all its peers; 0 is no limit.
    pub devices: u32,
    /// The peer.
    pub peer: DesiredPeer,
}

/// Something that a person should look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Alarm {
    /// A counter went backwards without a new incarnation: somebody else resets counters.
    CounterWentBack {
        /// Whose.
        peer: PeerId,
        /// On the books.
        baseline: Totals,
        /// Read.
        reading: Totals,
    },
    /// The control plane has committed what this disk never wrote, or other bytes under the
    /// same number: another agent has this node's identity, or the disk went back in time.
    Fork {
        /// What differs.
        what: String,
    },
    /// The control plane has quarantined this node.
    Quarantined {
        /// Why.
        reason: String,
    },
    /// The control plane's database is an older one than before, and lacks batches that were past
    /// retention here: what the books still know of them was sent in their place.
    BatchesLost {
        /// In so many epochs.
        epochs: usize,
    },
    /// A desired state could not be decoded or has another digest.
    BadState {
        /// Why.
        reason: String,
    },
    /// A desired state would take away more users than it may: what is in force stays, until
    /// somebody has confirmed it.
    RemovalsHeld {
        /// How many users would go.
        removed: usize,
        /// Of how many.
        of: usize,
    },
    /// The spool is larger than it should be; usage is kept with coarser times from now on.
    SpoolCoarsened {
        /// Its size.
        bytes: u64,
    },
}
