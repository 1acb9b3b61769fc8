//! The loop that drives the link's machine ([`vpnpanel_link::agent::Agent`]) with the real disk, the
//! real engine and the real stream. It decides nothing: it hands events over and carries effects
//! out, in order, each before the next.

mod carrier;
mod metrics;
mod plane;
mod seat;
mod status;
mod stream;
mod subscribers;
mod waiting;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use rand::Rng as _;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use vpnpanel_api::agent::v1::GetStatusResponse;
use vpnpanel_link::agent::{Agent, Effect, Event, Now, Settings, Ticket};
use vpnpanel_link::{CommandAnswer, CommandKind, Down, Entropy, Up};
use vpnpanel_runtime::clock::Clock;

use crate::control::Asked;
use crate::renewal::{Renewal, Step};
use crate::spool::{Spool, SpoolError};
use waiting::Waiting;

pub use metrics::AgentMetrics;
pub use plane::Plane;
pub use status::StatusFacts;
pub use stream::Link;

/// How long to wait before starting over from the disk after a write failed.
const DISK_RETRY: Duration = Duration::from_secs(5);

/// How often the engine's state is looked at for health.
const STATUS_INTERVAL: Duration = Duration::from_secs(5);

/// Messages of the stream that wait for the machine.
const STREAM_EVENTS: usize = 64;

/// Everything that a node's loop is made of.
#[derive(Debug)]
pub struct Driver {
    /// What does not change while the agent runs.
    pub settings: Settings,
    /// The disk.
    pub spool: Arc<Spool>,
    /// The engines.
    pub plane: Plane,
    /// Where the control plane is.
    pub link: Link,
    /// Keeps the certificate of the link fresh.
    pub renewal: Renewal,
    /// Time.
    pub clock: Clock,
    /// What the agent answers when it is asked how it is.
    pub status: watch::Sender<GetStatusResponse>,
    /// What of that stays the same.
    pub facts: StatusFacts,
    /// Commands that are given directly, and not over the link.
    pub commands: mpsc::Receiver<Asked>,
    /// What is counted.
    pub metrics: AgentMetrics,
}

/// Why a machine was dropped.
enum Outcome {
    Stopped,
    Disk(SpoolError),
}

