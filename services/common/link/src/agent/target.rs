//! What the node should do, as it is told: updates are taken whole or not at all, kept on disk before
//! anything else, and answered by name.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use vpnpanel_domain::{InboundId, Multiplier, PeerId, PeriodId, UserId};

use super::{Agent, Alarm, Effect, Now, Write};
use crate::state_digest::StateSum;
use crate::wire::{self, KeptState, KeptUser, Update};
use crate::{
    AppliedState, ConfigAck, ConfigChunk, ConfigError, DesiredInbound, DesiredPeer, DesiredUser,
    Digest, EngineKind, Error, RemovalBound, Revision, Up, UpdateKind,
};

/// Resources of one kind that an answer names as not applied.
const MOST_ERRORS: usize = 100;

/// The desired state, indexed.
#[derive(Debug, Clone)]
pub(super) struct Desired {
    pub(super) state: AppliedState,
    pub(super) multiplier: Multiplier,
    pub(super) draining: bool,
    inbounds: Vec<DesiredInbound>,
    pub(super) users: BTreeMap<UserId, DesiredUser>,
    /// Peers that fit their inbounds: whose they are, and on which engine.
    owners: BTreeMap<PeerId, (UserId, EngineKind)>,
    /// Peers of another kind than their inbounds.
    misfits: BTreeSet<PeerId>,
    kinds: BTreeMap<InboundId, EngineKind>,
    /// Each user's part in the digest.
    digests: BTreeMap<UserId, Digest>,
}

impl Desired {
    fn new(state: AppliedState, kept: KeptState) -> Self {
        let inbounds = kept.head.inbounds;
        let mut desired = Self {
            state,
            multiplier: kept.head.multiplier,
            draining: kept.head.draining,
            kinds: inbounds.iter().map(|i| (i.id, i.settings.kind())).collect(),
            inbounds,
            users: BTreeMap::new(),
            owners: BTreeMap::new(),
            misfits: BTreeSet::new(),
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
            let kind = peer.access.kind();
            // An inbound that is not in the state is the engine's to miss.
            let inbound = self.kinds.get(&peer.inbound);
            if inbound.is_none_or(|inbound| *inbound == kind) {
                self.owners.insert(peer.id, (user.id, kind));
            } else {
                self.misfits.insert(peer.id);
            }
        }
        self.digests.insert(user.id, digest);
        self.users.insert(user.id, user);
    }

    fn remove(&mut self, user: UserId) -> Option<Digest> {
        for peer in self.users.remove(&user)?.peers {
            self.owners.remove(&peer.id);
            self.misfits.remove(&peer.id);
        }
        self.digests.remove(&user)
    }

    /// The user of a peer on an engine.
    pub(super) fn user_of(&self, kind: EngineKind, peer: PeerId) -> Option<&DesiredUser> {
        let (user, of) = self.owners.get(&peer)?;
        self.users.get(user).filter(|_| *of == kind)
    }

    /// Whether a peer should be on an engine.
    pub(super) fn wants(&self, kind: EngineKind, peer: PeerId) -> bool {
        self.owners.get(&peer).is_some_and(|(_, of)| *of == kind)
    }

    /// Whether there is anything for an engine to do.
    pub(super) fn needs(&self, kind: EngineKind) -> bool {
        self.inbounds_of(kind).next().is_some() || self.owners.values().any(|(_, of)| *of == kind)
    }

    /// The peers that should be on an engine.
    pub(super) fn peers(
        &self,
        kind: EngineKind,
    ) -> impl Iterator<Item = (&DesiredUser, &DesiredPeer)> {
        self.users
            .values()
            .flat_map(|user| user.peers.iter().map(move |peer| (user, peer)))
            .filter(move |(_, peer)| peer.access.kind() == kind && !self.misfits.contains(&peer.id))
    }

    /// The inbounds that an engine should have.
    pub(super) fn inbounds_of(&self, kind: EngineKind) -> impl Iterator<Item = &DesiredInbound> {
        let inbounds = self.inbounds.iter();
        inbounds.filter(move |inbound| inbound.settings.kind() == kind)
    }

