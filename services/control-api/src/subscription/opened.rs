//! Connections as the store has them, with their keys opened.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use sha2::{Digest, Sha256};
use uuid::Uuid;
use vpnpanel_domain::{DeviceId, Fingerprint, InboundId, NodeId, PeerId, XrayProtocol};
use vpnpanel_pki::context;
use vpnpanel_store::{self as store, ConnectionAccess, Xray, XraySecurity};
use zeroize::Zeroizing;

use super::{
    Access, ClientSecurity, Endpoint, XrayAccess,
    presented::{Place, Subscriber, name_apart, presented},
};
use crate::{
    Error,
    seal::{self, Vault},
    wireguard::config::DeviceConfig,
    xray::key_text,
};

/// The endpoints of a user as they are presented, each with a name of its own.
///
/// # Errors
/// As [`opened`].
pub(crate) fn all_opened(
    vault: &Vault,
    connections: Vec<store::Connection>,
    subscriber: &Subscriber<'_>,
) -> Result<Vec<Endpoint>, Error> {
    let mut endpoints = connections
        .into_iter()
        .map(|connection| opened(vault, connection, subscriber))
        .collect::<Result<Vec<_>, _>>()?;
    name_apart(&mut endpoints);
    Ok(endpoints)
}

/// The endpoint of a connection.
///
/// # Errors
/// When a key was sealed under another master key, or what is stored makes no sense.
pub(crate) fn opened(
    vault: &Vault,
    mut connection: store::Connection,
    subscriber: &Subscriber<'_>,
) -> Result<Endpoint, Error> {
    let mut template = connection.template.take();
    let place = Place::of(&connection);
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
            // The inbound's names may have changed after the template was written.
            if let (Some(template), XraySecurity::Reality(reality)) =
                (&mut template, &xray.security)
            {
                let said = &mut template.presentation.server_name;
                said.take_if(|name| !reality.server_names.contains(name));
            }
            let inbound = connection.inbound_id;
            let credential =
                credential(vault, device, inbound, &xray, sealed_secret, &sealed_seed)?;
            (port, Access::Xray(xray_access(xray, credential)?))
        }
    };
    let endpoint = Endpoint {
        id: id(connection.peer_id, connection.node_id),
        name: String::new(),
        address: connection.node_address,
        port,
        access,
    };
    Ok(presented(endpoint, &place, subscriber, template))
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
            alpn: Vec::new(),
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
        fingerprint: Fingerprint::default(),
        credential,
    })
}

/// Always the same for a device on an inbound of a node.
fn id(peer: PeerId, node: NodeId) -> Uuid {
    let digest = Sha256::new()
        .chain_update(peer.as_bytes())
        .chain_update(node.as_bytes())
        .finalize();
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    uuid::Builder::from_random_bytes(bytes).into_uuid()
}
