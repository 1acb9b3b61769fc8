//! A control plane that does as a test says: tells a desired state, grants what there is, and bills
//! absolute ranges beyond its marks, as the collector does.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::BoxStream;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, PKCS_ECDSA_P256_SHA256,
    SanType,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::sync::mpsc;
use tonic::{Request, Response, Status, Streaming};
use vpnpanel_api::agent::v1::node_link_service_server::{NodeLinkService, NodeLinkServiceServer};
use vpnpanel_api::agent::v1::{ConnectRequest, ConnectResponse};
use vpnpanel_domain::{CommandId, LeaseId, MicroBytes, NodeId, PeerId};
use vpnpanel_link::{
    Batch, BatchRef, Command, CommandKind, CommandResult, ConfigAck, CounterKey, CounterMark,
    DesiredState, Digest, Down, EngineStatus, Epoch, Generation, Grant, Hello, PROTOCOL, Pace,
    Revision, Row, Seq, StateEpoch, Totals, Up, UpdateKind, UsageAck, Welcome, wire,
};
use vpnpanel_node_agent::enrollment::Identity;
use vpnpanel_node_agent::testing::Namespace;
use vpnpanel_runtime::tls::{Credentials, ServerTls, TrustBundle};
use vpnpanel_runtime::{Grpc, PeerIdentity, Service, Supervisor, TrustDomain};

/// How often agents read counters and report here.
const PACE: Pace = Pace {
    poll_ms: 1_000,
    report_ms: 1_000,
    health_ms: 1_000,
    window: 16,
};

/// What is on record.
#[derive(Debug, Default)]
pub(crate) struct Record {
    state: DesiredState,
    revision: u64,
    /// Bytes that each limited user may pass.
    limit: u64,
    generation: u64,
    cursors: BTreeMap<Epoch, (Seq, Digest)>,
    marks: BTreeMap<CounterKey, CounterMark>,
    /// What each peer is billed, in all lives of its counter.
    billed: BTreeMap<PeerId, u64>,
    /// What the node is to do, until it is told something else.
    command: Option<Command>,
    /// What came of commands.
    pub(crate) results: Vec<CommandResult>,
    /// The last answer to a desired state.
    pub(crate) answer: Option<ConfigAck>,
    /// What the node said of its engines last.
    pub(crate) engines: Vec<EngineStatus>,
    /// What should not have come.
    pub(crate) wrong: Vec<String>,
}

/// The control plane; clones are the same.
#[derive(Debug, Clone)]
pub(crate) struct Panel {
    pub(crate) record: Arc<Mutex<Record>>,
    /// Rings when there is something to tell.
    bell: Arc<tokio::sync::Notify>,
}

impl Panel {
    pub(crate) fn new(limit: u64) -> Self {
        let record = Record {
            limit,
            ..Record::default()
        };
        Self {
            record: Arc::new(Mutex::new(record)),
            bell: Arc::default(),
        }
    }

