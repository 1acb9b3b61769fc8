//! The words of the engine trait.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use vpnpanel_domain::{InboundId, PeerId, SpeedLimit, UserId};
use zeroize::{Zeroize, ZeroizeOnDrop};

/// A nonce that changes whenever counters restart.
pub type Incarnation = [u8; 16];

/// A secret key of 32 bytes; never printed, wiped when dropped.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct Key32([u8; 32]);

impl Key32 {
    /// Takes the bytes of a key.
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes.
    pub const fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for Key32 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key32(redacted)")
    }
}

/// What an engine can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// Its kind, as the contract names it.
    pub kind: &'static str,
    /// Limits are kept by the kernel, not by polling alone.
    pub kernel_quota: bool,
    /// A dropped packet is not counted.
    pub counts_delivered_only: bool,
}

/// A WireGuard interface to open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inbound {
    /// Its id.
    pub id: InboundId,
    /// The node's private key.
    pub private_key: Key32,
    /// UDP port.
    pub port: u16,
    /// The node's addresses in the tunnel, with the networks of the peers.
    pub addresses: BTreeSet<IpNet>,
    /// Bytes.
    pub mtu: u32,
}

/// A subscriber's device on an inbound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// The key of its counters, never used for another.
    pub id: PeerId,
    /// Whose device it is: whose limit holds.
    pub user: UserId,
    /// Where it connects.
    pub inbound: InboundId,
    /// The device's public key.
    pub public_key: [u8; 32],
    /// A preshared key, if there is one.
    pub preshared_key: Option<Key32>,
    /// The device's addresses in the tunnel.
    pub addresses: BTreeSet<IpAddr>,
    /// Its traffic is dropped.
    pub blocked: bool,
    /// Its user has a limit: nothing passes but within an allowance.
    pub limited: bool,
    /// The end of its access, milliseconds of the Unix epoch.
    pub not_after_ms: Option<i64>,
    /// How fast its user may be, all of the user's peers together; the same in each of them.
    pub speed: SpeedLimit,
}

/// A change of one peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PeerOp {
    /// The peer should be as given: added, or changed in place.
    Set(Box<Peer>),
    /// The peer should be gone. Its counters can still be read.
    Remove(PeerId),
}

/// A peer in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its id.
    pub peer: PeerId,
    /// Its addresses.
    pub addresses: BTreeSet<IpAddr>,
}

/// All counters at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// The incarnation they belong to.
    pub incarnation: Incarnation,
    /// When they were read, milliseconds of the Unix epoch by the host's clock.
    pub at_ms: i64,
    /// Bytes of each peer since its counters were made: (from, to) the subscriber.
    pub peers: HashMap<PeerId, (u64, u64)>,
    /// Limited users whose allowance the kernel holds to be used up.
    pub exhausted: BTreeSet<UserId>,
}

/// A subscriber's session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// The peer.
    pub peer: PeerId,
    /// Where it was heard from last.
    pub endpoint: Option<SocketAddr>,
    /// Seconds of the Unix epoch.
    pub last_handshake: i64,
}

/// How an engine is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// Its kind, as the contract names it.
    pub kind: &'static str,
    /// Implementation and version.
    pub version: String,
    /// What is wrong and what to do; none when it runs and is configured.
    pub problem: Option<String>,
    /// What it does less well on this host than it could, though it runs.
    pub shortfall: Option<String>,
    /// Peers in force.
    pub peers: usize,
    /// The incarnation of its counters, once it runs.
    pub incarnation: Option<Incarnation>,
}
