//! A node with the Xray engine in its namespace, and subscribers with real clients.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use vpnpanel_domain::{InboundId, PeerId, UserId};
use vpnpanel_link::Secret;
use vpnpanel_node_agent::engine::xray::{
    Protocol, Security, ShadowsocksMethod, Text, Transport, XrayInbound, XrayOp, XrayPeer,
};
use vpnpanel_node_agent::engine::{Reading, XrayEngine, XrayOptions};
use vpnpanel_node_agent::testing::{Namespace, Server, Topology, XrayProcess, xray_program};

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
pub(crate) const MB: u64 = 1 << 20;
/// Where a client of a test listens, in its subscriber's namespace.
const NAME: &str = "node.test";
const DISGUISE: &str = "www.example.test";
const DISGUISE_PORT: u16 = 8443;

pub(crate) struct Node {
    pub(crate) network: Topology,
    pub(crate) engine: XrayEngine,
    pub(crate) inbounds: Vec<XrayInbound>,
    pub(crate) folder: tempfile::TempDir,
    /// Clients join their connections into one.
    pub(crate) mux: bool,
    certificate: String,
    reality: [u8; 32],
    /// What REALITY looks like.
    disguise: Option<XrayProcess>,
}

impl Node {
    /// A node with subscribers' hosts and no inbound yet.
    pub(crate) fn new(label: &str, subscribers: usize) -> Self {
        let mut network = Topology::new(label);
        let folder = tempfile::tempdir().unwrap();
        for _ in 0..subscribers {
            network.add_subscriber();
        }
        let engine = engine(&folder, Duration::from_secs(30));
        Self {
            network,
            engine,
            inbounds: Vec::new(),
            folder,
            mux: false,
            certificate: String::new(),
            reality: random(),
            disguise: None,
        }
    }

    pub(crate) fn host(&self) -> &Namespace {
        self.network.node()
    }

    pub(crate) fn run<R: Send>(&self, future: impl Future<Output = R> + Send) -> R {
        self.host().block_on(future)
    }

    /// Opens an inbound on a port of its own.
    pub(crate) fn open(
        &mut self,
        protocol: Protocol,
        transport: Transport,
        security: Security,
    ) -> InboundId {
        let inbound = XrayInbound {
            id: InboundId::from_bytes(random()),
            port: 4430 + u16::try_from(self.inbounds.len()).unwrap(),
            protocol,
            transport,
            security,
        };
        let id = inbound.id;
        self.inbounds.push(inbound);
        self.ensure();
        id
    }

    /// An inbound that needs nothing else.
    pub(crate) fn open_vmess(&mut self) -> InboundId {
        self.open(Protocol::Vmess, Transport::Tcp, Security::None)
    }

    pub(crate) fn tls(&mut self) -> Security {
        let made = rcgen::generate_simple_self_signed([NAME.to_owned()]).unwrap();
        self.certificate = made.cert.pem();
        Security::Tls {
            certificate: made.cert.pem(),
            key: Text::new(made.signing_key.serialize_pem()),
        }
    }

    /// REALITY, and a server that it looks like.
    pub(crate) fn reality(&mut self) -> Security {
        let made = rcgen::generate_simple_self_signed([DISGUISE.to_owned()]).unwrap();
        let address: SocketAddr = format!("{}:{DISGUISE_PORT}", Topology::SERVER_ADDRESS)
            .parse()
            .unwrap();
        let (chain, key) = (made.cert.pem(), made.signing_key.serialize_pem());
        let server = self.network.server();
        self.disguise = Some(XrayProcess::disguise(server, address, &chain, &key));
        Security::Reality {
            target: address.to_string(),
            server_names: vec![DISGUISE.to_owned()],
            private_key: Secret(self.reality),
            short_ids: BTreeSet::from([[1, 2, 3, 4, 5, 6, 7, 8]]),
        }
    }

