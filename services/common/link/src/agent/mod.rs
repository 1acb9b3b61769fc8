//! The agent's end of the link: `step(event, now) → effects`. It decides what is written before
//! what, what is sent, who may pass; sockets, redb and engines are the driver's.
//!
//! The driver, in a loop: waits for an event or for [`Agent::deadline`], calls [`Agent::step`],
//! and carries out the effects in order; a `Commit` is on disk before the next effect begins.
//! When a commit fails it drops the machine, reads the disk, and starts a new one
//! ([`Agent::start`]) after a while: the engine goes on by itself meanwhile.

mod allowance;
#[cfg(test)]
mod boundaries;
mod clock;
mod command;
mod durable;
mod engines;
mod event;
mod meter;
mod reconcile;
mod report;
#[cfg(test)]
mod several;
mod spool;
mod stream;
mod target;
#[cfg(test)]
mod testing;

use std::collections::{BTreeMap, BTreeSet};

use vpnpanel_domain::{PeriodId, UserId};

pub use command::CommandRecord;
pub use durable::{
    BatchRecord, CounterRecord, Durable, EpochNumber, EpochRecord, TimeAnchor, Transaction,
    Welcomed, Write,
};
pub use event::{Alarm, Change, Effect, Event, Gate, Now, Reading, Sample, Ticket, Upsert};

use crate::{BootId, EngineKind, EngineStatus, Entropy, Epoch, Grant};

/// A read that is not answered for this long has failed.
const READ_MS: i64 = 30_000;

/// Added to the time that counters ran unread.
const UNREAD_SLACK_MS: i64 = 5_000;

/// How often retention is looked at.
const SWEEP_MS: i64 = 600_000;

/// What does not change while an agent runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Of the agent's software.
    pub agent_version: String,
    /// Beyond the base protocol, for example "wireguard", "kernel-quota".
    pub capabilities: Vec<String>,
    /// The kernel's boot id (`/proc/sys/kernel/random/boot_id`).
    pub host_boot: [u8; 16],
    /// What the host's line can carry, bytes per second: an upper bound of what passed unread
    /// when counters are lost.
    pub line_rate: u64,
    /// Bytes of payloads beyond which usage is kept with coarser times.
    pub spool_soft_bytes: u64,
    /// How long batches are kept after they were acknowledged, milliseconds.
    pub retention_ms: i64,
    /// How long segments are kept after they last grew, milliseconds.
    pub segment_retention_ms: i64,
}

/// The machine.
#[derive(Debug, Clone)]
pub struct Agent {
    settings: Settings,
    boot: BootId,
    durable: Durable,
    /// Written to `durable` already, to be committed before the next effect that relies on it.
    tx: Transaction,
    out: Vec<Effect>,
    desired: Option<target::Desired>,
    engines: engines::Engines,
    statuses: Vec<EngineStatus>,
    spool: spool::Spool,
    stream: stream::Stream,
    allowances: Allowances,
    last_ticket: Ticket,
    /// The read under way, and since when.
    reading: Option<(Ticket, i64)>,
    next_poll_ms: i64,
    next_report_ms: i64,
    next_sweep_ms: i64,
    /// When a user's time or period ends next, server time.
    next_end_ms: Option<i64>,
    /// When each engine's counters were last read, server time.
    last_read_ms: BTreeMap<EngineKind, i64>,
}

/// What is under way with leases.
#[derive(Debug, Clone, Default)]
struct Allowances {
    /// Gates as last set on each engine.
    gates: BTreeMap<(EngineKind, UserId), allowance::Held>,
    /// Smaller allowances that wait for a read.
    shrinks: BTreeMap<(UserId, PeriodId), (Grant, Ticket)>,
    /// Leases to report.
    reports: BTreeSet<(UserId, PeriodId)>,
    /// A user or period may have left.
    departed: bool,
}

impl Agent {
    /// A machine at the start of the process, on what was found on disk. On an empty disk the
    /// driver makes [`Durable::new`] durable first.
    pub fn start(
        durable: Durable,
        settings: Settings,
        now: Now,
        entropy: &mut dyn Entropy,
    ) -> (Self, Vec<Effect>) {
        let spool = spool::Spool::new(Epoch::draw(entropy), &durable);
        let mut agent = Self {
            settings,
            boot: BootId::draw(entropy),
            durable,
            tx: Transaction::default(),
            out: Vec::new(),
            desired: None,
            engines: engines::Engines::default(),
            statuses: Vec::new(),
            spool,
            stream: stream::Stream::new(now),
            allowances: Allowances::default(),
            last_ticket: Ticket(0),
            reading: None,
            next_poll_ms: i64::MAX,
            next_report_ms: now.boottime_ms,
            next_sweep_ms: now.boottime_ms + SWEEP_MS,
            next_end_ms: None,
            last_read_ms: BTreeMap::new(),
        };
        // The counters may have run unread since the disk was last written.
        if let Some(anchor) = agent.durable.anchor {
            let all = EngineKind::ALL.map(|kind| (kind, anchor.server_ms));
            agent.last_read_ms.extend(all);
        }
        agent.last_read_ms.extend(agent.durable.unread.clone());
        agent.anchor_at_start(now);
        agent.recall_target();
        agent.interrupted_commands();
        agent.schedule_times(now);
        agent.commit();
        for kind in EngineKind::ALL {
            agent.inspect(kind);
        }
        let effects = std::mem::take(&mut agent.out);
        (agent, effects)
    }

