//! What Xray is asked to open, and which of its parts go together: one rule for whoever takes an
//! inbound from people and for the agent that opens it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A proxy protocol of Xray.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "snake_case")]
pub enum XrayProtocol {
    /// VLESS; encrypts nothing itself.
    Vless {
        /// With the flow `xtls-rprx-vision`.
        vision: bool,
    },
    /// VMess.
    Vmess,
    /// Trojan; encrypts nothing itself.
    Trojan,
    /// Shadowsocks of 2022 with a key for each device.
    Shadowsocks {
        /// The cipher.
        cipher: ShadowsocksCipher,
    },
}

/// A cipher of Shadowsocks 2022 that can tell devices apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ShadowsocksCipher {
    /// Keys of 16 bytes.
    Aes128,
    /// Keys of 32 bytes.
    Aes256,
}

impl ShadowsocksCipher {
    /// Its name in Shadowsocks' documents (SIP022).
    pub const fn name(self) -> &'static str {
        match self {
            Self::Aes128 => "2022-blake3-aes-128-gcm",
            Self::Aes256 => "2022-blake3-aes-256-gcm",
        }
    }

    /// Bytes of a key.
    pub const fn key_length(self) -> usize {
        match self {
            Self::Aes128 => 16,
            Self::Aes256 => 32,
        }
    }
}

/// What carries the protocol.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "snake_case")]
pub enum XrayTransport {
    /// TCP itself.
    Tcp,
    /// A WebSocket.
    WebSocket {
        /// The path of the request, from its "/".
        path: String,
        /// The host that the request must name; empty is any.
        host: String,
    },
    /// A gRPC stream.
    Grpc {
        /// The name of the service.
        service: String,
    },
}

impl XrayTransport {
    /// Which of them.
    pub const fn kind(&self) -> TransportKind {
        match self {
            Self::Tcp => TransportKind::Tcp,
            Self::WebSocket { .. } => TransportKind::WebSocket,
            Self::Grpc { .. } => TransportKind::Grpc,
        }
    }
}

/// Which transport.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TransportKind {
    /// TCP itself.
    Tcp,
    /// A WebSocket.
    WebSocket,
    /// A gRPC stream.
    Grpc,
}

/// Which protection below the transport.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SecurityKind {
    /// None: the protocol itself encrypts.
    None,
    /// TLS.
    Tls,
    /// REALITY.
    Reality,
}

/// Why parts of an inbound do not go together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum XrayMisfit {
    /// What passes could be read on the way.
    #[error("the protocol encrypts nothing itself: it needs TLS or REALITY")]
    InTheClear,
    /// Vision looks into what TLS carries.
    #[error("Vision needs the transport TCP, with TLS or REALITY")]
    Vision,
    /// REALITY imitates TLS with HTTP/2.
    #[error("REALITY carries no WebSocket")]
    RealityWebSocket,
    /// Shadowsocks hides behind nothing.
    #[error("Shadowsocks is its own transport and security")]
    Shadowsocks,
}

/// Whether the parts go together: what would pass in the clear or cannot work is refused.
///
/// # Errors
/// Why they do not.
pub fn check_xray(
    protocol: XrayProtocol,
    transport: TransportKind,
    security: SecurityKind,
) -> Result<(), XrayMisfit> {
    let tcp = transport == TransportKind::Tcp;
    let protected = security != SecurityKind::None;
    match protocol {
        XrayProtocol::Vless { .. } | XrayProtocol::Trojan if !protected => {
            Err(XrayMisfit::InTheClear)
        }
        XrayProtocol::Vless { vision: true } if !tcp => Err(XrayMisfit::Vision),
        XrayProtocol::Shadowsocks { .. } if !tcp || protected => Err(XrayMisfit::Shadowsocks),
        _ if security == SecurityKind::Reality && transport == TransportKind::WebSocket => {
            Err(XrayMisfit::RealityWebSocket)
        }
        _ => Ok(()),
    }
}

/// What a client of REALITY calls itself: 8 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ShortId([u8; 8]);

impl ShortId {
    /// Takes 8 bytes.
    pub const fn new(bytes: [u8; 8]) -> Self {
        Self(bytes)
    }

    /// The 8 bytes.
    pub const fn bytes(self) -> [u8; 8] {
        self.0
    }
}

/// Sixteen hexadecimal digits.
impl fmt::Display for ShortId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Two to sixteen hexadecimal digits, an even number; what is missing is zeros.
impl FromStr for ShortId {
    type Err = crate::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.as_bytes();
        let (pairs, odd) = digits.as_chunks::<2>();
        if pairs.is_empty() || pairs.len() > 8 || !odd.is_empty() {
            return Err(crate::Error::ShortId);
        }
        let mut bytes = [0; 8];
        for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
            *byte = digit(*high)? << 4 | digit(*low)?;
        }
        Ok(Self(bytes))
    }
}

fn digit(of: u8) -> Result<u8, crate::Error> {
    let value = char::from(of).to_digit(16).ok_or(crate::Error::ShortId)?;
    u8::try_from(value).map_err(|_| crate::Error::ShortId)
}

impl TryFrom<String> for ShortId {
    type Error = crate::Error;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<ShortId> for String {
    fn from(id: ShortId) -> Self {
        id.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every combination, and what is said of it.
    #[test]
    fn what_would_pass_in_the_clear_or_not_work_is_refused() {
        use SecurityKind::{None as Bare, Reality, Tls};
        use TransportKind::{Grpc, Tcp, WebSocket};
        let shadowsocks = XrayProtocol::Shadowsocks {
            cipher: ShadowsocksCipher::Aes128,
        };
        for transport in [Tcp, WebSocket, Grpc] {
            for security in [Bare, Tls, Reality] {
                let said = |protocol| check_xray(protocol, transport, security).err();
                let socket = (security == Reality && transport == WebSocket)
                    .then_some(XrayMisfit::RealityWebSocket);
                let clear = (security == Bare).then_some(XrayMisfit::InTheClear);
                let vision = (transport != Tcp).then_some(XrayMisfit::Vision);
                let alone =
                    (transport != Tcp || security != Bare).then_some(XrayMisfit::Shadowsocks);
                assert_eq!(
                    said(XrayProtocol::Vless { vision: false }),
                    clear.or(socket)
                );
                assert_eq!(said(XrayProtocol::Trojan), clear.or(socket));
                assert_eq!(said(XrayProtocol::Vless { vision: true }), clear.or(vision));
                assert_eq!(said(XrayProtocol::Vmess), socket);
                assert_eq!(said(shadowsocks), alone);
            }
        }
    }

    #[test]
    fn short_ids_are_hexadecimal_and_filled_up_with_zeros() {
        let id: ShortId = "aB01".parse().unwrap();
        assert_eq!(id.to_string(), "ab01000000000000");
        assert_eq!(id.to_string().parse::<ShortId>(), Ok(id));
        for wrong in ["", "a", "abc", "zz", "+1", "aabbccddeeff001122", "ää"] {
            assert!(wrong.parse::<ShortId>().is_err(), "{wrong}");
        }
    }
}
