//! A scripted agent: says what a test wants it to say, in the wire's own types, and hears what the
//! collector answers. Whatever it waits for has a deadline.

use std::{collections::VecDeque, time::Duration};

use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming, transport::Channel};
use tonic_types::StatusExt;
use uuid::Uuid;
use vpnpanel_api::agent::v1::{
    ConnectRequest, ConnectResponse, node_link_service_client::NodeLinkServiceClient,
};
use vpnpanel_domain::PeerId;
use vpnpanel_link::{
    AppliedState, Attribution, Batch, BatchRef, BootId, Bucket, Command, ConfigAck, ConfigError,
    CounterKey, DesiredState, Digest, Down, Epoch, EpochSummary, Generation, Hello, Incarnation,
    PROTOCOL, Payload, Range, Revision, Row, Seq, SpoolId, StateEpoch, Up, UpdateKind, UsageAck,
    Welcome, wire,
};

const DEADLINE: Duration = Duration::from_secs(30);

/// One life of an agent's disk.
#[derive(Debug, Clone)]
pub(crate) struct Disk {
    pub(crate) boot: BootId,
    pub(crate) spool: SpoolId,
    pub(crate) epoch: Epoch,
    pub(crate) batches: Vec<Batch>,
    pub(crate) applied: Option<AppliedState>,
    /// What that is.
    pub(crate) state: DesiredState,
}

impl Disk {
    pub(crate) fn new() -> Self {
        Self {
            boot: BootId(random()),
            spool: SpoolId(random()),
            epoch: Epoch(random()),
            batches: Vec::new(),
            applied: None,
            state: DesiredState::default(),
        }
    }

    /// Writes the next batch of the epoch.
    pub(crate) fn write(&mut self, rows: Vec<Row>) -> Batch {
        let seq = Seq(self.batches.len() as u64 + 1);
        let payload = Payload {
            predecessor: None,
            written_at_ms: now_ms(),
            rows,
        };
        let batch = wire::seal(self.epoch, seq, &payload);
        self.batches.push(batch.clone());
        batch
    }

    pub(crate) fn hello(&self) -> Hello {
        let epochs = self.batches.last().map(|last| EpochSummary {
            epoch: self.epoch,
            first: Seq(1),
            last: last.seq,
            tail: last.digest,
            acked: Seq(0),
        });
        Hello {
            protocol_min: PROTOCOL,
            protocol_max: PROTOCOL,
            capabilities: vec!["wireguard".to_owned()],
            agent_version: "test".to_owned(),
            boot: self.boot,
            spool: self.spool,
            applied: self.applied,
            epochs: epochs.into_iter().collect(),
            engines: Vec::new(),
            unknown_baselines: Vec::new(),
            leases: Vec::new(),
            generation: Generation(0),
            state_epoch: StateEpoch(0),
        }
    }
}

/// A stream of an agent.
pub(crate) struct Link {
    up: mpsc::Sender<ConnectRequest>,
    down: Streaming<ConnectResponse>,
    assembly: wire::Assembly,
    /// What it was told last.
    state: DesiredState,
    /// Changes alone, where it was told no more.
    pub(crate) deltas: usize,
    /// Acknowledgements that came while something else was waited for.
    acks: VecDeque<UsageAck>,
}

impl Link {
    /// Opens a stream and says nothing yet.
    pub(crate) async fn open(channel: Channel) -> Result<Self, Status> {
        let (up, requests) = mpsc::channel(64);
        let mut client = NodeLinkServiceClient::new(channel);
        let connecting = client.connect(ReceiverStream::new(requests));
        let down = timeout(DEADLINE, connecting)
            .await
            .expect("an answer")?
            .into_inner();
        Ok(Self {
            up,
            down,
            assembly: wire::Assembly::default(),
            state: DesiredState::default(),
            deltas: 0,
            acks: VecDeque::new(),
        })
    }

    /// Opens a stream and says Hello.
    pub(crate) async fn greet(channel: Channel, disk: &Disk) -> (Self, Welcome) {
        let mut link = Self::open(channel).await.expect("a stream");
        link.state = disk.state.clone();
        link.send(Up::Hello(Box::new(disk.hello()))).await;
        match link.next().await.expect("Welcome") {
            Down::Welcome(welcome) => (link, *welcome),
            other => panic!("expected Welcome, got {other:?}"),
        }
    }

    pub(crate) async fn send(&self, message: Up) {
        self.send_frame(wire::up_to_wire(message)).await;
    }

    pub(crate) async fn send_frame(&self, frame: ConnectRequest) {
        self.up.send(frame).await.expect("an open stream");
    }

