//! What is wanted of Xray: a port, what is spoken there, what carries and what protects it.

use std::collections::BTreeSet;
use std::fmt;

use zeroize::Zeroizing;

use super::Secret;

/// A port that Xray opens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct XrayInbound {
    /// TCP port; Shadowsocks also opens the UDP port of that number.
    pub port: u16,
    /// What is spoken.
    pub protocol: XrayProtocol,
    /// Below what is spoken.
    pub transport: XrayTransport,
    /// Below the transport.
    pub security: XraySecurity,
}

/// The proxy protocol of an inbound.
#[derive(Debug, Clone, PartialEq, Eq)]
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
    /// Shadowsocks of 2022 with a key for each user.
    Shadowsocks {
        /// The cipher.
        method: ShadowsocksMethod,
        /// The inbound's own key in base64: as many bytes as the cipher's.
        key: SecretText,
    },
}

/// A cipher of Shadowsocks 2022 that can tell users apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShadowsocksMethod {
    /// Keys of 16 bytes.
    Aes128,
    /// Keys of 32 bytes.
    Aes256,
}

impl ShadowsocksMethod {
    /// Its name in Shadowsocks' documents.
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
#[derive(Debug, Clone, PartialEq, Eq)]
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

/// What protects the transport.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum XraySecurity {
    /// Nothing: the protocol itself encrypts.
    None,
    /// TLS with a certificate of the node.
    Tls {
        /// The chain, PEM.
        certificate: String,
        /// Its key, PEM.
        key: SecretText,
    },
    /// REALITY: looks like another server to whoever does not know the key.
    Reality {
        /// The server that it looks like, host and port.
        target: String,
        /// The names that clients may ask for.
        server_names: Vec<String>,
        /// X25519.
        private_key: Secret,
        /// What clients may call themselves.
        short_ids: BTreeSet<[u8; 8]>,
    },
}

/// A secret text: never printed, wiped when dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretText(Zeroizing<String>);

impl SecretText {
    /// Takes a text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(Zeroizing::new(text.into()))
    }

    /// The text.
    pub fn text(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretText(redacted)")
    }
}
