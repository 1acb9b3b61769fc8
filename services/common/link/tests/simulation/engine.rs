//! A data plane: counters under an incarnation, peers, gates. It counts what it lets through, as
//! a kernel does, and forgets everything when it dies.

use std::collections::{BTreeMap, BTreeSet};

use vpnpanel_domain::{PeerId, UserId};
use vpnpanel_link::agent::{Change, Gate, Reading, Upsert};
use vpnpanel_link::{Incarnation, Totals};

pub(crate) struct Engine {
    pub(crate) incarnation: Incarnation,
    pub(crate) peers: BTreeMap<PeerId, UserId>,
    blocked: BTreeSet<PeerId>,
    /// Of every peer that ever was in this incarnation.
    pub(crate) counters: BTreeMap<PeerId, Totals>,
    gates: BTreeMap<UserId, Cut>,
    /// Counters of removed peers cannot be read any more.
    pub(crate) hides_removed: bool,
    /// Takes no new sessions.
    pub(crate) draining: bool,
    /// For a driver that resets: what it has taken already.
    taken: BTreeMap<PeerId, Totals>,
}

#[derive(Clone, Copy)]
enum Cut {
    Open,
    At(u64),
    Blocked,
}

impl Engine {
    pub(crate) fn new(incarnation: Incarnation) -> Self {
        Self {
            incarnation,
            peers: BTreeMap::new(),
            blocked: BTreeSet::new(),
            counters: BTreeMap::new(),
            gates: BTreeMap::new(),
            hides_removed: false,
            draining: false,
            taken: BTreeMap::new(),
        }
    }

    /// Dies and comes back with other counters: empty, or with its peers, of whom then only
    /// those without a limit pass until the agent has spoken.
    pub(crate) fn restart(&mut self, incarnation: Incarnation, with_peers: bool) {
        self.incarnation = incarnation;
        self.counters.clear();
        self.taken.clear();
        if with_peers {
            self.counters = self
                .peers
                .keys()
                .map(|peer| (*peer, Totals::default()))
                .collect();
            self.gates.retain(|_, cut| matches!(cut, Cut::Open));
            for user in self.peers.values() {
                self.gates.entry(*user).or_insert(Cut::Blocked);
            }
        } else {
            self.peers.clear();
            self.blocked.clear();
            self.gates.clear();
        }
    }

    pub(crate) fn block(&mut self, peers: Vec<PeerId>) {
        self.blocked.extend(peers);
    }

    pub(crate) fn set_gates(&mut self, gates: Vec<(UserId, Gate)>) {
        for (user, gate) in gates {
            let cut = match gate {
                Gate::Open => Cut::Open,
                Gate::Blocked => Cut::Blocked,
                Gate::Quota { remaining, counted } => {
                    let now = self.counted(user);
                    Cut::At(now + remaining.saturating_sub(now.saturating_sub(counted)))
                }
            };
            self.gates.insert(user, cut);
        }
    }

    fn counted(&self, user: UserId) -> u64 {
        self.peers
            .iter()
            .filter(|(_, owner)| **owner == user)
            .map(|(peer, _)| self.counters.get(peer).copied().unwrap_or_default().sum())
            .sum()
    }

    pub(crate) fn apply(&mut self, change: &Change) {
        self.draining = change.draining;
        for peer in &change.remove {
            self.peers.remove(peer);
            self.blocked.remove(peer);
        }
        for Upsert { user, peer, .. } in &change.upsert {
            self.peers.insert(peer.id, *user);
            self.blocked.remove(&peer.id);
            self.counters.entry(peer.id).or_default();
        }
    }

    pub(crate) fn readings(&self) -> Vec<Reading> {
        self.counters
            .iter()
            .filter(|(peer, _)| !self.hides_removed || self.peers.contains_key(peer))
            .map(|(peer, totals)| Reading {
                peer: *peer,
                totals: *totals,
            })
            .collect()
    }

    pub(crate) fn read_and_reset(&mut self) -> Vec<Reading> {
        let mut readings = self.readings();
        for reading in &mut readings {
            let taken = self
                .taken
                .insert(reading.peer, reading.totals)
                .unwrap_or_default();
            reading.totals.up -= taken.up;
            reading.totals.down -= taken.down;
        }
        readings
    }

    /// Offers traffic; what the gate admits is counted and returned.
    pub(crate) fn pass(&mut self, peer: PeerId, offered: Totals) -> Result<Totals, String> {
        let Some(user) = self.peers.get(&peer).copied() else {
            return Ok(Totals::default());
        };
        if self.blocked.contains(&peer) {
            return Ok(Totals::default());
        }
        let Some(cut) = self.gates.get(&user) else {
            return Err(format!("{peer} is installed without a gate for {user}"));
        };
        let room = match cut {
            Cut::Open => u64::MAX,
            Cut::Blocked => 0,
            Cut::At(cut) => cut.saturating_sub(self.counted(user)),
        };
        let up = offered.up.min(room);
        let down = offered.down.min(room - up);
        let counter = self.counters.entry(peer).or_default();
        counter.up += up;
        counter.down += down;
        Ok(Totals { up, down })
    }
}
