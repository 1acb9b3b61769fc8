//! The engine's state and operations: what should be, what Xray has, and how one becomes the
//! other. A peer is put out of Xray first and its connections are ended then, so that none comes
//! back.

mod cordon;
mod ending;
mod places;
mod users;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use prost::Message;
use sha2::{Digest, Sha256};
use vpnpanel_domain::{InboundId, PeerId};

use self::cordon::Cordon;
use self::ending::destroy_all;
use self::places::Places;
use super::access_log::AccessLog;
use super::api::Api;
use super::connections::Connections;
use super::credit::Credit;
use super::process::{self, Process};
use super::types::{Text, XrayInbound, XrayPeer, XraySession};
use super::{KIND, XrayOptions, wall, wire};
use crate::engine::{Incarnation, Reading, Running, Status};
use crate::{Error, clock, host};

/// Users that are given to Xray with an inbound, in bytes; the rest follows one by one. Xray
/// takes no message of more than 4 MiB.
const USERS: usize = 3 << 20;
/// So long an Xray may take to answer.
const GREETING: Duration = Duration::from_secs(5);
/// How often counters are read before Xray is ended, at most, and how long between.
const LAST_READINGS: usize = 20;
const LAST_PAUSE: Duration = Duration::from_millis(50);
/// Somebody who removes the wall has it back within this time.
const WALL: Duration = Duration::from_secs(30);

/// An inbound that Xray has open.
#[derive(Debug)]
struct Open {
    tag: String,
    port: u16,
    /// Who is let in, with which credential.
    users: HashMap<PeerId, Text>,
}

/// The Xray that answered last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Answering {
    nonce: [u8; 16],
    incarnation: Incarnation,
}

/// An inbound and a digest of a credential.
type Identity = (InboundId, [u8; 32]);

#[derive(Debug)]
pub(super) struct Core {
    process: Process,
    folder: PathBuf,
    table: String,
    patience: Duration,
    version: String,
    running: Option<Answering>,
    inbounds: BTreeMap<InboundId, XrayInbound>,
    open: BTreeMap<InboundId, Open>,
    peers: HashMap<PeerId, XrayPeer>,
    /// What Xray tells the users of an inbound apart by.
    identities: HashMap<Identity, PeerId>,
    identity_of: HashMap<PeerId, Identity>,
    /// Peers that an earlier agent had let in: limited ones stay until their allowance is known.
    adopted: HashSet<PeerId>,
    credit: Credit,
    log: AccessLog,
    connections: Connections,
    cordon: Cordon,
    places: Places,
    started: Instant,
    /// Somebody was cut not long before (seconds since `started`).
    cutting_until: u64,
    walled: Option<Instant>,
    last_reading: Instant,
    /// The counters cannot be read: limited users are out.
    blind: bool,
    problem: Option<String>,
}

impl Core {
    pub(super) fn new(options: XrayOptions) -> Self {
        let digest = Sha256::digest([b"vpnpanel agent", options.identity.as_slice()].concat());
        let process = Process::new(options.program, options.folder.clone());
        let log = AccessLog::new(process.access_log(), 0);
        let cordon = Cordon::new(&options.folder);
        Self {
            process,
            folder: options.folder,
            table: format!(
                "vpnpanel_xray_{}",
                hex::encode(digest.get(..3).unwrap_or_default())
            ),
            patience: options.patience,
            version: KIND.to_owned(),
            running: None,
            inbounds: BTreeMap::new(),
            open: BTreeMap::new(),
            peers: HashMap::new(),
            identities: HashMap::new(),
            identity_of: HashMap::new(),
            adopted: HashSet::new(),
            credit: Credit::default(),
            log,
            connections: Connections::default(),
            cordon,
            places: Places::default(),
            started: Instant::now(),
            cutting_until: 0,
            walled: None,
            last_reading: Instant::now(),
            blind: false,
            problem: None,
        }
    }

    pub(super) async fn ensure_running(
        &mut self,
        wanted: Vec<XrayInbound>,
    ) -> Result<Running, Error> {
        let result = self.try_ensure_running(wanted).await;
        self.problem = match &result {
            Ok(running) => running.failed.first().map(|(_, error)| error.to_string()),
            Err(error) => Some(error.to_string()),
        };
        result
    }