    pub(crate) fn ensure(&self) -> [u8; 16] {
        let running = self
            .run(self.engine.ensure_running(self.inbounds.clone()))
            .unwrap();
        assert!(running.failed.is_empty(), "{:?}", running.failed);
        running.incarnation
    }

    /// A new agent that knows nothing but its folder.
    pub(crate) fn restart_agent(&mut self) {
        self.engine = engine(&self.folder, Duration::from_secs(30));
    }

    pub(crate) fn with_patience(&mut self, patience: Duration) {
        self.engine = engine(&self.folder, patience);
    }

    pub(crate) fn set(&self, peers: &[&XrayPeer]) {
        let ops = peers.iter();
        let ops = ops.map(|peer| XrayOp::Set(Box::new((*peer).clone())));
        for result in self.run(self.engine.apply(ops.collect())) {
            result.unwrap();
        }
    }

    pub(crate) fn remove(&self, peer: PeerId) {
        for result in self.run(self.engine.apply(vec![XrayOp::Remove(peer)])) {
            result.unwrap();
        }
    }

    pub(crate) fn read(&self) -> Reading {
        self.run(self.engine.read_counters()).unwrap()
    }

    /// Bytes of a peer: (up, down).
    pub(crate) fn counted(&self, peer: PeerId) -> (u64, u64) {
        self.read().peers.get(&peer).copied().unwrap_or_default()
    }

    /// A new peer of an inbound, known to the engine.
    pub(crate) fn peer(&self, inbound: InboundId) -> XrayPeer {
        let peer = self.unknown_peer(inbound);
        self.set(&[&peer]);
        peer
    }

    pub(crate) fn unknown_peer(&self, inbound: InboundId) -> XrayPeer {
        let credential = match &self.inbound(inbound).protocol {
            Protocol::Vless { .. } | Protocol::Vmess => {
                uuid::Uuid::from_bytes(random()).to_string()
            }
            Protocol::Trojan => hex::encode(random::<16>()),
            Protocol::Shadowsocks { method, .. } => shadowsocks_key(*method),
        };
        XrayPeer {
            id: PeerId::from_bytes(random()),
            user: UserId::from_bytes(random()),
            inbound,
            credential: Text::new(credential),
            blocked: false,
            limited: false,
            not_after_ms: None,
            devices: 0,
        }
    }

    fn inbound(&self, id: InboundId) -> &XrayInbound {
        self.inbounds
            .iter()
            .find(|inbound| inbound.id == id)
            .unwrap()
    }

    /// A subscriber's client; what connects to the returned address reaches the server.
    pub(crate) fn connect(
        &self,
        subscriber: usize,
        peer: &XrayPeer,
        server: &Server,
    ) -> (XrayProcess, SocketAddr) {
        self.connect_to(
            subscriber,
            peer,
            &server.address().ip().to_string(),
            server.address().port(),
        )
    }

    pub(crate) fn connect_to(
        &self,
        subscriber: usize,
        peer: &XrayPeer,
        target: &str,
        port: u16,
    ) -> (XrayProcess, SocketAddr) {
        let listens = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let config = json!({
            "log": {"loglevel": "warning"},
            "inbounds": [{
                "listen": "127.0.0.1", "port": listens.port(), "protocol": "dokodemo-door",
                "settings": {"address": target, "port": port, "network": "tcp,udp"},
            }],
            "outbounds": [self.outbound(peer)],
        });
        let host = self.network.subscriber(subscriber);
        (XrayProcess::start(host, &config, listens), listens)
    }

