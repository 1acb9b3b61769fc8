//! One stream, while it lives: what is let in, what waits, what is sent. It holds nothing of
//! worth: everything durable is in the database, and a stream that breaks is simply replaced.
//!
//! The driver reads frames and turns them into events, carries out effects in order, and feeds
//! back what came of them. Facts about the node come through [`super::open`].

use std::collections::VecDeque;

use bytes::Bytes;

use super::commands::Commands;
use super::config::{Config, DesiredRead};
use super::ingest::{Decoded, Reply, Submission};
use super::open::{Opening, Refusal};
use crate::{
    AppliedState, Batch, BatchRef, Command, CommandResult, ConfigError, Down, Generation, Health,
    Hello, IssuedCertificate, LeaseState, Pace, RemovalBound, RenewalRefusal, Revision, Segments,
    StateEpoch, Up, UsageAck, wire,
};
use vpnpanel_domain::NodeId;

/// What a session may take. Times in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// From the opened stream to Hello.
    pub hello_ms: i64,
    /// From one frame to the next.
    pub silence_ms: i64,
    /// From the last piece of a desired state to its answer.
    pub config_ms: i64,
    /// Between two comparisons of the whole desired state: what the change log told is not taken
    /// on trust for ever.
    pub compare_ms: i64,
    /// Lease reports and segments that wait for a transaction.
    pub waiting: usize,
    /// Rows of usage that one transaction takes from the stream; a batch is always taken whole.
    pub rows: usize,
}

/// Something happened.
#[derive(Debug, Clone)]
pub enum Event {
    /// A frame came.
    Frame(Up),
    /// Answer to [`Effect::Open`].
    Opened(Result<Box<Opening>, Refusal>),
    /// Answer to [`Effect::Ingest`], after its transaction has committed.
    Ingested(Reply),
    /// The transaction of [`Effect::Ingest`] failed and wrote nothing: the stream ends, the
    /// agent sends again on the next.
    IngestFailed,
    /// The change log has reached this revision.
    Revision(Revision),
    /// Answer to [`Effect::LoadState`]. A read that failed is [`Event::LoadFailed`], never an empty
    /// state.
    Desired {
        /// What was read.
        read: DesiredRead,
        /// How many users it may take away; `None` is any number.
        removals: Option<RemovalBound>,
    },
    /// The desired state could not be read.
    LoadFailed,
    /// Grants from elsewhere: a limit was raised, a lease was opened or asked back.
    Grants(Vec<crate::Grant>),
    /// The node may have been given commands.
    CommandsMoved,
    /// Answer to [`Effect::LoadCommands`]: those that this stream has not carried yet.
    Commands(Vec<Command>),
    /// Answer to [`Effect::Renew`].
    Renewed(Result<Box<IssuedCertificate>, RenewalRefusal>),
    /// A newer stream of the node was opened.
    Superseded,
    /// The process is about to stop.
    Drain {
        /// Within which the agents should come back, milliseconds.
        spread_ms: u64,
    },
    /// The database waits for the node's report.
    Awaited,
    /// Some time has passed.
    Tick,
}

/// Something to do.
#[derive(Debug, Clone)]
pub enum Effect {
    /// Load the node's facts, decide by [`super::open::open`], write the node's row; answer with
    /// `Opened`.
    Open(Box<Hello>),
    /// Put this into a transaction with others'; answer with `Ingested` or `IngestFailed`. One
    /// at a time for each session.
    Ingest(Submission),
    /// Read the node's desired state at the newest revision; answer with `Desired` or `LoadFailed`.
    LoadState {
        /// What has changed since then is enough, where it can be told; all of it otherwise.
        since: Option<Revision>,
    },
    /// Send.
    Send(Down),
    /// Record the result of a desired state.
    Applied {
        /// Which.
        state: AppliedState,
        /// It is what was desired at its revision: what has changed since can build on it.
        settled: bool,
        /// What could not be applied; `None` where the agent's answer to the same content, which
        /// may have been given to an earlier stream, still stands.
        errors: Option<Vec<ConfigError>>,
    },
    /// Record that the node is alive and how it is; write in batches.
    Alive(Health),
    /// Note which of the node's commands that wait this stream is about to carry, fenced by its
    /// generation; answer with `Commands`. One at a time for each session.
    LoadCommands,
    /// The node has reported all that it holds, and that was committed: free what it did not name,
    /// and note it, fenced by the generation and where the database still has all of the lease
    /// reports ([`super::NodeFacts::holds_reports`]); where that fails end the stream: it reports again
    /// on the next. What it may be granted from then on comes as `Grants`.
    Reported {
        /// Under which epoch.
        epoch: StateEpoch,
        /// How many lease reports the stream has handed in by then.
        leases: u64,
    },
    /// Note what came of a command, fenced by the generation. Where that fails end the stream: the
    /// command goes out again on the next, and is answered again.
    Answered(CommandResult),
    /// Have a certificate signed for this request (PKCS #10), for whom the certificate of the
    /// stream names; answer with `Renewed`. One at a time for each session.
    Renew(Bytes),
    /// End the stream.
    Close(Close),
}

