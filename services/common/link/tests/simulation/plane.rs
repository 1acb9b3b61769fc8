//! The control plane: a database that survives, and a collector that does not need to. Drives
//! the real session machine and the real ingest decision; its network is here too, because a
//! stream is a pair of queues that may break at either end.

mod desired;
mod opening;
mod transaction;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use vpnpanel_domain::{MicroBytes, NodeId, PeriodId, UserId};
use vpnpanel_link::agent::Durable;
use vpnpanel_link::collector::ingest::Submission;
use vpnpanel_link::collector::session::{Effect, Event, Limits, Session};
use vpnpanel_link::collector::{LeaseFacts, Policy};
use vpnpanel_link::{AppliedState, Down, Generation, Grant, Pace, Revision, Up};

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
    /// By how much its clock is wrong.
    pub(crate) skew_ms: i64,
    /// Its database was an older one at some time.
    pub(crate) was_restored: bool,
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
    /// A replica has come as far as the opening of this node's newest stream.
    pub(crate) lags_behind: Option<NodeId>,
    replica: Option<Database>,
    /// What it has concluded and could not.
    pub(crate) wrong: Option<String>,
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
            skew_ms: 0,
            was_restored: false,
            rolls_from_ms: 0,
            next_stream: 1,
            submissions: Vec::new(),
            work: Vec::new(),
            answers: Vec::new(),
            rung: 0,
            newest: BTreeMap::new(),
            failed_over: false,
            lags_behind: None,
            replica: None,
            wrong: None,
            was_held: false,
            kept: BTreeMap::new(),
            on_nodes: BTreeMap::new(),
        }
    }

    /// What a node had is gone with its disk, at once: a stream may open before the next look.
    pub(crate) fn forget_disk(&mut self, node: NodeId) {
        self.kept.remove(&node);
        self.on_nodes.remove(&node);
    }

    /// What its clock says.
    pub(crate) fn clock(&self, now_ms: i64) -> i64 {
        now_ms + self.skew_ms
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
        let clock_ms = self.clock(now_ms);
        self.streams.insert(
            id,
            Stream {
                node,
                session: Some(Session::new(node, pace, limits, clock_ms)),
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
        let clock_ms = self.clock(now_ms);
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        let Some(session) = &mut stream.session else {
            return;
        };
        let node = stream.node;
        trace!("{now_ms} stream {id} <- {event:?}");
        for effect in session.step(event, clock_ms) {
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
                Effect::Reported { epoch, leases } => {
                    self.reported(id, epoch, leases, now_ms, random);
                }
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
            let clock_ms = self.clock(now_ms);
            self.database.roll(clock_ms, random, self.mutation);
        }
        if random.chance(100) {
            self.lease_ahead(now_ms, random);
        }
        let clock_ms = self.clock(now_ms);
        self.commands.expire(clock_ms);
        if self.mutation == Some(Mutation::LeaseFreedByTime) {
            self.free_by_time(self.clock(now_ms));
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
    pub(crate) fn lease_ahead(&mut self, now_ms: i64, random: &mut Random) {
        let nodes: Vec<_> = self.database.multipliers.keys().copied().collect();
        for node in nodes {
            if self.newest(node).is_none() {
                continue;
            }
            let clock_ms = self.clock(now_ms);
            let grants = self
                .database
                .open_leases(node, &self.policy, clock_ms, random);
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

    fn is_newest(&self, node: NodeId, generation: Generation) -> bool {
        let floor = self.database.rows.standing.epoch.floor();
        let facts = self.database.rows.nodes.get(&node);
        facts.is_some_and(|facts| facts.generation == generation) && generation.get() >= floor
    }

    /// Somebody gives a command; the doorbell rings, unless nobody hears it.
    pub(crate) fn give_command(&mut self, node: NodeId, now_ms: i64, random: &mut Random) {
        let clock_ms = self.clock(now_ms);
        self.commands.give(node, clock_ms, random);
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
                let clock_ms = now_ms + self.skew_ms;
                let taken = self.commands.take(node, facts, generation, clock_ms);
                self.feed(id, Event::Commands(taken), now_ms);
            }
        }
    }

    pub(crate) fn send_grants(&mut self, grants: Vec<(NodeId, Grant)>, now_ms: i64) {
        for (node, grant) in grants {
            if let Some(id) = self.newest(node) {
                self.feed(id, Event::Grants(vec![grant]), now_ms);
            }
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
            // What was written off is not the node's any more, and it has not been told; what it had
            // consumed by then it cannot give back.
            let untold = |known: &&LeaseFacts| {
                let given_up = self.database.given_up.get(&held.lease);
                given_up
                    .is_some_and(|version| known.answered < *version || held.remaining().is_zero())
            };
            let known = known.filter(|known| !untold(known));
            if known.is_some_and(|known| held.allowance > known.allowance) {
                return Err(format!("{node} holds {held:?}, on record is {known:?}"));
            }
        }
        Ok(())
    }
}
