//! Where a node's desired state stands on its stream: one update at a time. What the agent is known
//! to have is built upon by what has changed since; whatever is not known is compared as a whole.
//! Nothing of the state itself is held here.

use bytes::Bytes;
use vpnpanel_domain::NodeId;

use super::session::Effect;
use crate::wire::{Update, pieces};
use crate::{
    AppliedState, ConfigAck, ConfigError, Digest, Down, RemovalBound, Revision, UpdateKind,
};

/// How long an update that was held waits before it is tried again: by then it may be confirmed.
const HELD_MS: i64 = 30_000;

/// What was read of a node's desired state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DesiredRead {
    /// All of it.
    Whole {
        /// Where it was read.
        revision: Revision,
        /// `wire::state_digest` of the data.
        digest: Digest,
        /// `wire::encode_state` of it.
        data: Bytes,
    },
    /// What has changed since the revision asked for.
    Changes {
        /// The revision asked for.
        since: Revision,
        /// Where it was read.
        revision: Revision,
        /// `wire::encode_delta` of it; `None` where nothing of it concerns the node.
        data: Option<Bytes>,
    },
}

#[derive(Debug, Clone, Default)]
pub(super) struct Config {
    /// What the agent has in force or has refused, as it says: the same is not sent again.
    answered: Option<AppliedState>,
    /// That is what was desired at its revision: what has changed since can build on it.
    known: bool,
    /// Up to where the change log has been read.
    read: Revision,
    /// The state may differ from what was read last.
    stale: bool,
    loading: bool,
    /// A read failed: it is tried again with the next tick.
    failed: bool,
    sent: Option<(Sent, i64)>,
    /// The agent holds what it was sent: nothing is sent before this time.
    held_until_ms: Option<i64>,
    /// The agent has asked for all of it while something else was under way.
    wanted: bool,
    /// When the whole state was last compared, or the stream opened.
    compared_at_ms: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sent {
    Whole(AppliedState),
    Delta(Revision),
}

impl Config {
    /// The agent says what it has.
    pub(super) fn greeted(&mut self, applied: Option<AppliedState>) {
        self.answered = applied;
    }

    /// The stream is open; `on_record` is what the node last answered, under whatever revision its
    /// content was last found right. Whatever the change log says, a new stream looks once. Whole
    /// states are compared every `compare_ms`, of all nodes at different times.
    pub(super) fn opened(
        &mut self,
        node: NodeId,
        on_record: Option<AppliedState>,
        compare_ms: i64,
        now_ms: i64,
    ) {
        if let (Some(answered), Some(on_record)) = (&mut self.answered, on_record) {
            self.known = answered.digest == on_record.digest;
            if self.known {
                answered.revision = on_record.revision;
            }
        }
        let [.., a, b, c, d] = node.into_bytes();
        let phase = i64::from(u32::from_be_bytes([a, b, c, d])) % compare_ms.max(1);
        self.compared_at_ms = now_ms.saturating_sub(phase);
        self.stale = true;
    }

    /// The change log has reached this revision, with something that concerns the node.
    pub(super) fn moved(&mut self, revision: Revision) {
        self.stale |= revision > self.read;
    }

    /// Asks for what may have changed, when nothing is under way.
    pub(super) fn refresh(&mut self, now_ms: i64) -> Option<Effect> {
        let held = self.held_until_ms.is_some_and(|until| now_ms < until);
        if !self.stale || self.loading || self.failed || held || self.sent.is_some() {
            return None;
        }
        self.held_until_ms = None;
        self.stale = false;
        self.loading = true;
        let known = self.answered.filter(|_| self.known);
        Some(Effect::LoadState {
            since: known.map(|state| state.revision),
        })
    }

    pub(super) fn load_failed(&mut self) {
        self.loading = false;
        self.failed = true;
    }