/// Why a stream ends: the gRPC code and reason are the driver's to map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Close {
    /// The agent said goodbye.
    Goodbye(String),
    /// FAILED_PRECONDITION, PROTOCOL_UNSUPPORTED.
    Refused(Refusal),
    /// INVALID_ARGUMENT, PROTOCOL_VIOLATION: the agent does what the contract forbids.
    Violation(&'static str),
    /// DEADLINE_EXCEEDED, HELLO_TIMEOUT.
    HelloTimeout,
    /// DEADLINE_EXCEEDED, STREAM_SILENT.
    Silent,
    /// DEADLINE_EXCEEDED, CONFIG_TIMEOUT: a new stream starts from what the agent has.
    ConfigTimeout,
    /// ABORTED, STREAM_SUPERSEDED.
    Superseded,
    /// UNAVAILABLE, INGEST_FAILED.
    IngestFailed,
}

/// A session looks at its deadlines more often than this: more time does not pass between two events.
const STEP_MS: i64 = 10_000;

/// A stream of a node.
#[derive(Debug, Clone)]
pub struct Session {
    node: NodeId,
    pace: Pace,
    limits: Limits,
    phase: Phase,
    generation: Generation,
    clock: Clock,
    heard_at_ms: i64,
    quarantined: bool,
    /// Batches that wait for the transaction under way.
    batches: VecDeque<Batch>,
    segments: VecDeque<Segments>,
    leases: Vec<LeaseState>,
    /// Lease reports that were handed to transactions: one for each lease and transaction.
    handed_in: u64,
    lost: Vec<BatchRef>,
    reported: Option<StateEpoch>,
    has_reported: bool,
    /// How many batches the transaction under way takes.
    ingesting: Option<usize>,
    renewing: bool,
    commands: Commands,
    config: Config,
}

/// What deadlines of a stream are measured by: it goes on with the server's time, but neither back nor
/// ahead when that is set.
#[derive(Debug, Clone, Copy)]
struct Clock {
    told_ms: i64,
    runs_ms: i64,
}

impl Clock {
    fn advance(&mut self, now_ms: i64) -> i64 {
        let passed = now_ms.saturating_sub(self.told_ms);
        self.told_ms = now_ms;
        self.runs_ms += passed.clamp(0, STEP_MS);
        self.runs_ms
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    AwaitingHello,
    Opening,
    Live,
    Closed,
}

impl Session {
    /// A stream that was just opened by a node, whose certificate is verified.
    pub fn new(node: NodeId, pace: Pace, limits: Limits, now_ms: i64) -> Self {
        Self {
            node,
            pace,
            limits,
            phase: Phase::AwaitingHello,
            generation: Generation(0),
            clock: Clock {
                told_ms: now_ms,
                runs_ms: now_ms,
            },
            heard_at_ms: now_ms,
            quarantined: false,
            batches: VecDeque::new(),
            segments: VecDeque::new(),
            leases: Vec::new(),
            handed_in: 0,
            lost: Vec::new(),
            reported: None,
            has_reported: false,
            ingesting: None,
            renewing: false,
            commands: Commands::default(),
            config: Config::default(),
        }
    }

    /// The stream's generation; 0 before it is open.
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// Whether the stream has ended.
    pub fn is_closed(&self) -> bool {
        self.phase == Phase::Closed
    }

