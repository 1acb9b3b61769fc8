//! A user's connections: how each of its devices connects, with its keys.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use vpnpanel_api::user::v1::{Connection, ListUserConnectionsRequest, ListUserConnectionsResponse};
use vpnpanel_domain::{DeviceId, InboundId, XrayProtocol};
use vpnpanel_pki::context;
use vpnpanel_store::{self as store, ConnectionAccess, Event, Xray, XraySecurity};
use zeroize::Zeroizing;

use super::user::named;
use crate::{
    Error,
    caller::Caller,
    context::Context,
    seal::{self, Vault},
    subscription::{Access, ClientSecurity, Endpoint, XrayAccess, share_link, xray_config},
    wireguard::config::{self, DeviceConfig},
    xray::key_text,
};

/// Longest name that wg-quick takes for an interface (IFNAMSIZ - 1) is shorter; this is a file
/// name for people, kept within what every file system takes.
const MAX_NAME: usize = 100;

pub(crate) async fn list(
    context: &Context,
    caller: &Caller,
    message: ListUserConnectionsRequest,
) -> Result<ListUserConnectionsResponse, Error> {
    let (tenant_id, id) = named(&message.tenant_id, &message.user_id)?;
    let found = context.store.connections(tenant_id, id).await?;
    let secrets_shown = Event::on("user", Some(tenant_id), id);
    context.acting(caller).record(secrets_shown).await?;
    let connections = found
        .into_iter()
        .map(|connection| {
            let (inbound, node) = (connection.inbound_id, connection.node_id);
            let shown = shown(&endpoint(&context.vault, connection)?);
            Ok(Connection {
                inbound_id: inbound.to_string(),
                node_id: node.to_string(),
                ..shown
            })
        })
        .collect::<Result<_, Error>>()?;
    Ok(ListUserConnectionsResponse { connections })
}

/// An endpoint in the formats of the contract.
fn shown(endpoint: &Endpoint) -> Connection {
    let wireguard_config = match &endpoint.access {
        Access::WireGuard(config) => config.text(&endpoint.address, endpoint.port),
        Access::Xray(_) => Zeroizing::default(),
    };
    let link = share_link(endpoint).unwrap_or_default();
    let scanned = if link.is_empty() {
        &wireguard_config
    } else {
        &link
    };
    Connection {
        name: endpoint.name.clone(),
        qr_svg: config::qr_svg(scanned).unwrap_or_default(),
        wireguard_config: wireguard_config.to_string(),
        share_link: link.to_string(),
        xray_config: xray_config(endpoint).unwrap_or_default().to_string(),
        ..Connection::default()
    }
}

/// With the keys opened.
fn endpoint(vault: &Vault, connection: store::Connection) -> Result<Endpoint, Error> {
    let name = format!("{}-{}", connection.inbound_name, connection.node_name);
    let device = connection.device_id;
    let (port, access) = match connection.access {
        ConnectionAccess::WireGuard {
            wireguard,
            node_public_key,
            sealed_private_key,
            sealed_preshared_key,
            ipv4,
            ipv6,
        } => {
            let config = DeviceConfig {
                private_key: sealed_private_key
                    .map(|sealed| vault.device_key(device, &sealed))
                    .transpose()?,
                preshared_key: sealed_preshared_key
                    .map(|sealed| vault.preshared_key(device, &sealed))
                    .transpose()?,
                ipv4,
                ipv6,
                dns_servers: wireguard.dns,
                mtu: wireguard.mtu,
                server_key: *seal::key(&node_public_key)?,
                allowed_ips: wireguard.client_allowed_ips,
                keepalive_seconds: wireguard.keepalive_seconds,
            };
            (wireguard.port, Access::WireGuard(Box::new(config)))
        }
        ConnectionAccess::Xray {
            xray,
            sealed_secret,
            sealed_seed,
        } => {
            let port = xray.port;
            let inbound = connection.inbound_id;
            let credential =
                credential(vault, device, inbound, &xray, sealed_secret, &sealed_seed)?;
            (port, Access::Xray(xray_access(xray, credential)?))
        }
    };
    Ok(Endpoint {
        name: name.chars().take(MAX_NAME).collect(),
        address: connection.node_address,
        port,
        access,
    })
}

/// What a device shows to Xray.
fn credential(
    vault: &Vault,
    device: DeviceId,
    inbound: InboundId,
    xray: &Xray,
    sealed_secret: Option<Vec<u8>>,
    sealed_seed: &[u8],
) -> Result<Zeroizing<String>, Error> {
    let own = vault
        .device_seed(device, sealed_seed)?
        .credential(inbound, xray.protocol)?;
    if !matches!(xray.protocol, XrayProtocol::Shadowsocks { .. }) {
        return Ok(own);
    }
    let sealed = sealed_secret.ok_or(Error::Corrupt("an inbound of Shadowsocks has no key"))?;
    let key = vault.open(&context::inbound_secret(inbound), &sealed)?;
    let key = Zeroizing::new(STANDARD.encode(&*key));
    Ok(Zeroizing::new(format!("{}:{}", *key, *own)))
}

fn xray_access(xray: Xray, credential: Zeroizing<String>) -> Result<XrayAccess, Error> {
    let incomplete = || Error::Corrupt("an inbound of REALITY has no name or short id");
    let security = match xray.security {
        XraySecurity::None => ClientSecurity::None,
        XraySecurity::Tls(tls) => ClientSecurity::Tls {
            server_name: tls.server_name,
        },
        XraySecurity::Reality(reality) => ClientSecurity::Reality {
            public_key: key_text(&reality.public_key),
            short_id: *reality.short_ids.first().ok_or_else(incomplete)?,
            server_name: reality
                .server_names
                .into_iter()
                .next()
                .ok_or_else(incomplete)?,
        },
    };
    Ok(XrayAccess {
        protocol: xray.protocol,
        transport: xray.transport,
        security,
        credential,
    })
}
