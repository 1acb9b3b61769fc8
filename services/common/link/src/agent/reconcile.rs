//! Bringing the engine to the desired state, one change at a time. What goes is blocked, read
//! onto the books, and only then removed; what comes has its books opened before its counter
//! exists. A crash at any point starts over from what is on disk and what the engine has.

use std::collections::{BTreeMap, BTreeSet};

use vpnpanel_domain::{PeerId, SpeedLimit};

use super::target::state_error;
use super::{Agent, Change, CounterRecord, Effect, Now, Ticket, Upsert, Write};
use crate::{
    AppliedState, ConfigError, CounterKey, CounterMark, DesiredInbound, DesiredPeer, Incarnation,
    Totals,
};

/// The engine, as far as is known.
#[derive(Debug, Clone, Default)]
pub(super) struct Engine {
    /// `None` while it does not run.
    pub(super) incarnation: Option<Incarnation>,
    /// Peers it has; their settings, where this process has set them.
    pub(super) installed: BTreeMap<PeerId, Option<(SpeedLimit, DesiredPeer)>>,
    /// Counters without books: this disk is younger than they are. With their marks, once told.
    pub(super) unknown: BTreeMap<PeerId, Option<CounterMark>>,
    /// It may differ from the desired state.
    pub(super) dirty: bool,
    /// Its counters were read in this incarnation: those without books are known.
    pub(super) sampled: bool,
    /// Inbounds as this process has set them.
    inbounds: Option<Vec<DesiredInbound>>,
    /// Whether this process has told it to take no new sessions.
    draining: Option<bool>,
    phase: Phase,
    /// Peers whose traffic this process has blocked.
    blocked: BTreeSet<PeerId>,
    /// What could not be applied of the desired state so far.
    pub(super) errors: Vec<ConfigError>,
}

#[derive(Debug, Clone, Default)]
enum Phase {
    #[default]
    Idle,
    /// Blocked; waits for the final read.
    Draining { ticket: Ticket, peers: Vec<PeerId> },
    /// Waits for the engine.
    Applying { ticket: Ticket, state: AppliedState },
}

impl Agent {
    /// The engine runs: what it has is compared with what it should have.
    pub(super) fn engine_up(&mut self, incarnation: Incarnation, peers: Vec<PeerId>, now: Now) {
        if self.durable.incarnation != Some(incarnation) {
            if let Some(lost) = self.durable.incarnation {
                self.charge_lost(lost, self.unread_ms(now));
            }
            self.write(Write::Incarnation(incarnation));
            self.last_read_ms = Some(self.server_ms(now));
        }
        if self.engine.incarnation != Some(incarnation) {
            self.allowances.gates.clear();
        }
        let unknown: BTreeMap<_, _> = peers
            .iter()
            .filter(|peer| {
                !self.durable.counters.contains_key(&CounterKey {
                    incarnation,
                    peer: **peer,
                })
            })
            .map(|peer| (*peer, None))
            .collect();
        let asks = !unknown.is_empty();
        self.engine = Engine {
            incarnation: Some(incarnation),
            installed: peers.into_iter().map(|peer| (peer, None)).collect(),
            unknown,
            dirty: true,
            ..Engine::default()
        };
        self.reading = None;
        self.next_poll_ms = now.boottime_ms;
        if asks {
            self.ask_marks();
        }
        self.set_gates(None, now);
        self.reconcile(now);
    }

    pub(super) fn engine_down(&mut self, now: Now) {
        self.engine = Engine::default();
        self.reading = None;
        if let Some(state) = self.desired.as_ref().map(|desired| desired.state)
            && self.durable.applied != Some(state)
        {
            let error = state_error("no engine runs on this node: see its health");
            self.acknowledge_state(state, vec![error]);
        }
        self.next_poll_ms = now.boottime_ms + self.stream.pace().poll_ms as i64;
    }

    /// Starts the next change, unless one is under way or there is nothing to do.
    pub(super) fn reconcile(&mut self, now: Now) {
        let Some(desired) = &self.desired else { return };
        let idle = matches!(self.engine.phase, Phase::Idle);
        // Not before the first read: a counter may outlive its peer, and books must not be
        // opened at zero for one that does.
        if !idle || !self.engine.dirty || !self.engine.sampled {
            return;
        }
        let leaving: Vec<_> = self
            .engine
            .installed
            .keys()
            .filter(|peer| !desired.owners.contains_key(peer))
            .copied()
            .collect();
        let unblocked = leaving
            .iter()
            .any(|peer| !self.engine.blocked.contains(peer));
        if unblocked {
            self.commit();
            self.engine.blocked.extend(&leaving);
            self.out.push(Effect::Block(leaving.clone()));
        }
        // Counters without books are not removed before their marks are told and their final
        // reading is taken.
        let unknown = &self.engine.unknown;
        let peers: Vec<_> = leaving
            .into_iter()
            .filter(|peer| !unknown.contains_key(peer))
            .collect();
        if peers.is_empty() {
            return self.change_engine(&[], now);
        }
        let ticket = self.read_counters();
        self.engine.phase = Phase::Draining { ticket, peers };
    }