    fn outbound(&self, peer: &XrayPeer) -> Value {
        let inbound = self.inbound(peer.inbound);
        let (address, port) = (Topology::NODE_ADDRESS, inbound.port);
        let secret = peer.credential.text();
        let server =
            |user: Value| json!({"vnext": [{"address": address, "port": port, "users": [user]}]});
        let (protocol, settings) = match &inbound.protocol {
            Protocol::Vless { vision } => {
                let flow = if *vision { "xtls-rprx-vision" } else { "" };
                let user = json!({"id": secret, "encryption": "none", "flow": flow});
                ("vless", server(user))
            }
            Protocol::Vmess => ("vmess", server(json!({"id": secret, "security": "auto"}))),
            Protocol::Trojan => (
                "trojan",
                json!({"servers": [{"address": address, "port": port, "password": secret}]}),
            ),
            Protocol::Shadowsocks { method, key } => (
                "shadowsocks",
                json!({"servers": [{"address": address, "port": port, "method": method.name(),
                    "password": format!("{}:{secret}", key.text())}]}),
            ),
        };
        let mut stream = match &inbound.transport {
            Transport::Tcp => json!({"network": "tcp"}),
            Transport::WebSocket { path, host } => {
                // It lies about where it comes from: nobody should care.
                let lie = json!({"X-Forwarded-For": "192.0.2.77"});
                let settings = json!({"path": path, "host": host, "headers": lie});
                json!({"network": "ws", "wsSettings": settings})
            }
            Transport::Grpc { service } => {
                json!({"network": "grpc", "grpcSettings": {"serviceName": service}})
            }
        };
        match &inbound.security {
            Security::None => (),
            Security::Tls { .. } => {
                let lines: Vec<_> = self.certificate.lines().collect();
                stream["security"] = json!("tls");
                stream["tlsSettings"] = json!({
                    "serverName": NAME, "disableSystemRoot": true,
                    "certificates": [{"usage": "verify", "certificate": lines}],
                });
            }
            Security::Reality { .. } => {
                let key = x25519_dalek::StaticSecret::from(self.reality);
                let key = x25519_dalek::PublicKey::from(&key);
                stream["security"] = json!("reality");
                stream["realitySettings"] = json!({
                    "serverName": DISGUISE, "fingerprint": "chrome",
                    "publicKey": URL_SAFE_NO_PAD.encode(key.as_bytes()),
                    "shortId": "0102030405060708",
                });
            }
        }
        json!({
            "protocol": protocol, "settings": settings, "streamSettings": stream,
            "mux": {"enabled": self.mux, "concurrency": 8},
        })
    }

    /// The process of the engine.
    pub(crate) fn engine_pid(&self) -> i32 {
        let folder = self.folder.path().to_str().unwrap().to_owned();
        let ours = |pid: &i32| {
            let cmdline = std::fs::read_to_string(format!("/proc/{pid}/cmdline"));
            cmdline.is_ok_and(|text| text.contains("xray") && text.contains(&folder))
        };
        let pids: Vec<_> = self.host().pids().into_iter().filter(ours).collect();
        assert_eq!(pids.len(), 1, "one engine");
        pids[0]
    }
}

pub(crate) fn shadowsocks_key(method: ShadowsocksMethod) -> String {
    let bytes: [u8; 32] = random();
    STANDARD.encode(&bytes[..method.key_length()])
}

impl Drop for Node {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for log in ["error.log", "access.log"] {
                let text = std::fs::read_to_string(self.folder.path().join("xray").join(log));
                let text = text.unwrap_or_default();
                let last: Vec<_> = text.lines().rev().take(20).collect();
                eprintln!("{log}, newest first: {last:#?}");
            }
        }
    }
}

fn engine(folder: &tempfile::TempDir, patience: Duration) -> XrayEngine {
    XrayEngine::new(XrayOptions {
        identity: folder.path().as_os_str().as_encoded_bytes().to_vec(),
        folder: folder.path().join("xray"),
        program: Some(xray_program()),
        patience,
    })
}

/// A port that no other client of these tests listens on.
fn free_port() -> u16 {
    use std::sync::atomic::{AtomicU16, Ordering};
    static NEXT: AtomicU16 = AtomicU16::new(20_000);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).unwrap();
    bytes
}