    async fn try_ensure_running(&mut self, wanted: Vec<XrayInbound>) -> Result<Running, Error> {
        let (wanted, mut failed) = consistent(wanted);
        self.inbounds = wanted;
        let (mut api, running) = self.take_up().await?;
        self.close_unwanted(&mut api).await?;
        let ids: Vec<_> = self.inbounds.keys().copied().collect();
        for id in ids {
            if let Err(error) = self.open(&mut api, id).await {
                failed.push((id, error));
            }
        }
        let cut = self.expire(&mut api).await?;
        if let Err(error) = self.end_connections(cut) {
            // Everything else runs and is counted; the next poll tries again.
            tracing::error!(event = "connections_not_ended", %error);
        }
        self.put_out_who_left(&mut api).await?;
        Ok(Running {
            incarnation: running.incarnation,
            failed,
        })
    }

    /// Whether an Xray of ours runs, taken up or not.
    pub(super) fn runs(&mut self) -> bool {
        self.process.runs()
    }

    /// Takes up an Xray that runs, or starts one; what it has open stays so, and nothing is opened.
    pub(super) async fn adopt(&mut self) -> Result<(), Error> {
        let result = self.take_up().await.map(drop);
        self.problem = result.as_ref().err().map(ToString::to_string);
        result
    }

    async fn take_up(&mut self) -> Result<(Api, Answering), Error> {
        if self.running.is_none() {
            host::preflight()?;
            self.version = self.process.version()?;
        }
        if self.walled.is_none_or(|raised| raised.elapsed() > WALL) {
            wall::raise(&self.table)?;
            self.walled = Some(Instant::now());
        }
        let (mut api, running, fresh) = self.greet().await?;
        if self.running != Some(running) {
            self.meet(&mut api, running, fresh).await?;
        }
        Ok((api, running))
    }

    /// Has the process run and asks it who it is; and whether it had to be started. One that was
    /// just started needs a moment to answer, one that was just killed a moment to be gone.
    async fn greet(&mut self) -> Result<(Api, Answering, bool), Error> {
        let deadline = Instant::now() + GREETING;
        let mut fresh = false;
        loop {
            fresh |= self.process.ensure()?;
            let answer = async {
                let mut api = self.connect().await?;
                let running = answering(&mut api).await?;
                Ok((api, running, fresh))
            };
            match answer.await {
                Err(_) if Instant::now() < deadline => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                result => return result,
            }
        }
    }

    async fn connect(&self) -> Result<Api, Error> {
        let api = Api::connect(&self.process.socket()).await?;
        if self.process.is(api.pid()) {
            Ok(api)
        } else {
            Err(Error::XrayReplaced)
        }
    }

    /// Takes up what an Xray that was just started or found has open.
    async fn meet(&mut self, api: &mut Api, running: Answering, fresh: bool) -> Result<(), Error> {
        if self.running.is_some() {
            tracing::warn!(
                event = "engine_restarted",
                "xray was restarted: its counters start anew"
            );
        }
        self.credit.restart();
        self.open.clear();
        let record = if fresh {
            None
        } else {
            self.read_record(running.nonce)
        };
        self.log = AccessLog::new(
            self.process.access_log(),
            record.as_ref().map_or(0, |record| record.offset),
        );
        self.connections = record.map(Connections::restore).unwrap_or_default();
        for tag in api.tags().await? {
            let Some((id, port)) = wire::place_of(&tag) else {
                continue;
            };
            let mut users = HashMap::new();
            for user in api.users(tag.clone()).await? {
                if let (Some(peer), Some(credential)) =
                    (wire::peer_of(&user.email), wire::credential_of(&user))
                {
                    users.insert(peer, credential);
                }
            }
            self.open.insert(id, Open { tag, port, users });
        }
        self.take_as_there();
        self.credit.take(&api.counters().await?);
        if self.running.is_none() {
            let users = self.open.values().flat_map(|open| open.users.keys());
            self.adopted = users.copied().collect();
            self.last_reading = Instant::now();
        }
        self.running = Some(running);
        Ok(())
    }

