//! What is wanted of Xray: its inbounds and who may use them.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use uuid::Uuid;
use vpnpanel_domain::{InboundId, PeerId, UserId};
use zeroize::Zeroizing;

use crate::Error;
use crate::engine::Key32;

/// A port that Xray opens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct XrayInbound {
    /// Its id.
    pub id: InboundId,
    /// TCP port; Shadowsocks also opens the UDP port of that number.
    pub port: u16,
    /// What is spoken.
    pub protocol: Protocol,
    /// Below what is spoken.
    pub transport: Transport,
    /// Below the transport.
    pub security: Security,
}

/// The proxy protocol of an inbound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Protocol {
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
        /// The inbound's own key: as many bytes as the cipher's.
        key: Text,
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
pub enum Transport {
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
pub enum Security {
    /// Nothing: the protocol itself encrypts.
    None,
    /// TLS with a certificate of the node.
    Tls {
        /// The chain, PEM.
        certificate: String,
        /// Its key, PEM.
        key: Text,
    },
    /// REALITY: looks like another server to whoever does not know the key.
    Reality {
        /// The server that it looks like, host and port.
        target: String,
        /// The names that clients may ask for.
        server_names: Vec<String>,
        /// X25519.
        private_key: Key32,
        /// What clients may call themselves.
        short_ids: BTreeSet<[u8; 8]>,
    },
}

/// A secret text: never printed, wiped when dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Text(Zeroizing<String>);

impl Text {
    /// Takes a text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(Zeroizing::new(text.into()))
    }

    /// The text.
    pub fn text(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Text(redacted)")
    }
}

/// A subscriber's device on an inbound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct XrayPeer {
    /// The key of its counters, never used for another.
    pub id: PeerId,
    /// Whose device it is: whose limit holds.
    pub user: UserId,
    /// Where it connects.
    pub inbound: InboundId,
    /// A UUID for VLESS and VMess, a password for Trojan, a key in base64 for Shadowsocks.
    pub credential: Text,
    /// It may not connect.
    pub blocked: bool,
    /// Its user has a limit: nothing passes but within an allowance.
    pub limited: bool,
    /// The end of its access, milliseconds of the Unix epoch.
    pub not_after_ms: Option<i64>,
}

/// A change of one peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum XrayOp {
    /// The peer should be as given.
    Set(Box<XrayPeer>),
    /// The peer should be gone, its connections too. Its counters can still be read.
    Remove(PeerId),
}

/// Where a peer is connected from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct XraySession {
    /// The peer.
    pub peer: PeerId,
    /// Addresses of its connections.
    pub addresses: BTreeSet<IpAddr>,
}

impl XrayInbound {
    /// Whether the parts fit together; what cannot be opened is said here and not by Xray.
    ///
    /// # Errors
    /// What does not fit.
    pub fn check(&self) -> Result<(), Error> {
        let protected = self.security != Security::None;
        let tcp = self.transport == Transport::Tcp;
        let reality = matches!(self.security, Security::Reality { .. });
        let refuse = |why: &str| Err(Error::Invalid(format!("inbound {}: {why}", self.id)));
        if self.port == 0 {
            return refuse("it has no port");
        }
        match &self.protocol {
            Protocol::Vless { vision: true } if !(tcp && protected) => {
                return refuse("Vision needs TCP with TLS or REALITY");
            }
            Protocol::Vless { .. } | Protocol::Trojan if !protected => {
                return refuse("the protocol encrypts nothing: it needs TLS or REALITY");
            }
            Protocol::Shadowsocks { .. } if !tcp || protected => {
                return refuse("Shadowsocks is its own transport and security");
            }
            Protocol::Shadowsocks { method, key } if !is_key(key, *method) => {
                return refuse("the key does not fit the cipher");
            }
            _ => (),
        }
        if reality && matches!(self.transport, Transport::WebSocket { .. }) {
            return refuse("REALITY carries no WebSocket");
        }
        Ok(())
    }

    /// What Xray tells users apart by, to compare it with other peers' of the inbound.
    ///
    /// # Errors
    /// When the credential is none of the protocol's.
    pub fn identity(&self, credential: &Text) -> Result<Text, Error> {
        let refused = |what: &str| Error::Invalid(format!("the credential is no {what}"));
        match &self.protocol {
            Protocol::Vless { .. } => {
                // VLESS does not look at these two bytes of a UUID.
                let mut id = uuid(credential)?.into_bytes();
                (id[6], id[7]) = (0, 0);
                Ok(Text::new(Uuid::from_bytes(id).to_string()))
            }
            Protocol::Vmess => Ok(Text::new(uuid(credential)?.to_string())),
            Protocol::Trojan if credential.text().len() < 8 => Err(refused("password")),
            Protocol::Shadowsocks { method, .. } if !is_key(credential, *method) => {
                Err(refused("key of the cipher"))
            }
            _ => Ok(credential.clone()),
        }
    }
}

fn uuid(credential: &Text) -> Result<Uuid, Error> {
    credential
        .text()
        .parse()
        .map_err(|_| Error::Invalid("the credential is no UUID".to_owned()))
}

fn is_key(key: &Text, method: ShadowsocksMethod) -> bool {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD
        .decode(key.text())
        .map(Zeroizing::new)
        .is_ok_and(|bytes| bytes.len() == method.key_length())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inbound(protocol: Protocol, transport: Transport, security: Security) -> XrayInbound {
        XrayInbound {
            id: InboundId::from_bytes([1; 16]),
            port: 443,
            protocol,
            transport,
            security,
        }
    }

    #[test]
    fn what_would_pass_in_the_clear_or_not_work_is_refused() {
        let socket = || Transport::WebSocket {
            path: "/".to_owned(),
            host: String::new(),
        };
        let reality = || Security::Reality {
            target: "example.com:443".to_owned(),
            server_names: vec!["example.com".to_owned()],
            private_key: Key32::new([1; 32]),
            short_ids: BTreeSet::from([[0; 8]]),
        };
        let vless = |vision| Protocol::Vless { vision };
        for (refused, protocol, transport, security) in [
            (true, vless(true), socket(), reality()),
            (true, vless(false), socket(), reality()),
            (true, vless(false), Transport::Tcp, Security::None),
            (true, Protocol::Trojan, Transport::Tcp, Security::None),
            (false, vless(true), Transport::Tcp, reality()),
            (false, Protocol::Vmess, socket(), Security::None),
        ] {
            let inbound = inbound(protocol, transport, security);
            assert_eq!(inbound.check().is_err(), refused, "{inbound:?}");
        }
    }

    #[test]
    fn uuids_that_vless_cannot_tell_apart_have_one_identity() {
        let vless = inbound(
            Protocol::Vless { vision: false },
            Transport::Tcp,
            Security::None,
        );
        let one = Text::new("11111111-2222-3333-4444-555555555555");
        let two = Text::new("11111111-2222-9999-4444-555555555555");
        assert_eq!(vless.identity(&one).unwrap(), vless.identity(&two).unwrap());
        assert!(vless.identity(&Text::new("password")).is_err());
    }
}