    /// The next message.
    pub(crate) async fn next(&mut self) -> Result<Down, Status> {
        let frame = timeout(DEADLINE, self.down.message())
            .await
            .expect("a message in time")?;
        let frame = frame.ok_or_else(|| Status::unknown("the stream ended without a status"))?;
        Ok(wire::down_from_wire(frame)
            .expect("a frame of the contract")
            .expect("a known frame"))
    }

    /// The status that the stream ends with.
    pub(crate) async fn end(&mut self) -> Status {
        loop {
            if let Err(status) = self.next().await {
                return status;
            }
        }
    }

    /// The next acknowledgement, other messages left out.
    pub(crate) async fn ack(&mut self) -> UsageAck {
        if let Some(ack) = self.acks.pop_front() {
            return ack;
        }
        loop {
            if let Down::UsageAck(ack) = self.next().await.expect("an acknowledgement") {
                return ack;
            }
        }
    }

    /// Waits until a batch is acknowledged.
    pub(crate) async fn committed(&mut self, batch: &Batch) {
        let name: BatchRef = batch.name();
        loop {
            let ack = self.ack().await;
            assert_eq!(ack.quarantined, None);
            if ack.committed.contains(&name) {
                return;
            }
        }
    }

    /// The next command, other messages left out.
    pub(crate) async fn command(&mut self) -> Command {
        loop {
            if let Down::Command(command) = self.next().await.expect("a command") {
                return command;
            }
        }
    }

    /// The next desired state, other messages left out.
    pub(crate) async fn desired(&mut self) -> (AppliedState, DesiredState) {
        let update = self.update().await;
        self.take(update)
    }

    /// The next update of it, not taken.
    pub(crate) async fn update(&mut self) -> wire::Update {
        loop {
            let piece = match self.next().await.expect("a desired state") {
                Down::ConfigUpdate(piece) => piece,
                Down::UsageAck(ack) => {
                    self.acks.push_back(ack);
                    continue;
                }
                _ => continue,
            };
            if let Some(update) = self.assembly.push(piece).expect("pieces in order") {
                return update;
            }
        }
    }

    /// Says that an update would take away too many, and that `has` stays.
    pub(crate) async fn hold(&self, has: AppliedState, revision: Revision, removals: u32) {
        let stays = AppliedState { revision, ..has };
        self.send(Up::ConfigAck(ConfigAck {
            held_removals: removals,
            ..ConfigAck::of(stays)
        }))
        .await;
    }

    fn take(&mut self, update: wire::Update) -> (AppliedState, DesiredState) {
        match update.kind {
            UpdateKind::Whole(digest) => {
                assert_eq!(wire::state_digest(&update.data), Ok(digest));
                self.state = wire::decode_state(&update.data).expect("a state");
            }
            UpdateKind::Delta(base) => {
                assert_eq!(self.digest(), base, "built upon what was told before");
                let (users, removed) = wire::take_delta_apart(&update.data).expect("a delta");
                self.state.users.retain(|has| {
                    !removed.contains(&has.id) && users.iter().all(|new| new.user.id != has.id)
                });
                let users = users.into_iter().map(|new| new.user);
                self.state.users.extend(users);
                self.state.sort();
                self.deltas += 1;
            }
        }
        let state = AppliedState {
            revision: update.revision,
            digest: self.digest(),
        };
        (state, self.state.clone())
    }

    fn digest(&self) -> Digest {
        wire::state_digest(&wire::encode_state(&self.state)).expect("a digest")
    }

    /// Says that a state is in force, but for `errors`.
    pub(crate) async fn apply(&self, state: AppliedState, errors: Vec<ConfigError>) {
        self.send(Up::ConfigAck(ConfigAck {
            errors,
            ..ConfigAck::of(state)
        }))
        .await;
    }
}

/// A row of one counter that stood at `from` in both directions and now stands at `to`.
pub(crate) fn row(attribution: Attribution, counter: CounterKey, from: u64, to: u64) -> Row {
    Row {
        counter,
        attribution,
        bucket: Bucket::at(now_ms()),
        up: Range { from, to },
        down: Range { from, to },
    }
}

/// A counter of a new incarnation.
pub(crate) fn counter() -> CounterKey {
    CounterKey {
        incarnation: Incarnation(random()),
        peer: PeerId::new(Uuid::now_v7()),
    }
}

pub(crate) fn random() -> [u8; 16] {
    Uuid::new_v4().into_bytes()
}

pub(crate) fn now_ms() -> i64 {
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    since.as_millis() as i64
}

/// Code and reason of a status.
pub(crate) fn reason(status: &Status) -> (Code, String) {
    let reason = status
        .get_error_details()
        .error_info()
        .map(|info| info.reason.clone());
    (status.code(), reason.unwrap_or_default())
}
