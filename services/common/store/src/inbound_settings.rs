//! What an inbound opens, as it is stored: without secrets, which are sealed beside it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};
use vpnpanel_domain::{SecurityKind, ShortId, XrayProtocol, XrayTransport};

use crate::error::{Result, StoreError};

/// The kind of a WireGuard inbound in the database.
pub(crate) const WIREGUARD: &str = "wireguard";

/// What an inbound opens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InboundSettings {
    /// A WireGuard interface.
    WireGuard(WireGuard),
    /// A port of Xray.
    Xray(Xray),
}

/// A WireGuard interface, as every node of the inbound opens it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WireGuard {
    /// UDP port.
    pub port: u16,
    /// Where devices get their IPv4 addresses; the first host address is the node's.
    pub ipv4_pool: Ipv4Net,
    /// Where devices get their IPv6 addresses: the low 32 bits are the IPv4 address.
    pub ipv6_pool: Option<Ipv6Net>,
    /// Handed to devices.
    pub dns: Vec<IpAddr>,
    /// Bytes.
    pub mtu: u16,
    /// Seconds between keepalives of devices; 0 is none.
    pub keepalive_seconds: u16,
    /// What devices route through the tunnel.
    pub client_allowed_ips: Vec<IpNet>,
}

/// A port of Xray, as every node of the inbound opens it. Its secret (the private key of the
/// certificate or of REALITY, or Shadowsocks' own key) is sealed beside it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Xray {
    /// TCP port; Shadowsocks also opens the UDP port of that number.
    pub port: u16,
    /// What is spoken.
    pub protocol: XrayProtocol,
    /// What carries it.
    pub transport: XrayTransport,
    /// What protects it.
    pub security: XraySecurity,
}

/// What protects a port of Xray.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "snake_case")]
pub enum XraySecurity {
    /// Nothing: the protocol itself encrypts.
    None,
    /// TLS.
    Tls(XrayTls),
    /// REALITY.
    Reality(XrayReality),
}

/// TLS, but for the private key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct XrayTls {
    /// The name that clients ask for.
    pub server_name: String,
    /// The certificate and its chain, PEM.
    pub certificate: String,
    /// Names of the certificate.
    pub names: Vec<String>,
    /// When the certificate ends.
    pub not_after_ms: i64,
}

/// REALITY, but for the private key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct XrayReality {
    /// The server that it looks like, host and port.
    pub target: String,
    /// The names that clients may ask for.
    pub server_names: Vec<String>,
    /// X25519.
    pub public_key: [u8; 32],
    /// What clients may call themselves, each once; they are told the first.
    pub short_ids: Vec<ShortId>,
}

/// Ports that an inbound takes of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ports {
    /// The TCP port.
    pub tcp: Option<u16>,
    /// The UDP port.
    pub udp: Option<u16>,
}

impl InboundSettings {
    /// The kind, as it is stored and as the contract names it.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::WireGuard(_) => WIREGUARD,
            Self::Xray(xray) => match xray.protocol {
                XrayProtocol::Vless { .. } => "vless",
                XrayProtocol::Vmess => "vmess",
                XrayProtocol::Trojan => "trojan",
                XrayProtocol::Shadowsocks { .. } => "shadowsocks",
            },
        }
    }

    /// The ports it takes.
    pub const fn ports(&self) -> Ports {
        let (port, tcp, udp) = match self {
            Self::WireGuard(wireguard) => (wireguard.port, false, true),
            Self::Xray(xray) => {
                let both = matches!(xray.protocol, XrayProtocol::Shadowsocks { .. });
                (xray.port, true, both)
            }
        };
        Ports {
            tcp: if tcp { Some(port) } else { None },
            udp: if udp { Some(port) } else { None },
        }
    }

    /// The WireGuard interface, where it is one.
    pub const fn wireguard(&self) -> Option<&WireGuard> {
        match self {
            Self::WireGuard(wireguard) => Some(wireguard),
            Self::Xray(_) => None,
        }
    }

    pub(crate) fn to_json(&self) -> serde_json::Value {
        match self {
            Self::WireGuard(wireguard) => serde_json::json!(wireguard),
            Self::Xray(xray) => serde_json::json!(xray),
        }
    }

    pub(crate) fn from_json(kind: &str, json: serde_json::Value) -> Result<Self> {
        let read = if kind == WIREGUARD {
            serde_json::from_value(json).map(Self::WireGuard)
        } else {
            serde_json::from_value(json).map(Self::Xray)
        };
        read.map_err(|error| StoreError::corrupt("inbounds.settings", error))
    }
}

impl XraySecurity {
    /// Which it is.
    pub const fn kind(&self) -> SecurityKind {
        match self {
            Self::None => SecurityKind::None,
            Self::Tls(_) => SecurityKind::Tls,
            Self::Reality(_) => SecurityKind::Reality,
        }
    }
}

impl WireGuard {
    /// The node's own addresses, with their networks.
    pub fn node_addresses(&self) -> Vec<IpNet> {
        let first = Ipv4Addr::from(u32::from(self.ipv4_pool.network()).saturating_add(1));
        let mut addresses = Vec::with_capacity(2);
        if let Ok(net) = Ipv4Net::new(first, self.ipv4_pool.prefix_len()) {
            addresses.push(IpNet::V4(net));
        }
        if let (Some(pool), Some(address)) = (self.ipv6_pool, self.ipv6_of(first))
            && let Ok(net) = Ipv6Net::new(address, pool.prefix_len())
        {
            addresses.push(IpNet::V6(net));
        }
        addresses
    }

    /// The IPv6 address that goes with an IPv4 address; `None` without an IPv6 pool.
    pub fn ipv6_of(&self, ipv4: Ipv4Addr) -> Option<Ipv6Addr> {
        let pool = self.ipv6_pool?;
        Some(Ipv6Addr::from(
            u128::from(pool.network()) | u128::from(u32::from(ipv4)),
        ))
    }

    /// Whether an address could belong to either.
    pub fn overlaps(&self, other: &Self) -> bool {
        let ipv6 = self.ipv6_pool.zip(other.ipv6_pool);
        overlap_v4(self.ipv4_pool, other.ipv4_pool)
            || ipv6.is_some_and(|(one, two)| {
                one.contains(&two.network()) || two.contains(&one.network())
            })
    }
}

/// Whether IPv4 networks share an address.
pub(crate) fn overlap_v4(one: Ipv4Net, two: Ipv4Net) -> bool {
    one.contains(&two.network()) || two.contains(&one.network())
}
