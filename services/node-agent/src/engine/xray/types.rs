//! What is wanted of Xray: its inbounds and who may use them.

use std::collections::BTreeSet;
use std::net::IpAddr;

use uuid::Uuid;
use vpnpanel_domain::{
    InboundId, PeerId, SecurityKind, ShadowsocksCipher, TransportKind, UserId, XrayProtocol,
    check_xray,
};
pub use vpnpanel_link::{
    SecretText as Text, ShadowsocksMethod, XrayProtocol as Protocol, XraySecurity as Security,
    XrayTransport as Transport,
};
use zeroize::Zeroizing;

use crate::Error;

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
    /// Addresses that its user may come from at a time, of all of its peers; 0 is no limit.
    pub devices: u32,
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
        let refuse = |why: String| Err(Error::Invalid(format!("inbound {}: {why}", self.id)));
        if self.port == 0 {
            return refuse("it has no port".to_owned());
        }
        if let Protocol::Shadowsocks { method, key } = &self.protocol
            && !is_key(key, *method)
        {
            return refuse("the key does not fit the cipher".to_owned());
        }
        let protocol = match &self.protocol {
            Protocol::Vless { vision } => XrayProtocol::Vless { vision: *vision },
            Protocol::Vmess => XrayProtocol::Vmess,
            Protocol::Trojan => XrayProtocol::Trojan,
            Protocol::Shadowsocks { method, .. } => XrayProtocol::Shadowsocks {
                cipher: match method {
                    ShadowsocksMethod::Aes128 => ShadowsocksCipher::Aes128,
                    ShadowsocksMethod::Aes256 => ShadowsocksCipher::Aes256,
                },
            },
        };
        let transport = match self.transport {
            Transport::Tcp => TransportKind::Tcp,
            Transport::WebSocket { .. } => TransportKind::WebSocket,
            Transport::Grpc { .. } => TransportKind::Grpc,
        };
        let security = match self.security {
            Security::None => SecurityKind::None,
            Security::Tls { .. } => SecurityKind::Tls,
            Security::Reality { .. } => SecurityKind::Reality,
        };
        check_xray(protocol, transport, security).or_else(|misfit| refuse(misfit.to_string()))
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
            private_key: vpnpanel_link::Secret([1; 32]),
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