    /// Takes what was read.
    pub(super) fn take(
        &mut self,
        read: DesiredRead,
        removals: Option<RemovalBound>,
        now_ms: i64,
        effects: &mut Vec<Effect>,
    ) {
        self.loading = false;
        match read {
            DesiredRead::Whole {
                revision,
                digest,
                data,
            } => {
                self.read = self.read.max(revision);
                self.compared_at_ms = now_ms;
                let state = AppliedState { revision, digest };
                if self.answered.is_some_and(|has| has.digest == digest) {
                    return self.stands(state, effects);
                }
                self.sent = Some((Sent::Whole(state), now_ms));
                send(revision, UpdateKind::Whole(digest), removals, data, effects);
            }
            DesiredRead::Changes {
                since,
                revision,
                data,
            } => {
                let base = self
                    .answered
                    .filter(|has| self.known && has.revision == since);
                let Some(base) = base else {
                    // What it builds on is not what the agent has any more.
                    self.stale = true;
                    return;
                };
                self.read = self.read.max(revision);
                let Some(data) = data else {
                    let digest = base.digest;
                    return self.stands(AppliedState { revision, digest }, effects);
                };
                self.sent = Some((Sent::Delta(revision), now_ms));
                let kind = UpdateKind::Delta(base.digest);
                send(revision, kind, removals, data, effects);
            }
        }
    }

    /// Changes did not concern this node: what it refused, it still does.
    fn stands(&mut self, state: AppliedState, effects: &mut Vec<Effect>) {
        self.answered = Some(state);
        self.known = true;
        effects.push(Effect::Applied {
            state,
            settled: true,
            errors: None,
        });
    }

    pub(super) fn answered(&mut self, ack: ConfigAck, now_ms: i64, effects: &mut Vec<Effect>) {
        let mut state = ack.state;
        let of_this_stream = self.sent.filter(|_| !ack.earlier);
        let is_of_sent = of_this_stream.is_some_and(|(sent, _)| match sent {
            Sent::Whole(sent) if ack.held_removals > 0 => sent.revision == state.revision,
            Sent::Whole(sent) => sent == state,
            Sent::Delta(revision) => revision == state.revision,
        });
        if is_of_sent {
            self.sent = None;
        }
        if ack.resync {
            self.answered = None;
            self.known = false;
            self.stale |= self.sent.is_none();
            // What is under way is answered first, and then all of it goes.
            self.wanted = self.sent.is_some();
            return;
        }
        if ack.held_removals > 0 {
            return self.held(ack, now_ms, effects);
        }
        match self.answered {
            // It says again what it has, under the revision where it came about: that may be one of
            // an earlier life of the database.
            Some(has) if !is_of_sent && has.digest == state.digest => {
                state.revision = has.revision;
            }
            // An agent that was killed on its way to an older state goes on to it after its Hello.
            _ if !is_of_sent => {
                self.known = false;
                self.stale |= self.sent.is_none();
            }
            _ => self.known = true,
        }
        self.answered = Some(state);
        if is_of_sent && std::mem::take(&mut self.wanted) {
            self.answered = None;
            self.known = false;
            self.stale = true;
        }
        effects.push(Effect::Applied {
            state,
            settled: self.known,
            errors: Some(ack.errors),
        });
    }

    /// The agent stays with what it has. It is told again after a while, all of it: what was held may
    /// have been the change of another user too.
    fn held(&mut self, ack: ConfigAck, now_ms: i64, effects: &mut Vec<Effect>) {
        self.known = false;
        self.stale = true;
        self.held_until_ms = Some(now_ms.saturating_add(HELD_MS));
        let Some(has) = self.answered else { return };
        let message = format!(
            "the change would take away {} of this node's users: if that is meant, confirm it \
             (ConfirmNodeRemovals); nothing has changed so far",
            ack.held_removals
        );
        effects.push(Effect::Applied {
            state: has,
            settled: false,
            errors: Some(vec![ConfigError {
                kind: "state".to_owned(),
                id: String::new(),
                message,
            }]),
        });
    }

    /// Nothing is awaited, read or tried again.
    pub(super) fn is_settled(&self) -> bool {
        let waits = self.stale || self.loading || self.failed || self.held_until_ms.is_some();
        self.sent.is_none() && !waits
    }

