//! Pure state machines of the node link, both ends, and their simulation.

pub mod agent;
pub mod collector;
mod desired;
mod entropy;
mod error;
mod id;
mod lease;
mod message;
mod usage;
pub mod wire;

pub use desired::{
    CHUNK_BYTES, DesiredInbound, DesiredPeer, DesiredPeriod, DesiredState, DesiredUser,
    InboundSettings, InterfaceAddress, MAX_STATE_BYTES, Secret, WireGuardInbound,
};
pub use entropy::Entropy;
pub use error::Error;
pub use id::{BootId, Digest, Epoch, Generation, Incarnation, Revision, Seq, SpoolId, StateEpoch};
pub use lease::{Grant, LeaseState};
pub use message::{
    AppliedState, ConfigAck, ConfigChunk, ConfigError, CounterMark, Down, EngineStatus,
    EpochSummary, Health, Hello, PROTOCOL, Pace, Segments, Up, UsageAck, Welcome,
};
pub use usage::{
    Attribution, BUCKET_SECONDS, Batch, BatchRef, Bucket, CounterKey, MAX_BATCH_ROWS,
    MAX_PAYLOAD_BYTES, Payload, Range, Row, Segment, Totals,
};