    /// In how many milliseconds it wants to look at its deadlines ([`Event::Tick`]): rarely while
    /// nothing is awaited, because there may be many thousands of sessions.
    pub fn next_look_ms(&self) -> u64 {
        if self.phase == Phase::Live && self.config.is_settled() {
            5_000
        } else {
            1_000
        }
    }

    /// Takes an event. `now_ms` is the server's time, which may be set while the stream is open.
    pub fn step(&mut self, event: Event, now_ms: i64) -> Vec<Effect> {
        if self.phase == Phase::Closed {
            return Vec::new();
        }
        let now_ms = self.clock.advance(now_ms);
        let mut effects = Vec::new();
        match event {
            Event::Frame(frame) => {
                self.heard_at_ms = now_ms;
                self.take_frame(frame, &mut effects);
            }
            Event::Opened(Ok(opening)) => self.opened(*opening, now_ms, &mut effects),
            Event::Opened(Err(refusal)) => self.close(Close::Refused(refusal), &mut effects),
            Event::Ingested(reply) => self.ingested(reply, &mut effects),
            Event::IngestFailed => self.close(Close::IngestFailed, &mut effects),
            Event::Revision(revision) => self.config.moved(revision),
            Event::Desired { read, removals } => {
                self.config.take(read, removals, now_ms, &mut effects);
            }
            Event::LoadFailed => self.config.load_failed(),
            Event::Grants(grants) if self.phase == Phase::Live && !self.quarantined => {
                effects.push(send_ack(UsageAck {
                    grants,
                    ..UsageAck::default()
                }));
            }
            Event::Grants(_) => {}
            Event::CommandsMoved => self.commands.moved(),
            Event::Commands(commands) => self.commands.take(commands, &mut effects),
            Event::Renewed(answer) => {
                self.renewing = false;
                effects.push(Effect::Send(Down::RenewalAnswer(answer)));
            }
            // It was lost with the newest of the database: the node is asked again on its next stream.
            Event::Awaited if self.has_reported => self.close(Close::Superseded, &mut effects),
            Event::Awaited => {}
            Event::Superseded => self.close(Close::Superseded, &mut effects),
            Event::Drain { spread_ms } => effects.push(Effect::Send(Down::Drain { spread_ms })),
            Event::Tick => self.check_deadlines(now_ms, &mut effects),
        }
        if self.phase == Phase::Live {
            self.submit(&mut effects);
            effects.extend(self.config.refresh(now_ms));
            // Never for one of two agents with one identity.
            if !self.quarantined {
                effects.extend(self.commands.refresh());
            }
        }
        effects
    }

    fn take_frame(&mut self, frame: Up, effects: &mut Vec<Effect>) {
        match (self.phase, frame) {
            (Phase::AwaitingHello, Up::Hello(hello)) => {
                self.phase = Phase::Opening;
                self.config.greeted(hello.applied);
                self.leases.clone_from(&hello.leases);
                effects.push(Effect::Open(hello));
            }
            (Phase::AwaitingHello, _) => self.violation("the first frame is not Hello", effects),
            (_, Up::Hello(_)) => self.violation("a second Hello", effects),
            (_, Up::Goodbye(reason)) => self.close(Close::Goodbye(reason), effects),
            (Phase::Opening, _) => self.violation("a frame before Welcome", effects),
            (_, Up::Batch(batch)) => {
                let in_flight = self.batches.len() + self.ingesting.unwrap_or(0);
                if in_flight >= self.pace.window as usize {
                    return self.violation("more batches in flight than the window", effects);
                }
                self.batches.push_back(batch);
            }
            (_, Up::Segments(segments)) => {
                if self.segments.len() >= self.limits.waiting {
                    return self.violation("more segments than were asked for", effects);
                }
                self.segments.push_back(segments);
            }
            (_, Up::LeaseReport(leases)) => {
                // States, not changes: the newest of a lease stands for all before it.
                self.leases
                    .retain(|known| !leases.iter().any(|new| new.lease == known.lease));
                self.leases.extend(leases);
                if self.leases.len() > self.limits.waiting.saturating_mul(16_384) {
                    self.violation("more lease reports than can wait", effects);
                }
            }
            (_, Up::Lost(through)) => {
                if self.lost.len() + through.len() > self.limits.waiting.saturating_mul(4_096) {
                    return self.violation("more lost batches than can wait", effects);
                }
                self.lost.extend(through);
            }
            (_, Up::Reported(epoch)) => self.reported = Some(epoch),
            (_, Up::Health(health)) => effects.push(Effect::Alive(health)),
            (_, Up::ConfigAck(ack)) => {
                self.config.answered(ack, self.heard_at_ms, effects);
            }
            (_, Up::CommandResult(result)) => effects.extend(self.commands.answered(result)),
            (_, Up::RenewalRequest(csr)) => {
                // An agent that asks again meanwhile hears the answer to the first.
                if !std::mem::replace(&mut self.renewing, true) {
                    effects.push(Effect::Renew(csr));
                }
            }
        }
    }

