//! The node's engines, as far as the machine knows them. Each has counters, peers and changes of its
//! own; one that does not run, or is not there, is in nobody's way.

use std::collections::{BTreeMap, BTreeSet};

use vpnpanel_domain::{PeerId, PeriodId, SpeedLimit, UserId};

use super::{Agent, CounterRecord, Now, Ticket, Write};
use crate::{
    AppliedState, ConfigError, CounterKey, CounterMark, DesiredInbound, DesiredPeer, EngineKind,
    Incarnation,
};

/// All of them.
#[derive(Debug, Clone, Default)]
pub(super) struct Engines {
    wireguard: Engine,
    xray: Engine,
}

/// An engine, as far as is known.
#[derive(Debug, Clone, Default)]
pub(super) struct Engine {
    /// Whether it runs was said since the start.
    pub(super) heard: bool,
    /// `None` while it does not run.
    pub(super) incarnation: Option<Incarnation>,
    /// Peers it has; their settings, where this process has set them.
    pub(super) installed: BTreeMap<PeerId, Option<(SpeedLimit, u32, DesiredPeer)>>,
    /// Counters without books: this disk is younger than they are. With their marks, once told.
    pub(super) unknown: BTreeMap<PeerId, Option<CounterMark>>,
    /// It may differ from the desired state.
    pub(super) dirty: bool,
    /// Its counters were read in this incarnation: those without books are known.
    pub(super) sampled: bool,
    /// The last read of the counters did not bring its own.
    pub(super) failing: bool,
    /// Its last reading is on the books: it was ended on purpose.
    pub(super) ended: bool,
    /// Inbounds as this process has set them.
    pub(super) inbounds: Option<Vec<DesiredInbound>>,
    /// Whether this process has told it to take no new sessions.
    pub(super) draining: Option<bool>,
    pub(super) phase: Phase,
    /// Peers whose traffic this process has blocked.
    pub(super) blocked: BTreeSet<PeerId>,
    /// The state that it was brought to.
    pub(super) brought: Option<AppliedState>,
    /// What of the desired state could not be applied.
    pub(super) errors: Vec<ConfigError>,
    /// When to look again at one that does not run.
    pub(super) look_at_ms: i64,
}

/// A change of an engine under way.
#[derive(Debug, Clone, Default)]
pub(super) enum Phase {
    #[default]
    Idle,
    /// Blocked; waits for the final read.
    Draining { ticket: Ticket, peers: Vec<PeerId> },
    /// Waits for the engine.
    Applying { ticket: Ticket, state: AppliedState },
}

impl Engine {
    /// It is known not to run.
    pub(super) fn is_down(&self) -> bool {
        self.heard && self.incarnation.is_none()
    }
}

impl Engines {
    pub(super) fn of(&self, kind: EngineKind) -> &Engine {
        match kind {
            EngineKind::WireGuard => &self.wireguard,
            EngineKind::Xray => &self.xray,
        }
    }

    pub(super) fn of_mut(&mut self, kind: EngineKind) -> &mut Engine {
        match kind {
            EngineKind::WireGuard => &mut self.wireguard,
            EngineKind::Xray => &mut self.xray,
        }
    }

    pub(super) fn each(&self) -> [&Engine; 2] {
        EngineKind::ALL.map(|kind| self.of(kind))
    }

    pub(super) fn each_mut(&mut self) -> [&mut Engine; 2] {
        [&mut self.wireguard, &mut self.xray]
    }

    /// Whether anything was said of each of them since the start.
    pub(super) fn all_heard(&self) -> bool {
        self.each().iter().all(|engine| engine.heard)
    }

    /// Those that run, and their lives.
    pub(super) fn live(&self) -> impl Iterator<Item = (EngineKind, Incarnation)> + '_ {
        EngineKind::ALL
            .into_iter()
            .filter_map(|kind| Some((kind, self.of(kind).incarnation?)))
    }

    pub(super) fn any_live(&self) -> bool {
        self.live().next().is_some()
    }

    /// Counters without books.
    pub(super) fn unknown(&self) -> impl Iterator<Item = CounterKey> + '_ {
        self.live().flat_map(|(kind, incarnation)| {
            let peers = self.of(kind).unknown.keys();
            peers.map(move |peer| CounterKey {
                incarnation,
                peer: *peer,
            })
        })
    }
}

impl Agent {
    /// The counter of a peer, while its engine runs.
    pub(super) fn counter_of(&self, peer: &DesiredPeer) -> Option<CounterKey> {
        Some(CounterKey {
            incarnation: self.engines.of(peer.access.kind()).incarnation?,
            peer: peer.id,
        })
    }

    /// The books of a peer's counter.
    pub(super) fn books(&self, peer: &DesiredPeer) -> Option<&CounterRecord> {
        self.durable.counters.get(&self.counter_of(peer)?)
    }

    /// Whose usage counters may show that are not on the books: those of engines that could not be
    /// read, and may have ended since.
    pub(super) fn unread_usage(&self, read: &[EngineKind]) -> BTreeSet<(UserId, PeriodId)> {
        let lives = self.durable.incarnations.iter();
        lives
            .filter(|(kind, _)| !read.contains(kind))
            .flat_map(|(_, incarnation)| self.books_of_life(*incarnation))
            .map(|(_, record)| record.baseline().1)
            .map(|attribution| (attribution.user, attribution.period))
            .collect()
    }

    /// The books of all counters of an engine's life.
    pub(super) fn books_of_life(
        &self,
        incarnation: Incarnation,
    ) -> impl Iterator<Item = (&CounterKey, &CounterRecord)> {
        let first = CounterKey {
            incarnation,
            peer: PeerId::from_bytes([0; 16]),
        };
        let from_there = self.durable.counters.range(first..);
        from_there.take_while(move |(key, _)| key.incarnation == incarnation)
    }

    /// An engine's counters are on the books.
    pub(super) fn now_read(&mut self, kind: EngineKind, now: Now) {
        self.engines.of_mut(kind).failing = false;
        self.last_read_ms.insert(kind, self.server_ms(now));
        if self.durable.unread.contains_key(&kind) {
            self.write(Write::Unread(kind, None));
        }
    }

    /// An engine's counters could not be read. Since when is kept: what is written from now on would
    /// otherwise say after a start that they were.
    pub(super) fn not_read(&mut self, kind: EngineKind) {
        self.engines.of_mut(kind).failing = true;
        let counts = self.durable.incarnations.contains_key(&kind);
        if let (true, Some(since)) = (counts, self.last_read_ms.get(&kind).copied())
            && !self.durable.unread.contains_key(&kind)
        {
            self.write(Write::Unread(kind, Some(since)));
        }
    }
}
