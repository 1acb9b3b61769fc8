//! Drives one stream: turns frames, signals and finished work into events of the session, and carries
//! its effects out. All the rules are the session's (`vpnpanel_link::collector::session`); here is only
//! I/O, and that it is bounded.

mod work;

use std::{error::Error as _, future::Future, pin::Pin, sync::Arc, time::Duration};

use futures::{StreamExt, stream::FuturesUnordered};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::{Instant, Sleep, sleep},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{Code, Streaming};
use tracing::{debug, info, warn};
use vpnpanel_api::agent::v1::ConnectRequest;
use vpnpanel_domain::NodeId;
use vpnpanel_link::{
    Command, Down, Grant, RemovalBound, Revision, Up,
    collector::{
        DesiredRead,
        open::{Opening, Refusal},
        session::{Close, Effect, Event, Limits, Session},
    },
    wire,
};
use vpnpanel_runtime::tls::Peer;
use vpnpanel_store::{Removals, Seen, Store, StoreError};

use super::{
    greeter::Greeter,
    hub::{End, Hub, Place, Signal},
    outbound::Outbound,
};
use crate::{
    allowances::Allowances,
    desired::{Snapshot, Snapshots},
    error::Error,
    ingest::Ingest,
    metrics::Metrics,
    renewal::Renewals,
    settings::Settings,
    states::States,
};

/// Reports of leases or segments that may wait in a session.
const WAITING: usize = 64;
/// Rows that one stream hands in at a time: two full batches. A transaction then takes from many nodes
/// what they report of the same users, whose periods are locked, read and written once for all of them;
/// and on SQLite it stays short.
const HANDED_IN: usize = 2_048;

/// What all streams share.
#[derive(Debug, Clone)]
pub(crate) struct Parts {
    pub(crate) store: Store,
    pub(crate) settings: Arc<Settings>,
    pub(crate) metrics: Metrics,
    pub(crate) hub: Arc<Hub>,
    pub(crate) ingest: Ingest,
    pub(crate) renewals: Renewals,
    pub(crate) snapshots: Snapshots,
    pub(crate) allowances: Arc<Allowances>,
    pub(crate) states: States,
    /// Streams that may still be opened.
    pub(crate) slots: Arc<Semaphore>,
    /// Lets streams in.
    pub(crate) greeter: Greeter,
    /// Bytes of batches that streams may hold in memory, all together.
    pub(crate) memory: Arc<Semaphore>,
    pub(crate) streams: TaskTracker,
    pub(crate) draining: CancellationToken,
}

impl Parts {
    /// A place for one more stream.
    pub(super) fn slot(&self) -> Result<OwnedSemaphorePermit, Error> {
        if self.draining.is_cancelled() {
            return Err(Error::Stopping);
        }
        Arc::clone(&self.slots)
            .try_acquire_owned()
            .map_err(|_| Error::TooManyStreams)
    }

    fn now_ms(&self) -> i64 {
        self.store.now_ms()
    }
}

/// What came of work that ran beside the stream.
enum Done {
    Opened(Result<Result<Box<Opening>, Refusal>, Error>),
    /// The first look, from what the agent is known to have.
    Looked(Option<Revision>, Result<Seen, Error>),
    Told(Event),
    /// The desired state, and what the node may let through of it.
    Loaded(Result<Snapshot, Error>, Result<Vec<Grant>, Error>),
    Leased(Result<Vec<Grant>, Error>),
    /// Commands to send.
    Commanded(Result<Vec<Command>, StoreError>),
    /// What came of one is noted.
    Answered(Result<(), StoreError>),
    /// The node's report is noted; the barrier came down with it, or not.
    Reported(Result<bool, StoreError>),
}

/// Where the first look stands at what the node is to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum First {
    Awaited,
    /// Under way.
    Look {
        /// The session waits for commands, too.
        commands: bool,
    },
    Over,
}

type Work = Pin<Box<dyn Future<Output = Done> + Send>>;

/// A frame that waits for memory.
type Admission = Pin<Box<dyn Future<Output = Option<(Up, OwnedSemaphorePermit)>> + Send>>;

