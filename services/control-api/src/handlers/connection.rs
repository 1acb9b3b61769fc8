//! A user's connections: how each of its devices connects, with its keys.

use vpnpanel_api::user::v1::{Connection, ListUserConnectionsRequest, ListUserConnectionsResponse};
use vpnpanel_store::Event;
use zeroize::Zeroizing;

use super::user::{link_of, named};
use crate::{
    Error,
    caller::Caller,
    context::Context,
    subscription::{Access, Endpoint, Quota, Subscriber, opened, share_link, xray_config},
    wireguard::config,
};

pub(crate) async fn list(
    context: &Context,
    caller: &Caller,
    message: ListUserConnectionsRequest,
) -> Result<ListUserConnectionsResponse, Error> {
    let (tenant_id, id) = named(&message.tenant_id, &message.user_id)?;
    let user = context.store.user(tenant_id, id).await?;
    let found = context.store.connections(tenant_id, id).await?;
    let secrets_shown = Event::on("user", Some(tenant_id), id);
    context.acting(caller).record(secrets_shown).await?;
    let subscriber = Subscriber {
        username: &user.username,
        quota: &Quota::of(&user, false),
        now_ms: context.store.now_ms(),
    };
    let connections = found
        .into_iter()
        .map(|connection| {
            let (inbound, node) = (connection.inbound_id, connection.node_id);
            let shown = shown(&opened(&context.vault, connection, &subscriber)?);
            Ok(Connection {
                inbound_id: inbound.to_string(),
                node_id: node.to_string(),
                ..shown
            })
        })
        .collect::<Result<_, Error>>()?;
    Ok(ListUserConnectionsResponse {
        connections,
        subscription_url: link_of(context, &user),
    })
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