    fn opened(&mut self, opening: Opening, now_ms: i64, effects: &mut Vec<Effect>) {
        self.phase = Phase::Live;
        self.generation = opening.welcome.generation;
        self.quarantined = opening.welcome.quarantined.is_some();
        if self.quarantined {
            self.leases.clear();
        }
        self.commands.moved();
        effects.push(Effect::Send(Down::Welcome(Box::new(opening.welcome))));
        if opening.ack != UsageAck::default() {
            effects.push(send_ack(opening.ack));
        }
        let compare_ms = self.limits.compare_ms;
        self.config
            .opened(self.node, opening.on_record, compare_ms, now_ms);
    }

    /// Hands what waits to a transaction, unless one is under way. What a quarantined node
    /// sends stays in its spool: it is neither billed nor acknowledged.
    fn submit(&mut self, effects: &mut Vec<Effect>) {
        let of_usage = self.batches.is_empty() && self.segments.is_empty() && self.lost.is_empty();
        let nothing = of_usage && self.leases.is_empty() && self.reported.is_none();
        if self.ingesting.is_some() || nothing {
            return;
        }
        let mut batches = Vec::new();
        let mut rows = 0;
        while rows < self.limits.rows
            && let Some(batch) = self.batches.pop_front()
        {
            let payload = wire::decode_payload(&batch.payload).map_err(|error| error.to_string());
            rows += payload.as_ref().map_or(1, |payload| payload.rows.len());
            batches.push(Decoded { batch, payload });
        }
        self.ingesting = Some(batches.len());
        let leases_before = self.handed_in;
        self.handed_in += self.leases.len() as u64;
        effects.push(Effect::Ingest(Submission {
            node: self.node,
            generation: self.generation,
            batches,
            segments: self.segments.drain(..).collect(),
            leases: std::mem::take(&mut self.leases),
            leases_before,
            lost: std::mem::take(&mut self.lost),
            reported: self.reported.take(),
        }));
    }

    fn ingested(&mut self, reply: Reply, effects: &mut Vec<Effect>) {
        self.ingesting = None;
        if reply.superseded {
            return self.close(Close::Superseded, effects);
        }
        self.quarantined |= reply.quarantined.is_some();
        self.has_reported |= reply.reported.is_some();
        effects.extend(reply.reported.map(|epoch| Effect::Reported {
            epoch,
            leases: self.handed_in,
        }));
        let ack = UsageAck {
            committed: reply.committed,
            resend_from: reply.resend_from,
            quarantined: reply.quarantined,
            missing_segments: reply.missing_segments,
            grants: reply.grants,
        };
        if ack != UsageAck::default() {
            effects.push(send_ack(ack));
        }
    }

    fn check_deadlines(&mut self, now_ms: i64, effects: &mut Vec<Effect>) {
        let silent_for = now_ms.saturating_sub(self.heard_at_ms);
        if self.phase == Phase::AwaitingHello && silent_for >= self.limits.hello_ms {
            return self.close(Close::HelloTimeout, effects);
        }
        if silent_for >= self.limits.silence_ms {
            return self.close(Close::Silent, effects);
        }
        let Limits {
            config_ms,
            compare_ms,
            ..
        } = self.limits;
        if self.config.tick(config_ms, compare_ms, now_ms) {
            self.close(Close::ConfigTimeout, effects);
        }
    }

    fn violation(&mut self, what: &'static str, effects: &mut Vec<Effect>) {
        self.close(Close::Violation(what), effects);
    }

