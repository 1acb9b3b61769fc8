//! A user's connections: the configuration texts of its devices, with their private keys.

use vpnpanel_api::user::v1::{Connection, ListUserConnectionsRequest, ListUserConnectionsResponse};
use vpnpanel_store::{self as store, Event};

use super::user::named;
use crate::{
    Error,
    caller::Caller,
    context::Context,
    seal,
    wireguard::config::{self, DeviceConfig},
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
        .map(|connection| shown(context, connection))
        .collect::<Result<_, _>>()?;
    Ok(ListUserConnectionsResponse { connections })
}

fn shown(context: &Context, connection: store::Connection) -> Result<Connection, Error> {
    let device = connection.device_id;
    let private_key = connection
        .sealed_private_key
        .map(|sealed| context.vault.device_key(device, &sealed))
        .transpose()?;
    let preshared_key = connection
        .sealed_preshared_key
        .map(|sealed| context.vault.preshared_key(device, &sealed))
        .transpose()?;
    let wireguard = connection.wireguard;
    let config = DeviceConfig {
        private_key,
        preshared_key,
        ipv4: connection.ipv4,
        ipv6: connection.ipv6,
        dns_servers: wireguard.dns,
        mtu: wireguard.mtu,
        server_key: *seal::key(&connection.node_public_key)?,
        server_address: connection.node_address,
        server_port: wireguard.port,
        allowed_ips: wireguard.client_allowed_ips,
        keepalive_seconds: wireguard.keepalive_seconds,
    };
    let text = config.text();
    let name = format!("{}-{}", connection.inbound_name, connection.node_name);
    Ok(Connection {
        name: name.chars().take(MAX_NAME).collect(),
        inbound_id: connection.inbound_id.to_string(),
        node_id: connection.node_id.to_string(),
        qr_svg: config::qr_svg(&text).unwrap_or_default(),
        wireguard_config: text.to_string(),
    })
}
