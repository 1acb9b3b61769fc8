//! An edge host: engine, disk and the agent's process, which is the real machine. Carries out
//! its effects one after the other, as a driver must, and may be killed between any two.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use vpnpanel_domain::{CommandId, NodeId, PeerId};
use vpnpanel_link::agent::{
    Agent, Alarm, Change, Durable, Effect, EpochNumber, Event, Now, Reading, Sample, Settings,
    Ticket, Transaction, Upsert, Write,
};
use vpnpanel_link::{
    Batch, CounterKey, DesiredUser, EngineKind, Incarnation, Payload, Seq, SpoolId, Totals, Up,
    wire,
};

use crate::coverage::{saw, saw_if};
use crate::engine::Engines;
use crate::mutation::Mutation;
use crate::random::Random;
use crate::truth::Truth;

pub(crate) struct Host {
    pub(crate) node: NodeId,
    pub(crate) engines: Engines,
    pub(crate) disk: Option<Disk>,
    pub(crate) agent: Option<Agent>,
    pub(crate) host_boot: [u8; 16],
    pub(crate) booted_ms: i64,
    /// By how much its wall clock is wrong.
    pub(crate) wall_skew_ms: i64,
    /// The server's time as it was told last, and when.
    pub(crate) told: Option<(i64, i64)>,
    /// Answers of engine and network to the agent, by when they come.
    pub(crate) answers: VecDeque<(i64, Answer)>,
    pub(crate) read: Option<Read>,
    /// The open stream, as the agent sees it.
    pub(crate) stream: Option<u64>,
    pub(crate) alarms: Vec<Alarm>,
    /// The control plane cannot be reached before.
    pub(crate) away_until_ms: i64,
    /// Forks that its disk descends from.
    pub(crate) lineage: BTreeSet<usize>,
    /// For `Mutation::TimeByWallClock`.
    by_wall: bool,
    /// For `Mutation::NoFinalRead`: the samples before.
    stale: Vec<Sample>,
    /// For `Mutation::ReencodedResend`: what was sent once.
    sent: Vec<(EpochNumber, Seq)>,
    /// For `Mutation::EpochKeptAcrossStart`.
    first_draw: Option<Random>,
    /// For `Mutation::ResetOnRead`: what the driver added up, in memory.
    added_up: BTreeMap<PeerId, Totals>,
}

#[derive(Clone)]
pub(crate) struct Disk {
    pub(crate) durable: Durable,
    pub(crate) payloads: BTreeMap<(EpochNumber, Seq), Bytes>,
}

pub(crate) enum Answer {
    Inspected(EngineKind),
    Applied(Ticket),
    Connected,
    Refused,
    Disconnected,
    Done(CommandId),
}

/// A read of the counters under way, in its three parts.
pub(crate) struct Read {
    pub(crate) ticket: Ticket,
    pub(crate) due_ms: i64,
    pub(crate) before: Option<Vec<(EngineKind, Incarnation)>>,
    pub(crate) samples: Option<Vec<Sample>>,
    pub(crate) is_final: bool,
}

/// What the world has to do for a host.
pub(crate) enum Errand {
    Dial,
    HangUp,
    Send(Up),
    /// Does what a command asks for.
    Run(CommandId),
}

/// How a run treats hosts.
pub(crate) struct Rules {
    pub(crate) mutation: Option<Mutation>,
    /// Of 1,000 effects, how many are followed by a kill.
    pub(crate) kills: u64,
    /// Batches are forgotten as soon as they are acknowledged.
    pub(crate) forgets: bool,
}

impl Disk {
    pub(crate) fn new(random: &mut Random) -> Self {
        let durable = Durable::new(SpoolId(random.array()));
        Self {
            durable,
            payloads: BTreeMap::new(),
        }
    }

    /// Users of the desired state on it.
    pub(crate) fn target(&self) -> Result<Vec<DesiredUser>, String> {
        let users = self.durable.target_users.values();
        let users = users.map(|bytes| wire::KeptUser::read(bytes.clone()));
        users
            .map(|kept| Ok(kept.map_err(|e| e.to_string())?.user))
            .collect()
    }

    fn commit(&mut self, transaction: &Transaction) {
        self.durable.apply(transaction);
        for write in &transaction.writes {
            match write {
                Write::Batch {
                    epoch,
                    seq,
                    payload,
                    ..
                } => {
                    self.payloads.insert((*epoch, *seq), payload.clone());
                }
                Write::DropBatch(epoch, seq) => {
                    self.payloads.remove(&(*epoch, *seq));
                }
                _ => {}
            }
        }
    }
}

