//! Inbounds and peers as Xray's messages. What is in force is told by its tag, which carries a
//! digest of the settings: a restarted agent needs no record of its own to see what changed.

use prost::{Message, Name};
use sha2::{Digest, Sha256};
use vpnpanel_api::xray::app::proxyman::ReceiverConfig;
use vpnpanel_api::xray::common::net::{Network, PortList, PortRange};
use vpnpanel_api::xray::common::protocol::User;
use vpnpanel_api::xray::common::serial::TypedMessage;
use vpnpanel_api::xray::core::InboundHandlerConfig;
use vpnpanel_api::xray::proxy::{shadowsocks_2022, trojan, vless, vmess};
use vpnpanel_api::xray::transport::internet::{
    SocketConfig, StreamConfig, TransportConfig, grpc, reality, tls, websocket,
};
use vpnpanel_domain::{InboundId, PeerId};

use super::types::{Protocol, Security, Text, Transport, XrayInbound, XrayPeer};

const PREFIX: &str = "inbound-";

/// A message by its name, as Xray takes it.
pub(super) fn typed<M: Message + Name>(message: &M) -> TypedMessage {
    TypedMessage {
        r#type: M::full_name(),
        value: message.encode_to_vec(),
    }
}

/// The tag of an inbound with just these settings, in the Xray of a nonce. Nobody outside can
/// know it: a client that writes lines into the log cannot name an inbound.
pub(super) fn tag(inbound: &XrayInbound, nonce: &[u8; 16]) -> String {
    let settings = handler(inbound, String::new(), Vec::new(), "");
    let mut hash = Sha256::new();
    hash.update(nonce);
    hash.update(settings.encode_to_vec());
    let digest = hash.finalize();
    let digest = hex::encode(digest.get(..8).unwrap_or_default());
    format!("{PREFIX}{}-{}-{digest}", inbound.id, inbound.port)
}

/// The inbound and the port of a tag of ours.
pub(super) fn place_of(tag: &str) -> Option<(InboundId, u16)> {
    let (rest, _digest) = tag.strip_prefix(PREFIX)?.rsplit_once('-')?;
    let (id, port) = rest.rsplit_once('-')?;
    Some((id.parse().ok()?, port.parse().ok()?))
}

/// The key of a peer's counters.
pub(super) fn email(peer: PeerId) -> String {
    peer.to_string()
}

/// The peer of a key, written exactly as we write it.
pub(super) fn peer_of(email: &str) -> Option<PeerId> {
    let peer: PeerId = email.parse().ok()?;
    (self::email(peer) == email).then_some(peer)
}

/// A peer as a user of an inbound.
pub(super) fn user(inbound: &XrayInbound, peer: &XrayPeer) -> User {
    let credential = peer.credential.text().to_owned();
    let account = match &inbound.protocol {
        Protocol::Vless { vision } => typed(&vless::Account {
            id: credential,
            flow: if *vision { "xtls-rprx-vision" } else { "" }.to_owned(),
        }),
        Protocol::Vmess => typed(&vmess::Account { id: credential }),
        Protocol::Trojan => typed(&trojan::Account {
            password: credential,
        }),
        Protocol::Shadowsocks { .. } => typed(&shadowsocks_2022::Account { key: credential }),
    };
    User {
        level: 0,
        email: email(peer.id),
        account: Some(account),
    }
}

/// The credential of a user that Xray reports.
pub(super) fn credential_of(user: &User) -> Option<Text> {
    let account = user.account.as_ref()?;
    let bytes = account.value.as_slice();
    let name = account.r#type.as_str();
    let credential = if name == vless::Account::full_name() {
        vless::Account::decode(bytes).ok()?.id
    } else if name == vmess::Account::full_name() {
        vmess::Account::decode(bytes).ok()?.id
    } else if name == trojan::Account::full_name() {
        trojan::Account::decode(bytes).ok()?.password
    } else if name == shadowsocks_2022::Account::full_name() {
        shadowsocks_2022::Account::decode(bytes).ok()?.key
    } else {
        return None;
    };
    Some(Text::new(credential))
}

/// An inbound with its users. A WebSocket client's word on its own address is believed only
/// with a header that nobody knows: the access log must show where connections come from.
pub(super) fn handler(
    inbound: &XrayInbound,
    tag: String,
    users: Vec<User>,
    unknown_header: &str,
) -> InboundHandlerConfig {
    let port = u32::from(inbound.port);
    let receiver = ReceiverConfig {
        port_list: Some(PortList {
            range: vec![PortRange {
                from: port,
                to: port,
            }],
        }),
        stream_settings: Some(stream(inbound, unknown_header)),
    };
    let proxy = match &inbound.protocol {
        Protocol::Vless { .. } => typed(&vless::inbound::Config {
            clients: users,
            decryption: "none".to_owned(),
        }),
        Protocol::Vmess => typed(&vmess::inbound::Config { user: users }),
        Protocol::Trojan => typed(&trojan::ServerConfig { users }),
        Protocol::Shadowsocks { method, key } => typed(&shadowsocks_2022::MultiUserServerConfig {
            method: method.name().to_owned(),
            key: key.text().to_owned(),
            users,
            network: vec![Network::Tcp.into(), Network::Udp.into()],
        }),
    };
    InboundHandlerConfig {
        tag,
        receiver_settings: Some(typed(&receiver)),
        proxy_settings: Some(proxy),
    }
}

