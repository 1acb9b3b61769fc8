//! The desired state of nodes, whole and by changes.

use std::collections::BTreeSet;

use vpnpanel_domain::{InboundId, Limit, NodeId, PeerId, SpeedLimit, UserId};
use vpnpanel_link::{
    DesiredDelta, DesiredPeer, DesiredPeriod, DesiredState, DesiredUser, EngineKind, PeerAccess,
    Revision, SecretText,
};

use super::{Changed, Database, User};
use crate::engine::kind_of;

impl Database {
    /// What has changed for a node, where users alone have.
    pub(crate) fn desired_since(
        &self,
        node: NodeId,
        since: Revision,
        until: Revision,
    ) -> Option<DesiredDelta> {
        let mut delta = DesiredDelta::default();
        let first = self.log.partition_point(|(at, _)| *at <= since.get());
        let mut users = BTreeSet::new();
        for (_, changed) in self.log[first..]
            .iter()
            .take_while(|(at, _)| *at <= until.get())
        {
            match changed {
                Changed::User(user) => users.insert(*user),
                Changed::Node(of) if *of == node => return None,
                Changed::Node(_) => false,
            };
        }
        for id in users {
            match self.users.get(&id) {
                Some(user) if user.nodes.contains(&node) => {
                    delta.users.push(self.desired_user(id, user));
                }
                _ => delta.removed.push(id),
            }
        }
        delta.sort();
        Some(delta)
    }

    pub(crate) fn desired(&self, node: NodeId) -> DesiredState {
        let mut state = DesiredState {
            draining: self.is_draining(node),
            multiplier: self.multipliers.get(&node).copied().unwrap_or_default(),
            inbounds: Vec::new(),
            users: self
                .users
                .iter()
                .filter(|(_, user)| user.nodes.contains(&node))
                .map(|(id, user)| self.desired_user(*id, user))
                .collect(),
        };
        state.sort();
        state
    }

    pub(super) fn desired_user(&self, id: UserId, user: &User) -> DesiredUser {
        let facts = self.rows.periods.get(&user.period);
        let announced = |id| DesiredPeriod {
            id,
            ends_ms: self.ends.get(&id).copied().flatten(),
            spent: self
                .rows
                .periods
                .get(&id)
                .is_some_and(|facts| facts.limit.is_reached(facts.used)),
        };
        DesiredUser {
            id,
            period: announced(user.period),
            next_period: user.next.map(announced),
            blocked: user.disabled,
            limited: facts.is_some_and(|facts| facts.limit != Limit::None),
            not_after_ms: None,
            speed: SpeedLimit::NONE,
            devices: 0,
            peers: user
                .peers
                .iter()
                .map(|peer| DesiredPeer {
                    id: *peer,
                    inbound: InboundId::from_bytes([2; 16]),
                    access: access(*peer),
                })
                .collect(),
        }
    }
}

fn access(peer: PeerId) -> PeerAccess {
    match kind_of(peer) {
        EngineKind::WireGuard => PeerAccess::WireGuard {
            public_key: [3; 32],
            preshared_key: None,
            ipv4: None,
            ipv6: None,
        },
        EngineKind::Xray => PeerAccess::Xray {
            credential: SecretText::new(peer.to_string()),
        },
    }
}