    fn close(&mut self, why: Close, effects: &mut Vec<Effect>) {
        self.phase = Phase::Closed;
        effects.push(Effect::Close(why));
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            hello_ms: 10_000,
            silence_ms: 30_000,
            config_ms: 120_000,
            compare_ms: 6 * 3_600_000,
            waiting: 64,
            rows: 16_384,
        }
    }
}

fn send_ack(ack: UsageAck) -> Effect {
    Effect::Send(Down::UsageAck(ack))
}

#[cfg(test)]
mod tests {
    use super::*;

    const START_MS: i64 = 1_795_000_000_000;
    const HOUR_MS: i64 = 3_600_000;

    fn waits() -> Session {
        let node = NodeId::from_bytes([1; 16]);
        Session::new(node, Pace::default(), Limits::default(), START_MS)
    }

    fn look(session: &mut Session, now_ms: i64) -> bool {
        session.step(Event::Tick, now_ms);
        session.is_closed()
    }

    #[test]
    fn a_clock_that_is_set_back_holds_no_deadline_up() {
        let mut session = waits();
        assert!(!look(&mut session, START_MS - HOUR_MS));
        assert!(!look(&mut session, START_MS - HOUR_MS + 9_000));
        assert!(look(&mut session, START_MS - HOUR_MS + 10_000), "no Hello");
    }

    #[test]
    fn a_clock_that_is_set_forward_ends_no_stream_that_was_just_heard() {
        let limits = Limits::default();
        let mut session = waits();
        session.phase = Phase::Live;
        assert!(!look(&mut session, START_MS + HOUR_MS));
        let beyond_ms = limits.silence_ms - STEP_MS;
        for passed_ms in (0..beyond_ms).step_by(5_000) {
            assert!(!look(&mut session, START_MS + HOUR_MS + passed_ms));
        }
        assert!(look(&mut session, START_MS + HOUR_MS + beyond_ms), "silent");
    }

    fn named(n: u8) -> LeaseState {
        LeaseState {
            user: vpnpanel_domain::UserId::from_bytes([n; 16]),
            period: vpnpanel_domain::PeriodId::from_bytes([n; 16]),
            lease: vpnpanel_domain::LeaseId::from_bytes([n; 16]),
            version: 1,
            allowance: vpnpanel_domain::MicroBytes::ZERO,
            consumed: vpnpanel_domain::MicroBytes::ZERO,
        }
    }

    fn report(session: &mut Session, leases: &[u8]) -> Option<(u64, usize)> {
        let leases = leases.iter().copied().map(named).collect();
        let effects = session.step(Event::Frame(Up::LeaseReport(leases)), START_MS);
        handed_in(effects)
    }

    /// How many lease reports a submission has before it, and in it.
    fn handed_in(effects: Vec<Effect>) -> Option<(u64, usize)> {
        effects.into_iter().find_map(|effect| match effect {
            Effect::Ingest(one) => Some((one.leases_before, one.leases.len())),
            _ => None,
        })
    }

    fn ingested(session: &mut Session, reported: Option<StateEpoch>) -> Vec<Effect> {
        let reply = Reply {
            node: session.node,
            generation: session.generation,
            committed: Vec::new(),
            resend_from: None,
            quarantined: None,
            missing_segments: Vec::new(),
            grants: Vec::new(),
            reported,
            superseded: false,
        };
        session.step(Event::Ingested(reply), START_MS)
    }

    #[test]
    fn what_a_node_has_reported_is_said_with_how_many_lease_reports_have_to_be_on_record() {
        let epoch = StateEpoch(7);
        let mut session = waits();
        session.phase = Phase::Live;
        assert_eq!(report(&mut session, &[1, 2]), Some((0, 2)));
        assert_eq!(report(&mut session, &[2, 3]), None, "one is under way");
        assert_eq!(report(&mut session, &[3]), None, "named again");
        session.step(Event::Frame(Up::Reported(epoch)), START_MS);
        let next = ingested(&mut session, None);
        assert_eq!(handed_in(next), Some((2, 2)));
        let said =
            ingested(&mut session, Some(epoch))
                .into_iter()
                .find_map(|effect| match effect {
                    Effect::Reported { epoch, leases } => Some((epoch, leases)),
                    _ => None,
                });
        assert_eq!(said, Some((epoch, 4)));
    }
}