impl Host {
    pub(crate) fn new(
        node: NodeId,
        now_ms: i64,
        hides_removed: bool,
        mutation: Option<Mutation>,
        random: &mut Random,
    ) -> Self {
        Self {
            node,
            engines: Engines::new(random, hides_removed),
            disk: None,
            agent: None,
            host_boot: random.array(),
            booted_ms: now_ms - 1_000,
            wall_skew_ms: 0,
            told: None,
            answers: VecDeque::new(),
            read: None,
            stream: None,
            alarms: Vec::new(),
            away_until_ms: now_ms,
            lineage: BTreeSet::new(),
            by_wall: mutation == Some(Mutation::TimeByWallClock),
            stale: Vec::new(),
            sent: Vec::new(),
            first_draw: None,
            added_up: BTreeMap::new(),
        }
    }

    pub(crate) fn now(&self, now_ms: i64) -> Now {
        let wall_ms = now_ms + self.wall_skew_ms;
        let runs_ms = if self.by_wall { wall_ms } else { now_ms };
        Now {
            boottime_ms: runs_ms - self.booted_ms,
            wall_ms,
        }
    }

    /// The server's time, as far as it is known here.
    pub(crate) fn told_ms(&self, now_ms: i64) -> i64 {
        let told = self
            .told
            .map(|(server_ms, at_ms)| server_ms + now_ms - at_ms);
        told.unwrap_or(now_ms + self.wall_skew_ms)
    }

    /// Kills the agent's process: what was in memory is gone.
    pub(crate) fn kill(&mut self) {
        self.agent = None;
        self.answers.clear();
        self.read = None;
        self.stream = None;
        self.added_up.clear();
        self.stale.clear();
    }

    pub(crate) fn start(
        &mut self,
        now_ms: i64,
        rules: &Rules,
        truth: &mut Truth,
        random: &mut Random,
    ) -> Result<Vec<Errand>, String> {
        let now = self.now(now_ms);
        let disk = self.disk.get_or_insert_with(|| Disk::new(random));
        let settings = Settings {
            host_boot: self.host_boot,
            line_rate: if rules.mutation == Some(Mutation::EngineDeathRefunds) {
                0
            } else {
                10_000_000
            },
            retention_ms: if rules.forgets { 0 } else { 48 * 3_600_000 },
            ..Settings::default()
        };
        let durable = disk.durable.clone();
        let (agent, effects) = if rules.mutation == Some(Mutation::EpochKeptAcrossStart) {
            let mut same = self
                .first_draw
                .get_or_insert_with(|| random.clone())
                .clone();
            Agent::start(durable, settings, now, &mut same)
        } else {
            Agent::start(durable, settings, now, random)
        };
        self.agent = Some(agent);
        self.carry_out(effects, now_ms, rules, truth, random)
    }

    pub(crate) fn feed(
        &mut self,
        event: Event,
        now_ms: i64,
        rules: &Rules,
        truth: &mut Truth,
        random: &mut Random,
    ) -> Result<Vec<Errand>, String> {
        let now = self.now(now_ms);
        let Some(agent) = &mut self.agent else {
            return Ok(Vec::new());
        };
        trace!("{now_ms} {} <- {event:?}", self.node);
        let effects = agent.step(event, now, random);
        self.carry_out(effects, now_ms, rules, truth, random)
    }

