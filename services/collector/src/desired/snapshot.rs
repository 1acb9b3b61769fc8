//! Turns what the store knows of a node into the bytes that the agent gets: keys are opened here and
//! nowhere else. A bounded number of snapshots is in memory at a time, whoever asks.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use vpnpanel_domain::{Limit, NodeId};
use vpnpanel_link::collector::DesiredRead;
use vpnpanel_link::{
    DesiredDelta, DesiredInbound, DesiredPeer, DesiredPeriod, DesiredState, DesiredUser,
    InboundSettings, InterfaceAddress, PeerAccess, Revision, Secret, WireGuardInbound, wire,
};
use vpnpanel_pki::{Sealer, context};
use vpnpanel_store::{
    DesiredChanges, DesiredFacts, NodeInbound, NodePeer, NodePeriod, NodeUser, Removals, Store,
};

use crate::error::Error;

/// Reads snapshots, a bounded number at a time.
#[derive(Debug, Clone)]
pub(crate) struct Snapshots {
    store: Store,
    sealer: Arc<Sealer>,
    slots: Arc<Semaphore>,
}

/// What was read, in the form in which it is sent. Holds its slot until it has been.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub(crate) read: DesiredRead,
    /// How many of the users that the node has may go.
    pub(crate) removals: Removals,
    pub(crate) slot: OwnedSemaphorePermit,
}

impl Snapshots {
    pub(crate) fn new(store: Store, sealer: Arc<Sealer>, most: u32) -> Self {
        Self {
            store,
            sealer,
            slots: Arc::new(Semaphore::new(most as usize)),
        }
    }

    /// The desired state of a node when a slot is free, or what has changed of it since a revision,
    /// where that can be told.
    ///
    /// # Errors
    /// When it cannot be read or a key does not open. That is never an empty state.
    pub(crate) async fn read(
        &self,
        node: NodeId,
        since: Option<Revision>,
    ) -> Result<Snapshot, Error> {
        let slot = Arc::clone(&self.slots)
            .acquire_owned()
            .await
            .map_err(|_| Error::Stopping)?;
        let changes = match since {
            Some(since) => self.changes(node, since).await?,
            None => None,
        };
        let (read, removals) = match changes {
            Some(changes) => changes,
            None => self.whole(node).await?,
        };
        Ok(Snapshot {
            read,
            removals,
            slot,
        })
    }

    async fn changes(
        &self,
        node: NodeId,
        since: Revision,
    ) -> Result<Option<(DesiredRead, Removals)>, Error> {
        let changes = self.store.desired_changes(node, since.get()).await?;
        let DesiredChanges::Users {
            position,
            users,
            removed,
            removals,
        } = changes
        else {
            return Ok(None);
        };
        let data = if users.is_empty() && removed.is_empty() {
            None
        } else {
            let mut delta = DesiredDelta {
                users: desired_users(users, &self.sealer)?,
                removed,
            };
            delta.sort();
            Some(wire::encode_delta(&delta))
        };
        let read = DesiredRead::Changes {
            since,
            revision: Revision(position.revision()),
            data,
        };
        Ok(Some((read, removals)))
    }

    async fn whole(&self, node: NodeId) -> Result<(DesiredRead, Removals), Error> {
        let facts = self.store.desired_state(node).await?;
        let revision = Revision(facts.position.revision());
        let removals = facts.removals;
        let data = wire::encode_state(&state(node, facts, &self.sealer)?);
        let read = DesiredRead::Whole {
            revision,
            digest: wire::state_digest(&data).map_err(Error::MalformedFrame)?,
            data,
        };
        Ok((read, removals))
    }
}

fn state(node: NodeId, facts: DesiredFacts, sealer: &Sealer) -> Result<DesiredState, Error> {
    let mut state = DesiredState {
        multiplier: facts.node.multiplier,
        draining: facts.node.draining,
        inbounds: facts
            .inbounds
            .into_iter()
            .map(|inbound| desired_inbound(node, inbound, sealer))
            .collect::<Result<_, _>>()?,
        users: desired_users(facts.users, sealer)?,
    };
    state.sort();
    Ok(state)
}

fn desired_users(users: Vec<NodeUser>, sealer: &Sealer) -> Result<Vec<DesiredUser>, Error> {
    users
        .into_iter()
        .map(|user| desired_user(user, sealer))
        .collect()
}

fn desired_inbound(
    node: NodeId,
    inbound: NodeInbound,
    sealer: &Sealer,
) -> Result<DesiredInbound, Error> {
    let what = context::inbound_key(inbound.id, node);
    let private_key = open(sealer, &what, &inbound.sealed_private_key)?;
    let wireguard = inbound.wireguard;
    let addresses = wireguard
        .node_addresses()
        .into_iter()
        .map(|network| InterfaceAddress {
            address: network.addr(),
            prefix: network.prefix_len(),
        })
        .collect();
    Ok(DesiredInbound {
        id: inbound.id,
        settings: InboundSettings::WireGuard(WireGuardInbound {
            private_key,
            port: wireguard.port,
            addresses,
            mtu: wireguard.mtu,
        }),
    })
}

/// A user that may not connect stays, blocked: lifting what blocks it needs no new handshake.
fn desired_user(user: NodeUser, sealer: &Sealer) -> Result<DesiredUser, Error> {
    Ok(DesiredUser {
        id: user.id,
        period: desired_period(user.period),
        next_period: user.next_period.map(desired_period),
        blocked: user.barred,
        limited: user.limit != Limit::None,
        not_after_ms: user.expires_at_ms,
        speed: user.speed,
        peers: user
            .peers
            .into_iter()
            .map(|peer| desired_peer(peer, sealer))
            .collect::<Result<_, _>>()?,
    })
}

fn desired_period(period: NodePeriod) -> DesiredPeriod {
    DesiredPeriod {
        id: period.id,
        ends_ms: period.ends_at_ms,
        spent: period.spent,
    }
}

fn desired_peer(peer: NodePeer, sealer: &Sealer) -> Result<DesiredPeer, Error> {
    let preshared_key = match &peer.sealed_preshared_key {
        Some(sealed) => Some(open(
            sealer,
            &context::preshared_key(peer.device_id),
            sealed,
        )?),
        None => None,
    };
    let public_key = peer.public_key.try_into().map_err(|_| Error::Unreadable {
        what: format!("public key of peer {}", peer.id),
    })?;
    Ok(DesiredPeer {
        id: peer.id,
        inbound: peer.inbound_id,
        access: PeerAccess::WireGuard {
            public_key,
            preshared_key,
            ipv4: Some(peer.ipv4),
            ipv6: peer.ipv6,
        },
    })
}

fn open(sealer: &Sealer, what: &str, sealed: &[u8]) -> Result<Secret, Error> {
    let unreadable = || Error::Unreadable {
        what: what.to_owned(),
    };
    let opened = sealer.open(what, sealed).map_err(|_| unreadable())?;
    let key: [u8; 32] = opened.as_slice().try_into().map_err(|_| unreadable())?;
    Ok(Secret(key))
}
