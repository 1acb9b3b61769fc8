//! Bringing the engine to the desired state, one change at a time. What goes is blocked, read
//! onto the books, and only then removed; what comes has its books opened before its counter
//! exists. A crash at any point starts over from what is on disk and what the engine has.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use vpnpanel_domain::{Multiplier, PeerId, PeriodId, UserId};

use super::{Agent, Alarm, Change, CounterRecord, Effect, Now, Ticket, Write};
use crate::state_digest::StateSum;
use crate::wire::{KeptState, KeptUser, Update};
use crate::{
    AppliedState, ConfigAck, ConfigChunk, ConfigError, CounterKey, CounterMark, DesiredInbound,
    DesiredPeer, DesiredUser, Digest, Error, Incarnation, RemovalBound, Revision, Totals, Up,
    UpdateKind, wire,
};

/// The desired state, indexed.
#[derive(Debug, Clone)]
pub(super) struct Desired {
    pub(super) state: AppliedState,
    pub(super) multiplier: Multiplier,
    inbounds: Vec<DesiredInbound>,
    pub(super) users: BTreeMap<UserId, DesiredUser>,
    owners: BTreeMap<PeerId, UserId>,
    /// Each user's part in the digest.
    digests: BTreeMap<UserId, Digest>,
}

/// The engine, as far as is known.
#[derive(Debug, Clone, Default)]
pub(super) struct Engine {
    /// `None` while it does not run.
    pub(super) incarnation: Option<Incarnation>,
    /// Peers it has; their settings, where this process has set them.
    pub(super) installed: BTreeMap<PeerId, Option<DesiredPeer>>,
    /// Counters without books: this disk is younger than they are. With their marks, once told.
    pub(super) unknown: BTreeMap<PeerId, Option<CounterMark>>,
    /// It may differ from the desired state.
    pub(super) dirty: bool,
    /// Its counters were read in this incarnation: those without books are known.
    pub(super) sampled: bool,
    /// Inbounds as this process has set them.
    inbounds: Option<Vec<DesiredInbound>>,
    phase: Phase,
    /// Peers whose traffic this process has blocked.
    blocked: BTreeSet<PeerId>,
    /// What could not be applied of the desired state so far.
    errors: Vec<ConfigError>,
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

impl Desired {
    fn new(state: AppliedState, kept: KeptState) -> Self {
        let mut desired = Self {
            state,
            multiplier: kept.head.multiplier,
            inbounds: kept.head.inbounds,
            users: BTreeMap::new(),
            owners: BTreeMap::new(),
            digests: BTreeMap::new(),
        };
        for user in kept.users {
            desired.insert(user);
        }
        desired
    }

    /// Carries a change out, and on to the digest of what comes of it.
    fn change(&mut self, revision: Revision, users: Vec<KeptUser>, removed: &[UserId]) {
        let mut sum = StateSum::of(self.state.digest);
        for user in removed {
            if let Some(digest) = self.remove(*user) {
                sum = sum.without(digest);
            }
        }
        for user in users {
            sum = sum.with(user.digest);
            if let Some(digest) = self.remove(user.user.id) {
                sum = sum.without(digest);
            }
            self.insert(user);
        }
        self.state = AppliedState {
            revision,
            digest: sum.digest(),
        };
    }

    fn insert(&mut self, KeptUser { user, digest, .. }: KeptUser) {
        for peer in &user.peers {
            self.owners.insert(peer.id, user.id);
        }
        self.digests.insert(user.id, digest);
        self.users.insert(user.id, user);
    }

    fn remove(&mut self, user: UserId) -> Option<Digest> {
        for peer in self.users.remove(&user)?.peers {
            self.owners.remove(&peer.id);
        }
        self.digests.remove(&user)
    }

    pub(super) fn user_of(&self, peer: PeerId) -> Option<&DesiredUser> {
        self.users.get(self.owners.get(&peer)?)
    }

    fn peers(&self) -> impl Iterator<Item = (UserId, &DesiredPeer)> {
        self.users
            .values()
            .flat_map(|user| user.peers.iter().map(|peer| (user.id, peer)))
    }

    /// Whether the user may use the period on this node, now or next.
    pub(super) fn expects(&self, user: UserId, period: PeriodId) -> bool {
        self.users.get(&user).is_some_and(|user| {
            user.period.id == period || user.next_period.is_some_and(|next| next.id == period)
        })
    }
}

impl Agent {
    /// Takes up the desired state that was on disk.
    pub(super) fn recall_target(&mut self) {
        let head = std::mem::take(&mut self.durable.target_head);
        let users = std::mem::take(&mut self.durable.target_users);
        let Some(state) = self.durable.target else {
            return;
        };
        match KeptState::recall(state.digest, head, users.into_values()) {
            Ok(kept) => self.desired = Some(Desired::new(state, kept)),
            Err(error) => self.bad_state(&error),
        }
    }

    /// Takes a piece of an update of the desired state; the last one makes it the target.
    pub(super) fn take_config(&mut self, piece: ConfigChunk, now: Now) {
        let (revision, kind) = (piece.revision, piece.kind);
        let taken = match self.stream.assembly.push(piece) {
            Ok(None) => return,
            Ok(Some(update)) => self.take_update(update, now),
            Err(error) => Err(error),
        };
        let Err(error) = taken else { return };
        self.bad_state(&error);
        match kind {
            UpdateKind::Whole(digest) => {
                let refused = AppliedState { revision, digest };
                self.acknowledge_state(refused, vec![state_error(&error.to_string())]);
            }
            UpdateKind::Delta(_) => self.ask_for_whole(revision),
        }
    }

