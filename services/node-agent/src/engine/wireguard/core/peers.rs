//! Peers: checked, programmed in the table before they may connect, and gone from it after they may not.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::{IpAddr, SocketAddr};

use vpnpanel_domain::{InboundId, PeerId, Speed};

use super::Core;
use super::interfaces::networks;
use crate::engine::wireguard::uapi::PeerSettings;
use crate::engine::{Peer, PeerOp};
use crate::nft::{Entry, Member, Rate, Table};
use crate::{Error, clock};

impl Core {
    pub(in crate::engine::wireguard) fn apply(
        &mut self,
        ops: Vec<PeerOp>,
    ) -> Vec<Result<(), Error>> {
        let mut results: Vec<Result<(), Error>> = ops.iter().map(|_| Ok(())).collect();
        // Removals first: what they free may be given to others in the same delta.
        let mut set = Vec::new();
        for (index, op) in ops.into_iter().enumerate() {
            match op {
                PeerOp::Remove(peer) => report(&mut results, index, self.remove(peer)),
                PeerOp::Set(peer) => set.push((index, *peer)),
            }
        }
        set.retain(|(index, peer)| {
            let valid = self.admit(peer);
            let admitted = valid.is_ok();
            report(&mut results, *index, valid);
            admitted
        });
        for (index, result) in self.set(set) {
            report(&mut results, index, result);
        }
        if let Some(table) = &mut self.table
            && let Err(error) = table.sweep_quotas()
        {
            tracing::warn!(event = "quotas_not_swept", %error, "unused quotas stay until the next change of peers sweeps them");
        }
        if let Some(table) = &mut self.table
            && let Err(error) = table.sweep_rates()
        {
            tracing::warn!(event = "speeds_not_swept", %error, "unused speed limits stay until the next change of peers sweeps them");
        }
        self.told = true;
        self.pace(&HashSet::new());
        results
    }

    /// Checks a peer against the inbounds and the other peers, and claims its addresses.
    pub(super) fn admit(&mut self, peer: &Peer) -> Result<(), Error> {
        let interface = self.interfaces.get(&peer.inbound).ok_or_else(|| {
            Error::Invalid(format!("inbound {} is not open on this node", peer.inbound))
        })?;
        if peer.addresses.is_empty() {
            return Err(Error::Invalid("the peer has no address".to_owned()));
        }
        for address in &peer.addresses {
            let networks = &interface.inbound.addresses;
            if !networks
                .iter()
                .any(|net| net.contains(address) && net.addr() != *address)
            {
                return Err(Error::Invalid(format!(
                    "address {address} is not in the pool of inbound {}",
                    peer.inbound
                )));
            }
            if let Some(other) = self.owners.get(address).filter(|other| **other != peer.id) {
                return Err(Error::Invalid(format!(
                    "address {address} belongs to peer {other}"
                )));
            }
        }
        for address in &peer.addresses {
            self.owners.insert(*address, peer.id);
        }
        Ok(())
    }

    pub(super) fn set(&mut self, peers: Vec<(usize, Peer)>) -> Vec<(usize, Result<(), Error>)> {
        let mut changes = Vec::new();
        for (_, peer) in &peers {
            changes.extend(
                self.addresses_of(peer.id)
                    .into_iter()
                    .filter(|address| !peer.addresses.contains(address))
                    .map(|address| (address, None)),
            );
            changes.extend(entries_of(peer));
        }
        if let Err(error) = self.program(&changes) {
            let message = error.to_string();
            return peers
                .into_iter()
                .map(|(index, _)| (index, Err(Error::Invalid(message.clone()))))
                .collect();
        }
        let mut results = Vec::with_capacity(peers.len());
        let mut by_inbound: BTreeMap<InboundId, Vec<(usize, PeerSettings)>> = BTreeMap::new();
        for (index, peer) in peers {
            let before = self.peers.get(&peer.id);
            let same = before.is_some_and(|before| same_settings(before, &peer));
            let known = self
                .interfaces
                .get(&peer.inbound)
                .is_some_and(|interface| interface.keys.contains_key(&peer.public_key));
            let outcome = self.leave_old_place(&peer);
            self.own(&peer);
            if outcome.is_err() || (same && known) {
                results.push((index, outcome));
            } else {
                let settings = settings_of(&peer, None);
                by_inbound
                    .entry(peer.inbound)
                    .or_default()
                    .push((index, settings));
            }
            self.peers.insert(peer.id, peer);
        }
        for (inbound, group) in by_inbound {
            let Some(interface) = self.interfaces.get_mut(&inbound) else {
                continue;
            };
            let references: Vec<&PeerSettings> = group.iter().map(|(_, s)| s).collect();
            let outcomes = interface.device.set_peers(&references);
            for ((index, settings), outcome) in group.into_iter().zip(outcomes) {
                if outcome.is_ok() {
                    interface
                        .keys
                        .insert(settings.public_key, networks(&settings));
                }
                results.push((index, outcome));
            }
        }
        results
    }

