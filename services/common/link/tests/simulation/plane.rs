//! The control plane: a database that survives, and a collector that does not need to. Drives
//! the real session machine and the real ingest decision; its network is here too, because a
//! stream is a pair of queues that may break at either end.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use vpnpanel_domain::{MicroBytes, NodeId, PeriodId, UserId};
use vpnpanel_link::agent::Durable;
use vpnpanel_link::collector::ingest::{self, Submission};
use vpnpanel_link::collector::open::{self, StreamFacts};
use vpnpanel_link::collector::session::{Effect, Event, Limits, Session};
use vpnpanel_link::collector::{DesiredRead, LeaseFacts, Policy, Witnesses, lease};
use vpnpanel_link::{
    AppliedState, CounterMark, DesiredDelta, Digest, Down, Generation, Grant, Hello, Pace,
    RemovalBound, Revision, StateEpoch, Totals, Up, wire,
};

use crate::commands::Commands;
use crate::database::Database;
use crate::mutation::Mutation;
use crate::random::Random;

pub(crate) struct Plane {
    pub(crate) database: Database,
    pub(crate) streams: BTreeMap<u64, Stream>,
    pub(crate) policy: Policy,
    pub(crate) commands: Commands,
    pub(crate) mutation: Option<Mutation>,
    /// Of 1,000 transactions, how many fail.
    pub(crate) failures: u64,
    /// Somebody has confirmed that users go.
    pub(crate) confirmed: bool,
    /// Nobody rolls periods over before then.
    pub(crate) rolls_from_ms: i64,
    next_stream: u64,
    submissions: Vec<(u64, Submission)>,
    work: Vec<(u64, Effect)>,
    /// What nodes answered, on its way into the database.
    answers: Vec<(NodeId, Generation, AppliedState, bool)>,
    rung: u64,
    /// The stream of each node that was opened last, in whatever life of the database.
    newest: BTreeMap<NodeId, u64>,
    /// The database was away, and is back.
    failed_over: bool,
    /// Whether the barrier was up at the last look.
    was_held: bool,
    /// Users that nobody may take from a node: the database is older than what the node has.
    pub(crate) kept: BTreeMap<NodeId, BTreeSet<UserId>>,
    /// What nodes have at this moment.
    pub(crate) on_nodes: BTreeMap<NodeId, BTreeSet<UserId>>,
}

/// A stream, from both ends.
pub(crate) struct Stream {
    pub(crate) node: NodeId,
    /// Gone when the collector has ended it or crashed.
    pub(crate) session: Option<Session>,
    /// Whether the agent still listens.
    pub(crate) agent: bool,
    pub(crate) up: VecDeque<(i64, Up)>,
    pub(crate) down: VecDeque<(i64, Down)>,
}

impl Plane {
    pub(crate) fn new(mutation: Option<Mutation>) -> Self {
        let policy = Policy {
            ahead_min: 200_000,
            ahead_max: 8_000_000,
            step_min: 50_000,
            ..Policy::default()
        };
        Self {
            database: Database {
                grants_early: mutation == Some(Mutation::GrantsBeforeBarrier),
                ..Database::default()
            },
            streams: BTreeMap::new(),
            policy,
            commands: Commands::default(),
            mutation,
            failures: 0,
            confirmed: false,
            rolls_from_ms: 0,
            next_stream: 1,
            submissions: Vec::new(),
            work: Vec::new(),
            answers: Vec::new(),
            rung: 0,
            newest: BTreeMap::new(),
            failed_over: false,
            was_held: false,
            kept: BTreeMap::new(),
            on_nodes: BTreeMap::new(),
        }
    }

    /// An older backup takes the place of the database. Collectors may have been stopped for it, or
    /// not: the database may have failed over to a replica that lagged. Whoever lost the database for a
    /// moment opens its streams anew; whoever finds less of the change log than it has read ends them.
    pub(crate) fn restore(
        &mut self,
        backup: &Database,
        declared: bool,
        now_ms: i64,
        random: &mut Random,
    ) {
        let is_shorter = backup.revision < self.database.revision;
        if declared || is_shorter || random.chance(500) {
            self.crash();
        } else {
            self.failed_over = true;
        }
        let mut older = backup.clone();
        // The truth is never restored.
        older.ceilings.clone_from(&self.database.ceilings);
        older.window.clone_from(&self.database.window);
        self.database = older;
        self.commands.restored();
        self.was_held = true;
        if declared {
            let epoch = self.database.rows.standing.epoch;
            self.bump(epoch.restored(StateEpoch(0), now_ms));
        } else {
            self.database.window.unheard = self.database.rows.nodes.keys().copied().collect();
        }
    }

