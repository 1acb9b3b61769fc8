//! Turns what the store knows of a node into the bytes that the agent gets: keys are opened here and
//! nowhere else. A bounded number of snapshots is in memory at a time, whoever asks.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use vpnpanel_domain::{Limit, NodeId, UserId};
use vpnpanel_link::collector::DesiredRead;
use vpnpanel_link::{
    DesiredDelta, DesiredInbound, DesiredPeer, DesiredPeriod, DesiredState, DesiredUser,
    Generation, InboundSettings, InterfaceAddress, PeerAccess, Revision, Secret, SecretText,
    WireGuardInbound, wire,
};
use vpnpanel_pki::{DeviceSeed, Sealer, context};
use vpnpanel_store::{
    self as store, DesiredChanges, DesiredFacts, NodeInbound, NodePeer, NodePeerAccess, NodePeriod,
    NodeUser, Removals, Store, StoreError,
};
use zeroize::Zeroizing;

use super::deltas::{Delta, Deltas};
use crate::error::Error;

/// Reads snapshots, a bounded number at a time.
#[derive(Debug, Clone)]
pub(crate) struct Snapshots {
    store: Store,
    sealer: Arc<Sealer>,
    deltas: Deltas,
    slots: Arc<Semaphore>,
}

/// What was read, in the form in which it is sent. A whole state holds its slot until it has been.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub(crate) read: DesiredRead,
    /// How many of the users that the node has may go.
    pub(crate) removals: Removals,
    pub(crate) slot: Option<OwnedSemaphorePermit>,
}

impl Snapshots {
    pub(crate) fn new(store: Store, sealer: Arc<Sealer>, deltas: Deltas, most: u32) -> Self {
        Self {
            store,
            sealer,
            deltas,
            slots: Arc::new(Semaphore::new(most as usize)),
        }
    }

    /// The desired state of a node when a slot is free, or what has changed of it since a revision,
    /// where that can be told. What was read is of the database that the stream was opened in, or the
    /// stream ends: an older one may have taken its place, and the node has to be heard first.
    ///
    /// # Errors
    /// When it cannot be read or a key does not open: that is never an empty state.
    /// [`StoreError::StreamSuperseded`].
    pub(crate) async fn read(
        &self,
        node: NodeId,
        generation: Generation,
        since: Option<Revision>,
    ) -> Result<Snapshot, Error> {
        if let Some(since) = since
            && let Delta::Changes {
                revision,
                data,
                removals,
            } = self.deltas.read(node, generation, since).await?
        {
            return Ok(Snapshot {
                read: DesiredRead::Changes {
                    since,
                    revision,
                    data,
                },
                removals,
                slot: None,
            });
        }
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
        if self.store.stream_generation(node).await? != Some(generation) {
            return Err(StoreError::StreamSuperseded.into());
        }
        Ok(Snapshot {
            read,
            removals,
            slot: Some(slot),
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
        let read = DesiredRead::Changes {
            since,
            revision: Revision(position.revision()),
            data: encode_changes(users, removed, &self.sealer)?,
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

/// `wire::encode_delta` of users that have changed; `None` where none has.
pub(super) fn encode_changes(
    users: Vec<NodeUser>,
    removed: Vec<UserId>,
    sealer: &Sealer,
) -> Result<Option<Bytes>, Error> {
    if users.is_empty() && removed.is_empty() {
        return Ok(None);
    }
    let mut delta = DesiredDelta {
        users: desired_users(users, sealer)?,
        removed,
    };
    delta.sort();
    Ok(Some(wire::encode_delta(&delta)))
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
    let settings = match inbound.settings {
        store::InboundSettings::WireGuard(wireguard) => {
            let what = context::inbound_key(inbound.id, node);
            let sealed = inbound.sealed_private_key.unwrap_or_default();
            InboundSettings::WireGuard(WireGuardInbound {
                private_key: open(sealer, &what, &sealed)?,
                port: wireguard.port,
                addresses: wireguard
                    .node_addresses()
                    .into_iter()
                    .map(|network| InterfaceAddress {
                        address: network.addr(),
                        prefix: network.prefix_len(),
                    })
                    .collect(),
                mtu: wireguard.mtu,
            })
        }
        store::InboundSettings::Xray(xray) => {
            let sealed = inbound.sealed_secret.as_deref();
            InboundSettings::Xray(super::xray::inbound(inbound.id, xray, sealed, sealer)?)
        }
    };
    Ok(DesiredInbound {
        id: inbound.id,
        settings,
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
        devices: user.devices,
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
    let access = match peer.access {
        NodePeerAccess::WireGuard {
            public_key,
            sealed_preshared_key,
            ipv4,
            ipv6,
        } => {
            let what = context::preshared_key(peer.device_id);
            PeerAccess::WireGuard {
                public_key: public_key.try_into().map_err(|_| Error::Unreadable {
                    what: format!("public key of peer {}", peer.id),
                })?,
                preshared_key: sealed_preshared_key
                    .map(|sealed| open(sealer, &what, &sealed))
                    .transpose()?,
                ipv4: Some(ipv4),
                ipv6,
            }
        }
        NodePeerAccess::Xray {
            protocol,
            sealed_seed,
        } => {
            let what = context::device_seed(peer.device_id);
            let seed = unsealed(sealer, &what, &sealed_seed)?;
            let credential = DeviceSeed::from_bytes(&seed)
                .and_then(|seed| seed.credential(peer.inbound_id, protocol))
                .map_err(|_| Error::Unreadable { what })?;
            PeerAccess::Xray {
                credential: SecretText::new(credential.as_str()),
            }
        }
    };
    Ok(DesiredPeer {
        id: peer.id,
        inbound: peer.inbound_id,
        access,
    })
}

fn open(sealer: &Sealer, what: &str, sealed: &[u8]) -> Result<Secret, Error> {
    let opened = unsealed(sealer, what, sealed)?;
    let key = opened.as_slice().try_into();
    key.map(Secret).map_err(|_| Error::Unreadable {
        what: what.to_owned(),
    })
}

/// A secret of the store.
pub(super) fn unsealed(
    sealer: &Sealer,
    what: &str,
    sealed: &[u8],
) -> Result<Zeroizing<Vec<u8>>, Error> {
    sealer.open(what, sealed).map_err(|_| Error::Unreadable {
        what: what.to_owned(),
    })
}