/// One stream.
pub(super) struct Driver {
    parts: Parts,
    node: NodeId,
    peer: Peer,
    inbound: Streaming<ConnectRequest>,
    outbound: Outbound,
    session: Session,
    work: FuturesUnordered<Work>,
    admission: Option<Admission>,
    /// Memory of the batches that the session holds.
    held: Vec<OwnedSemaphorePermit>,
    agent_version: String,
    live: Option<(Place, watch::Receiver<Signal>)>,
    first: First,
    look: Pin<Box<Sleep>>,
    drained: bool,
    allowances_seen: u64,
    commands_seen: u64,
    awaited_seen: u64,
    renewals_seen: u64,
    /// Allowances are being looked up, one look at a time.
    leasing: bool,
    /// There was reason to look again meanwhile.
    lease_again: bool,
}

impl Driver {
    pub(super) fn new(
        parts: Parts,
        node: NodeId,
        peer: Peer,
        inbound: Streaming<ConnectRequest>,
        outbound: Outbound,
    ) -> Self {
        let settings = &parts.settings;
        let limits = Limits {
            hello_ms: millis(settings.hello_timeout.0),
            silence_ms: millis(settings.silence()),
            config_ms: millis(settings.config_timeout.0),
            compare_ms: millis(settings.compare_interval.0),
            waiting: WAITING,
            rows: HANDED_IN,
        };
        let session = Session::new(node, settings.pace(), limits, parts.now_ms());
        let look = Box::pin(sleep(Duration::from_millis(session.next_look_ms())));
        Self {
            parts,
            node,
            peer,
            inbound,
            outbound,
            session,
            work: FuturesUnordered::new(),
            admission: None,
            held: Vec::new(),
            agent_version: String::new(),
            live: None,
            first: First::Awaited,
            look,
            drained: false,
            allowances_seen: 0,
            commands_seen: 0,
            awaited_seen: 0,
            renewals_seen: 0,
            leasing: false,
            lease_again: false,
        }
    }

    /// Runs until the stream ends, and says why.
    pub(super) async fn run(mut self) {
        self.parts.metrics.stream_opened();
        let error = self.drive().await;
        self.parts.metrics.stream_closed();
        self.parts.metrics.stream_ended(error.reason());
        let generation = self.session.generation();
        match &error {
            Error::MalformedFrame(_) | Error::Unframed(_) | Error::Closed(Close::Violation(_)) => {
                warn!(
                    event = "link.violation",
                    generation = generation.get(),
                    %error,
                    "an agent broke the contract, its stream ends"
                )
            }
            _ => info!(
                event = "link.closed",
                generation = generation.get(),
                reason = error.reason(),
                %error,
                "node stream closed"
            ),
        }
        if self.live.take().is_some() {
            self.parts.states.gone(self.node, generation);
        }
        self.outbound.end(error).await;
    }

    async fn drive(&mut self) -> Error {
        loop {
            let event = match self.next().await {
                Ok(Some(event)) => event,
                Ok(None) => continue,
                Err(error) => return error,
            };
            let now = self.parts.now_ms();
            for effect in self.session.step(event, now) {
                if let Err(error) = self.carry_out(effect).await {
                    return error;
                }
            }
        }
    }