    fn bump(&mut self, epoch: StateEpoch) {
        if self.mutation == Some(Mutation::EpochNotBumped) {
            self.database.window.unheard.clear();
            return;
        }
        self.database.bump(epoch);
        // What is under way to nodes may still arrive; from their next Hello on nothing does.
        self.kept.clear();
    }

    pub(crate) fn accept(&mut self, node: NodeId, now_ms: i64) -> u64 {
        let id = self.next_stream;
        self.next_stream += 1;
        let pace = Pace {
            window: 4,
            ..Pace::default()
        };
        // some streams hand in all that waits, some little at a time
        let limits = Limits {
            rows: [1, 5, Limits::default().rows][id as usize % 3],
            compare_ms: [20_000, 120_000, 6 * 3_600_000][id as usize % 3],
            ..Limits::default()
        };
        self.streams.insert(
            id,
            Stream {
                node,
                session: Some(Session::new(node, pace, limits, now_ms)),
                agent: true,
                up: VecDeque::new(),
                down: VecDeque::new(),
            },
        );
        id
    }

    /// The collector's process dies: sessions and what waited for a transaction are gone.
    pub(crate) fn crash(&mut self) {
        self.submissions.clear();
        self.work.clear();
        self.answers.clear();
        for stream in self.streams.values_mut() {
            stream.session = None;
            stream.up.clear();
        }
        self.rung = 0;
    }