    /// Removes the peer from where it is, when it changes its key or its inbound.
    pub(super) fn leave_old_place(&mut self, peer: &Peer) -> Result<(), Error> {
        let Some(before) = self.peers.get(&peer.id) else {
            return Ok(());
        };
        if before.inbound == peer.inbound && before.public_key == peer.public_key {
            return Ok(());
        }
        if let Some(interface) = self.interfaces.get_mut(&before.inbound) {
            interface.device.remove_peers(&[before.public_key])?;
            interface.keys.remove(&before.public_key);
        }
        Ok(())
    }

    /// Notes whose the peer's quota and addresses are.
    pub(super) fn own(&mut self, peer: &Peer) {
        let before = self.peers.get(&peer.id);
        let quota = |peer: &Peer| peer.limited.then_some(peer.user);
        self.allowances
            .set_owner(peer.id, before.and_then(quota), quota(peer));
        for address in before.into_iter().flat_map(|before| &before.addresses) {
            if !peer.addresses.contains(address) {
                self.owners.remove(address);
            }
        }
    }

    pub(super) fn remove(&mut self, id: PeerId) -> Result<(), Error> {
        let addresses = self.addresses_of(id);
        let before = self.peers.get(&id);
        let quota = before.filter(|peer| peer.limited).map(|peer| peer.user);
        let place = before.map(|peer| (peer.inbound, peer.public_key));
        for (inbound, interface) in &mut self.interfaces {
            // A peer of an earlier agent is known by its addresses alone.
            let keys: Vec<[u8; 32]> = match place {
                Some((there, key)) if there == *inbound => vec![key],
                Some(_) => Vec::new(),
                None => interface.keys_of(&addresses),
            };
            if !keys.is_empty() {
                interface.device.remove_peers(&keys)?;
                interface.keys.retain(|known, _| !keys.contains(known));
            }
        }
        let changes: Vec<_> = addresses.iter().map(|address| (*address, None)).collect();
        self.program(&changes)?;
        self.allowances.set_owner(id, quota, None);
        self.peers.remove(&id);
        self.endpoints.remove(&id);
        for address in &addresses {
            self.owners.remove(address);
        }
        Ok(())
    }

    /// Addresses programmed for a peer.
    pub(super) fn addresses_of(&self, id: PeerId) -> BTreeSet<IpAddr> {
        if let Some(peer) = self.peers.get(&id) {
            return peer.addresses.clone();
        }
        let entries = self.table.iter().flat_map(Table::entries);
        entries
            .filter(|(_, entry)| entry.peer == id)
            .map(|(address, _)| address)
            .collect()
    }

    pub(super) fn program(&mut self, changes: &[(IpAddr, Option<Entry>)]) -> Result<(), Error> {
        let table = self.table.as_mut().ok_or(Error::Stopped)?;
        table.program(changes, clock::unix_ms())
    }
}

pub(super) fn entries_of(peer: &Peer) -> impl Iterator<Item = (IpAddr, Option<Entry>)> + use<> {
    let entry = Entry {
        peer: peer.id,
        quota: peer.limited.then_some(peer.user),
        up: rate_of(peer, peer.speed.up),
        down: rate_of(peer, peer.speed.down),
        blocked: peer.blocked,
        member: peer.not_after_ms.map_or(Member::Always, Member::Until),
    };
    peer.addresses
        .clone()
        .into_iter()
        .map(move |address| (address, Some(entry.clone())))
}

pub(super) fn rate_of(peer: &Peer, speed: Speed) -> Option<Rate> {
    speed.bytes_per_second().map(|bytes_per_second| Rate {
        user: peer.user,
        bytes_per_second,
    })
}

pub(super) fn settings_of(peer: &Peer, endpoint: Option<SocketAddr>) -> PeerSettings {
    PeerSettings {
        public_key: peer.public_key,
        preshared_key: peer
            .preshared_key
            .as_ref()
            .map_or([0; 32], |key| *key.bytes()),
        allowed_ips: peer.addresses.clone(),
        endpoint,
    }
}

/// Whether WireGuard needs not be told of a change.
pub(super) fn same_settings(a: &Peer, b: &Peer) -> bool {
    a.inbound == b.inbound
        && a.public_key == b.public_key
        && a.preshared_key == b.preshared_key
        && a.addresses == b.addresses
}

pub(super) fn report(results: &mut [Result<(), Error>], index: usize, result: Result<(), Error>) {
    if let Some(slot) = results.get_mut(index) {
        *slot = result;
    }
}