    /// Takes an event; the effects are carried out in order.
    pub fn step(&mut self, event: Event, now: Now, entropy: &mut dyn Entropy) -> Vec<Effect> {
        match event {
            Event::Tick => {}
            Event::EngineUp {
                kind,
                incarnation,
                peers,
            } => {
                self.engine_up(kind, incarnation, peers, now);
                self.may_dial(now);
            }
            Event::EngineDown { kind } => {
                self.engine_down(kind, now);
                self.may_dial(now);
            }
            Event::EngineStatus(engines) => self.statuses = engines,
            Event::Sampled { ticket, samples } => self.sampled(ticket, samples, now),
            Event::ReadFailed { ticket } => self.read_failed(ticket, now),
            Event::Applied { ticket, errors } => self.engine_changed(ticket, errors, now),
            Event::Connected => self.connected(now),
            Event::Disconnected => self.disconnected(now, entropy),
            Event::Message(message) => self.take_message(message, now, entropy),
            Event::CommandDone { id, answer } => self.command_done(id, answer),
            Event::CommandAsked(command) => self.commanded(command, now, entropy),
            Event::CertificateRenewed => self.renewed(now, entropy),
        }
        self.on_time(now);
        self.finish_report();
        self.commit();
        std::mem::take(&mut self.out)
    }

    /// When to step with [`Event::Tick`], on `CLOCK_BOOTTIME`, milliseconds.
    pub fn deadline(&self) -> i64 {
        let read = self
            .reading
            .map_or(self.next_poll_ms, |(_, since)| since + READ_MS);
        let end = self
            .next_end_ms
            .zip(self.durable.anchor)
            .map_or(i64::MAX, |(end, anchor)| {
                end.saturating_sub(anchor.server_ms)
                    .saturating_add(anchor.boottime_ms)
            });
        read.min(self.stream.deadline())
            .min(self.next_sweep_ms)
            .min(end)
    }

    /// What is on disk once every `Commit` so far is.
    pub fn durable(&self) -> &Durable {
        &self.durable
    }

    /// This start of the agent.
    pub fn boot(&self) -> BootId {
        self.boot
    }

    /// Whether the stream is open and welcomed.
    pub fn is_connected(&self) -> bool {
        self.stream.window().is_some()
    }

    /// Takes samples onto the books, then whatever waited for them. An incarnation that changed
    /// while an engine's counters were read makes them worthless: nobody can say which life they are
    /// of.
    fn sampled(&mut self, ticket: Ticket, samples: Vec<Sample>, now: Now) {
        if self.reading.is_none_or(|(asked, _)| asked != ticket) {
            return;
        }
        self.reading = None;
        self.next_poll_ms = now.boottime_ms + self.stream.pace().poll_ms as i64;
        let is_good = |sample: &Sample| {
            let life = self.engines.of(sample.kind).incarnation;
            sample.before == sample.after && life == Some(sample.before)
        };
        let (samples, worthless): (Vec<_>, Vec<_>) = samples.into_iter().partition(is_good);
        for sample in worthless {
            self.inspect(sample.kind);
        }
        let read: Vec<_> = samples.iter().map(|sample| sample.kind).collect();
        let failed = self.engines.each().map(|engine| engine.failing);
        for kind in EngineKind::ALL {
            if !read.contains(&kind) {
                self.not_read(kind);
            }
        }
        if samples.is_empty() {
            return;
        }
        for sample in &samples {
            let engine = self.engines.of_mut(sample.kind);
            engine.ended |= sample.is_last;
            if !std::mem::replace(&mut engine.sampled, true) {
                // A peer without a counter has nothing to ask a mark for.
                let counted: BTreeSet<_> = sample.readings.iter().map(|r| r.peer).collect();
                engine.unknown.retain(|peer, _| counted.contains(peer));
            }
        }
        let used = self.meter(&samples, now);
        for kind in &read {
            self.counters_reported(*kind);
            self.now_read(*kind, now);
        }
        self.adopt(now);
        self.settle_shrinks(ticket, &read);
        self.settle_departed();
        if self.engines.each().map(|engine| engine.failing) == failed {
            self.set_gates(Some(&used), now);
        } else {
            // What an engine may pass that cannot be read is held back elsewhere.
            self.set_gates(None, now);
        }
        for kind in read {
            self.drained(kind, ticket, now);
        }
        self.reconcile(now);
        let server_ms = self.server_ms(now);
        if now.boottime_ms >= self.next_report_ms || self.runs_low(&used, server_ms) {
            self.next_report_ms = now.boottime_ms + self.stream.pace().report_ms as i64;
            self.release();
            self.pump();
            self.report_exhausted(server_ms);
        }
        self.send_lease_reports();
        self.ask_for_new_marks();
    }