    /// A sample is on the books: what was blocked before it may go now.
    pub(super) fn drained(&mut self, read: Ticket, now: Now) {
        match std::mem::take(&mut self.engine.phase) {
            Phase::Draining { ticket, peers } if ticket <= read => self.change_engine(&peers, now),
            phase => self.engine.phase = phase,
        }
    }

    /// The read for a removal failed: it is asked for again with the next poll.
    pub(super) fn retry_drain(&mut self) {
        if matches!(self.engine.phase, Phase::Draining { .. }) {
            let again = self.read_counters();
            if let Phase::Draining { ticket, .. } = &mut self.engine.phase {
                *ticket = again;
            }
        }
    }

    fn change_engine(&mut self, drained: &[PeerId], now: Now) {
        let (Some(desired), Some(incarnation)) = (&self.desired, self.engine.incarnation) else {
            return;
        };
        let remove: Vec<_> = drained
            .iter()
            .filter(|peer| !desired.owners.contains_key(peer))
            .copied()
            .collect();
        let upsert: Vec<_> = desired
            .peers()
            .filter(|(user, peer)| {
                let known = self.engine.installed.get(&peer.id);
                let same = |(speed, known): &(_, _)| *speed == user.speed && known == *peer;
                self.engine.blocked.contains(&peer.id)
                    || !known.is_some_and(|known| known.as_ref().is_some_and(same))
            })
            .map(|(user, peer)| Upsert {
                user: user.id,
                speed: user.speed,
                peer: peer.clone(),
            })
            .collect();
        let inbounds = desired.inbounds.clone();
        let state = desired.state;
        // Peers that stopped being wanted while others were drained have their turn next.
        let owners = &desired.owners;
        self.engine.dirty = self.engine.installed.keys().any(|peer| {
            !owners.contains_key(peer)
                && !remove.contains(peer)
                && !self.engine.unknown.contains_key(peer)
        });
        let draining = desired.draining;
        let same_inbounds = self.engine.inbounds.as_ref() == Some(&inbounds);
        let same = same_inbounds && self.engine.draining == Some(draining);
        if remove.is_empty() && upsert.is_empty() && same {
            return self.applied_state(state);
        }
        let server_ms = self.server_ms(now);
        for Upsert { peer, .. } in &upsert {
            let key = CounterKey {
                incarnation,
                peer: peer.id,
            };
            let new = !self.durable.counters.contains_key(&key)
                && !self.engine.unknown.contains_key(&peer.id);
            if let (true, Some(attribution)) = (new, self.attribution_of(peer.id, server_ms)) {
                let record = CounterRecord::open(attribution, Totals::default(), server_ms);
                self.write(Write::Counter(key, record));
            }
        }
        self.commit();
        for peer in &remove {
            self.engine.installed.remove(peer);
            self.engine.blocked.remove(peer);
        }
        for Upsert { speed, peer, .. } in &upsert {
            let known = (*speed, peer.clone());
            self.engine.installed.insert(peer.id, Some(known));
            self.engine.blocked.remove(&peer.id);
        }
        self.engine.inbounds = Some(inbounds.clone());
        self.engine.draining = Some(draining);
        let ticket = self.ticket();
        self.engine.phase = Phase::Applying { ticket, state };
        self.out.push(Effect::Apply(Change {
            ticket,
            incarnation,
            inbounds,
            draining,
            upsert,
            remove,
        }));
    }

    /// The engine has changed, as far as it could.
    pub(super) fn engine_changed(&mut self, answer: Ticket, errors: Vec<ConfigError>, now: Now) {
        match self.engine.phase {
            Phase::Applying { ticket, state } if ticket == answer => {
                self.engine.phase = Phase::Idle;
                self.allowances.departed = true;
                self.engine.errors.extend(errors);
                self.applied_state(state);
                self.reconcile(now);
            }
            _ => {}
        }
    }

    /// The engine is as a state wants it, unless there is more to do for it or a newer came.
    fn applied_state(&mut self, state: AppliedState) {
        let complete = self.desired.as_ref().is_some_and(|desired| {
            let wanted = |peer| desired.owners.contains_key(peer);
            desired.state == state && self.engine.installed.keys().all(wanted)
        });
        if complete {
            let errors = std::mem::take(&mut self.engine.errors);
            if self.durable.applied != Some(state) {
                self.write(Write::Applied(state));
            }
            self.acknowledge_state(state, errors);
        }
    }
}