    pub(crate) fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap()
    }

    /// Tells the node what it should do from now on.
    pub(crate) fn tell(&self, mut state: DesiredState) {
        state.sort();
        let mut record = self.record();
        record.state = state;
        record.revision += 1;
        record.answer = None;
        drop(record);
        self.bell.notify_waiters();
    }

    /// Gives a command.
    pub(crate) fn command(&self, kind: CommandKind) -> CommandId {
        let id = CommandId::from_bytes(*uuid::Uuid::now_v7().as_bytes());
        let command = Command {
            id,
            kind: Some(kind),
            expires_at_ms: now_ms() + 60_000,
        };
        self.record().command = Some(command);
        self.bell.notify_waiters();
        id
    }

    /// Takes all users away.
    pub(crate) fn remove_users(&self) {
        let state = self.record().state.clone();
        self.tell(DesiredState {
            users: Vec::new(),
            ..state
        });
    }

    /// Whether the node has all of what it was told.
    pub(crate) fn is_in_force(&self) -> bool {
        let record = self.record();
        let answer = record.answer.as_ref();
        answer
            .is_some_and(|ack| ack.errors.is_empty() && ack.state.revision.get() == record.revision)
    }

    pub(crate) fn billed(&self, peer: PeerId) -> u64 {
        self.record().billed.get(&peer).copied().unwrap_or(0)
    }

    /// Serves in a namespace, and gives a node's folder its identity. It ends with the value returned.
    pub(crate) fn serve(&self, host: &Namespace, folder: &std::path::Path) -> Served {
        let authority = Authority::new();
        let collector = PeerIdentity::control_plane("collector").unwrap();
        let bundle = TrustBundle::new(vec![authority.certificate.clone()]).unwrap();
        let domain = TrustDomain::default();
        let tls = ServerTls::mutual(authority.credentials(&collector), &bundle, domain).unwrap();
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let (tell, told) = std::sync::mpsc::channel();
        let panel = self.clone();
        let netns = host.name().to_owned();
        let thread = host.enter(|| {
            // A thread's namespace is its maker's.
            std::thread::Builder::new()
                .name(netns)
                .spawn(move || {
                    let runtime = tokio::runtime::Builder::new_multi_thread()
                        .worker_threads(1)
                        .enable_all()
                        .build()
                        .unwrap();
                    let mut supervisor = Supervisor::new(Duration::from_secs(1), Duration::ZERO);
                    let mut service = Service::new("collector");
                    let routes = tonic::service::Routes::new(NodeLinkServiceServer::new(panel));
                    let listener = Grpc::new(routes).listen("127.0.0.1:0".parse().unwrap());
                    service.grpc("link", listener.tls(tls));
                    let addresses = runtime.block_on(supervisor.start(service)).unwrap();
                    tell.send(addresses.of("link").unwrap()).unwrap();
                    let _ = stopped.recv();
                    runtime.shutdown_timeout(Duration::from_secs(1));
                })
                .unwrap()
        });
        let address: SocketAddr = told.recv().unwrap();
        authority.enrol(folder, &format!("https://{address}"), bundle);
        Served {
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    fn welcome(&self, hello: &Hello) -> Welcome {
        let mut record = self.record();
        record.generation += 1;
        let cursors = hello.epochs.iter().filter_map(|known| {
            let (seq, digest) = *record.cursors.get(&known.epoch)?;
            let epoch = known.epoch;
            Some(BatchRef { epoch, seq, digest })
        });
        let marks = hello.unknown_baselines.iter();
        Welcome {
            protocol: PROTOCOL,
            generation: Generation(record.generation),
            state_epoch: StateEpoch(0),
            server_time_ms: now_ms(),
            pace: PACE,
            cursors: cursors.collect(),
            marks: marks
                .filter_map(|key| record.marks.get(key).copied())
                .collect(),
            quarantined: None,
            report: false,
        }
    }

    /// What is to be told: the whole state, and what its limited users may pass.
    fn news(&self) -> Vec<Down> {
        let record = self.record();
        let data = wire::encode_state(&record.state);
        let update = wire::Update {
            revision: Revision(record.revision),
            kind: UpdateKind::Whole(wire::state_digest(&data).unwrap()),
            removals: None,
            data,
        };
        let limited = record.state.users.iter().filter(|user| user.limited);
        let grants = limited.map(|user| Grant {
            user: user.id,
            period: user.period.id,
            lease: LeaseId::from_bytes(user.id.into_bytes()),
            version: 1,
            allowance: MicroBytes::from_bytes(record.limit),
        });
        let grants = UsageAck {
            grants: grants.collect(),
            ..UsageAck::default()
        };
        let mut news: Vec<_> = wire::pieces(&update).map(Down::ConfigUpdate).collect();
        news.push(Down::UsageAck(grants));
        news.extend(record.command.map(Down::Command));
        news
    }

    fn hear(&self, up: Up) -> Option<Down> {
        let mut record = self.record();
        match up {
            Up::Batch(batch) => return Some(Down::UsageAck(record.take(batch))),
            Up::ConfigAck(ack) => record.answer = Some(ack),
            Up::Health(health) => record.engines = health.engines,
            Up::CommandResult(result) => record.results.push(result),
            Up::LeaseReport(_) | Up::Goodbye(_) => {}
            other => record.wrong.push(format!("{other:?}")),
        }
        None
    }

    async fn talk(
        self,
        mut incoming: Streaming<ConnectRequest>,
        outgoing: mpsc::Sender<Result<ConnectResponse, Status>>,
    ) {
        let send = async |down: Down| outgoing.send(Ok(wire::down_to_wire(down))).await.is_ok();
        let first = incoming.message().await.ok().flatten();
        let Some(Up::Hello(hello)) = first.and_then(|frame| wire::up_from_wire(frame).unwrap())
        else {
            return;
        };
        send(Down::Welcome(Box::new(self.welcome(&hello)))).await;
        loop {
            let rings = self.bell.notified();
            for down in self.news() {
                send(down).await;
            }
            tokio::pin!(rings);
            loop {
                tokio::select! {
                    () = &mut rings => break,
                    frame = incoming.message() => {
                        let Ok(Some(frame)) = frame else { return };
                        let answer = wire::up_from_wire(frame).unwrap().and_then(|up| self.hear(up));
                        if let Some(down) = answer {
                            send(down).await;
                        }
                    }
                }
            }
        }
    }
}

#[tonic::async_trait]
impl NodeLinkService for Panel {
    type ConnectStream = BoxStream<'static, Result<ConnectResponse, Status>>;

    async fn connect(
        &self,
        request: Request<Streaming<ConnectRequest>>,
    ) -> Result<Response<Self::ConnectStream>, Status> {
        let (outgoing, answers) = mpsc::channel(64);
        tokio::spawn(self.clone().talk(request.into_inner(), outgoing));
        let answers = tokio_stream::wrappers::ReceiverStream::new(answers);
        Ok(Response::new(answers.boxed()))
    }
}

impl Record {
    fn take(&mut self, batch: Batch) -> UsageAck {
        let Batch {
            epoch,
            seq,
            digest,
            payload,
        } = batch;
        let (last, _) = self
            .cursors
            .get(&epoch)
            .copied()
            .unwrap_or((Seq(0), Digest([0; 32])));
        if seq > last.next() {
            return UsageAck {
                resend_from: Some((epoch, last.next())),
                ..UsageAck::default()
            };
        }
        if seq == last.next() {
            for row in wire::decode_payload(&payload).unwrap().rows {
                self.bill(&row);
            }
            self.cursors.insert(epoch, (seq, digest));
        }
        let (seq, digest) = self.cursors[&epoch];
        UsageAck {
            committed: vec![BatchRef { epoch, seq, digest }],
            ..UsageAck::default()
        }
    }

    fn bill(&mut self, row: &Row) {
        let mark = self.marks.entry(row.counter).or_insert(CounterMark {
            counter: row.counter,
            totals: Totals::default(),
            attribution: Some(row.attribution),
        });
        let before = mark.totals;
        if row.up.from > before.up || row.down.from > before.down {
            self.wrong.push(format!("{row:?} begins beyond {before:?}"));
        }
        mark.totals = Totals {
            up: before.up.max(row.up.to),
            down: before.down.max(row.down.to),
        };
        let beyond = mark.totals.sum() - before.sum();
        *self.billed.entry(row.counter.peer).or_default() += beyond;
    }
}

/// Serves until it is dropped.
pub(crate) struct Served {
    stop: Option<std::sync::mpsc::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Drop for Served {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Signs whoever is asked for.
struct Authority {
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        vpnpanel_runtime::install_crypto_provider();
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let mut params = CertificateParams::default();
        let name = &mut params.distinguished_name;
        name.push(DnType::CommonName, "authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap().der().clone();
        Self {
            certificate,
            issuer: Issuer::new(params, key),
        }
    }

    fn credentials(&self, identity: &PeerIdentity) -> Credentials {
        let domain = TrustDomain::default();
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![
            SanType::URI(identity.uri(&domain).try_into().unwrap()),
            SanType::DnsName(identity.dns_name(&domain).try_into().unwrap()),
        ];
        let epoch = rcgen::date_time_ymd(1970, 1, 1);
        let now = Duration::from_millis(now_ms().unsigned_abs());
        let day = Duration::from_secs(86_400);
        params.not_before = epoch + now - day;
        params.not_after = epoch + now + day * 6;
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Credentials {
            chain: vec![certificate.der().clone()],
            key: PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
        }
    }

    /// Makes a folder that of a node.
    fn enrol(&self, folder: &std::path::Path, endpoint: &str, bundle: TrustBundle) {
        let node = uuid::Uuid::now_v7();
        let identity = Identity {
            node: NodeId::from(node),
            link_endpoint: endpoint.to_owned(),
            credentials: self.credentials(&PeerIdentity::Node { tenant: None, node }),
            trust_bundle: bundle,
            trust_bundle_sequence: 1,
            enrollment_url: None,
            join_token_sha256: None,
            not_before_unix: 0,
            not_after_unix: 0,
        };
        identity.save(folder).unwrap();
    }
}

fn now_ms() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    i64::try_from(now.unwrap().as_millis()).unwrap()
}
