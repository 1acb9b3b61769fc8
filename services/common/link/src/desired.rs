//! What a node should do: inbounds to open, users that may use them and within what; and what has
//! changed of it.

mod xray;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};
use vpnpanel_domain::{InboundId, Multiplier, PeerId, PeriodId, SpeedLimit, UserId};

pub use xray::{
    SecretText, ShadowsocksMethod, XrayInbound, XrayProtocol, XraySecurity, XrayTransport,
};

/// Most bytes of an encoded desired state: about 500,000 users.
pub const MAX_STATE_BYTES: usize = 128 * 1024 * 1024;

/// Most bytes of one piece of it.
pub const CHUNK_BYTES: usize = 1024 * 1024;

/// Everything that a node should do.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DesiredState {
    /// Billed bytes for each raw byte on this node.
    pub multiplier: Multiplier,
    /// It takes no new sessions; those that live go on.
    pub draining: bool,
    /// In the order of their ids.
    pub inbounds: Vec<DesiredInbound>,
    /// In the order of their ids.
    pub users: Vec<DesiredUser>,
}

/// What of a desired state has changed: users, and nothing else.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DesiredDelta {
    /// New or changed, each once.
    pub users: Vec<DesiredUser>,
    /// No longer there.
    pub removed: Vec<UserId>,
}

/// A bound on users that an update takes away at once: the larger of both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RemovalBound {
    /// So many users.
    pub users: u32,
    /// So many of each hundred users.
    pub percent: u32,
}

impl RemovalBound {
    /// Nobody may lose anything.
    pub const NOTHING: Self = Self {
        users: 0,
        percent: 0,
    };

    /// Whether so many of `has` users may go.
    pub fn permits(self, removed: usize, has: usize) -> bool {
        let share = has.saturating_mul(self.percent as usize) / 100;
        removed <= share.max(self.users as usize)
    }
}

/// An inbound to open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DesiredInbound {
    /// Its id.
    pub id: InboundId,
    /// What is opened.
    pub settings: InboundSettings,
}

/// What an inbound opens.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum InboundSettings {
    /// A WireGuard interface.
    WireGuard(WireGuardInbound),
    /// A port of Xray.
    Xray(XrayInbound),
}

/// What serves an inbound, with counters of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum EngineKind {
    /// WireGuard.
    WireGuard,
    /// Xray.
    Xray,
}

impl EngineKind {
    /// Every kind.
    pub const ALL: [Self; 2] = [Self::WireGuard, Self::Xray];

    /// Whether it stops a user at an allowance by itself, and not with the next reading of its
    /// counters.
    pub const fn keeps_limits(self) -> bool {
        matches!(self, Self::WireGuard)
    }

    /// Its name in the contract.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::WireGuard => "wireguard",
            Self::Xray => "xray",
        }
    }
}

impl fmt::Display for EngineKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl InboundSettings {
    /// What serves it.
    pub const fn kind(&self) -> EngineKind {
        match self {
            Self::WireGuard(_) => EngineKind::WireGuard,
            Self::Xray(_) => EngineKind::Xray,
        }
    }
}

/// A WireGuard interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WireGuardInbound {
    /// Of this node for this inbound.
    pub private_key: Secret,
    /// UDP.
    pub port: u16,
    /// Addresses of the interface with their networks.
    pub addresses: Vec<InterfaceAddress>,
    /// Bytes.
    pub mtu: u16,
}

/// An address and the length of its network's prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct InterfaceAddress {
    /// The address.
    pub address: IpAddr,
    /// Bits.
    pub prefix: u8,
}

/// A user and its peers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DesiredUser {
    /// Its id.
    pub id: UserId,
    /// What its traffic belongs to now.
    pub period: DesiredPeriod,
    /// What its traffic belongs to once the current period has ended.
    pub next_period: Option<DesiredPeriod>,
    /// Its traffic is dropped, in whichever period; counters and sessions stay.
    pub blocked: bool,
    /// Its traffic passes only within its grants.
    pub limited: bool,
    /// It ends then, control plane or not, milliseconds of the Unix epoch.
    pub not_after_ms: Option<i64>,
    /// How fast it may be, all of its peers together.
    pub speed: SpeedLimit,
    /// Addresses that it may come from at a time where peers do not tell devices apart; 0 is no
    /// limit.
    pub devices: u32,
    /// In the order of their ids.
    pub peers: Vec<DesiredPeer>,
}

/// A period, its end, and whether anything is left of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DesiredPeriod {
    /// Its id.
    pub id: PeriodId,
    /// Its end, milliseconds of the Unix epoch; `None` is never.
    pub ends_ms: Option<i64>,
    /// Its limit is reached: traffic is dropped while it belongs here.
    pub spent: bool,
}

/// A peer: one device on one inbound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DesiredPeer {
    /// Its id, and the key of its counters; never used again.
    pub id: PeerId,
    /// The inbound.
    pub inbound: InboundId,
    /// By what it is let in.
    pub access: PeerAccess,
}

/// By what a peer is let in: as the kind of its inbound asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PeerAccess {
    /// To a WireGuard interface.
    WireGuard {
        /// Of the device.
        public_key: [u8; 32],
        /// Preshared key.
        preshared_key: Option<Secret>,
        /// Address of the device.
        ipv4: Option<Ipv4Addr>,
        /// Address of the device.
        ipv6: Option<Ipv6Addr>,
    },
    /// To a port of Xray.
    Xray {
        /// A UUID for VLESS and VMess, a password for Trojan, a key in base64 for Shadowsocks.
        credential: SecretText,
    },
}

impl PeerAccess {
    /// The kind of inbound that it fits.
    pub const fn kind(&self) -> EngineKind {
        match self {
            Self::WireGuard { .. } => EngineKind::WireGuard,
            Self::Xray { .. } => EngineKind::Xray,
        }
    }
}

/// 32 bytes of key material that never reach a log.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub [u8; 32]);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(redacted)")
    }
}

impl fmt::Display for InterfaceAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl DesiredState {
    /// Puts inbounds, users and peers into the order that makes equal states encode equally.
    pub fn sort(&mut self) {
        self.inbounds.sort_by_key(|inbound| inbound.id);
        sort_users(&mut self.users);
    }
}

impl DesiredDelta {
    /// Puts users and peers into the order in which a whole state has them.
    pub fn sort(&mut self) {
        sort_users(&mut self.users);
        self.removed.sort();
    }
}

fn sort_users(users: &mut [DesiredUser]) {
    users.sort_by_key(|user| user.id);
    for user in users {
        user.peers.sort_by_key(|peer| peer.id);
    }
}

impl DesiredUser {
    /// The period in force at an instant of the server's time: where the next one is not known
    /// yet, traffic stays with the current.
    pub fn period_at(&self, at_ms: i64) -> PeriodId {
        match (self.period.ends_ms, self.next_period) {
            (Some(end), Some(next)) if at_ms >= end => next.id,
            _ => self.period.id,
        }
    }

    /// Whether nothing is left of a period of the user.
    pub fn is_spent(&self, period: PeriodId) -> bool {
        std::iter::once(self.period)
            .chain(self.next_period)
            .any(|known| known.id == period && known.spent)
    }
}