    /// Peers that are of another kind than their inbounds.
    pub(super) fn misfits(&self) -> Vec<ConfigError> {
        let peers = self.misfits.iter().take(MOST_ERRORS);
        let error = |peer: &PeerId| ConfigError {
            kind: "peer".to_owned(),
            id: peer.to_string(),
            message: "its inbound is of another kind: give it a peer of that kind".to_owned(),
        };
        peers.map(error).collect()
    }

    /// What an engine should do that does not run.
    pub(super) fn not_served(&self, kind: EngineKind) -> Vec<ConfigError> {
        let message = format!("{kind} does not run on this node: see its health");
        let inbounds = self.inbounds_of(kind).take(MOST_ERRORS);
        let errors: Vec<_> = inbounds
            .map(|inbound| ConfigError {
                kind: "inbound".to_owned(),
                id: inbound.id.to_string(),
                message: message.clone(),
            })
            .collect();
        if errors.is_empty() {
            vec![state_error(&message)]
        } else {
            errors
        }
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
                self.answer_config(ConfigAck {
                    errors: vec![state_error(&error.to_string())],
                    ..ConfigAck::of(refused)
                });
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
                let next = by_id(&kept.users);
                if self.holds(revision, update.removals, |user, strict| {
                    next.get(&user.id)
                        .is_none_or(|next| strict && loses_peers(user, next))
                }) {
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
                let next = by_id(&users);
                let known = self.desired.as_ref().map(|desired| desired.state.digest);
                if known == Some(base)
                    && self.holds(revision, update.removals, |user, strict| {
                        let next = next.get(&user.id).filter(|_| strict);
                        gone.contains(&user.id) || next.is_some_and(|next| loses_peers(user, next))
                    })
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
        self.stream.updated = true;
        self.retargeted(now);
        Ok(())
    }

    /// Holds an update that would take away more users than it may, and says so. Where it may take
    /// nothing (`goes` is asked strictly), a user who loses a peer goes too.
    fn holds(
        &mut self,
        revision: Revision,
        bound: Option<RemovalBound>,
        goes: impl Fn(&DesiredUser, bool) -> bool,
    ) -> bool {
        let (Some(bound), Some(desired)) = (bound, &self.desired) else {
            return false;
        };
        let strict = bound == RemovalBound::NOTHING;
        let users = desired.users.values();
        let removed = users.filter(|user| goes(user, strict)).count();
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
        for engine in self.engines.each_mut() {
            engine.dirty = true;
            engine.errors.clear();
        }
        self.allowances.departed = true;
        self.adopt(now);
        let desired = self.desired.as_ref();
        self.allowances
            .gates
            .retain(|(_, user), _| desired.is_some_and(|desired| desired.users.contains_key(user)));
        self.set_gates(None, now);
        self.schedule_times(now);
        self.look_at_wanted();
        if !self.engines.any_live() {
            self.conclude();
        }
        self.reconcile(now);
    }

    pub(super) fn acknowledge_state(&mut self, state: AppliedState, errors: Vec<ConfigError>) {
        self.answer_config(ConfigAck {
            errors,
            earlier: !self.stream.updated,
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

fn by_id(users: &[KeptUser]) -> BTreeMap<UserId, &DesiredUser> {
    users
        .iter()
        .map(|kept| (kept.user.id, &kept.user))
        .collect()
}

fn loses_peers(user: &DesiredUser, next: &DesiredUser) -> bool {
    let stays = |id| next.peers.iter().any(|peer| peer.id == id);
    user.peers.iter().any(|peer| !stays(peer.id))
}

fn on_disk(user: &KeptUser) -> (UserId, Bytes) {
    (user.user.id, user.bytes.clone())
}

pub(super) fn state_error(message: &str) -> ConfigError {
    ConfigError {
        kind: "state".to_owned(),
        id: String::new(),
        message: message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::testing::Host;
    use crate::agent::{Change, Event, Sample};
    use crate::wire::{encode_delta, encode_state, pieces, state_digest};
    use crate::{DesiredDelta, DesiredPeriod, DesiredState, Down, Incarnation, PeerAccess};
    use vpnpanel_domain::{InboundId, Speed, SpeedLimit};

    const FEW: RemovalBound = RemovalBound {
        users: 1,
        percent: 50,
    };

    fn user(n: u8) -> DesiredUser {
        DesiredUser {
            id: UserId::from_bytes([n; 16]),
            period: DesiredPeriod {
                id: PeriodId::from_bytes([9; 16]),
                ends_ms: None,
                spent: false,
            },
            next_period: None,
            blocked: false,
            limited: false,
            not_after_ms: None,
            speed: SpeedLimit::NONE,
            devices: 0,
            peers: Vec::new(),
        }
    }

    fn whole(revision: u64, users: &[u8], removals: Option<RemovalBound>) -> Update {
        let data = encode_state(&DesiredState {
            users: users.iter().map(|n| user(*n)).collect(),
            ..DesiredState::default()
        });
        Update {
            revision: Revision(revision),
            kind: UpdateKind::Whole(state_digest(&data).unwrap()),
            removals,
            data,
        }
    }

    fn delta(revision: u64, base: Digest, users: &[u8], removed: &[u8]) -> Update {
        let data = encode_delta(&DesiredDelta {
            users: users.iter().map(|n| user(*n)).collect(),
            removed: removed.iter().map(|n| user(*n).id).collect(),
        });
        Update {
            revision: Revision(revision),
            kind: UpdateKind::Delta(base),
            removals: Some(FEW),
            data,
        }
    }

    /// The last answer to an update.
    fn answer(host: &mut Host, update: &Update) -> ConfigAck {
        let mut effects = told(host, update);
        let looks: Vec<_> = effects
            .iter()
            .filter_map(|effect| match effect {
                Effect::Inspect { kind, .. } => Some(*kind),
                _ => None,
            })
            .collect();
        for kind in looks {
            effects.extend(host.step(Event::EngineDown { kind }));
        }
        let answers = effects.into_iter().filter_map(|effect| match effect {
            Effect::Send(Up::ConfigAck(ack)) => Some(ack),
            _ => None,
        });
        answers.last().expect("an answer")
    }

    fn users(host: &Host) -> Vec<UserId> {
        host.disk.target_users.keys().copied().collect()
    }

    fn ids(users: &[u8]) -> Vec<UserId> {
        users.iter().map(|n| user(*n).id).collect()
    }

    #[test]
    fn what_would_take_too_many_away_changes_nothing_until_it_may() {
        let mut host = Host::connected();
        let has = answer(&mut host, &whole(1, &[1, 2, 3, 4], Some(FEW))).state;
        let held = answer(&mut host, &whole(2, &[], Some(FEW)));
        assert_eq!((held.held_removals, held.state.digest), (4, has.digest));
        let held = answer(&mut host, &delta(3, has.digest, &[5], &[1, 2, 3]));
        assert_eq!((held.held_removals, held.state.digest), (3, has.digest));
        assert_eq!(users(&host), ids(&[1, 2, 3, 4]), "on disk too");

        let half = answer(&mut host, &delta(4, has.digest, &[5], &[1, 2]));
        assert_eq!(half.held_removals, 0);
        assert_eq!(users(&host), ids(&[3, 4, 5]));
        let confirmed = answer(&mut host, &whole(5, &[], None));
        assert_eq!(confirmed.held_removals, 0);
        assert_eq!(users(&host), []);
    }

    #[test]
    fn where_nothing_may_be_taken_away_a_user_who_loses_a_peer_goes_too() {
        let with_peer = |removals| {
            let mut state = DesiredState {
                users: vec![user(1)],
                ..DesiredState::default()
            };
            state.users[0].peers.push(DesiredPeer {
                id: PeerId::from_bytes([1; 16]),
                inbound: vpnpanel_domain::InboundId::from_bytes([2; 16]),
                access: PeerAccess::WireGuard {
                    public_key: [3; 32],
                    preshared_key: None,
                    ipv4: None,
                    ipv6: None,
                },
            });
            let data = encode_state(&state);
            Update {
                revision: Revision(1),
                kind: UpdateKind::Whole(state_digest(&data).unwrap()),
                removals,
                data,
            }
        };
        let mut host = Host::connected();
        answer(&mut host, &with_peer(None));
        let nothing = Some(RemovalBound::NOTHING);
        assert_eq!(answer(&mut host, &whole(2, &[1], nothing)).held_removals, 1);
        assert_eq!(answer(&mut host, &with_peer(nothing)).held_removals, 0);
        assert_eq!(
            answer(&mut host, &whole(3, &[1], Some(FEW))).held_removals,
            0
        );
    }

    #[test]
    fn a_change_of_another_state_changes_nothing_and_asks_for_the_whole() {
        let mut host = Host::connected();
        assert!(answer(&mut host, &delta(1, Digest([7; 32]), &[1], &[])).resync);
        let has = answer(&mut host, &whole(2, &[1], None)).state;
        assert!(answer(&mut host, &delta(3, Digest([7; 32]), &[2], &[])).resync);
        assert_eq!(users(&host), ids(&[1]));
        let next = answer(&mut host, &delta(4, has.digest, &[2], &[]));
        let UpdateKind::Whole(both) = whole(4, &[1, 2], None).kind else {
            unreachable!()
        };
        assert_eq!((next.resync, next.state.digest), (false, both));
    }

    #[test]
    fn what_is_on_disk_is_built_upon_after_a_start() {
        let mut host = Host::connected();
        let has = answer(&mut host, &whole(1, &[1, 2], None)).state;
        let mut host = Host::connected_from(host.disk);
        let next = answer(&mut host, &delta(2, has.digest, &[3], &[1]));
        assert!(!next.resync);
        assert_eq!(users(&host), ids(&[2, 3]));
    }

    /// Hands the engine's empty counters over.
    fn read(host: &mut Host, asked: &[Effect]) {
        let ticket = asked.iter().find_map(|effect| match effect {
            Effect::ReadCounters(ticket) => Some(*ticket),
            _ => None,
        });
        host.step(Event::Sampled {
            ticket: ticket.expect("a read"),
            samples: vec![Sample {
                kind: EngineKind::WireGuard,
                before: Incarnation([1; 16]),
                after: Incarnation([1; 16]),
                readings: Vec::new(),
                is_last: false,
            }],
        });
    }

    fn told(host: &mut Host, update: &Update) -> Vec<Effect> {
        let pieces: Vec<_> = pieces(update).collect();
        pieces
            .into_iter()
            .flat_map(|piece| host.hear(Down::ConfigUpdate(piece)))
            .collect()
    }

    fn change(effects: Vec<Effect>) -> Change {
        let mut changes = effects.into_iter().filter_map(|effect| match effect {
            Effect::Apply(change) => Some(change),
            _ => None,
        });
        changes.next().expect("a change")
    }

    #[test]
    fn a_changed_speed_reaches_the_engine_with_its_users_peers_alone() {
        let with_speed = |n: u8, bps: u64| DesiredUser {
            speed: SpeedLimit {
                up: Speed::UNLIMITED,
                down: Speed::nearest(bps),
            },
            peers: vec![DesiredPeer {
                id: PeerId::from_bytes([n; 16]),
                inbound: InboundId::from_bytes([7; 16]),
                access: PeerAccess::WireGuard {
                    public_key: [n; 32],
                    preshared_key: None,
                    ipv4: None,
                    ipv6: None,
                },
            }],
            ..user(n)
        };
        let mut host = Host::connected();
        let asked = host.step(Event::EngineUp {
            kind: EngineKind::WireGuard,
            incarnation: Incarnation([1; 16]),
            peers: Vec::new(),
        });
        read(&mut host, &asked);
        let data = encode_state(&DesiredState {
            users: vec![with_speed(1, 0), with_speed(2, 0)],
            ..DesiredState::default()
        });
        let digest = state_digest(&data).unwrap();
        let whole = Update {
            revision: Revision(1),
            kind: UpdateKind::Whole(digest),
            removals: None,
            data,
        };
        let first = change(told(&mut host, &whole));
        assert_eq!(first.upsert.len(), 2);
        host.step(Event::Applied {
            ticket: first.ticket,
            errors: Vec::new(),
        });
        let data = encode_delta(&DesiredDelta {
            users: vec![with_speed(2, 5_000_000)],
            removed: Vec::new(),
        });
        let delta = Update {
            revision: Revision(2),
            kind: UpdateKind::Delta(digest),
            removals: None,
            data,
        };
        let changed = change(told(&mut host, &delta));
        assert_eq!(changed.upsert.len(), 1);
        assert_eq!(changed.upsert[0].user, user(2).id);
        assert_eq!(changed.upsert[0].speed.down.bps(), 5_000_000);
        assert!(changed.remove.is_empty());
    }
}