    /// Closes inbounds that are not wanted, and ends the connections through them.
    async fn close_unwanted(&mut self, api: &mut Api) -> Result<(), Error> {
        let unwanted: Vec<_> = self
            .open
            .keys()
            .copied()
            .filter(|id| !self.inbounds.contains_key(id))
            .collect();
        for id in unwanted {
            let Some(open) = self.open.get(&id) else {
                continue;
            };
            let port = open.port;
            api.remove_inbound(open.tag.clone()).await?;
            self.open.remove(&id);
            self.connections.forget(id);
            destroy_all(port)?;
        }
        Ok(())
    }

    /// Opens an inbound with its peers unless it is open just so.
    async fn open(&mut self, api: &mut Api, id: InboundId) -> Result<(), Error> {
        let Some(inbound) = self.inbounds.get(&id).cloned() else {
            return Ok(());
        };
        let nonce = self.running.ok_or(Error::Stopped)?.nonce;
        let tag = wire::tag(&inbound, &nonce);
        if self.open.get(&id).is_some_and(|open| open.tag == tag) {
            return Ok(());
        }
        if self.open.contains_key(&id) {
            // Its lines are known by the tag that goes away.
            self.read_log()?;
        }
        if let Some(open) = self.open.get(&id) {
            let port = open.port;
            api.remove_inbound(open.tag.clone()).await?;
            self.open.remove(&id);
            if port != inbound.port {
                self.connections.forget(id);
                destroy_all(port)?;
            }
        }
        let mut first = Vec::new();
        let (mut rest, mut users, mut size) = (Vec::new(), HashMap::new(), 0);
        for peer in self.peers.values().filter(|peer| peer.inbound == id) {
            if !self.is_let_in(peer) {
                continue;
            }
            let user = wire::user(&inbound, peer);
            size += user.encoded_len() + 8;
            if size < USERS {
                users.insert(peer.id, peer.credential.clone());
                first.push(user);
            } else {
                rest.push(peer.id);
            }
        }
        let handler = wire::handler(&inbound, tag.clone(), first, &unknown_header()?);
        if let Err(error) = api.add_inbound(handler).await {
            // Xray keeps one that could not listen; it would be in the way of the next try.
            let _ = api.remove_inbound(tag).await;
            return Err(error);
        }
        let port = inbound.port;
        self.open.insert(id, Open { tag, port, users });
        self.sync_all(api, rest).await.map(drop)
    }

    pub(super) async fn read_counters(&mut self) -> Result<Reading, Error> {
        let mut api = self.connect().await?;
        let before = answering(&mut api).await?;
        let at_ms = clock::unix_ms();
        let peers = api.counters().await?;
        let after = answering(&mut api).await?;
        if before != after || self.running != Some(after) {
            return Err(Error::XrayReplaced);
        }
        let exhausted = self.credit.take(&peers);
        self.last_reading = Instant::now();
        let recovered = std::mem::take(&mut self.blind);
        let concerned: Vec<_> = self
            .peers
            .values()
            .filter(|peer| peer.limited && (recovered || exhausted.contains(&peer.user)))
            .map(|peer| peer.id)
            .collect();
        if self.sync_all(&mut api, concerned).await? {
            self.end_connections(true)?;
        }
        Ok(Reading {
            incarnation: after.incarnation,
            at_ms,
            peers,
            exhausted,
        })
    }

    /// Cuts limited users when the counters could not be read for too long. An Xray that does
    /// not even put them out is ended: it starts again without them.
    pub(super) async fn watch(&mut self) -> Result<(), Error> {
        let running = self.running.is_some();
        if running && !self.adopted.is_empty() && self.started.elapsed() >= self.patience {
            self.adopted.clear();
            let unknown = self.peers.values();
            let unknown = unknown.filter(|peer| peer.limited && !self.credit.knows(peer.user));
            let unknown = unknown.map(|peer| peer.id).collect();
            self.settle(unknown).await?;
        }
        if !running || self.blind || self.last_reading.elapsed() < self.patience {
            return Ok(());
        }
        self.blind = true;
        let limited: Vec<_> = self
            .peers
            .values()
            .filter(|peer| peer.limited)
            .map(|peer| peer.id)
            .collect();
        if limited.is_empty() {
            return Ok(());
        }
        tracing::error!(
            event = "limited_users_cut",
            peers = limited.len(),
            "counters cannot be read: limited users are cut until they can"
        );
        if let Err(error) = self.settle(limited).await {
            tracing::error!(event = "engine_ended", %error, "xray does not answer: it is ended");
            return self.process.stop();
        }
        Ok(())
    }