    /// What is due by the clock; `true` when the agent has not answered an update in time.
    pub(super) fn tick(&mut self, config_ms: i64, compare_ms: i64, now_ms: i64) -> bool {
        self.stale |= std::mem::take(&mut self.failed);
        if self.known && now_ms.saturating_sub(self.compared_at_ms) >= compare_ms {
            self.known = false;
            self.stale = true;
        }
        self.sent
            .is_some_and(|(_, at)| now_ms.saturating_sub(at) >= config_ms)
    }
}

fn send(
    revision: Revision,
    kind: UpdateKind,
    removals: Option<RemovalBound>,
    data: Bytes,
    effects: &mut Vec<Effect>,
) {
    let update = Update {
        revision,
        kind,
        removals,
        data,
    };
    effects.extend(pieces(&update).map(|piece| Effect::Send(Down::ConfigUpdate(piece))));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(revision: u64, content: u8) -> AppliedState {
        AppliedState {
            revision: Revision(revision),
            digest: Digest([content; 32]),
        }
    }

    fn whole(revision: u64, content: u8) -> DesiredRead {
        DesiredRead::Whole {
            revision: Revision(revision),
            digest: Digest([content; 32]),
            data: Bytes::from_static(b"all"),
        }
    }

    fn changes(since: u64, revision: u64, data: Option<&'static [u8]>) -> DesiredRead {
        DesiredRead::Changes {
            since: Revision(since),
            revision: Revision(revision),
            data: data.map(Bytes::from_static),
        }
    }

    fn ack(state: AppliedState) -> ConfigAck {
        ConfigAck::of(state)
    }

    /// On a stream of an agent that has `state(5, 1)`, as is on record.
    fn known() -> Config {
        let mut config = Config::default();
        config.greeted(Some(state(5, 1)));
        config.opened(NodeId::from_bytes([0; 16]), Some(state(7, 1)), 1_000, 0);
        config
    }

    fn asked(config: &mut Config) -> Option<Option<Revision>> {
        config.refresh(0).map(|effect| match effect {
            Effect::LoadState { since } => since,
            other => panic!("{other:?}"),
        })
    }

    fn taken(config: &mut Config, read: DesiredRead) -> Vec<Effect> {
        let mut effects = Vec::new();
        config.take(read, None, 0, &mut effects);
        effects
    }

    fn kind(effects: &[Effect]) -> Option<UpdateKind> {
        match effects {
            [Effect::Send(Down::ConfigUpdate(piece))] => Some(piece.kind),
            _ => None,
        }
    }

    #[test]
    fn what_is_on_record_is_built_upon_and_what_is_not_is_compared_whole() {
        assert_eq!(asked(&mut known()), Some(Some(Revision(7))));
        let mut config = Config::default();
        config.greeted(Some(state(5, 1)));
        config.opened(NodeId::from_bytes([0; 16]), Some(state(5, 2)), 1_000, 0);
        assert_eq!(asked(&mut config), Some(None));
        let sent = taken(&mut config, whole(9, 3));
        assert_eq!(kind(&sent), Some(UpdateKind::Whole(Digest([3; 32]))));
        config.answered(ack(state(9, 3)), 0, &mut Vec::new());
        config.moved(Revision(12));
        assert_eq!(asked(&mut config), Some(Some(Revision(9))));
    }

    #[test]
    fn changes_follow_each_other_and_those_that_concern_others_move_the_revision_alone() {
        let mut config = known();
        asked(&mut config);
        let nothing = taken(&mut config, changes(7, 10, None));
        let [
            Effect::Applied {
                state: stands,
                settled: true,
                errors: None,
            },
        ] = nothing.as_slice()
        else {
            panic!("{nothing:?}");
        };
        assert_eq!(*stands, state(10, 1));
        config.moved(Revision(11));
        assert_eq!(asked(&mut config), Some(Some(Revision(10))));
        let sent = taken(&mut config, changes(10, 11, Some(b"one")));
        assert_eq!(kind(&sent), Some(UpdateKind::Delta(Digest([1; 32]))));
        config.moved(Revision(12));
        assert_eq!(asked(&mut config), None, "one at a time");
        config.answered(ack(state(11, 4)), 0, &mut Vec::new());
        assert_eq!(asked(&mut config), Some(Some(Revision(11))));
    }

    #[test]
    fn an_agent_that_cannot_build_on_what_it_has_gets_all_of_it() {
        let mut config = known();
        asked(&mut config);
        taken(&mut config, changes(7, 11, Some(b"one")));
        let refused = ConfigAck {
            resync: true,
            ..ack(state(11, 0))
        };
        config.answered(refused, 0, &mut Vec::new());
        assert_eq!(asked(&mut config), Some(None));
        let sent = taken(&mut config, whole(11, 1));
        assert!(kind(&sent).is_some(), "also where it is what was on record");
    }

    #[test]
    fn a_state_that_nobody_sent_is_compared_whole_and_the_same_again_is_not() {
        let mut config = known();
        asked(&mut config);
        taken(&mut config, changes(7, 7, None));
        config.answered(ack(state(5, 1)), 0, &mut Vec::new());
        assert_eq!(asked(&mut config), None);
        config.answered(ack(state(6, 2)), 0, &mut Vec::new());
        assert_eq!(asked(&mut config), Some(None));
    }

    /// Its revision may be that of what was sent: another life of the database counted so far too.
    #[test]
    fn a_state_of_an_earlier_stream_answers_nothing_that_was_sent_on_this_one() {
        let mut config = known();
        asked(&mut config);
        taken(&mut config, changes(7, 11, Some(b"one")));
        let earlier = ConfigAck {
            earlier: true,
            ..ack(state(11, 4))
        };
        let mut effects = Vec::new();
        config.answered(earlier, 0, &mut effects);
        let [Effect::Applied { settled: false, .. }] = effects.as_slice() else {
            panic!("{effects:?}");
        };
        assert_eq!(asked(&mut config), None, "what was sent is awaited");
        config.answered(ack(state(11, 5)), 0, &mut Vec::new());
        config.moved(Revision(12));
        assert_eq!(asked(&mut config), Some(Some(Revision(11))));
    }

    #[test]
    fn the_whole_is_compared_now_and_then() {
        let mut config = known();
        asked(&mut config);
        taken(&mut config, changes(7, 7, None));
        assert!(!config.tick(10, 1_000, 999));
        assert_eq!(asked(&mut config), None);
        config.tick(10, 1_000, 1_000);
        assert_eq!(asked(&mut config), Some(None));
    }

    #[test]
    fn what_was_refused_stays_refused_when_other_things_change() {
        let mut config = Config::default();
        taken(&mut config, whole(1, 1));
        let error = ConfigError {
            kind: "inbound".to_owned(),
            id: "one".to_owned(),
            message: "port 51820 is in use".to_owned(),
        };
        let refused = ConfigAck {
            errors: vec![error],
            ..ack(state(1, 1))
        };
        config.answered(refused, 0, &mut Vec::new());
        let effects = taken(&mut config, whole(2, 1));
        let [
            Effect::Applied {
                state: stands,
                settled: true,
                errors,
            },
        ] = effects.as_slice()
        else {
            panic!("{effects:?}");
        };
        assert_eq!(
            (*stands, errors),
            (state(2, 1), &None),
            "what was said before"
        );
    }

    #[test]
    fn what_is_held_is_on_record_and_told_again_whole_after_a_while() {
        let mut config = known();
        asked(&mut config);
        taken(&mut config, changes(7, 9, Some(b"many go")));
        let held = ConfigAck {
            held_removals: 40,
            ..ack(state(9, 1))
        };
        let mut effects = Vec::new();
        config.answered(held, 0, &mut effects);
        let [
            Effect::Applied {
                state: has,
                settled: false,
                errors: Some(errors),
            },
        ] = effects.as_slice()
        else {
            panic!("{effects:?}");
        };
        assert_eq!(has.digest, Digest([1; 32]));
        assert!(errors[0].message.contains("40"), "{errors:?}");
        config.moved(Revision(10));
        assert!(config.refresh(HELD_MS - 1).is_none());
        let Some(Effect::LoadState { since: None }) = config.refresh(HELD_MS) else {
            panic!("all of it");
        };
    }

    #[test]
    fn all_of_it_that_is_asked_for_meanwhile_follows_what_is_under_way() {
        let mut config = known();
        assert_eq!(asked(&mut config), Some(Some(Revision(7))));
        let mut effects = Vec::new();
        config.take(changes(7, 9, Some(b"delta")), None, 0, &mut effects);
        let asks = ConfigAck {
            resync: true,
            ..ack(state(7, 1))
        };
        config.answered(asks, 0, &mut effects);
        assert_eq!(asked(&mut config), None, "one at a time");
        config.answered(ack(state(9, 2)), 0, &mut effects);
        assert_eq!(asked(&mut config), Some(None), "all of it");
    }
}
