//! The node link: exact usage, desired state and quota leases between a node's agent and the
//! control plane. Both ends are pure state machines: no clock, no socket, no database, no random
//! source of their own. What they need to know comes in as events and loaded rows; what is to
//! be done comes out as effects. Services drive them; the simulation in `tests/simulation` drives
//! them through crashes, loss and reordering by the thousand.
//!
//! # The idea
//!
//! Engines expose raw cumulative counters under an [`Incarnation`], a nonce that changes whenever
//! the counters restart. A usage [`Row`] names an **absolute range** of one counter pair and whom
//! it is billed to; the control plane keeps, for each counter, a mark up to which it has billed,
//! and credits `max(0, to − max(from, mark))`. So any row may come again, in any order, without
//! being billed twice; and since counters are never reset, whatever was not billed yet can be
//! read again.
//!
//! # Driving the agent ([`agent::Agent`])
//!
//! 1. Read the disk into [`agent::Durable`]; on an empty one, write `Durable::new` first.
//! 2. [`agent::Agent::start`], then one [`agent::Agent::step`] for each event and each time the
//!    deadline comes. Events and clocks are the only inputs.
//! 3. Carry out effects **in order**, one after the other:
//!    - `Commit` is on disk, synced, all or nothing, before the next effect begins. If it fails,
//!      drop the machine and the rest of the effects and go to 1; a disk that is full stops
//!      reporting, not forwarding.
//!    - `ReadCounters` begins after every effect before it, reads of each engine the incarnation
//!      before **and** after the counters, and reports both. An engine that could not be read has
//!      no sample, never an empty one.
//!    - `Block` holds when the next effect begins, until the peers are upserted or removed.
//!    - `Gates` may name users whose peers do not exist yet; they hold from the first packet.
//!    - `Apply` is refused (answer `EngineUp`) by an engine whose incarnation is another than the
//!      one named. Counters of removed peers stay, or at least never restart in an incarnation.
//!    - `SendBatch` sends the bytes that were stored, never a new encoding.
//! 4. Say `EngineUp` or `EngineDown` of each engine before anything else, and `EngineUp` again
//!    whenever its incarnation may have changed.
//!
//! What follows from that order: a counter exists only after its books are open; a batch is sent
//! only after it is durable together with the baselines it moved; a removal is block → read →
//! commit → remove; a grant is durable before it is answered; what runs out stops here, without
//! being told.
//!
//! # Driving the collector
//!
//! - [`collector::open::open`] for each Hello, with the node's row locked; the row is written
//!   before `Welcome` is sent. It raises the [`Generation`], which fences all older streams.
//! - [`collector::session::Session`] for each stream, in memory. What it holds can be lost.
//! - [`collector::ingest`] for usage, in **one** transaction for many streams: `needs` says what
//!   to load (locked, in its order), `decide` says what to write and what to reply. Replies go
//!   out **after** the commit. If the transaction fails nothing was decided: feed `IngestFailed`.
//! - [`collector::lease`] wherever a limit or a lease changes outside of ingest: in the
//!   transaction that changes it. `PeriodFacts::reserved` must be written with the leases.
//!
//! | row | written by | fenced by |
//! | --- | --- | --- |
//! | node: generation, boots, spool | `open` | row lock |
//! | node: lease reports | `ingest`, reset by `open` | generation and their place in the stream |
//! | cursor, digests, successor | `ingest` | generation and compare-and-swap |
//! | marks, buckets, periods | `ingest`, only with cursors that advanced, or by segments | row locks |
//! | commands | the driver, for [`collector::session::Effect::LoadCommands`] and `Answered` | generation |
//! | leases, `reserved` | `ingest`, `lease` | the period's row lock; versions towards the agent |
//!
//! # Leases
//!
//! A user with a limit passes on a node only within its lease there. The sum of what is billed
//! and what nodes may still let through never exceeds the limit; only usage that was charged to
//! a lease ([`Attribution::leased`]), or the agent's answer to the newest version, frees
//! anything. Time frees nothing. A lost disk means new leases; the old ones stay reserved.

pub mod agent;
pub mod collector;
mod command;
mod desired;
mod entropy;
mod error;
mod id;
mod lease;
mod message;
mod state_digest;
mod usage;
pub mod wire;

pub use command::{
    Command, CommandAnswer, CommandKind, CommandOutcome, CommandResult,
    MAX_MESSAGE_CHARS as MAX_COMMAND_MESSAGE_CHARS, MAX_OPEN as MAX_OPEN_COMMANDS,
    MAX_OUTPUT_BYTES as MAX_COMMAND_OUTPUT_BYTES,
};
pub use desired::{
    CHUNK_BYTES, DesiredDelta, DesiredInbound, DesiredPeer, DesiredPeriod, DesiredState,
    DesiredUser, EngineKind, InboundSettings, InterfaceAddress, MAX_STATE_BYTES, PeerAccess,
    RemovalBound, Secret, SecretText, ShadowsocksMethod, WireGuardInbound, XrayInbound,
    XrayProtocol, XraySecurity, XrayTransport,
};
pub use entropy::Entropy;
pub use error::Error;
pub use id::{BootId, Digest, Epoch, Generation, Incarnation, Revision, Seq, SpoolId, StateEpoch};
pub use lease::{Grant, LeaseState};
pub use message::{
    AppliedState, ConfigAck, ConfigChunk, ConfigError, CounterMark, Down, EngineStatus,
    EpochSummary, Health, Hello, IssuedCertificate, PROTOCOL, Pace, RenewalRefusal, Segments, Up,
    UpdateKind, UsageAck, Welcome,
};
pub use usage::{
    Attribution, BUCKET_SECONDS, Batch, BatchRef, Bucket, CounterKey, MAX_BATCH_ROWS,
    MAX_PAYLOAD_BYTES, Payload, Range, Row, Segment, Totals,
};