    /// The next thing that happens to the stream; `None` when it does not concern the session.
    async fn next(&mut self) -> Result<Option<Event>, Error> {
        let admitting = self.admission.is_some();
        tokio::select! {
            biased;
            signal = signalled(&mut self.live) => match signal.end {
                Some(End::Superseded) => Ok(Some(Event::Superseded)),
                Some(End::CertificateRefused(why)) => Err(Error::CertificateRefused(why)),
                None => {
                    if signal.allowances > self.allowances_seen {
                        self.allowances_seen = signal.allowances;
                        self.look_up_allowances();
                    }
                    // events of their own, after the one below
                    if signal.commands > self.commands_seen {
                        self.commands_seen = signal.commands;
                        self.tell(Event::CommandsMoved);
                    }
                    if signal.awaited > self.awaited_seen {
                        self.awaited_seen = signal.awaited;
                        self.tell(Event::Awaited);
                    }
                    if signal.renewals > self.renewals_seen {
                        self.renewals_seen = signal.renewals;
                        let spread_ms = self.spread_ms();
                        self.tell(Event::Drain { spread_ms });
                    }
                    Ok(Some(Event::Revision(signal.revision)))
                }
            },
            () = self.parts.draining.cancelled(), if !self.drained => {
                self.drained = true;
                let spread_ms = self.spread_ms();
                Ok(Some(Event::Drain { spread_ms }))
            }
            Some(done) = self.work.next(), if !self.work.is_empty() => self.finished(done).await,
            // told to go, and nothing of it is under way: what it sends from here on is sent again
            () = std::future::ready(()), if self.drained => Err(Error::Stopping),
            admitted = poll_admission(&mut self.admission), if admitting => {
                self.admission = None;
                let (frame, memory) = admitted.ok_or(Error::Stopping)?;
                self.held.push(memory);
                Ok(Some(Event::Frame(frame)))
            }
            frame = self.inbound.message(), if !admitting => {
                match frame {
                    Ok(Some(frame)) => self.receive(frame),
                    Ok(None) => Err(Error::Broken("the agent has hung up".to_owned())),
                    Err(status) => Err(broken(&status)),
                }
            }
            // while a batch waits for memory nothing is read: that silence is ours
            () = &mut self.look => {
                let next = Duration::from_millis(self.session.next_look_ms());
                self.look.as_mut().reset(Instant::now() + next);
                self.check_certificate()?;
                Ok((!admitting).then_some(Event::Tick))
            }
            () = self.outbound.closed() => Err(Error::Broken("the agent is gone".to_owned())),
        }
    }

    /// A stream lives no longer than the certificate it was opened with. An agent opens another long
    /// before, with the next one.
    fn check_certificate(&self) -> Result<(), Error> {
        let ends_ms = self.peer.not_after_unix().saturating_mul(1_000);
        match self.parts.now_ms() < ends_ms {
            true => Ok(()),
            false => Err(Error::CertificateRefused("it has ended")),
        }
    }

    /// Has the session take an event of this process, in its turn.
    fn tell(&mut self, event: Event) {
        self.work.push(Box::pin(async { Done::Told(event) }));
    }

    fn spread_ms(&self) -> u64 {
        self.parts.settings.drain_spread.0.as_millis() as u64
    }

    /// Parses a frame; a batch first finds memory.
    fn receive(&mut self, frame: ConnectRequest) -> Result<Option<Event>, Error> {
        let Some(frame) = wire::up_from_wire(frame).map_err(Error::MalformedFrame)? else {
            debug!(
                event = "link.unknown_frame",
                "a frame of a newer agent is ignored"
            );
            return Ok(None);
        };
        let Up::Batch(batch) = &frame else {
            return Ok(Some(Event::Frame(frame)));
        };
        let bytes = u32::try_from(batch.payload.len())
            .unwrap_or(u32::MAX)
            .max(1);
        let memory = Arc::clone(&self.parts.memory);
        match Arc::clone(&memory).try_acquire_many_owned(bytes) {
            Ok(permit) => {
                self.held.push(permit);
                Ok(Some(Event::Frame(frame)))
            }
            Err(_) => {
                self.admission = Some(Box::pin(async move {
                    let permit = memory.acquire_many_owned(bytes).await.ok()?;
                    Some((frame, permit))
                }));
                Ok(None)
            }
        }
    }