    fn bad_state(&mut self, error: &Error) {
        let reason = error.to_string();
        self.out.push(Effect::Alarm(Alarm::BadState { reason }));
    }

    fn take_update(&mut self, update: Update, now: Now) -> Result<(), Error> {
        let revision = update.revision;
        match update.kind {
            UpdateKind::Whole(digest) => {
                let kept = wire::take_apart(&update.data)?;
                if kept.digest != digest {
                    return Err(Error::DigestMismatch("desired state"));
                }
                let stays: BTreeSet<_> = kept.users.iter().map(|kept| kept.user.id).collect();
                if self.holds(revision, update.removals, |user| !stays.contains(&user)) {
                    return Ok(());
                }
                let state = AppliedState { revision, digest };
                self.write(Write::Target {
                    state,
                    head: kept.head.bytes.clone(),
                    users: kept.users.iter().map(on_disk).collect(),
                });
                self.desired = Some(Desired::new(state, kept));
            }
            UpdateKind::Delta(base) => {
                let (users, removed) = wire::take_delta_apart(&update.data)?;
                let gone: BTreeSet<_> = removed.iter().copied().collect();
                let known = self.desired.as_ref().map(|desired| desired.state.digest);
                if known == Some(base)
                    && self.holds(revision, update.removals, |user| gone.contains(&user))
                {
                    return Ok(());
                }
                let desired = self.desired.as_mut();
                let Some(desired) = desired.filter(|desired| desired.state.digest == base) else {
                    self.ask_for_whole(revision);
                    return Ok(());
                };
                let kept = users.iter().map(on_disk).collect();
                desired.change(revision, users, &removed);
                let state = desired.state;
                self.write(Write::TargetUsers {
                    state,
                    users: kept,
                    removed,
                });
            }
        }
        self.retargeted(now);
        Ok(())
    }

    /// Holds an update that would take away more users than it may, and says so.
    fn holds(
        &mut self,
        revision: Revision,
        bound: Option<RemovalBound>,
        goes: impl Fn(UserId) -> bool,
    ) -> bool {
        let (Some(bound), Some(desired)) = (bound, &self.desired) else {
            return false;
        };
        let removed = desired.users.keys().filter(|user| goes(**user)).count();
        if bound.permits(removed, desired.users.len()) {
            return false;
        }
        let digest = desired.state.digest;
        self.out.push(Effect::Alarm(Alarm::RemovalsHeld {
            removed,
            of: desired.users.len(),
        }));
        self.answer_config(ConfigAck {
            held_removals: u32::try_from(removed).unwrap_or(u32::MAX),
            ..ConfigAck::of(AppliedState { revision, digest })
        });
        true
    }

    /// There is a new desired state.
    fn retargeted(&mut self, now: Now) {
        self.engine.dirty = true;
        self.engine.errors.clear();
        self.allowances.departed = true;
        self.adopt(now);
        let desired = self.desired.as_ref();
        self.allowances
            .gates
            .retain(|user, _| desired.is_some_and(|desired| desired.users.contains_key(user)));
        self.set_gates(None, now);
        self.schedule_times(now);
        if let (None, Some(desired)) = (self.engine.incarnation, &self.desired) {
            let error = state_error("no engine runs on this node: see its health");
            self.acknowledge_state(desired.state, vec![error]);
        }
        self.reconcile(now);
    }

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
            .filter(|(_, peer)| {
                let known = self.engine.installed.get(&peer.id);
                self.engine.blocked.contains(&peer.id)
                    || known.is_none_or(|known| known.as_ref() != Some(peer))
            })
            .map(|(user, peer)| (user, peer.clone()))
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
        let same_inbounds = self.engine.inbounds.as_ref() == Some(&inbounds);
        if remove.is_empty() && upsert.is_empty() && same_inbounds {
            return self.applied_state(state);
        }
        let server_ms = self.server_ms(now);
        for (_, peer) in &upsert {
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
        for (_, peer) in &upsert {
            self.engine.installed.insert(peer.id, Some(peer.clone()));
            self.engine.blocked.remove(&peer.id);
        }
        self.engine.inbounds = Some(inbounds.clone());
        let ticket = self.ticket();
        self.engine.phase = Phase::Applying { ticket, state };
        self.out.push(Effect::Apply(Change {
            ticket,
            incarnation,
            inbounds,
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

    pub(super) fn acknowledge_state(&mut self, state: AppliedState, errors: Vec<ConfigError>) {
        self.answer_config(ConfigAck {
            errors,
            ..ConfigAck::of(state)
        });
    }

    /// A change cannot be built upon what is here.
    fn ask_for_whole(&mut self, revision: Revision) {
        let has = self.desired.as_ref().map(|desired| desired.state.digest);
        let digest = has.unwrap_or(Digest([0; 32]));
        self.answer_config(ConfigAck {
            resync: true,
            ..ConfigAck::of(AppliedState { revision, digest })
        });
    }

    /// Somebody wants to have the whole compared.
    pub(super) fn ask_for_whole_again(&mut self) {
        let has = self.desired.as_ref().map(|desired| desired.state.revision);
        self.ask_for_whole(has.unwrap_or(Revision(0)));
    }

    fn answer_config(&mut self, ack: ConfigAck) {
        if self.stream.window().is_some() {
            self.commit();
            self.out.push(Effect::Send(Up::ConfigAck(ack)));
        }
    }
}

fn on_disk(user: &KeptUser) -> (UserId, Bytes) {
    (user.user.id, user.bytes.clone())
}

fn state_error(message: &str) -> ConfigError {
    ConfigError {
        kind: "state".to_owned(),
        id: String::new(),
        message: message.to_owned(),
    }
}
