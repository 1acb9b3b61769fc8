//! One way for one device to connect.

use uuid::Uuid;
use vpnpanel_domain::{Alpn, Fingerprint, ShortId, XrayProtocol, XrayTransport};
use zeroize::Zeroizing;

use crate::wireguard::config::DeviceConfig;

/// Where a device connects, and with what.
#[derive(Debug)]
pub(crate) struct Endpoint {
    /// Always the same for the same device, inbound and node.
    pub(crate) id: Uuid,
    /// For people.
    pub(crate) name: String,
    /// Host name or IP address, of the node unless a template says otherwise.
    pub(crate) address: String,
    /// UDP port of WireGuard, TCP port of Xray.
    pub(crate) port: u16,
    /// With what.
    pub(crate) access: Access,
}

/// What an engine has to be shown.
#[derive(Debug)]
pub(crate) enum Access {
    WireGuard(Box<DeviceConfig>),
    Xray(XrayAccess),
}

/// What Xray has to be shown.
pub(crate) struct XrayAccess {
    pub(crate) protocol: XrayProtocol,
    pub(crate) transport: XrayTransport,
    pub(crate) security: ClientSecurity,
    /// Whose first message of TLS is imitated.
    pub(crate) fingerprint: Fingerprint,
    /// A UUID for VLESS and VMess, a password for Trojan; for Shadowsocks the inbound's key and the
    /// device's, joined by a colon (SIP023).
    pub(crate) credential: Zeroizing<String>,
}

/// What a client has to know of what protects an inbound.
#[derive(Debug)]
pub(crate) enum ClientSecurity {
    None,
    Tls {
        /// Asked for, and checked.
        server_name: String,
        /// Offered; empty is what the client likes.
        alpn: Vec<Alpn>,
    },
    Reality {
        /// Asked for.
        server_name: String,
        /// In Xray's form.
        public_key: String,
        short_id: ShortId,
    },
}

/// What is offered in TLS, by its registered names.
pub(super) fn alpn_names(alpn: &[Alpn]) -> Vec<&'static str> {
    alpn.iter().map(|it| it.name()).collect()
}

impl Endpoint {
    /// Address and port as they stand in a URI: an IPv6 address in brackets.
    pub(super) fn authority(&self) -> String {
        if self.address.contains(':') {
            format!("[{}]:{}", self.address, self.port)
        } else {
            format!("{}:{}", self.address, self.port)
        }
    }
}

/// Without the credential.
impl std::fmt::Debug for XrayAccess {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("XrayAccess")
            .field("protocol", &self.protocol)
            .field("transport", &self.transport)
            .field("security", &self.security)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use vpnpanel_domain::{InboundId, ShadowsocksCipher};
    use vpnpanel_pki::DeviceSeed;

    use super::*;

    /// Of a device that is always the same.
    pub(crate) fn credential(protocol: XrayProtocol) -> String {
        let seed = DeviceSeed::from_bytes(&[7; 32]).unwrap();
        let inbound = InboundId::from_bytes([9; 16]);
        seed.credential(inbound, protocol).unwrap().to_string()
    }

    fn endpoint(
        protocol: XrayProtocol,
        transport: XrayTransport,
        security: ClientSecurity,
    ) -> Endpoint {
        let credential = credential(protocol);
        let credential = match protocol {
            XrayProtocol::Shadowsocks { cipher } => {
                use base64::Engine as _;
                let key = vec![0xfb; cipher.key_length()];
                let key = base64::engine::general_purpose::STANDARD.encode(key);
                format!("{key}:{credential}")
            }
            _ => credential,
        };
        Endpoint {
            id: Uuid::from_u128(11),
            name: "main-berlin".to_owned(),
            address: "vpn.example.com".to_owned(),
            port: 443,
            access: Access::Xray(XrayAccess {
                protocol,
                transport,
                security,
                fingerprint: Fingerprint::default(),
                credential: Zeroizing::new(credential),
            }),
        }
    }

    /// Of WireGuard, with everything that may be there.
    pub(crate) fn wireguard() -> Endpoint {
        Endpoint {
            id: Uuid::from_u128(12),
            name: "wire-berlin".to_owned(),
            address: "vpn.example.com".to_owned(),
            port: 51820,
            access: Access::WireGuard(Box::new(DeviceConfig {
                private_key: Some(Zeroizing::new([1; 32])),
                preshared_key: Some(Zeroizing::new([2; 32])),
                ipv4: "10.64.0.2".parse().unwrap(),
                ipv6: Some("fd00::2".parse().unwrap()),
                dns_servers: vec!["1.1.1.1".parse().unwrap()],
                mtu: 1420,
                server_key: [3; 32],
                allowed_ips: vec!["0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap()],
                keepalive_seconds: 25,
            })),
        }
    }

    /// Each way to connect once, each with a name of its own.
    pub(crate) fn subscribed() -> Vec<Endpoint> {
        let mut all = all();
        all.push(wireguard());
        for (number, endpoint) in all.iter_mut().enumerate() {
            endpoint.name = format!("{}-{number}", endpoint.name);
        }
        all
    }

    /// Each protocol over each transport and security, once.
    pub(crate) fn all() -> Vec<Endpoint> {
        let tls = || ClientSecurity::Tls {
            server_name: "vpn.example.com".to_owned(),
            alpn: Vec::new(),
        };
        let reality = || ClientSecurity::Reality {
            server_name: "www.example.org".to_owned(),
            public_key: crate::xray::key_text(&[3; 32]),
            short_id: ShortId::new([1, 2, 3, 4, 5, 6, 7, 8]),
        };
        let socket = |host: &str| XrayTransport::WebSocket {
            path: "/ws/a".to_owned(),
            host: host.to_owned(),
        };
        let grpc = || XrayTransport::Grpc {
            service: "tunnel".to_owned(),
        };
        let vless = |vision| XrayProtocol::Vless { vision };
        let shadowsocks = |cipher| XrayProtocol::Shadowsocks { cipher };
        let mut all = vec![
            endpoint(vless(true), XrayTransport::Tcp, reality()),
            endpoint(vless(false), socket("cdn.example.com"), tls()),
            endpoint(vless(false), grpc(), reality()),
            endpoint(
                XrayProtocol::Vmess,
                XrayTransport::Tcp,
                ClientSecurity::None,
            ),
            endpoint(XrayProtocol::Vmess, socket(""), tls()),
            endpoint(XrayProtocol::Trojan, XrayTransport::Tcp, tls()),
            endpoint(XrayProtocol::Trojan, grpc(), tls()),
            endpoint(
                shadowsocks(ShadowsocksCipher::Aes128),
                XrayTransport::Tcp,
                ClientSecurity::None,
            ),
            endpoint(
                shadowsocks(ShadowsocksCipher::Aes256),
                XrayTransport::Tcp,
                ClientSecurity::None,
            ),
        ];
        if let Some(last) = all.last_mut() {
            last.address = "2001:db8::1".to_owned();
            last.name = "main Köln".to_owned();
        }
        all
    }
}
