//! What the agent asks of a data plane, whatever it is.
//!
//! Counters are absolute under an incarnation and never reset; an update of a peer never
//! disturbs its session or its counters; everything may be asked again.

mod cordon;
mod types;
pub mod wireguard;
pub mod xray;

use async_trait::async_trait;
use vpnpanel_domain::{PeerId, UserId};

pub use types::{
    Capabilities, Inbound, Incarnation, Key32, Listed, Peer, PeerOp, Reading, Session, Status,
};
pub use wireguard::{MOST_PACED, QUOTA_SLACK, Running, WireGuardEngine, WireGuardOptions};
pub use xray::{XrayEngine, XrayOptions};

use crate::Error;

/// A data plane of the node.
#[async_trait]
pub trait Engine: Send + Sync + std::fmt::Debug {
    /// What it can do.
    fn capabilities(&self) -> Capabilities;

    /// Brings the inbounds up: starts what does not run, adopts what does, re-applies the
    /// peers of what had to be started, and takes down inbounds of ours that are not named.
    /// Cheap when nothing is to be done: called before every poll.
    ///
    /// # Errors
    /// What the host lacks or refuses. An inbound that cannot be brought up is named in the
    /// result, and the others are up.
    async fn ensure_running(&self, inbounds: Vec<Inbound>) -> Result<Running, Error>;

    /// Adds, changes and removes peers; nobody else is disturbed. The results are in the order
    /// of the operations; asking for what is the case already succeeds.
    async fn apply(&self, ops: Vec<PeerOp>) -> Vec<Result<(), Error>>;

    /// The peers in force, to reconcile with.
    ///
    /// # Errors
    /// When they cannot be read: that is never an empty list.
    async fn list(&self) -> Result<Vec<Listed>, Error>;

    /// Reads all counters, also those of removed peers.
    ///
    /// # Errors
    /// When they cannot be read, or their incarnation changed meanwhile: there is no sample
    /// then, never a zero.
    async fn read_counters(&self) -> Result<Reading, Error>;

    /// Drops the traffic of these peers, or lets it pass again. Sessions and counters stay.
    ///
    /// # Errors
    /// What the host refuses; none or all are blocked then.
    async fn set_blocked(&self, peers: Vec<PeerId>, blocked: bool) -> Result<(), Error>;

    /// Lets each of these limited users pass that many more bytes, both directions and all
    /// devices together, counted from the last reading that [`Self::read_counters`] returned.
    /// Zero stops the user. The kernel keeps to it by itself, also when the agent is dead.
    /// Users without a limit are ignored.
    ///
    /// # Errors
    /// What the host refuses.
    async fn set_allowances(&self, remainders: Vec<(UserId, u64)>) -> Result<(), Error>;

    /// The subscribers' sessions, newest handshake first.
    ///
    /// # Errors
    /// When they cannot be read.
    async fn sessions(&self) -> Result<Vec<Session>, Error>;

    /// Stops what carries traffic; [`Self::ensure_running`] starts it again. What was counted, who is
    /// blocked and what may still pass stays as it is; sessions end.
    ///
    /// # Errors
    /// What the host refuses; some of it may have stopped then.
    async fn stop(&self) -> Result<(), Error>;

    /// Takes no new sessions from here on, or takes them again; those that live go on. It stays so
    /// until it is changed, whatever starts again meanwhile.
    ///
    /// # Errors
    /// What the host refuses.
    async fn set_cordoned(&self, on: bool) -> Result<(), Error>;

    /// The same by the desired state: new sessions are taken where neither says otherwise.
    ///
    /// # Errors
    /// What the host refuses.
    async fn set_draining(&self, on: bool) -> Result<(), Error>;

    /// How it is.
    async fn status(&self) -> Status;
}