    fn carry_out(
        &mut self,
        effects: Vec<Effect>,
        now_ms: i64,
        rules: &Rules,
        truth: &mut Truth,
        random: &mut Random,
    ) -> Result<Vec<Errand>, String> {
        let mut errands = Vec::new();
        let mut blocked = false;
        for effect in effects {
            if random.chance(rules.kills) {
                saw("fault: agent killed between two effects");
                self.kill_within(&effect, rules, truth, random);
                errands.push(Errand::HangUp);
                return Ok(errands);
            }
            let soon = now_ms + random.below(300) as i64;
            trace!("{now_ms} {} -> {effect:?}", self.node);
            match effect {
                Effect::Commit(mut transaction) => {
                    if rules.mutation == Some(Mutation::CommandNotDurable) {
                        let begins = |write: &Write| matches!(write, Write::Command(_, record) if record.answer.is_none());
                        transaction.writes.retain(|write| !begins(write));
                    }
                    if let Some(disk) = &mut self.disk {
                        truth.observe(self.node, &disk.durable, &self.engines, &transaction);
                        disk.commit(&transaction);
                    }
                }
                Effect::Connect => errands.push(Errand::Dial),
                Effect::Disconnect { .. } => {
                    errands.push(Errand::HangUp);
                    self.answers.push_back((soon, Answer::Disconnected));
                }
                Effect::Send(up) => errands.push(Errand::Send(up)),
                Effect::SendBatch { epoch, seq } => {
                    errands.push(Errand::Send(Up::Batch(self.stored(epoch, seq, rules)?)));
                }
                Effect::Inspect { kind, .. } => {
                    self.answers.push_back((soon, Answer::Inspected(kind)));
                }
                Effect::ReadCounters(ticket) => {
                    let due_ms = soon;
                    let is_final = std::mem::take(&mut blocked);
                    self.read = Some(Read {
                        ticket,
                        due_ms,
                        before: None,
                        samples: None,
                        is_final,
                    });
                }
                Effect::Block(kind, peers) => {
                    self.engines.of_mut(kind).block(peers);
                    blocked = true;
                }
                Effect::Gates(kind, mut gates) => {
                    let engine = self.engines.of_mut(kind);
                    if rules.mutation == Some(Mutation::OtherEngineForgotten) {
                        gates.retain(|(user, gate)| !engine.lowers(*user, *gate));
                    }
                    engine.set_gates(gates);
                }
                Effect::Apply(change) if self.is_gone(&change, now_ms) => {
                    self.answers
                        .push_back((soon, Answer::Inspected(change.kind)));
                }
                Effect::Apply(change) => {
                    self.check_change(&change)?;
                    self.engines.of_mut(change.kind).apply(&change);
                    if rules.mutation == Some(Mutation::BaselineDroppedWithUser)
                        && !change.remove.is_empty()
                    {
                        self.drop_books(&change);
                        self.kill();
                        errands.push(Errand::HangUp);
                        return Ok(errands);
                    }
                    self.answers
                        .push_back((soon, Answer::Applied(change.ticket)));
                }
                Effect::Alarm(alarm) => {
                    saw_if(
                        matches!(alarm, Alarm::RemovalsHeld { .. }),
                        "state: removals held for a person",
                    );
                    saw_if(
                        matches!(alarm, Alarm::BatchesLost { .. }),
                        "state: batches past retention declared lost",
                    );
                    self.alarms.push(alarm);
                }
                Effect::CommandAnswered(_) => {}
                Effect::Run { id, .. } => {
                    errands.push(Errand::Run(id));
                    self.answers.push_back((soon, Answer::Done(id)));
                }
            }
        }
        Ok(errands)
    }

    /// A stored batch, as it goes out.
    fn stored(&mut self, epoch: EpochNumber, seq: Seq, rules: &Rules) -> Result<Batch, String> {
        let missing = || format!("batch {seq} of epoch number {epoch} is to be sent, not on disk");
        let disk = self.disk.as_ref().ok_or_else(missing)?;
        let payload = disk
            .payloads
            .get(&(epoch, seq))
            .cloned()
            .ok_or_else(missing)?;
        let record = disk
            .durable
            .batches
            .get(&(epoch, seq))
            .ok_or_else(missing)?;
        let name = disk.durable.epochs.get(&epoch).ok_or_else(missing)?.epoch;
        let again = self.sent.contains(&(epoch, seq));
        self.sent.push((epoch, seq));
        let decoded = |bytes: &Bytes| -> Result<Payload, String> {
            wire::decode_payload(bytes).map_err(|error| error.to_string())
        };
        match rules.mutation {
            Some(Mutation::ReencodedResend) if again => {
                let mut changed = decoded(&payload)?;
                changed.written_at_ms += 1;
                Ok(wire::seal(name, seq, &changed))
            }
            Some(Mutation::MergeOfSentBatch) if again => {
                let mut grown = decoded(&payload)?;
                if let Some(next) = disk.payloads.get(&(epoch, seq.next())) {
                    grown.rows.extend(decoded(next)?.rows);
                }
                Ok(wire::seal(name, seq, &grown))
            }
            _ => Ok(Batch {
                epoch: name,
                seq,
                digest: record.digest,
                payload,
            }),
        }
    }

    /// The life that a change is for is over, or cannot be reached.
    fn is_gone(&self, change: &Change, now_ms: i64) -> bool {
        let engine = self.engines.of(change.kind);
        change.incarnation != engine.incarnation || now_ms < engine.down_until_ms
    }

    /// What the driver finds when it looks at an engine.
    pub(crate) fn inspect(&self, kind: EngineKind, now_ms: i64) -> Event {
        let engine = self.engines.of(kind);
        if now_ms < engine.down_until_ms {
            saw("state: an engine does not run");
            return Event::EngineDown { kind };
        }
        Event::EngineUp {
            kind,
            incarnation: engine.incarnation,
            peers: engine.peers.keys().copied().collect(),
        }
    }

