//! Who is let in: what is asked for against what Xray has, and the steps from one to the other.

use std::collections::{BTreeSet, HashMap};

use futures::{StreamExt, stream};
use sha2::{Digest, Sha256};
use vpnpanel_api::xray::common::protocol::User;
use vpnpanel_domain::{InboundId, PeerId, UserId};

use super::Core;
use crate::engine::xray::api::Api;
use crate::engine::xray::types::{Text, XrayOp, XrayPeer};
use crate::engine::xray::wire;
use crate::{Error, clock};

/// Changes of users under way at once.
const CHANGES: usize = 64;

/// What became of peers that were to be let in or not.
#[derive(Debug, Default)]
struct Synced {
    /// Somebody was put out.
    out: bool,
    failed: Vec<(PeerId, Error)>,
}

impl Core {
    /// Puts out peers whose time is over; whether there were any.
    pub(super) async fn expire(&mut self, api: &mut Api) -> Result<bool, Error> {
        let now = clock::unix_ms();
        let over: Vec<_> = self
            .peers
            .values()
            .filter(|peer| peer.not_after_ms.is_some_and(|end| end <= now))
            .map(|peer| peer.id)
            .collect();
        self.sync_all(api, over).await
    }

    pub(in crate::engine::xray) async fn apply(
        &mut self,
        ops: Vec<XrayOp>,
    ) -> Vec<Result<(), Error>> {
        let mut results: Vec<Result<(), Error>> = ops.iter().map(|_| Ok(())).collect();
        let mut api = match self.connect().await {
            Ok(api) => api,
            Err(error) => {
                let message = error.to_string();
                results.fill_with(|| Err(Error::Invalid(message.clone())));
                return results;
            }
        };
        // Removals first: what they free may be given to others in the same delta.
        let (removals, rest): (Vec<_>, Vec<_>) = ops
            .into_iter()
            .enumerate()
            .partition(|(_, op)| matches!(op, XrayOp::Remove(_)));
        let mut removed = Vec::new();
        for (index, op) in removals {
            if let XrayOp::Remove(peer) = op {
                self.forget(peer);
                removed.push((index, peer));
            }
        }
        let mut cut = self.sync_indexed(&mut api, removed, &mut results).await;
        let mut admitted = Vec::new();
        for (index, op) in rest {
            if let XrayOp::Set(peer) = op {
                match self.admit(*peer) {
                    Ok(peer) => admitted.push((index, peer)),
                    Err(error) => report(&mut results, index, error),
                }
            }
        }
        cut |= self.sync_indexed(&mut api, admitted, &mut results).await;
        if cut && let Err(error) = self.end_connections(true) {
            // They are out of Xray; the next poll tries their connections again.
            tracing::error!(event = "connections_not_ended", %error);
        }
        results
    }

    /// Checks a peer against the inbounds and the other peers, and takes it up.
    fn admit(&mut self, peer: XrayPeer) -> Result<PeerId, Error> {
        let inbound = self.inbounds.get(&peer.inbound).ok_or_else(|| {
            Error::Invalid(format!("inbound {} is not open on this node", peer.inbound))
        })?;
        let identity = inbound.identity(&peer.credential)?;
        let identity = (peer.inbound, Sha256::digest(identity.text()).into());
        if let Some(other) = self.identities.get(&identity).filter(|id| **id != peer.id) {
            return Err(Error::Invalid(format!(
                "the credential belongs to peer {other}"
            )));
        }
        self.forget(peer.id);
        self.identities.insert(identity, peer.id);
        self.identity_of.insert(peer.id, identity);
        self.credit.own(peer.id, peer.user);
        let id = peer.id;
        self.peers.insert(id, peer);
        Ok(id)
    }

    fn forget(&mut self, peer: PeerId) {
        self.peers.remove(&peer);
        if let Some(identity) = self.identity_of.remove(&peer) {
            self.identities.remove(&identity);
        }
    }

    pub(super) fn is_let_in(&self, peer: &XrayPeer) -> bool {
        !peer.blocked
            && self.cordon.lets_in(peer.id)
            && peer.not_after_ms.is_none_or(|end| clock::unix_ms() < end)
            && (!peer.limited || self.passes(peer))
    }

    fn passes(&self, peer: &XrayPeer) -> bool {
        let adopted = !self.credit.knows(peer.user) && self.adopted.contains(&peer.id);
        !self.blind && (adopted || self.credit.passes(peer.user))
    }

