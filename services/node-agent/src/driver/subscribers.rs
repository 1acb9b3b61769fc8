//! Who is on an engine and what they may: joins the machine's words (users with gates, peers) to
//! those of engines (peers that are blocked or limited, users with allowances).

use std::collections::{BTreeSet, HashMap, HashSet};

use vpnpanel_domain::{PeerId, SpeedLimit, UserId};
use vpnpanel_link::DesiredPeer;
use vpnpanel_link::agent::{Gate, Upsert};

/// A peer as an engine should have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Resident {
    /// Whose it is.
    pub(super) user: UserId,
    /// How fast that user may be, all peers together.
    pub(super) speed: SpeedLimit,
    /// Addresses that it may come from at a time; 0 is no limit.
    pub(super) devices: u32,
    /// The peer.
    pub(super) peer: DesiredPeer,
    /// Its traffic is dropped.
    pub(super) blocked: bool,
    /// Nothing passes but within an allowance.
    pub(super) limited: bool,
}

/// A change of one peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Op {
    /// The peer should be as given.
    Set(Box<Resident>),
    /// The peer should be gone. Its counters can still be read.
    Remove(PeerId),
}

/// What the engine has to do about a change of gates, in this order.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Orders {
    pub(super) block: Vec<PeerId>,
    /// Peers that become limited, or stop being so.
    pub(super) set: Vec<Op>,
    pub(super) allowances: Vec<(UserId, u64)>,
    pub(super) unblock: Vec<PeerId>,
}

/// Users, gates and peers.
#[derive(Debug, Default)]
pub(super) struct Subscribers {
    gates: HashMap<UserId, Gate>,
    peers: HashMap<PeerId, Resident>,
    of_user: HashMap<UserId, BTreeSet<PeerId>>,
    /// Blocked on the way out: until they are upserted or removed.
    leaving: HashSet<PeerId>,
}

impl Subscribers {
    /// Takes new gates.
    pub(super) fn set_gates(
        &mut self,
        gates: Vec<(UserId, Gate)>,
        last: &HashMap<PeerId, (u64, u64)>,
    ) -> Orders {
        let mut orders = Orders::default();
        for (user, gate) in gates {
            self.gates.insert(user, gate);
            let Some(ids) = self.of_user.get(&user) else {
                continue;
            };
            for id in ids {
                let Some(peer) = self.peers.get_mut(id) else {
                    continue;
                };
                let (limited, blocked) = settings(Some(gate), peer.limited);
                let was_blocked = std::mem::replace(&mut peer.blocked, blocked);
                let was_limited = std::mem::replace(&mut peer.limited, limited);
                if self.leaving.contains(id) {
                    continue;
                }
                if was_limited != limited {
                    orders.set.push(Op::Set(Box::new(peer.clone())));
                } else if blocked && !was_blocked {
                    orders.block.push(*id);
                } else if was_blocked && !blocked {
                    orders.unblock.push(*id);
                }
            }
            orders.allowances.extend(self.allowance(user, last));
        }
        orders
    }

    /// Takes peers that should be there; gives what the engine is to do, in the same order.
    pub(super) fn upsert(&mut self, peers: Vec<Upsert>) -> Vec<Op> {
        peers
            .into_iter()
            .map(|upsert| {
                let Upsert {
                    user,
                    speed,
                    devices,
                    peer,
                } = upsert;
                let id = peer.id;
                let (limited, blocked) = settings(self.gates.get(&user).copied(), false);
                let resident = Resident {
                    user,
                    speed,
                    devices,
                    peer,
                    blocked,
                    limited,
                };
                self.forget_owner(id);
                self.leaving.remove(&id);
                self.of_user.entry(user).or_default().insert(id);
                self.peers.insert(id, resident.clone());
                Op::Set(Box::new(resident))
            })
            .collect()
    }

    /// Takes peers that should be gone.
    pub(super) fn remove(&mut self, peers: Vec<PeerId>) -> Vec<Op> {
        for id in &peers {
            self.forget_owner(*id);
            self.peers.remove(id);
            self.leaving.remove(id);
        }
        peers.into_iter().map(Op::Remove).collect()
    }

    /// Peers that are on their way out.
    pub(super) fn leave(&mut self, peers: &[PeerId]) {
        self.leaving.extend(peers);
    }

    /// The users of these peers.
    pub(super) fn users_of(&self, peers: impl IntoIterator<Item = PeerId>) -> BTreeSet<UserId> {
        peers
            .into_iter()
            .filter_map(|id| self.peers.get(&id).map(|peer| peer.user))
            .collect()
    }

    /// Every user.
    pub(super) fn users(&self) -> Vec<UserId> {
        self.of_user.keys().copied().collect()
    }

    /// What a limited user may pass from the engine's last reading on. The gate was computed from
    /// the machine's books; where the engine was read since, the difference is spent.
    pub(super) fn allowance(
        &self,
        user: UserId,
        last: &HashMap<PeerId, (u64, u64)>,
    ) -> Option<(UserId, u64)> {
        let ids = self.of_user.get(&user)?;
        match self.gates.get(&user)? {
            Gate::Open => None,
            Gate::Blocked => {
                let limited = ids
                    .iter()
                    .any(|id| self.peers.get(id).is_some_and(|peer| peer.limited));
                limited.then_some((user, 0))
            }
            Gate::Quota { remaining, counted } => {
                let stands: u64 = ids
                    .iter()
                    .filter_map(|id| last.get(id))
                    .map(|(up, down)| up.saturating_add(*down))
                    .fold(0, u64::saturating_add);
                Some((
                    user,
                    remaining.saturating_sub(stands.saturating_sub(*counted)),
                ))
            }
        }
    }