    /// Takes the result of work into the session.
    async fn finished(&mut self, done: Done) -> Result<Option<Event>, Error> {
        match done {
            Done::Opened(opened) => {
                let opened = opened?;
                if let Ok(opening) = &opened {
                    self.enter(opening);
                }
                Ok(Some(Event::Opened(opened)))
            }
            Done::Looked(since, seen) => self.looked(since, seen),
            Done::Told(event) => Ok(Some(event)),
            Done::Commanded(Ok(commands)) => Ok(Some(Event::Commands(commands))),
            Done::Answered(Ok(())) => Ok(None),
            Done::Reported(Ok(closed)) => {
                info!(event = "link.reported", "a node has reported what it holds");
                if closed {
                    let nodes = self.parts.hub.generations();
                    let nodes = nodes.into_iter().map(|(node, _)| node);
                    self.parts.hub.allowances(nodes);
                }
                self.look_up_allowances();
                Ok(None)
            }
            // What was not noted comes again on the next stream.
            Done::Commanded(Err(error))
            | Done::Answered(Err(error))
            | Done::Reported(Err(error)) => Err(error.into()),
            Done::Leased(grants) => {
                self.leasing = false;
                if std::mem::take(&mut self.lease_again) {
                    self.look_up_allowances();
                }
                match grants {
                    Ok(grants) if grants.is_empty() => Ok(None),
                    Ok(grants) => Ok(Some(Event::Grants(grants))),
                    Err(error @ (Error::Stopping | Error::Store(StoreError::StreamSuperseded))) => {
                        Err(error)
                    }
                    Err(error) => {
                        // the next change, or the next stream, looks again
                        warn!(event = "link.leases_unread", %error, "allowances could not be read");
                        Ok(None)
                    }
                }
            }
            Done::Loaded(Ok(snapshot), grants) => {
                self.push(snapshot, grants).await?;
                Ok(None)
            }
            Done::Loaded(Err(error @ Error::Store(StoreError::StreamSuperseded)), _) => Err(error),
            Done::Loaded(Err(error), _) => {
                warn!(event = "link.state_unread", %error, "a desired state could not be read");
                Ok(Some(Event::LoadFailed))
            }
        }
    }

    /// Most streams open with nothing to tell; what there may be is looked at one by one.
    fn looked(
        &mut self,
        since: Option<Revision>,
        seen: Result<Seen, Error>,
    ) -> Result<Option<Event>, Error> {
        let seen = match seen {
            Ok(seen) => seen,
            Err(Error::Store(error)) if !matches!(error, StoreError::StreamSuperseded) => {
                warn!(event = "link.first_look_failed", %error, "a stream looks for itself");
                Seen::NOTHING_IS_KNOWN
            }
            Err(error) => return Err(error),
        };
        if std::mem::replace(&mut self.first, First::Over) == (First::Look { commands: true }) {
            match seen.commands {
                true => self.load_commands(),
                false => self.tell(Event::Commands(Vec::new())),
            }
        }
        let (Some(since), Some(revision)) = (since, seen.unchanged) else {
            self.load(since);
            return Ok(None);
        };
        if seen.leases {
            self.look_up_allowances();
        }
        let read = DesiredRead::Changes {
            since,
            revision,
            data: None,
        };
        let removals = None;
        Ok(Some(Event::Desired { read, removals }))
    }

    /// From here on the stream is the node's newest, and changes reach it.
    fn enter(&mut self, opening: &Opening) {
        let generation = opening.welcome.generation;
        let serial = Arc::from(self.peer.serial());
        self.live = Some(self.parts.hub.enter(self.node, generation, serial));
        info!(
            event = "link.opened",
            generation = generation.get(),
            agent_version = self.agent_version,
            new_disk = opening.strand_leases,
            reports = opening.welcome.report,
            "node stream opened"
        );
        if let Some(suspicion) = &opening.node.suspicion {
            warn!(
                event = "node.knows_more",
                suspicion,
                "a node knows of what the database does not, and is alone with it: it gets no grants \
                 before it has reported"
            );
        }
        if let Some(reason) = &opening.welcome.quarantined {
            self.quarantined(reason);
        }
    }

    fn quarantined(&self, reason: &str) {
        self.parts.metrics.quarantined();
        warn!(
            event = "node.quarantined",
            reason,
            "two agents have this node's identity: nothing of it is billed until it enrols again"
        );
    }