    /// A read has three parts, and anything may happen between them. It may fail for some engines.
    pub(crate) fn advance_read(
        &mut self,
        now_ms: i64,
        rules: &Rules,
        random: &mut Random,
    ) -> Option<Event> {
        let read = self.read.as_mut().filter(|read| read.due_ms <= now_ms)?;
        read.due_ms = now_ms + random.below(300) as i64;
        let Some(before) = &read.before else {
            let engines = EngineKind::ALL.map(|kind| self.engines.of(kind));
            let there = engines
                .into_iter()
                .filter(|engine| now_ms >= engine.down_until_ms.max(engine.deaf_until_ms));
            read.before = Some(there.map(|e| (e.kind, e.incarnation)).collect());
            return None;
        };
        if read.samples.is_none() {
            let mut samples = Vec::new();
            for (kind, before) in before.clone() {
                let engine = self.engines.of_mut(kind);
                let readings = if rules.mutation == Some(Mutation::ResetOnRead) {
                    added_up(&mut self.added_up, engine.read_and_reset())
                } else {
                    engine.read()
                };
                samples.push(Sample {
                    kind,
                    before,
                    after: before,
                    readings,
                    is_last: false,
                });
            }
            if rules.mutation == Some(Mutation::NoFinalRead) && read.is_final {
                samples.clone_from(&self.stale);
            }
            self.stale.clone_from(&samples);
            read.samples = Some(samples);
            return None;
        }
        let Read {
            ticket, samples, ..
        } = self.read.take()?;
        if random.chance(20) {
            saw("fault: counters could not be read");
            return Some(Event::ReadFailed { ticket });
        }
        let mut samples = samples?;
        for sample in &mut samples {
            if rules.mutation != Some(Mutation::NoSandwich) {
                sample.after = self.engines.of(sample.kind).incarnation;
            }
        }
        let failing: Vec<_> = EngineKind::ALL
            .into_iter()
            .filter(|kind| !samples.iter().any(|sample| sample.kind == *kind))
            .collect();
        let failed = failing.len();
        if rules.mutation == Some(Mutation::FailedReadIsEmpty) {
            let empty: Vec<_> = failing
                .into_iter()
                .map(|kind| Sample {
                    kind,
                    before: self.engines.of(kind).incarnation,
                    after: self.engines.of(kind).incarnation,
                    readings: Vec::new(),
                    is_last: false,
                })
                .collect();
            samples.extend(empty);
        }
        saw_if(
            failed > 0 && !samples.is_empty(),
            "fault: one engine could not be read",
        );
        if samples.is_empty() {
            return Some(Event::ReadFailed { ticket });
        }
        Some(Event::Sampled { ticket, samples })
    }

    /// Dies before an effect, or, where local writes can tear, in the middle of one.
    fn kill_within(
        &mut self,
        effect: &Effect,
        rules: &Rules,
        truth: &mut Truth,
        random: &mut Random,
    ) {
        if let (Effect::Commit(whole), Some(Mutation::TornLocalWrite), Some(disk)) =
            (effect, rules.mutation, &mut self.disk)
        {
            let part = random.below(whole.writes.len() as u64 + 1) as usize;
            let torn = Transaction {
                writes: whole.writes[..part].to_vec(),
            };
            truth.observe(self.node, &disk.durable, &self.engines, &torn);
            disk.commit(&torn);
        }
        self.kill();
    }

    /// Books are open before a counter exists, and nobody goes whom the node should have.
    fn check_change(&self, change: &Change) -> Result<(), String> {
        let Some(disk) = &self.disk else {
            return Ok(());
        };
        for Upsert { peer, .. } in &change.upsert {
            let engine = self.engines.of(change.kind);
            let key = CounterKey {
                incarnation: engine.incarnation,
                peer: peer.id,
            };
            let counts = engine.counts(peer.id);
            if !counts && !disk.durable.counters.contains_key(&key) {
                return Err(format!("{key:?} is created before its books"));
            }
        }
        if change.remove.is_empty() {
            return Ok(());
        }
        let desired = disk.target()?;
        let wanted = desired.iter().flat_map(|user| &user.peers);
        match wanted
            .map(|peer| peer.id)
            .find(|peer| change.remove.contains(peer))
        {
            Some(peer) => Err(format!("{peer} is removed though the node should have it")),
            None => Ok(()),
        }
    }

    fn drop_books(&mut self, change: &Change) {
        if let Some(disk) = &mut self.disk {
            for peer in &change.remove {
                disk.durable.counters.remove(&CounterKey {
                    incarnation: change.incarnation,
                    peer: *peer,
                });
            }
        }
    }
}

/// For `Mutation::ResetOnRead`: what the driver makes of it.
fn added_up(sums: &mut BTreeMap<PeerId, Totals>, mut readings: Vec<Reading>) -> Vec<Reading> {
    for reading in &mut readings {
        let total = sums.entry(reading.peer).or_default();
        total.up += reading.totals.up;
        total.down += reading.totals.down;
        reading.totals = *total;
    }
    readings
}