    /// Read again with the next poll. What is wrong with an engine is the driver's to find
    /// out; it says `EngineDown` or `EngineUp`.
    fn read_failed(&mut self, ticket: Ticket, now: Now) {
        if self.reading.is_some_and(|(asked, _)| asked == ticket) {
            self.reading = None;
            for kind in EngineKind::ALL {
                self.not_read(kind);
            }
            self.next_poll_ms = now.boottime_ms + self.stream.pace().poll_ms as i64;
        }
    }

    /// What is due by the clock.
    fn on_time(&mut self, now: Now) {
        if let Some((ticket, since)) = self.reading
            && now.boottime_ms >= since + READ_MS
        {
            self.read_failed(ticket, now);
        }
        if self
            .next_end_ms
            .is_some_and(|end| end <= self.server_ms(now))
        {
            self.schedule_times(now);
            self.allowances.departed = true;
            self.set_gates(None, now);
        }
        if self.reading.is_none() && now.boottime_ms >= self.next_poll_ms {
            if self.engines.any_live() {
                // What is drained goes with this read, where the one that it waits for failed.
                self.read_counters();
            } else {
                self.next_poll_ms = now.boottime_ms + self.stream.pace().poll_ms as i64;
            }
            self.look_again(now);
        }
        self.reading_since(now);
        if now.boottime_ms >= self.next_sweep_ms {
            self.next_sweep_ms = now.boottime_ms + SWEEP_MS;
            let server_ms = self.server_ms(now);
            self.sweep_spool(server_ms);
            self.sweep_counters(server_ms);
            self.sweep_leases();
            self.sweep_commands(server_ms);
        }
        self.tick_stream(now);
    }

    /// Finds the next instant at which a gate or a period changes by the clock alone.
    fn schedule_times(&mut self, now: Now) {
        let server_ms = self.server_ms(now);
        self.next_end_ms = self.desired.as_ref().and_then(|desired| {
            desired
                .users
                .values()
                .flat_map(|user| [user.not_after_ms, user.period.ends_ms])
                .flatten()
                .filter(|end| *end > server_ms)
                .min()
        });
    }

    /// Asks for a read of the counters that begins after every effect so far.
    fn read_counters(&mut self) -> Ticket {
        self.commit();
        let ticket = self.ticket();
        // An answer to an earlier request no longer counts: one read at a time.
        self.reading = Some((ticket, i64::MAX - READ_MS));
        self.out.push(Effect::ReadCounters(ticket));
        ticket
    }

    /// Starts the clock of a read that was just asked for.
    fn reading_since(&mut self, now: Now) {
        if let Some((_, since)) = &mut self.reading
            && *since == i64::MAX - READ_MS
        {
            *since = now.boottime_ms;
        }
    }

    fn ticket(&mut self) -> Ticket {
        self.last_ticket.0 += 1;
        self.last_ticket
    }

    /// For how long an engine's counters may have run unread: a little more than is known, because
    /// time may have been written without a read. Where the server's time went back meanwhile, no less.
    fn unread_ms(&self, kind: EngineKind, now: Now) -> i64 {
        let last = self.last_read_ms.get(&kind).copied().unwrap_or(i64::MIN);
        self.server_ms(now)
            .saturating_sub(last)
            .max(0)
            .saturating_add(UNREAD_SLACK_MS)
    }

    fn write(&mut self, write: Write) {
        self.durable.note(&write);
        self.tx.writes.push(write);
    }

    fn commit(&mut self) {
        if !self.tx.is_empty() {
            self.out.push(Effect::Commit(std::mem::take(&mut self.tx)));
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        const HOUR_MS: i64 = 3_600_000;
        Self {
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            capabilities: Vec::new(),
            host_boot: [0; 16],
            line_rate: 1_250_000_000,
            spool_soft_bytes: 256 * 1024 * 1024,
            retention_ms: 48 * HOUR_MS,
            segment_retention_ms: 35 * 24 * HOUR_MS,
        }
    }
}