    pub(crate) fn feed(&mut self, id: u64, event: Event, now_ms: i64) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        let Some(session) = &mut stream.session else {
            return;
        };
        let node = stream.node;
        trace!("{now_ms} stream {id} <- {event:?}");
        for effect in session.step(event, now_ms) {
            trace!("{now_ms} stream {id} -> {effect:?}");
            match effect {
                Effect::Send(down) => stream.down.push_back((now_ms + 20, down)),
                Effect::Close(_) => {
                    stream.session = None;
                    stream.up.clear();
                    return;
                }
                Effect::Ingest(submission) => self.submissions.push((id, submission)),
                Effect::Applied { state, settled, .. } => {
                    let generation = session.generation();
                    self.answers.push((node, generation, state, settled));
                }
                Effect::Alive(_) | Effect::Renew(_) => {}
                other => self.work.push((id, other)),
            }
        }
    }

    /// One turn of the process: sessions' errands, a transaction, the doorbell.
    pub(crate) fn turn(&mut self, now_ms: i64, random: &mut Random) -> Result<(), String> {
        for (id, effect) in std::mem::take(&mut self.work) {
            match effect {
                Effect::Open(hello) => self.open(id, &hello, now_ms, random),
                Effect::LoadState { since } => self.load_state(id, since, now_ms, random),
                Effect::LoadCommands | Effect::Answered(_) => {
                    self.command(id, effect, now_ms, random);
                }
                Effect::Reported(epoch) => self.reported(id, epoch, now_ms, random),
                _ => {}
            }
        }
        if !self.submissions.is_empty() && !random.chance(300) {
            self.transact(now_ms, random)?;
        }
        if random.chance(500) {
            self.record_answers();
        }
        if now_ms >= self.rolls_from_ms && random.chance(300) {
            self.database.roll(now_ms, random, self.mutation);
        }
        if random.chance(100) {
            self.lease_ahead(now_ms, random);
        }
        if self.mutation == Some(Mutation::LeaseFreedByTime) {
            self.free_by_time(now_ms);
        }
        if self.rung < self.database.revision {
            self.rung = self.database.revision;
            self.ring(Event::Revision(Revision(self.rung)), now_ms);
        }
        if random.chance(200) {
            self.look_at_restore(now_ms, random);
        }
        let ids: Vec<_> = self.streams.keys().copied().collect();
        for id in ids {
            self.feed(id, Event::Tick, now_ms);
        }
        self.streams
            .retain(|_, stream| stream.session.is_some() || stream.agent);
        Ok(())
    }

    /// The collector looks for periods that begin soon.
    fn lease_ahead(&mut self, now_ms: i64, random: &mut Random) {
        let nodes: Vec<_> = self.database.multipliers.keys().copied().collect();
        for node in nodes {
            if self.newest(node).is_none() {
                continue;
            }
            let grants = self
                .database
                .open_leases(node, &self.policy, now_ms, random);
            self.send_grants(
                grants.into_iter().map(|grant| (node, grant)).collect(),
                now_ms,
            );
        }
    }

    /// The newest stream of a node, while it lives.
    fn newest(&self, node: NodeId) -> Option<u64> {
        let generation = self.database.rows.nodes.get(&node)?.generation;
        let lives = |stream: &Stream| {
            let session = stream.session.as_ref();
            stream.node == node && session.map(Session::generation) == Some(generation)
        };
        self.streams
            .iter()
            .find(|(_, stream)| lives(stream))
            .map(|(id, _)| *id)
    }

    fn ring(&mut self, event: Event, now_ms: i64) {
        let ids: Vec<_> = self.streams.keys().copied().collect();
        for id in ids {
            self.feed(id, event.clone(), now_ms);
        }
    }

    /// Ends streams that the database does not know (any more); when the barrier has come down, all
    /// nodes are told what they may have.
    fn look_at_restore(&mut self, now_ms: i64, random: &mut Random) {
        let streams = self.streams.iter();
        let live: Vec<_> = streams
            .filter_map(|(id, stream)| {
                let generation = stream.session.as_ref()?.generation();
                (generation > Generation(0)).then_some((*id, stream.node, generation))
            })
            .collect();
        for (id, node, generation) in live {
            let epoch = self.database.rows.standing.epoch;
            let facts = self.database.rows.nodes.get(&node);
            let awaited = facts.is_some_and(|facts| facts.must_report(epoch));
            if !self.is_newest(node, generation) {
                self.feed(id, Event::Superseded, now_ms);
            } else if awaited {
                self.feed(id, Event::Awaited, now_ms);
            }
        }
        if std::mem::take(&mut self.failed_over) {
            self.ring(Event::Drain { spread_ms: 5_000 }, now_ms);
        }
        let held = self.database.rows.standing.held;
        if std::mem::replace(&mut self.was_held, held) && !held {
            let ids: Vec<_> = self.streams.keys().copied().collect();
            for id in ids {
                self.tell_allowances(id, now_ms, random);
            }
        }
    }

    fn is_newest(&self, node: NodeId, generation: Generation) -> bool {
        let floor = self.database.rows.standing.epoch.floor();
        let facts = self.database.rows.nodes.get(&node);
        facts.is_some_and(|facts| facts.generation == generation) && generation.get() >= floor
    }

    /// What a node may have that it was not told.
    fn tell_allowances(&mut self, id: u64, now_ms: i64, random: &mut Random) {
        let Some(stream) = self.streams.get(&id) else {
            return;
        };
        let node = stream.node;
        let generation = stream.session.as_ref().map(Session::generation);
        if !generation.is_some_and(|generation| self.is_newest(node, generation)) {
            return;
        }
        let policy = self.policy;
        self.database.open_leases(node, &policy, now_ms, random);
        let grants = self.database.unanswered(node);
        if !grants.is_empty() {
            self.feed(id, Event::Grants(grants), now_ms);
        }
    }

    /// A node has reported: fenced by the stream's generation.
    fn reported(&mut self, id: u64, epoch: StateEpoch, now_ms: i64, random: &mut Random) {
        let Some(stream) = self.streams.get(&id) else {
            return;
        };
        let (node, session) = (stream.node, stream.session.as_ref());
        let Some(generation) = session.map(Session::generation) else {
            return;
        };
        if !self.is_newest(node, generation) {
            return self.feed(id, Event::Superseded, now_ms);
        }
        if random.chance(self.failures) {
            return self.feed(id, Event::IngestFailed, now_ms);
        }
        if epoch == self.database.rows.standing.epoch {
            self.database.report(node, generation);
            self.tell_allowances(id, now_ms, random);
        }
    }

    fn open(&mut self, id: u64, hello: &Hello, now_ms: i64, random: &mut Random) {
        let Some(node) = self.streams.get(&id).map(|stream| stream.node) else {
            return;
        };
        let rows = &self.database.rows;
        let cursors = hello
            .epochs
            .iter()
            .filter_map(|known| Some((known.epoch, *rows.cursors.get(&(node, known.epoch))?)))
            .collect();
        let marks = hello
            .unknown_baselines
            .iter()
            .filter_map(|counter| {
                let mark = rows.marks.get(&(node, *counter))?;
                let attribution = Some(mark.attribution);
                Some(CounterMark {
                    counter: *counter,
                    totals: mark.totals,
                    attribution,
                })
            })
            .collect();
        let mut awaited: Vec<_> = rows
            .marks
            .iter()
            .filter(|((of, _), mark)| *of == node && mark.awaited.is_some())
            .map(|((_, counter), mark)| CounterMark {
                counter: *counter,
                totals: mark.totals,
                attribution: Some(mark.attribution),
            })
            .collect();
        awaited.sort_by_key(|mark| mark.counter);
        let facts = StreamFacts {
            node: rows.nodes.get(&node).cloned().unwrap_or_default(),
            cursors,
            marks,
            awaited,
            unanswered: self.database.unanswered(node),
            standing: rows.standing,
            versions: self.database.versions(node),
            head: Some(Revision(self.database.revision)),
            witnesses: Witnesses {
                others: rows
                    .nodes
                    .iter()
                    .filter(|(other, facts)| **other != node && facts.spoke == rows.standing.epoch)
                    .map(|(_, facts)| facts.tenant)
                    .collect(),
                sole_tenant: false,
            },
            applied: self.database.applied.get(&node).copied(),
        };
        let pace = Pace {
            window: 4,
            ..Pace::default()
        };
        self.newest.insert(node, id);
        let opened = open::open(facts, hello, pace, now_ms).map(|mut opening| {
            self.database.rows.nodes.insert(node, opening.node.clone());
            if opening.restored.is_some() {
                trace!("{now_ms} restored: {:?}", opening.restored);
                self.bump(opening.welcome.state_epoch);
            } else if opening.node.suspicion.is_none() {
                self.database.window.unheard.remove(&node);
            }
            if opening.welcome.report {
                let has = self.on_nodes.get(&node).cloned().unwrap_or_default();
                self.database.settled.remove(&node);
                self.kept.entry(node).or_insert(has);
            }
            if opening.strand_leases {
                self.database.strand(node);
            }
            if self.mutation == Some(Mutation::BaselineFromZero) {
                for mark in &mut opening.welcome.marks {
                    mark.totals = Totals::default();
                }
            }
            Box::new(opening)
        });
        // Older streams of the node may learn late that they are.
        let older: Vec<_> = self
            .streams
            .iter()
            .filter(|(other, stream)| **other != id && stream.node == node)
            .map(|(other, _)| *other)
            .collect();
        for other in older {
            if random.chance(500) {
                self.feed(other, Event::Superseded, now_ms);
            }
        }
        self.feed(id, Event::Opened(opened), now_ms);
    }

    /// Somebody gives a command; the doorbell rings, unless nobody hears it.
    pub(crate) fn give_command(&mut self, node: NodeId, now_ms: i64, random: &mut Random) {
        self.commands.give(node, now_ms, random);
        self.ring(Event::CommandsMoved, now_ms);
    }

    /// A transaction about commands, fenced by the stream's generation.
    fn command(&mut self, id: u64, effect: Effect, now_ms: i64, random: &mut Random) {
        let Some(stream) = self.streams.get(&id) else {
            return;
        };
        let (node, session) = (stream.node, stream.session.as_ref());
        let generation = session.map(Session::generation);
        let Some((facts, generation)) = self.database.rows.nodes.get(&node).zip(generation) else {
            return;
        };
        if facts.generation != generation {
            return self.feed(id, Event::Superseded, now_ms);
        }
        if random.chance(self.failures) {
            return self.feed(id, Event::IngestFailed, now_ms);
        }
        match effect {
            Effect::Answered(result) => self.commands.answered(node, result),
            _ => {
                let taken = self.commands.take(node, facts, generation, now_ms);
                self.feed(id, Event::Commands(taken), now_ms);
            }
        }
    }

    fn record_answers(&mut self) {
        for (node, generation, state, settled) in std::mem::take(&mut self.answers) {
            if self.is_newest(node, generation) {
                self.database.applied.remove(&node);
                if settled {
                    self.database.applied.insert(node, state);
                    let epoch = self.database.rows.standing.epoch;
                    self.database.settled.insert(node, epoch);
                    self.kept.remove(&node);
                }
            }
        }
    }

    fn load_state(&mut self, id: u64, since: Option<Revision>, now_ms: i64, random: &mut Random) {
        let Some(node) = self.streams.get(&id).map(|stream| stream.node) else {
            return;
        };
        if random.chance(50) {
            return self.feed(id, Event::LoadFailed, now_ms);
        }
        let stream = self.streams.get(&id);
        let session = stream.and_then(|stream| stream.session.as_ref());
        let generation = session.map(Session::generation).unwrap_or_default();
        if !self.is_newest(node, generation) {
            return self.feed(id, Event::Superseded, now_ms);
        }
        let grants = self
            .database
            .open_leases(node, &self.policy, now_ms, random);
        let read = self.read_desired(node, since, random);
        // Nobody but a person can say whether it is meant.
        let epoch = self.database.rows.standing.epoch;
        let settled = self.database.settled.get(&node) == Some(&epoch);
        let bounded = !settled || id.is_multiple_of(2);
        let removals = (!self.confirmed && bounded).then_some(RemovalBound {
            users: 0,
            percent: if settled { 25 } else { 0 },
        });
        self.feed(id, Event::Desired { read, removals }, now_ms);
        if !grants.is_empty() {
            self.feed(id, Event::Grants(grants), now_ms);
        }
    }

    fn read_desired(
        &self,
        node: NodeId,
        since: Option<Revision>,
        random: &mut Random,
    ) -> DesiredRead {
        let revision = Revision(self.database.revision);
        // A transaction that began earlier and commits later lies behind what was read.
        let overtaken = self.mutation == Some(Mutation::LogOvertaken) && random.chance(100);
        let until = Revision(revision.get() - u64::from(overtaken));
        let delta = since.and_then(|since| {
            let delta = self.database.desired_since(node, since, until)?;
            Some((since, delta))
        });
        match delta {
            Some((since, delta)) => DesiredRead::Changes {
                since,
                revision,
                data: (delta != DesiredDelta::default()).then(|| wire::encode_delta(&delta)),
            },
            None => {
                let data = wire::encode_state(&self.database.desired(node));
                let digest = wire::state_digest(&data).unwrap_or(Digest([0; 32]));
                DesiredRead::Whole {
                    revision,
                    digest,
                    data,
                }
            }
        }
    }

    /// One transaction for all that waits.
    fn transact(&mut self, now_ms: i64, random: &mut Random) -> Result<(), String> {
        let mut waiting = std::mem::take(&mut self.submissions);
        if random.chance(self.failures) {
            for (id, _) in waiting {
                self.feed(id, Event::IngestFailed, now_ms);
            }
            return Ok(());
        }
        let true_generations: Vec<_> = waiting.iter().map(|(_, one)| one.generation).collect();
        self.mutate(&mut waiting);
        let (ids, submissions): (Vec<_>, Vec<_>) = waiting.into_iter().unzip();
        let mut loaded = self.database.load(&ingest::needs(&submissions));
        loaded.standing.held &= !self.database.grants_early;
        let before = loaded.leases.clone();
        let effects = ingest::decide(loaded, submissions, &self.policy, now_ms, random);
        let lost = self.mutation == Some(Mutation::AckBeforeCommit) && random.chance(100);
        if !lost {
            self.database.write(&effects, &before)?;
        }
        self.check_reserves(&effects, &before)?;
        for (reply, generation) in effects.replies.iter().zip(&true_generations) {
            let node = self.database.rows.nodes.get(&reply.node);
            if !reply.superseded && node.is_some_and(|node| node.generation != *generation) {
                return Err(format!("a superseded stream of {} has written", reply.node));
            }
            let newest = self.newest.get(&reply.node);
            if !reply.committed.is_empty() && newest.is_some_and(|newest| !ids.contains(newest)) {
                return Err(format!("a stream of {}'s past has written", reply.node));
            }
            for batch in &reply.committed {
                let cursor = self.database.rows.cursors.get(&(reply.node, batch.epoch));
                if cursor.is_none_or(|cursor| cursor.seq < batch.seq) {
                    return Err(format!("{batch:?} is acknowledged, not committed"));
                }
            }
        }
        for (id, reply) in ids.into_iter().zip(effects.replies) {
            self.feed(id, Event::Ingested(reply), now_ms);
        }
        for period in effects.starved {
            let grants = self.database.rebalance(period, &self.policy, now_ms);
            self.send_grants(grants, now_ms);
        }
        Ok(())
    }

    pub(crate) fn send_grants(&mut self, grants: Vec<(NodeId, Grant)>, now_ms: i64) {
        for (node, grant) in grants {
            if let Some(id) = self.newest(node) {
                self.feed(id, Event::Grants(vec![grant]), now_ms);
            }
        }
    }

    fn mutate(&self, waiting: &mut [(u64, Submission)]) {
        for (_, submission) in waiting {
            let node = submission.node;
            match self.mutation {
                Some(Mutation::UnversionedGiveBack) => {
                    for state in &mut submission.leases {
                        let current = self.database.rows.leases.get(&(node, state.period));
                        let same = current.filter(|lease| lease.lease == state.lease);
                        state.version = same.map_or(state.version, |lease| lease.version);
                    }
                }
                Some(Mutation::FenceSkipped) => {
                    if let Some(facts) = self.database.rows.nodes.get(&node) {
                        submission.generation = facts.generation;
                    }
                }
                Some(Mutation::MultiplierAtCommit) => {
                    let now = self
                        .database
                        .multipliers
                        .get(&node)
                        .copied()
                        .unwrap_or_default();
                    for batch in &mut submission.batches {
                        if let Ok(payload) = &mut batch.payload {
                            for row in &mut payload.rows {
                                row.attribution.multiplier = now;
                            }
                        }
                    }
                }
                _ => {}
            }
        }
    }

    fn free_by_time(&mut self, now_ms: i64) {
        let epoch = self.database.rows.standing.epoch;
        for ((_, period), lease) in &mut self.database.rows.leases {
            let silent = now_ms - lease.moved_at_ms > 20_000;
            if let (true, Some(facts)) = (silent, self.database.rows.periods.get_mut(period)) {
                lease::write_off(facts, lease, epoch);
            }
        }
    }

    /// The inequality holds wherever something was granted, and `reserved` is the true sum.
    fn check_reserves(
        &self,
        effects: &ingest::Effects,
        before: &HashMap<(NodeId, PeriodId), LeaseFacts>,
    ) -> Result<(), String> {
        for reply in &effects.replies {
            for grant in &reply.grants {
                let before = before.get(&(reply.node, grant.period));
                let had = before.map(|lease| lease.allowance).unwrap_or_default();
                if grant.allowance > had {
                    self.check_inequality(grant.period)?;
                }
            }
        }
        for credit in &effects.periods {
            self.check_sum(credit.period)?;
        }
        Ok(())
    }

    fn check_inequality(&self, period: PeriodId) -> Result<(), String> {
        let Some(facts) = self.database.rows.periods.get(&period) else {
            return Ok(());
        };
        match facts.limit.micro() {
            Some(limit) if facts.used + facts.reserved > limit => {
                Err(format!("{period}: granted beyond the limit: {facts:?}"))
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn check_sum(&self, period: PeriodId) -> Result<(), String> {
        let Some(facts) = self.database.rows.periods.get(&period) else {
            return Ok(());
        };
        let rows = &self.database.rows;
        let current = rows.leases.iter().filter(|((_, of), _)| *of == period);
        let stranded = self
            .database
            .stranded
            .iter()
            .filter(|(_, of, _)| *of == period);
        let sum: MicroBytes = current
            .map(|(_, lease)| lease.reserved())
            .chain(stranded.map(|(_, _, lease)| lease.reserved()))
            .sum();
        if sum == facts.reserved {
            Ok(())
        } else {
            Err(format!(
                "{period}: {} reserved by leases, {} on record",
                sum, facts.reserved
            ))
        }
    }

    /// No node may let through more of a lease than is on record for it.
    pub(crate) fn check_leases(&self, node: NodeId, disk: &Durable) -> Result<(), String> {
        // A database that is older than the node does not know.
        let facts = self.database.rows.nodes.get(&node);
        let epoch = self.database.rows.standing.epoch;
        let unheard = self.database.window.unheard.contains(&node);
        if unheard || facts.is_none_or(|facts| facts.must_report(epoch)) {
            return Ok(());
        }
        for held in disk.leases.values() {
            let current = self.database.rows.leases.get(&(node, held.period));
            let lost = self
                .database
                .stranded
                .iter()
                .find(|(_, _, lease)| lease.lease == held.lease);
            let known = current
                .filter(|lease| lease.lease == held.lease)
                .or(lost.map(|(_, _, lease)| lease));
            if known.is_some_and(|known| held.allowance > known.allowance) {
                return Err(format!("{node} holds {held:?}, on record is {known:?}"));
            }
        }
        Ok(())
    }
}