    fn forget_owner(&mut self, peer: PeerId) {
        if let Some(user) = self.peers.get(&peer).map(|peer| peer.user)
            && let Some(ids) = self.of_user.get_mut(&user)
        {
            ids.remove(&peer);
            if ids.is_empty() {
                self.of_user.remove(&user);
            }
        }
    }
}

/// (limited, blocked) of a peer behind a gate. Without a gate nothing passes: the machine sets a
/// gate for every user it knows.
fn settings(gate: Option<Gate>, limited_before: bool) -> (bool, bool) {
    match gate {
        Some(Gate::Open) => (false, false),
        Some(Gate::Quota { .. }) => (true, false),
        Some(Gate::Blocked) | None => (limited_before, true),
    }
}

#[cfg(test)]
mod tests {
    use vpnpanel_domain::InboundId;
    use vpnpanel_link::PeerAccess;

    use super::*;

    const USER: UserId = UserId::from_bytes([1; 16]);
    const PEER: PeerId = PeerId::from_bytes([2; 16]);

    fn desired() -> Upsert {
        let peer = DesiredPeer {
            id: PEER,
            inbound: InboundId::from_bytes([3; 16]),
            access: PeerAccess::WireGuard {
                public_key: [4; 32],
                preshared_key: None,
                ipv4: Some([10, 0, 0, 2].into()),
                ipv6: None,
            },
        };
        Upsert {
            user: USER,
            speed: SpeedLimit::NONE,
            devices: 0,
            peer,
        }
    }

    fn with_gate(gate: Gate) -> (Subscribers, Vec<Op>) {
        let mut subscribers = Subscribers::default();
        subscribers.set_gates(vec![(USER, gate)], &HashMap::new());
        let ops = subscribers.upsert(vec![desired()]);
        (subscribers, ops)
    }

    fn flags(op: &Op) -> (bool, bool) {
        match op {
            Op::Set(peer) => (peer.limited, peer.blocked),
            Op::Remove(_) => panic!("a removal"),
        }
    }

    #[test]
    fn a_gate_that_came_before_the_peer_holds_from_its_first_packet() {
        assert_eq!(flags(&with_gate(Gate::Open).1[0]), (false, false));
        assert_eq!(flags(&with_gate(Gate::Blocked).1[0]), (false, true));
        let quota = Gate::Quota {
            remaining: 10,
            counted: 0,
        };
        assert_eq!(flags(&with_gate(quota).1[0]), (true, false));
    }

    #[test]
    fn a_peer_without_a_gate_is_blocked() {
        let ops = Subscribers::default().upsert(vec![desired()]);
        assert_eq!(flags(&ops[0]), (false, true));
    }

    #[test]
    fn what_passed_since_the_books_is_spent() {
        let last = HashMap::from([(PEER, (30, 20))]);
        let (mut subscribers, _) = with_gate(Gate::Open);
        let gate = Gate::Quota {
            remaining: 100,
            counted: 40,
        };
        let orders = subscribers.set_gates(vec![(USER, gate)], &last);
        assert_eq!(orders.allowances, vec![(USER, 90)]);
        assert_eq!(flags(&orders.set[0]), (true, false));
    }

    #[test]
    fn a_raised_limit_gives_the_allowance_before_the_block_is_lifted() {
        let (mut subscribers, _) = with_gate(Gate::Quota {
            remaining: 1,
            counted: 0,
        });
        let blocked = subscribers.set_gates(vec![(USER, Gate::Blocked)], &HashMap::new());
        assert_eq!(blocked.block, vec![PEER]);
        assert_eq!(blocked.allowances, vec![(USER, 0)]);
        let gate = Gate::Quota {
            remaining: 5,
            counted: 0,
        };
        let raised = subscribers.set_gates(vec![(USER, gate)], &HashMap::new());
        assert_eq!(
            (raised.allowances, raised.unblock),
            (vec![(USER, 5)], vec![PEER])
        );
        assert!(raised.set.is_empty());
    }

    #[test]
    fn a_gate_does_not_unblock_a_peer_on_its_way_out() {
        let (mut subscribers, _) = with_gate(Gate::Blocked);
        subscribers.leave(&[PEER]);
        let orders = subscribers.set_gates(vec![(USER, Gate::Open)], &HashMap::new());
        assert_eq!(orders.unblock, vec![]);
        let back = subscribers.upsert(vec![desired()]);
        assert_eq!(flags(&back[0]), (false, false));
    }

    #[test]
    fn a_removed_peer_leaves_nothing_behind() {
        let (mut subscribers, _) = with_gate(Gate::Open);
        assert_eq!(subscribers.remove(vec![PEER]), vec![Op::Remove(PEER)]);
        assert!(subscribers.users().is_empty());
        assert!(subscribers.users_of([PEER]).is_empty());
    }
}
