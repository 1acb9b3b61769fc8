//! An Xray inbound as a node is told of it, with its secret.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use vpnpanel_domain::{InboundId, ShadowsocksCipher, XrayProtocol, XrayTransport};
use vpnpanel_link::{self as link, Secret, SecretText, XrayInbound};
use vpnpanel_pki::{Sealer, context};
use vpnpanel_store::{Xray, XraySecurity};

use super::snapshot::unsealed;
use crate::error::Error;

pub(super) fn inbound(
    id: InboundId,
    xray: Xray,
    sealed: Option<&[u8]>,
    sealer: &Sealer,
) -> Result<XrayInbound, Error> {
    let what = context::inbound_secret(id);
    let secret = || unsealed(sealer, &what, sealed.unwrap_or_default());
    let unreadable = || Error::Unreadable { what: what.clone() };
    let protocol = match xray.protocol {
        XrayProtocol::Vless { vision } => link::XrayProtocol::Vless { vision },
        XrayProtocol::Vmess => link::XrayProtocol::Vmess,
        XrayProtocol::Trojan => link::XrayProtocol::Trojan,
        XrayProtocol::Shadowsocks { cipher } => link::XrayProtocol::Shadowsocks {
            method: match cipher {
                ShadowsocksCipher::Aes128 => link::ShadowsocksMethod::Aes128,
                ShadowsocksCipher::Aes256 => link::ShadowsocksMethod::Aes256,
            },
            key: SecretText::new(STANDARD.encode(&*secret()?)),
        },
    };
    let transport = match xray.transport {
        XrayTransport::Tcp => link::XrayTransport::Tcp,
        XrayTransport::WebSocket { path, host } => link::XrayTransport::WebSocket { path, host },
        XrayTransport::Grpc { service } => link::XrayTransport::Grpc { service },
    };
    let security = match xray.security {
        XraySecurity::None => link::XraySecurity::None,
        XraySecurity::Tls(tls) => {
            let key = secret()?;
            let key = std::str::from_utf8(&key).map_err(|_| unreadable())?;
            link::XraySecurity::Tls {
                certificate: tls.certificate,
                key: SecretText::new(key),
            }
        }
        XraySecurity::Reality(reality) => link::XraySecurity::Reality {
            target: reality.target,
            server_names: reality.server_names,
            private_key: Secret(secret()?.as_slice().try_into().map_err(|_| unreadable())?),
            short_ids: reality.short_ids.into_iter().map(|id| id.bytes()).collect(),
        },
    };
    Ok(XrayInbound {
        port: xray.port,
        protocol,
        transport,
        security,
    })
}