impl Driver {
    /// Drives until `stop`; the engine goes on by itself afterwards. A disk that fails is tried
    /// again and again: nothing is metered meanwhile, and nothing is lost, because counters are
    /// absolute.
    ///
    /// # Errors
    /// A spool that cannot be read.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), SpoolError> {
        // Ends when this does.
        let mut watchdog = JoinSet::new();
        watchdog.spawn(self.plane.watch());
        loop {
            let durable = self.blocking(Spool::load).await?;
            match self.drive(durable, &stop).await {
                Outcome::Stopped => return Ok(()),
                Outcome::Disk(error) => {
                    tracing::error!(event = "spool_write_failed", %error,
                        "usage is not being written down; tunnels and limits go on");
                    self.metrics.disk_failed();
                }
            }
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(DISK_RETRY) => {}
            }
        }
    }

    /// Drives one machine until it has to be dropped.
    async fn drive(
        &mut self,
        durable: vpnpanel_link::agent::Durable,
        stop: &CancellationToken,
    ) -> Outcome {
        let mut entropy = SystemEntropy;
        self.plane.recall(&durable);
        let (mut machine, effects) =
            Agent::start(durable, self.settings.clone(), self.now(), &mut entropy);
        let (events, mut incoming) = mpsc::channel(STREAM_EVENTS);
        let mut streams = stream::Streams::new(self.link.clone(), events);
        let mut pending = VecDeque::from([Event::EngineStatus(self.plane.statuses().await)]);
        let mut read = None;
        let mut waiting = Waiting::default();
        if let Err(error) = self
            .perform(
                effects,
                &machine,
                &mut streams,
                &mut pending,
                &mut read,
                &mut waiting,
            )
            .await
        {
            return Outcome::Disk(error);
        }
        let mut status = tokio::time::interval(STATUS_INTERVAL);
        status.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            while let Some(event) = self.next_event(&mut pending, &mut read).await {
                let effects = machine.step(event, self.now(), &mut entropy);
                if let Err(error) = self
                    .perform(
                        effects,
                        &machine,
                        &mut streams,
                        &mut pending,
                        &mut read,
                        &mut waiting,
                    )
                    .await
                {
                    return Outcome::Disk(error);
                }
            }
            self.metrics.observe(&machine);
            let deadline = self.instant(machine.deadline());
            tokio::select! {
                biased;
                () = stop.cancelled() => {
                    streams.send(Up::Goodbye("the agent stops".to_owned()));
                    streams.finish().await;
                    return Outcome::Stopped;
                }
                Some(event) = incoming.recv() => match streams.take(event) {
                    Some(Event::Message(Down::RenewalAnswer(answer))) => {
                        if self.renewal.take(answer).await {
                            pending.extend(self.reconnect(&mut streams));
                        }
                    }
                        event => pending.extend(event),
                },
                Some(asked) = self.commands.recv() => {
                    pending.push_back(Event::CommandAsked(asked.command));
                    waiting.add(asked);
                }
                _ = status.tick() => {
                    let statuses = self.plane.statuses().await;
                    self.status.send_replace(self.facts.answer(&machine, &statuses));
                    pending.push_back(Event::EngineStatus(statuses));
                    match self.renewal.look(machine.is_connected()).await {
                        Step::Wait => {}
                        Step::Ask(csr) => streams.send(Up::RenewalRequest(csr)),
                        Step::Reconnect => pending.extend(self.reconnect(&mut streams)),
                    }
                }
                () = tokio::time::sleep_until(deadline) => {
                    pending.push_back(Event::Tick);
                }
            }
        }
    }

    /// What waits, then the counters. A read is made only when everything that was asked before
    /// has been done, and is handed over before anything else: the engine's last reading is
    /// always the one on the machine's books.
    async fn next_event(
        &mut self,
        pending: &mut VecDeque<Event>,
        read: &mut Option<Ticket>,
    ) -> Option<Event> {
        if let Some(event) = pending.pop_front() {
            return Some(event);
        }
        let ticket = read.take()?;
        let (event, changed) = self.plane.read(ticket).await;
        pending.extend(changed);
        self.metrics.read(matches!(event, Event::Sampled { .. }));
        Some(event)
    }

    /// Shows the new certificate at once, while the control plane still takes the one before: what is
    /// wrong with it shows now and not when there is nothing else. A stream loses nothing by its
    /// end.
    fn reconnect(&mut self, streams: &mut stream::Streams) -> impl Iterator<Item = Event> {
        self.facts.not_after_unix = self.renewal.not_after_unix();
        let closed = streams.close("the certificate was renewed");
        std::iter::once(Event::CertificateRenewed).chain(closed)
    }

    async fn perform(
        &mut self,
        effects: Vec<Effect>,
        machine: &Agent,
        streams: &mut stream::Streams,
        pending: &mut VecDeque<Event>,
        read: &mut Option<Ticket>,
        waiting: &mut Waiting,
    ) -> Result<(), SpoolError> {
        for effect in effects {
            match effect {
                Effect::Commit(transaction) => {
                    self.blocking(move |spool| spool.commit(&transaction))
                        .await?;
                }
                Effect::Connect => streams.open(),
                Effect::Disconnect { reason } => pending.extend(streams.close(reason)),
                Effect::Send(message) => streams.send(message),
                Effect::SendBatch { epoch, seq } => {
                    self.send_batch(machine, streams, epoch, seq).await?;
                }
                Effect::Inspect { kind, wanted } => {
                    pending.push_back(self.plane.inspect(kind, wanted).await);
                }
                Effect::ReadCounters(ticket) => *read = Some(ticket),
                Effect::Block(kind, peers) => self.plane.block(kind, peers).await,
                Effect::Gates(kind, gates) => self.plane.set_gates(kind, gates).await,
                Effect::Apply(change) => pending.push_back(self.plane.apply(change).await),
                Effect::Run { id, kind } => {
                    let answer = self.run_command(kind).await;
                    pending.push_back(Event::CommandDone { id, answer });
                }
                Effect::CommandAnswered(result) => waiting.tell(&result),
                Effect::Alarm(alarm) => {
                    tracing::warn!(event = "link_alarm", alarm = ?alarm, "a person should look");
                    self.metrics.alarm();
                }
            }
        }
        Ok(())
    }

    /// Does what a command asks for. What it did to the engine the next read finds, as it would find
    /// an engine that had died.
    async fn run_command(&mut self, kind: CommandKind) -> CommandAnswer {
        tracing::info!(event = "command_begun", kind = kind.as_str());
        match kind {
            CommandKind::RestartEngine => done(kind, self.plane.restart().await),
            CommandKind::Cordon => done(kind, self.plane.set_cordoned(true).await),
            CommandKind::Uncordon => done(kind, self.plane.set_cordoned(false).await),
            CommandKind::CollectLogs => CommandAnswer::done(vpnpanel_runtime::logs::recent()),
            // The machine's own.
            CommandKind::Drain | CommandKind::Resync => CommandAnswer::done(String::new()),
        }
    }

    async fn send_batch(
        &self,
        machine: &Agent,
        streams: &mut stream::Streams,
        epoch: vpnpanel_link::agent::EpochNumber,
        seq: vpnpanel_link::Seq,
    ) -> Result<(), SpoolError> {
        let known = machine
            .durable()
            .epochs
            .get(&epoch)
            .map(|record| record.epoch);
        let digest = machine
            .durable()
            .batches
            .get(&(epoch, seq))
            .map(|record| record.digest);
        let payload = self
            .blocking(move |spool| spool.payload(epoch, seq))
            .await?;
        if let (Some(epoch), Some(digest), Some(payload)) = (known, digest, payload) {
            streams.send(Up::Batch(vpnpanel_link::Batch {
                epoch,
                seq,
                digest,
                payload,
            }));
        } else {
            tracing::error!(
                event = "batch_missing",
                epoch,
                seq = seq.get(),
                "a batch that should be sent is not on disk"
            );
        }
        Ok(())
    }

    /// Runs what waits for the disk on a thread that may wait.
    async fn blocking<R: Send + 'static>(
        &self,
        work: impl FnOnce(&Spool) -> Result<R, SpoolError> + Send + 'static,
    ) -> Result<R, SpoolError> {
        let spool = Arc::clone(&self.spool);
        tokio::task::spawn_blocking(move || work(&spool))
            .await
            .unwrap_or(Err(SpoolError::Interrupted))
    }

    fn now(&self) -> Now {
        Now {
            boottime_ms: millis(self.clock.since_boot()),
            wall_ms: self.clock.unix_millis(),
        }
    }

    /// When a moment of `CLOCK_BOOTTIME` is, as far as timers go: after a suspend it is late,
    /// and the next event makes up for it.
    fn instant(&self, boottime_ms: i64) -> Instant {
        let ahead = boottime_ms.saturating_sub(millis(self.clock.since_boot()));
        let ahead = Duration::from_millis(u64::try_from(ahead).unwrap_or(0));
        Instant::now() + ahead.min(Duration::from_secs(3600))
    }
}

/// What came of a command that brings nothing.
fn done(kind: CommandKind, result: Result<(), crate::Error>) -> CommandAnswer {
    match result {
        Ok(()) => CommandAnswer::done(String::new()),
        Err(error) => {
            tracing::error!(event = "command_failed", kind = kind.as_str(), %error);
            CommandAnswer::failed(&error.to_string())
        }
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// The operating system's randomness, by way of a generator that it seeds.
#[derive(Debug)]
pub(crate) struct SystemEntropy;

impl Entropy for SystemEntropy {
    fn fill(&mut self, bytes: &mut [u8]) {
        rand::rng().fill_bytes(bytes);
    }
}