    /// Has Xray let peers in, where and how they should be, or not; a peer that something of it
    /// failed for is among the failures. Asking for what is the case asks nothing of Xray.
    async fn sync(&mut self, api: &Api, peers: impl IntoIterator<Item = PeerId>) -> Synced {
        let peers: BTreeSet<_> = peers.into_iter().collect();
        let mut synced = Synced::default();
        let outs = self.outs(&peers);
        let outs = stream::iter(outs).map(|(inbound, tag, peer)| {
            let mut api = api.clone();
            async move { (inbound, peer, api.remove_user(tag, peer).await) }
        });
        for (inbound, peer, result) in outs.buffer_unordered(CHANGES).collect::<Vec<_>>().await {
            match result {
                Ok(()) => {
                    synced.out = true;
                    if let Some(open) = self.open.get_mut(&inbound) {
                        open.users.remove(&peer);
                    }
                }
                Err(error) => synced.failed.push((peer, error)),
            }
        }
        let ins = self.ins(&peers);
        let ins = stream::iter(ins).map(|(tag, user, peer)| {
            let mut api = api.clone();
            async move { (peer, api.add_user(tag, user).await) }
        });
        for (peer, result) in ins.buffer_unordered(CHANGES).collect::<Vec<_>>().await {
            match result {
                Ok(()) => {
                    if let Some(peer) = self.peers.get(&peer)
                        && let Some(open) = self.open.get_mut(&peer.inbound)
                    {
                        open.users.insert(peer.id, peer.credential.clone());
                    }
                }
                Err(error) => synced.failed.push((peer, error)),
            }
        }
        synced
    }

    /// Where peers are let in and should not be, or not with that credential.
    fn outs(&self, peers: &BTreeSet<PeerId>) -> Vec<(InboundId, String, PeerId)> {
        let mut outs = Vec::new();
        for id in peers {
            let wanted = self.peers.get(id).filter(|peer| self.is_let_in(peer));
            for (inbound, open) in &self.open {
                let has = open.users.get(id);
                let stays = |has: &Text| {
                    wanted.is_some_and(|peer| peer.inbound == *inbound && peer.credential == *has)
                };
                if has.is_some_and(|has| !stays(has)) {
                    outs.push((*inbound, open.tag.clone(), *id));
                }
            }
        }
        outs
    }

    /// Where peers should be let in and are not. An inbound that is not open yet is opened with
    /// its peers.
    fn ins(&self, peers: &BTreeSet<PeerId>) -> Vec<(String, User, PeerId)> {
        let wanted = peers.iter().filter_map(|id| self.peers.get(id));
        wanted
            .filter(|peer| self.is_let_in(peer))
            .filter_map(|peer| {
                let inbound = self.inbounds.get(&peer.inbound)?;
                let open = self.open.get(&peer.inbound)?;
                let user = || wire::user(inbound, peer);
                (!open.users.contains_key(&peer.id)).then(|| (open.tag.clone(), user(), peer.id))
            })
            .collect()
    }

    /// The same for the peers of operations; whether any of them was put out of somewhere.
    async fn sync_indexed(
        &mut self,
        api: &mut Api,
        peers: Vec<(usize, PeerId)>,
        results: &mut [Result<(), Error>],
    ) -> bool {
        let synced = self.sync(api, peers.iter().map(|(_, peer)| *peer)).await;
        let indices: HashMap<_, _> = peers
            .into_iter()
            .map(|(index, peer)| (peer, index))
            .collect();
        for (peer, error) in synced.failed {
            if let Some(index) = indices.get(&peer) {
                report(results, *index, error);
            }
        }
        synced.out
    }

    pub(super) async fn sync_all(
        &mut self,
        api: &mut Api,
        peers: impl IntoIterator<Item = PeerId>,
    ) -> Result<bool, Error> {
        let synced = self.sync(api, peers).await;
        match synced.failed.into_iter().next() {
            Some((_, error)) => Err(error),
            None => Ok(synced.out),
        }
    }

    pub(in crate::engine::xray) async fn set_blocked(
        &mut self,
        peers: &[PeerId],
        blocked: bool,
    ) -> Result<(), Error> {
        for peer in peers {
            if let Some(peer) = self.peers.get_mut(peer) {
                peer.blocked = blocked;
            }
        }
        self.settle(peers.to_vec()).await
    }

    pub(in crate::engine::xray) async fn set_allowances(
        &mut self,
        given: &[(UserId, u64)],
    ) -> Result<(), Error> {
        let users: BTreeSet<_> = given.iter().map(|(user, _)| *user).collect();
        for (user, remainder) in given {
            self.credit.set(*user, *remainder);
        }
        let peers = self.peers.values();
        let concerned = peers.filter(|peer| peer.limited && users.contains(&peer.user));
        let concerned = concerned.map(|peer| peer.id).collect();
        self.settle(concerned).await
    }

    pub(super) async fn settle(&mut self, peers: Vec<PeerId>) -> Result<(), Error> {
        let mut api = self.connect().await?;
        if self.sync_all(&mut api, peers).await? {
            self.end_connections(true)?;
        }
        Ok(())
    }
}

fn report(results: &mut [Result<(), Error>], index: usize, error: Error) {
    if let Some(result) = results.get_mut(index) {
        *result = Err(error);
    }
}