fn stream(inbound: &XrayInbound, unknown_header: &str) -> StreamConfig {
    let (name, settings) = match &inbound.transport {
        Transport::Tcp => ("tcp", None),
        Transport::WebSocket { path, host } => (
            "websocket",
            Some(typed(&websocket::Config {
                host: host.clone(),
                path: path.clone(),
            })),
        ),
        Transport::Grpc { service } => (
            "grpc",
            Some(typed(&grpc::encoding::Config {
                service_name: service.clone(),
            })),
        ),
    };
    let security = security(inbound);
    StreamConfig {
        transport_settings: settings
            .into_iter()
            .map(|settings| TransportConfig {
                protocol_name: name.to_owned(),
                settings: Some(settings),
            })
            .collect(),
        protocol_name: name.to_owned(),
        security_type: security
            .as_ref()
            .map(|settings| settings.r#type.clone())
            .unwrap_or_default(),
        security_settings: security.into_iter().collect(),
        socket_settings: Some(SocketConfig {
            trusted_x_forwarded_for: vec![unknown_header.to_owned()],
        }),
    }
}

fn security(inbound: &XrayInbound) -> Option<TypedMessage> {
    match &inbound.security {
        Security::None => None,
        Security::Tls { certificate, key } => {
            let protocols: &[&str] = match inbound.transport {
                Transport::Tcp => &["h2", "http/1.1"],
                Transport::WebSocket { .. } => &["http/1.1"],
                Transport::Grpc { .. } => &["h2"],
            };
            Some(typed(&tls::Config {
                certificate: vec![tls::Certificate {
                    certificate: certificate.clone().into_bytes(),
                    key: key.text().as_bytes().to_vec(),
                }],
                next_protocol: protocols.iter().map(|name| (*name).to_owned()).collect(),
                min_version: "1.2".to_owned(),
            }))
        }
        Security::Reality {
            target,
            server_names,
            private_key,
            short_ids,
        } => Some(typed(&reality::Config {
            dest: target.clone(),
            r#type: "tcp".to_owned(),
            server_names: server_names.clone(),
            private_key: private_key.0.to_vec(),
            max_time_diff: 0,
            short_ids: short_ids.iter().map(|id| id.to_vec()).collect(),
            limit_fallback_upload: Some(reality::LimitFallback::default()),
            limit_fallback_download: Some(reality::LimitFallback::default()),
        })),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::xray::types::ShadowsocksMethod;

    #[test]
    fn a_tag_names_the_inbound_and_changes_with_its_settings() {
        let mut inbound = XrayInbound {
            id: InboundId::from_bytes([9; 16]),
            port: 443,
            protocol: Protocol::Vmess,
            transport: Transport::Tcp,
            security: Security::None,
        };
        let before = tag(&inbound, &[1; 16]);
        assert_eq!(tag(&inbound, &[1; 16]), before);
        assert_ne!(tag(&inbound, &[2; 16]), before);
        assert_eq!(place_of(&before), Some((inbound.id, 443)));
        inbound.port = 444;
        assert_ne!(tag(&inbound, &[1; 16]), before);
        assert_eq!(place_of("api"), None);
    }

    #[test]
    fn types_are_named_without_a_prefix() {
        let account = typed(&vless::Account::default());
        assert_eq!(account.r#type, "xray.proxy.vless.Account");
        let config = typed(&grpc::encoding::Config::default());
        assert_eq!(
            config.r#type,
            "xray.transport.internet.grpc.encoding.Config"
        );
    }

    #[test]
    fn a_credential_is_read_back_and_a_key_of_counters_only_as_written() {
        let inbound = XrayInbound {
            id: InboundId::from_bytes([9; 16]),
            port: 443,
            protocol: Protocol::Shadowsocks {
                method: ShadowsocksMethod::Aes128,
                key: Text::new(""),
            },
            transport: Transport::Tcp,
            security: Security::None,
        };
        let peer = XrayPeer {
            id: PeerId::from_bytes([0xab; 16]),
            user: vpnpanel_domain::UserId::from_bytes([1; 16]),
            inbound: inbound.id,
            credential: Text::new("secret"),
            blocked: false,
            limited: false,
            not_after_ms: None,
            devices: 0,
        };
        let user = user(&inbound, &peer);
        assert_eq!(credential_of(&user), Some(Text::new("secret")));
        assert_eq!(peer_of(&user.email), Some(peer.id));
        assert_eq!(peer_of(&user.email.to_uppercase()), None);
        assert!(!format!("{user:?}").contains("secret"));
    }
}
