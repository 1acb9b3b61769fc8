//! Data planes: counters under an incarnation, peers, gates. Each counts what it lets through and
//! forgets everything when it dies. The one stops a user by itself, as a kernel does; the other only
//! when its counters are read.

use std::collections::{BTreeMap, BTreeSet};

use vpnpanel_domain::{PeerId, UserId};
use vpnpanel_link::agent::{Change, Gate, Reading, Upsert};
use vpnpanel_link::{CounterKey, EngineKind, Incarnation, Totals};

use crate::random::Random;

/// On which engine a peer is.
pub(crate) fn kind_of(peer: PeerId) -> EngineKind {
    if peer.into_bytes()[15].is_multiple_of(2) {
        EngineKind::WireGuard
    } else {
        EngineKind::Xray
    }
}

/// The engines of a host.
pub(crate) struct Engines {
    wireguard: Engine,
    xray: Engine,
}

pub(crate) struct Engine {
    pub(crate) kind: EngineKind,
    pub(crate) incarnation: Incarnation,
    pub(crate) peers: BTreeMap<PeerId, UserId>,
    blocked: BTreeSet<PeerId>,
    /// Of every peer that ever was in this incarnation.
    counters: BTreeMap<PeerId, Totals>,
    gates: BTreeMap<UserId, Cut>,
    /// Whom the last reading found beyond the gate.
    out: BTreeSet<UserId>,
    /// Counters of removed peers cannot be read any more.
    hides_removed: bool,
    /// Takes no new sessions.
    pub(crate) draining: bool,
    /// It cannot be started again before.
    pub(crate) down_until_ms: i64,
    /// Its counters cannot be read before, though it runs.
    pub(crate) deaf_until_ms: i64,
    /// For a driver that resets: what it has taken already.
    taken: BTreeMap<PeerId, Totals>,
}

#[derive(Clone, Copy)]
enum Cut {
    Open,
    At(u64),
    Blocked,
}

impl Engines {
    pub(crate) fn new(random: &mut Random, hides_removed: bool) -> Self {
        let mut engine = |kind| Engine::new(kind, crate::truth::fresh(random), hides_removed);
        Self {
            wireguard: engine(EngineKind::WireGuard),
            xray: engine(EngineKind::Xray),
        }
    }

    pub(crate) fn of(&self, kind: EngineKind) -> &Engine {
        match kind {
            EngineKind::WireGuard => &self.wireguard,
            EngineKind::Xray => &self.xray,
        }
    }

    pub(crate) fn of_mut(&mut self, kind: EngineKind) -> &mut Engine {
        match kind {
            EngineKind::WireGuard => &mut self.wireguard,
            EngineKind::Xray => &mut self.xray,
        }
    }

    pub(crate) fn peers(&self) -> impl Iterator<Item = PeerId> {
        let all = self.wireguard.peers.keys().chain(self.xray.peers.keys());
        all.copied()
    }

    /// Every counter that lives.
    pub(crate) fn counters(&self) -> impl Iterator<Item = (CounterKey, Totals)> {
        self.wireguard.counters().chain(self.xray.counters())
    }

    /// What a counter shows, if its engine lives.
    pub(crate) fn counted(&self, key: CounterKey) -> Option<Totals> {
        let engines = [&self.wireguard, &self.xray];
        let engine = engines
            .into_iter()
            .find(|engine| engine.incarnation == key.incarnation)?;
        engine.counters.get(&key.peer).copied()
    }

    pub(crate) fn lives(&self, incarnation: Incarnation) -> bool {
        [&self.wireguard, &self.xray]
            .map(|e| e.incarnation)
            .contains(&incarnation)
    }

    pub(crate) fn pass(
        &mut self,
        peer: PeerId,
        offered: Totals,
        now_ms: i64,
    ) -> Result<Totals, String> {
        self.of_mut(kind_of(peer)).pass(peer, offered, now_ms)
    }
}

impl Engine {
    fn new(kind: EngineKind, incarnation: Incarnation, hides_removed: bool) -> Self {
        Self {
            kind,
            incarnation,
            peers: BTreeMap::new(),
            blocked: BTreeSet::new(),
            counters: BTreeMap::new(),
            gates: BTreeMap::new(),
            out: BTreeSet::new(),
            hides_removed,
            draining: false,
            down_until_ms: 0,
            deaf_until_ms: 0,
            taken: BTreeMap::new(),
        }
    }

    pub(crate) fn counters(&self) -> impl Iterator<Item = (CounterKey, Totals)> {
        self.counters.iter().map(|(peer, totals)| {
            let key = CounterKey {
                incarnation: self.incarnation,
                peer: *peer,
            };
            (key, *totals)
        })
    }

    pub(crate) fn counts(&self, peer: PeerId) -> bool {
        self.counters.contains_key(&peer)
    }

    /// Dies and comes back with other counters: empty, or with its peers, of whom then only
    /// those without a limit pass until the agent has spoken.
    pub(crate) fn restart(&mut self, incarnation: Incarnation, with_peers: bool) {
        self.incarnation = incarnation;
        self.counters.clear();
        self.taken.clear();
        self.out.clear();
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

    /// Whether a gate is lower than the one that is set, and not shut.
    pub(crate) fn lowers(&self, user: UserId, gate: Gate) -> bool {
        match (self.gates.get(&user), gate) {
            (Some(Cut::At(cut)), Gate::Quota { remaining, counted }) => remaining + counted < *cut,
            _ => false,
        }
    }

    pub(crate) fn set_gates(&mut self, gates: Vec<(UserId, Gate)>) {
        for (user, gate) in gates {
            let cut = match gate {
                Gate::Open => Cut::Open,
                Gate::Blocked => Cut::Blocked,
                Gate::Quota { remaining, counted } => Cut::At(counted + remaining),
            };
            self.gates.insert(user, cut);
            self.out.remove(&user);
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

    /// All counters; whoever is beyond the gate is put out.
    pub(crate) fn read(&mut self) -> Vec<Reading> {
        let beyond = self.gates.iter().filter(|(user, cut)| match cut {
            Cut::At(cut) => self.counted(**user) >= *cut,
            Cut::Open | Cut::Blocked => false,
        });
        self.out = beyond.map(|(user, _)| *user).collect();
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
        let mut readings = self.read();
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
    fn pass(&mut self, peer: PeerId, offered: Totals, now_ms: i64) -> Result<Totals, String> {
        let Some(user) = self.peers.get(&peer).copied() else {
            return Ok(Totals::default());
        };
        if self.blocked.contains(&peer) || now_ms < self.down_until_ms {
            return Ok(Totals::default());
        }
        let Some(cut) = self.gates.get(&user) else {
            return Err(format!("{peer} is installed without a gate for {user}"));
        };
        let room = match cut {
            Cut::Open => u64::MAX,
            Cut::Blocked => 0,
            Cut::At(cut) if self.kind.keeps_limits() => cut.saturating_sub(self.counted(user)),
            Cut::At(_) if self.out.contains(&user) => 0,
            Cut::At(_) => u64::MAX,
        };
        let up = offered.up.min(room);
        let down = offered.down.min(room - up);
        let counter = self.counters.entry(peer).or_default();
        counter.up += up;
        counter.down += down;
        Ok(Totals { up, down })
    }
}
