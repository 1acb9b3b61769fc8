//! Bringing the engines to the desired state, each with one change at a time. What goes is blocked,
//! read onto the books, and only then removed; what comes has its books opened before its counter
//! exists. A crash at any point starts over from what is on disk and what the engines have.

use std::collections::BTreeMap;

use vpnpanel_domain::PeerId;

use super::engines::{Engine, Phase};
use super::target::state_error;
use super::{Agent, Change, CounterRecord, Effect, Now, Ticket, Upsert, Write};
use crate::{ConfigError, CounterKey, EngineKind, Incarnation, Totals};

/// How often an engine that does not run is looked at.
const LOOK_MS: i64 = 5_000;

impl Agent {
    /// An engine runs: what it has is compared with what it should have.
    pub(super) fn engine_up(
        &mut self,
        kind: EngineKind,
        incarnation: Incarnation,
        peers: Vec<PeerId>,
        now: Now,
    ) {
        let before = self.durable.incarnations.get(&kind).copied();
        if before != Some(incarnation) {
            if let Some(lost) = before.filter(|_| !self.engines.of(kind).ended) {
                self.charge_lost(lost, self.unread_ms(kind, now));
            }
            self.write(Write::Incarnation(kind, incarnation));
            self.now_read(kind, now);
        }
        if self.engines.of(kind).incarnation != Some(incarnation) {
            self.allowances.gates.retain(|(of, _), _| *of != kind);
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
        *self.engines.of_mut(kind) = Engine {
            heard: true,
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

    /// An engine does not run. Said again, it changes nothing.
    pub(super) fn engine_down(&mut self, kind: EngineKind, now: Now) {
        self.not_read(kind);
        let engine = self.engines.of_mut(kind);
        let known = engine.is_down();
        *engine = Engine {
            heard: true,
            look_at_ms: now.boottime_ms + LOOK_MS,
            ..Engine::default()
        };
        self.allowances.gates.retain(|(of, _), _| *of != kind);
        if known {
            return;
        }
        self.reading = None;
        self.next_poll_ms = now.boottime_ms + self.stream.pace().poll_ms as i64;
        self.conclude();
    }

    /// Looks at engines that do not run, now and then.
    pub(super) fn look_again(&mut self, now: Now) {
        for kind in EngineKind::ALL {
            let engine = self.engines.of_mut(kind);
            if engine.is_down() && now.boottime_ms >= engine.look_at_ms {
                engine.look_at_ms = now.boottime_ms + LOOK_MS;
                self.inspect(kind);
            }
        }
    }

    /// Looks at engines that do not run and have something to do from now on; what they cannot do is
    /// not said before.
    pub(super) fn look_at_wanted(&mut self) {
        for kind in EngineKind::ALL {
            let needed = self.desired.as_ref().is_some_and(|d| d.needs(kind));
            let engine = self.engines.of_mut(kind);
            if needed && engine.is_down() {
                engine.heard = false;
                self.inspect(kind);
            }
        }
    }

    pub(super) fn inspect(&mut self, kind: EngineKind) {
        let needed = self.desired.as_ref().is_some_and(|d| d.needs(kind));
        let wanted = needed || self.durable.incarnations.contains_key(&kind);
        self.out.push(Effect::Inspect { kind, wanted });
    }

    /// Starts the next change of each engine, unless one is under way or there is nothing to do.
    pub(super) fn reconcile(&mut self, now: Now) {
        for kind in EngineKind::ALL {
            self.reconcile_engine(kind, now);
        }
    }

    fn reconcile_engine(&mut self, kind: EngineKind, now: Now) {
        let Some(desired) = &self.desired else { return };
        let engine = self.engines.of(kind);
        let idle = matches!(engine.phase, Phase::Idle);
        // Not before the first read: a counter may outlive its peer, and books must not be
        // opened at zero for one that does.
        if !idle || !engine.dirty || !engine.sampled {
            return;
        }
        let leaving: Vec<_> = engine
            .installed
            .keys()
            .filter(|peer| !desired.wants(kind, **peer))
            .copied()
            .collect();
        let unblocked = leaving.iter().any(|peer| !engine.blocked.contains(peer));
        // Counters without books are not removed before their marks are told and their final
        // reading is taken.
        let peers: Vec<_> = leaving
            .iter()
            .filter(|peer| !engine.unknown.contains_key(peer))
            .copied()
            .collect();
        if unblocked {
            self.commit();
            self.engines.of_mut(kind).blocked.extend(&leaving);
            self.out.push(Effect::Block(kind, leaving));
        }
        if peers.is_empty() {
            return self.change_engine(kind, &[], now);
        }
        let ticket = self.read_counters();
        self.engines.of_mut(kind).phase = Phase::Draining { ticket, peers };
    }

    /// An engine's sample is on the books: what was blocked before it may go now.
    pub(super) fn drained(&mut self, kind: EngineKind, read: Ticket, now: Now) {
        let phase = &mut self.engines.of_mut(kind).phase;
        match std::mem::take(phase) {
            Phase::Draining { ticket, peers } if ticket <= read => {
                self.change_engine(kind, &peers, now);
            }
            other => *phase = other,
        }
    }

    fn change_engine(&mut self, kind: EngineKind, drained: &[PeerId], now: Now) {
        let engine = self.engines.of(kind);
        let (Some(desired), Some(incarnation)) = (&self.desired, engine.incarnation) else {
            return;
        };
        let remove: Vec<_> = drained
            .iter()
            .filter(|peer| !desired.wants(kind, **peer))
            .copied()
            .collect();
        let upsert: Vec<_> = desired
            .peers(kind)
            .filter(|(user, peer)| {
                let known = engine.installed.get(&peer.id);
                let same = |(speed, devices, known): &(_, _, _)| {
                    *speed == user.speed && *devices == user.devices && known == *peer
                };
                engine.blocked.contains(&peer.id)
                    || !known.is_some_and(|known| known.as_ref().is_some_and(same))
            })
            .map(|(user, peer)| Upsert {
                user: user.id,
                speed: user.speed,
                devices: user.devices,
                peer: peer.clone(),
            })
            .collect();
        let inbounds: Vec<_> = desired.inbounds_of(kind).cloned().collect();
        let state = desired.state;
        // Peers that stopped being wanted while others were drained have their turn next.
        let dirty = engine.installed.keys().any(|peer| {
            !desired.wants(kind, *peer)
                && !remove.contains(peer)
                && !engine.unknown.contains_key(peer)
        });
        let draining = desired.draining;
        let same = engine.inbounds.as_ref() == Some(&inbounds) && engine.draining == Some(draining);
        self.engines.of_mut(kind).dirty = dirty;
        if remove.is_empty() && upsert.is_empty() && same {
            self.engines.of_mut(kind).brought = Some(state);
            return self.conclude();
        }
        self.open_books(kind, incarnation, &upsert, now);
        self.commit();
        let ticket = self.ticket();
        let engine = self.engines.of_mut(kind);
        for peer in &remove {
            engine.installed.remove(peer);
            engine.blocked.remove(peer);
        }
        for one in &upsert {
            let known = (one.speed, one.devices, one.peer.clone());
            engine.installed.insert(one.peer.id, Some(known));
            engine.blocked.remove(&one.peer.id);
        }
        engine.inbounds = Some(inbounds.clone());
        engine.draining = Some(draining);
        engine.phase = Phase::Applying { ticket, state };
        self.out.push(Effect::Apply(Change {
            kind,
            ticket,
            incarnation,
            inbounds,
            draining,
            upsert,
            remove,
        }));
    }

    /// Opens the books of counters that come about with a change.
    fn open_books(
        &mut self,
        kind: EngineKind,
        incarnation: Incarnation,
        upsert: &[Upsert],
        now: Now,
    ) {
        let server_ms = self.server_ms(now);
        for Upsert { peer, .. } in upsert {
            let key = CounterKey {
                incarnation,
                peer: peer.id,
            };
            let new = !self.durable.counters.contains_key(&key)
                && !self.engines.of(kind).unknown.contains_key(&peer.id);
            if let (true, Some(attribution)) = (new, self.attribution_of(kind, peer.id, server_ms))
            {
                let record = CounterRecord::open(attribution, Totals::default(), server_ms);
                self.write(Write::Counter(key, record));
            }
        }
    }

    /// An engine has changed, as far as it could.
    pub(super) fn engine_changed(&mut self, answer: Ticket, errors: Vec<ConfigError>, now: Now) {
        for kind in EngineKind::ALL {
            match self.engines.of(kind).phase {
                Phase::Applying { ticket, state } if ticket == answer => {
                    let engine = self.engines.of_mut(kind);
                    engine.phase = Phase::Idle;
                    engine.brought = Some(state);
                    engine.errors.extend(errors);
                    self.allowances.departed = true;
                    self.conclude();
                    return self.reconcile_engine(kind, now);
                }
                _ => {}
            }
        }
    }

    /// Answers the desired state once every engine that runs is as it wants; what an engine should do
    /// that does not run is among the errors.
    pub(super) fn conclude(&mut self) {
        let Some(desired) = &self.desired else { return };
        let state = desired.state;
        let mut errors = desired.misfits();
        let mut missing = false;
        for kind in EngineKind::ALL {
            let engine = self.engines.of(kind);
            let wanted = |peer: &PeerId| desired.wants(kind, *peer);
            if engine.incarnation.is_some() {
                if engine.brought != Some(state) || !engine.installed.keys().all(wanted) {
                    return;
                }
                errors.extend(engine.errors.iter().cloned());
            } else if desired.needs(kind) {
                if !engine.heard {
                    return;
                }
                missing = true;
                errors.extend(desired.not_served(kind));
            }
        }
        if !self.engines.any_live() {
            missing = true;
            errors = vec![state_error("no engine runs on this node: see its health")];
        }
        if !missing && self.durable.applied != Some(state) {
            self.write(Write::Applied(state));
        }
        self.acknowledge_state(state, errors);
    }
}