    /// Feeds in what was read of the desired state and sends it, while it holds its slot. Grants go
    /// first: who has a limit from now on is not stopped for want of them.
    async fn push(
        &mut self,
        snapshot: Snapshot,
        grants: Result<Vec<Grant>, Error>,
    ) -> Result<(), Error> {
        let Snapshot {
            read,
            removals,
            slot,
        } = snapshot;
        let removals = match removals {
            Removals::Any => None,
            Removals::Few => Some(self.parts.settings.removal_bound()),
            Removals::None => Some(RemovalBound::NOTHING),
        };
        let now = self.parts.now_ms();
        match grants {
            Ok(grants) if grants.is_empty() => {}
            Ok(grants) => {
                for effect in self.session.step(Event::Grants(grants), now) {
                    self.carry_out(effect).await?;
                }
            }
            Err(error @ (Error::Stopping | Error::Store(StoreError::StreamSuperseded))) => {
                return Err(error);
            }
            Err(error) => {
                warn!(event = "link.leases_unread", %error, "allowances could not be read");
                self.look_up_allowances();
            }
        }
        let mut sent = None;
        let mut bytes = 0;
        for effect in self.session.step(Event::Desired { read, removals }, now) {
            if let Effect::Send(Down::ConfigUpdate(piece)) = &effect {
                sent = Some((piece.revision, piece.kind));
                bytes += piece.data.len();
            }
            self.carry_out(effect).await?;
        }
        drop(slot);
        if let Some((revision, kind)) = sent {
            let whole = kind.base().is_none();
            self.parts.metrics.state_sent(whole, bytes);
            self.parts
                .states
                .told(self.node, self.session.generation(), revision);
            debug!(
                event = "link.state_sent",
                revision = revision.get(),
                whole,
                bytes,
                "state sent"
            );
        }
        Ok(())
    }

    async fn carry_out(&mut self, effect: Effect) -> Result<(), Error> {
        match effect {
            Effect::Open(hello) => self.open(hello),
            Effect::Ingest(submission) => {
                let ingest = self.parts.ingest.clone();
                let memory = std::mem::take(&mut self.held);
                self.work.push(Box::pin(async move {
                    let reply = ingest.submit(submission).await;
                    drop(memory);
                    Done::Told(reply.map_or(Event::IngestFailed, Event::Ingested))
                }));
            }
            Effect::LoadState { since } if self.first == First::Awaited => self.first_look(since),
            Effect::LoadState { since } => self.load(since),
            Effect::Send(message) => {
                if let Down::UsageAck(ack) = &message
                    && let Some(reason) = &ack.quarantined
                {
                    self.quarantined(reason);
                }
                self.outbound.send(message).await?;
            }
            Effect::Applied {
                state,
                settled,
                errors,
            } => {
                if let Some(errors) = errors.as_ref().filter(|errors| !errors.is_empty()) {
                    self.parts.metrics.refused_update();
                    for error in errors {
                        warn!(
                            event = "link.not_applied",
                            revision = state.revision.get(),
                            kind = error.kind,
                            id = error.id,
                            reason = error.message,
                            "a node could not apply a resource"
                        );
                    }
                }
                self.parts.states.applied(
                    self.node,
                    self.session.generation(),
                    state,
                    settled,
                    errors,
                );
            }
            Effect::Alive(health) => {
                let generation = self.session.generation();
                let now = self.parts.now_ms();
                self.parts
                    .states
                    .alive(self.node, generation, &self.agent_version, health, now);
            }
            Effect::Renew(csr) => self.renew(csr),
            Effect::LoadCommands => match &mut self.first {
                First::Look { commands } => *commands = true,
                _ => self.load_commands(),
            },
            Effect::Answered(result) => self.answered(result),
            Effect::Reported { epoch, leases } => self.reported(epoch, leases),
            Effect::Close(why) => return Err(Error::Closed(why)),
        }
        Ok(())
    }
}

/// Waits for the next signal; for ever before the stream is live.
async fn signalled(live: &mut Option<(Place, watch::Receiver<Signal>)>) -> Signal {
    match live {
        Some((_, signals)) => match signals.changed().await {
            Ok(()) => *signals.borrow_and_update(),
            // the hub has let go of this stream: a newer one is in its place
            Err(_) => Signal {
                end: Some(End::Superseded),
                ..Signal::default()
            },
        },
        None => std::future::pending().await,
    }
}

async fn poll_admission(admission: &mut Option<Admission>) -> Option<(Up, OwnedSemaphorePermit)> {
    match admission {
        Some(waiting) => waiting.await,
        None => std::future::pending().await,
    }
}

/// A frame that is no message, or is too large, is the agent's fault; anything else is the network's.
/// tonic answers the former with a status that has no cause.
fn broken(status: &tonic::Status) -> Error {
    let undecoded = matches!(
        status.code(),
        Code::Internal | Code::OutOfRange | Code::ResourceExhausted | Code::Unimplemented
    );
    if undecoded && status.source().is_none() {
        Error::Unframed(status.message().to_owned())
    } else {
        Error::Broken(format!("{}: {}", status.code(), status.message()))
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