    pub(super) fn list(&self) -> Result<Vec<PeerId>, Error> {
        self.running.ok_or(Error::Stopped)?;
        let open = self.open.values().flat_map(|open| open.users.keys());
        let all: BTreeSet<_> = open.chain(self.peers.keys()).copied().collect();
        Ok(all.into_iter().collect())
    }

    pub(super) fn sessions(&self) -> Vec<XraySession> {
        let sessions = self.connections.sessions().into_iter();
        sessions
            .map(|(peer, addresses)| XraySession { peer, addresses })
            .collect()
    }

    pub(super) fn stop(&mut self) -> Result<(), Error> {
        self.process.stop()
    }

    /// Ends every connection, reads the counters once nothing moves them any more, and ends Xray.
    pub(super) async fn retire(&mut self) -> Result<Reading, Error> {
        let mut api = self.connect().await?;
        for (id, open) in std::mem::take(&mut self.open) {
            api.remove_inbound(open.tag).await?;
            self.connections.forget(id);
            destroy_all(open.port)?;
        }
        let mut reading = self.read_counters().await?;
        for _ in 0..LAST_READINGS {
            tokio::time::sleep(LAST_PAUSE).await;
            let next = self.read_counters().await?;
            let rests = next.peers == reading.peers;
            reading = next;
            if rests {
                break;
            }
        }
        self.process.stop()?;
        Ok(reading)
    }

    pub(super) fn destroy(&mut self) -> Result<(), Error> {
        self.process.stop()?;
        wall::remove(&self.table)?;
        self.walled = None;
        match std::fs::remove_dir_all(&self.folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::file(&self.folder)(error))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn status(&mut self) -> Status {
        let running = self.running.filter(|_| self.process.alive());
        Status {
            kind: KIND,
            version: self.version.clone(),
            problem: self.problem.clone(),
            shortfall: None,
            peers: self.open.values().map(|open| open.users.len()).sum(),
            incarnation: running.map(|running| running.incarnation),
        }
    }
}

/// What tells the Xray behind a connection from every other, of this host and of any time.
async fn answering(api: &mut Api) -> Result<Answering, Error> {
    let nonce = api.nonce().await?;
    let started = process::started_at(api.pid()).ok_or(Error::XrayReplaced)?;
    let mut hash = Sha256::new();
    hash.update(nonce);
    hash.update(api.pid().as_raw().to_be_bytes());
    hash.update(started.to_be_bytes());
    let digest = hash.finalize();
    let mut incarnation = Incarnation::default();
    for (byte, of) in incarnation.iter_mut().zip(digest) {
        *byte = of;
    }
    Ok(Answering { nonce, incarnation })
}

/// A header that no client can know.
fn unknown_header() -> Result<String, Error> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| Error::Invalid(error.to_string()))?;
    Ok(format!("x-{}", hex::encode(bytes)))
}

/// The inbounds that can be open together, and why the others cannot.
#[allow(clippy::type_complexity, reason = "a pair of two plain collections")]
fn consistent(
    wanted: Vec<XrayInbound>,
) -> (BTreeMap<InboundId, XrayInbound>, Vec<(InboundId, Error)>) {
    let (mut inbounds, mut failed) = (BTreeMap::new(), Vec::new());
    let mut ports = HashMap::new();
    for inbound in wanted {
        let id = inbound.id;
        if let Err(error) = inbound.check() {
            failed.push((id, error));
        } else if let Some(other) = ports.get(&inbound.port) {
            let error = format!("port {} belongs to inbound {other}", inbound.port);
            failed.push((id, Error::Invalid(error)));
        } else {
            ports.insert(inbound.port, id);
            inbounds.insert(id, inbound);
        }
    }
    (inbounds, failed)
}
