//! A node with its agent, an inbound of each engine, and a user with a device on each.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::json;
use vpnpanel_domain::{InboundId, PeerId, PeriodId, SpeedLimit, UserId};
use vpnpanel_link::{
    DesiredInbound, DesiredPeer, DesiredPeriod, DesiredState, DesiredUser, InboundSettings,
    PeerAccess, Secret, SecretText, WireGuardInbound, XrayInbound, XrayProtocol, XraySecurity,
    XrayTransport,
};
use vpnpanel_node_agent::engine::{XrayEngine, XrayOptions};
use vpnpanel_node_agent::testing::{
    Server, Topology, WgQuick, XrayProcess, eventually, xray_program,
};
use x25519_dalek::{PublicKey, StaticSecret};

use crate::panel::{Panel, Served};

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
pub(crate) const MB: u64 = 1_000_000;
pub(crate) const ENDLESS: u64 = 1 << 40;
/// Bytes that pass the node's uplink to subscribers in a second.
pub(crate) const RATE: u64 = 10 * MB;
const DISGUISE: &str = "www.example.test";
const DISGUISE_PORT: u16 = 8443;
const WIREGUARD_PORT: u16 = 51_820;
const XRAY_PORT: u16 = 443;
/// Where the client of Xray listens, on its own host.
const CLIENT_PORT: u16 = 20_000;

/// Counts behind every other chain of the forward hook what passes the tunnel.
const ORACLE: &str = "table inet oracle { counter passed { } \n \
    chain forward { type filter hook forward priority 50; policy accept; \
    oifname \"up0\" counter name passed \n iifname \"up0\" counter name passed \n } \n }";

pub(crate) struct Node {
    agent: Option<Child>,
    program: PathBuf,
    pub(crate) panel: Panel,
    // What the agent leaves running is in the network's namespaces, and ends with them.
    _served: Served,
    _disguise: XrayProcess,
    pub(crate) network: Topology,
    pub(crate) server: Server,
    pub(crate) folder: tempfile::TempDir,
    keys: Keys,
    pub(crate) wireguard: PeerId,
    pub(crate) xray: PeerId,
}

struct Keys {
    tunnel: StaticSecret,
    device: StaticSecret,
    reality: StaticSecret,
    credential: String,
}

impl Node {
    /// A node whose user may pass so many bytes; `None` is any number.
    pub(crate) fn new(label: &str, limit: Option<u64>) -> Self {
        let node = Self::with_program(label, limit, xray_program());
        eventually("the state is in force", PATIENCE, || {
            node.panel.is_in_force()
        });
        node
    }

    /// The same, whose Xray is a program of the caller's; nothing has come of it yet.
    pub(crate) fn with_program(label: &str, limit: Option<u64>, program: PathBuf) -> Self {
        let mut network = Topology::new(label);
        network.add_subscriber();
        network.add_subscriber();
        network.node().run("nft", &[ORACLE]);
        let rate = format!("{}bit", RATE * 8);
        network.server().run(
            "tc",
            &[
                "qdisc", "add", "dev", "eth0", "root", "tbf", "rate", &rate, "burst", "128kb",
                "latency", "50ms",
            ],
        );
        let folder = tempfile::tempdir().unwrap();
        let panel = Panel::new(limit.unwrap_or(0));
        let served = panel.serve(network.node(), folder.path());
        let disguise = disguise(&network);
        let server = network.start_server();
        let mut node = Self {
            agent: None,
            program,
            panel,
            _served: served,
            _disguise: disguise,
            network,
            server,
            folder,
            keys: Keys {
                tunnel: StaticSecret::from(random::<32>()),
                device: StaticSecret::from(random::<32>()),
                reality: StaticSecret::from(random::<32>()),
                credential: uuid::Uuid::from_bytes(random()).to_string(),
            },
            wireguard: PeerId::from_bytes(random()),
            xray: PeerId::from_bytes(random()),
        };
        node.panel.tell(node.state(limit.is_some()));
        node.start_agent();
        node
    }

    fn state(&self, limited: bool) -> DesiredState {
        let (tunnel, port) = (
            InboundId::from_bytes(random()),
            InboundId::from_bytes(random()),
        );
        let wireguard = InboundSettings::WireGuard(WireGuardInbound {
            private_key: Secret(self.keys.tunnel.to_bytes()),
            port: WIREGUARD_PORT,
            addresses: vec![vpnpanel_link::InterfaceAddress {
                address: "10.66.0.1".parse().unwrap(),
                prefix: 16,
            }],
            mtu: 1_420,
        });
        let xray = InboundSettings::Xray(XrayInbound {
            port: XRAY_PORT,
            protocol: XrayProtocol::Vless { vision: true },
            transport: XrayTransport::Tcp,
            security: XraySecurity::Reality {
                target: format!("{}:{DISGUISE_PORT}", Topology::SERVER_ADDRESS),
                server_names: vec![DISGUISE.to_owned()],
                private_key: Secret(self.keys.reality.to_bytes()),
                short_ids: BTreeSet::from([[1; 8]]),
            },
        });
        let peer = |id, inbound, access| DesiredPeer {
            id,
            inbound,
            access,
        };
        let phone = PeerAccess::WireGuard {
            public_key: *PublicKey::from(&self.keys.device).as_bytes(),
            preshared_key: None,
            ipv4: Some([10, 66, 0, 2].into()),
            ipv6: None,
        };
        let laptop = PeerAccess::Xray {
            credential: SecretText::new(&self.keys.credential),
        };
        DesiredState {
            inbounds: [(tunnel, wireguard), (port, xray)]
                .map(|(id, settings)| DesiredInbound { id, settings })
                .into(),
            users: vec![DesiredUser {
                id: UserId::from_bytes(random()),
                period: DesiredPeriod {
                    id: PeriodId::from_bytes(random()),
                    ends_ms: None,
                    spent: false,
                },
                next_period: None,
                blocked: false,
                limited,
                not_after_ms: None,
                speed: SpeedLimit::NONE,
                devices: 0,
                peers: vec![
                    peer(self.wireguard, tunnel, phone),
                    peer(self.xray, port, laptop),
                ],
            }],
            ..DesiredState::default()
        }
    }

    pub(crate) fn start_agent(&mut self) {
        let log = self.folder.path().join("agent.log");
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(log)
            .unwrap();
        let agent = self
            .network
            .node()
            .command(env!("CARGO_BIN_EXE_vpnpanel-agent"))
            .arg("run")
            .env("VPNPANEL_AGENT_DATA_DIR", self.folder.path())
            .env("VPNPANEL_AGENT_XRAY", &self.program)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.agent = Some(agent);
    }

    /// Kills the agent, as a crash would.
    pub(crate) fn kill_agent(&mut self) {
        let mut agent = self.agent.take().unwrap();
        agent.kill().unwrap();
        agent.wait().unwrap();
    }

    /// The disk is lost, and the identity is put back: the agent knows of nothing.
    pub(crate) fn lose_spool(&self) {
        std::fs::remove_file(self.folder.path().join("spool.redb")).unwrap();
    }

    /// The process of Xray that the agent runs.
    pub(crate) fn xray_pid(&self) -> i32 {
        let folder = self.folder.path().to_str().unwrap().to_owned();
        let ours = |pid: &i32| {
            let cmdline = std::fs::read_to_string(format!("/proc/{pid}/cmdline"));
            cmdline.is_ok_and(|text| text.contains("xray") && text.contains(&folder))
        };
        let pids = self.network.node().pids().into_iter().filter(ours);
        pids.min().expect("xray runs")
    }

    /// The device on WireGuard, on the first subscriber's host.
    pub(crate) fn tunnel(&self) -> WgQuick<'_> {
        let configuration = format!(
            "[Interface]\nPrivateKey = {}\nAddress = 10.66.0.2/32\nMTU = 1420\n\n\
             [Peer]\nPublicKey = {}\nAllowedIPs = 0.0.0.0/0\nEndpoint = {}:{WIREGUARD_PORT}\n",
            STANDARD.encode(self.keys.device.to_bytes()),
            STANDARD.encode(PublicKey::from(&self.keys.tunnel).as_bytes()),
            Topology::NODE_ADDRESS,
        );
        WgQuick::up(self.network.subscriber(0), &configuration)
    }

    /// The device on Xray, on the second subscriber's host: what connects to the address there
    /// reaches the server.
    pub(crate) fn client(&self) -> (XrayProcess, SocketAddr) {
        let listens = SocketAddr::from(([127, 0, 0, 1], CLIENT_PORT));
        let target = self.server.address();
        let user = json!({
            "id": self.keys.credential, "encryption": "none", "flow": "xtls-rprx-vision",
        });
        let config = json!({
            "log": {"loglevel": "warning"},
            "inbounds": [{
                "listen": "127.0.0.1", "port": listens.port(), "protocol": "dokodemo-door",
                "settings": {"address": target.ip().to_string(), "port": target.port(),
                    "network": "tcp"},
            }],
            "outbounds": [{
                "protocol": "vless",
                "settings": {"vnext": [{
                    "address": Topology::NODE_ADDRESS, "port": XRAY_PORT, "users": [user],
                }]},
                "streamSettings": {"network": "tcp", "security": "reality", "realitySettings": {
                    "serverName": DISGUISE, "fingerprint": "chrome",
                    "publicKey": URL_SAFE_NO_PAD.encode(
                        PublicKey::from(&self.keys.reality).as_bytes()
                    ),
                    "shortId": "0101010101010101",
                }},
            }],
        });
        let host = self.network.subscriber(1);
        (XrayProcess::start(host, &config, listens), listens)
    }

    /// What the kernel let through the tunnel, by a table that is not the agent's.
    pub(crate) fn passed_the_tunnel(&self) -> u64 {
        let args = ["-j", "list", "counter", "inet", "oracle", "passed"];
        let text = self.network.node().run("nft", &args);
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        json["nftables"][1]["counter"]["bytes"].as_u64().unwrap()
    }

    /// What Xray's own counters show.
    pub(crate) fn counted_by_xray(&self) -> u64 {
        let engine = XrayEngine::new(XrayOptions {
            identity: b"who only reads".to_vec(),
            folder: self.folder.path().join("xray"),
            program: Some(xray_program()),
            patience: PATIENCE,
        });
        let reading = self.network.node().block_on(async {
            engine.adopt().await.unwrap();
            engine.read_counters().await.unwrap()
        });
        let (up, down) = reading.peers.get(&self.xray).copied().unwrap_or_default();
        up + down
    }

    pub(crate) fn billed(&self) -> (u64, u64) {
        (
            self.panel.billed(self.wireguard),
            self.panel.billed(self.xray),
        )
    }

    /// Waits until all that was counted is billed, and nothing beyond it.
    pub(crate) fn all_is_billed(&self) {
        eventually("all is billed", PATIENCE, || {
            self.billed() == (self.passed_the_tunnel(), self.counted_by_xray())
        });
        self.nothing_was_wrong();
    }

    pub(crate) fn nothing_was_wrong(&self) {
        let record = self.panel.record();
        assert!(record.wrong.is_empty(), "{:?}", record.wrong);
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            let _ = agent.kill();
            let _ = agent.wait();
        }
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.folder.path().join("agent.log"));
            let log = log.unwrap_or_default();
            let last: Vec<_> = log.lines().rev().take(30).collect();
            eprintln!("the agent said, newest first: {last:#?}");
            if let Ok(record) = self.panel.record.try_lock() {
                eprintln!("the control plane has: {record:#?}");
            }
        }
    }
}

/// The server that REALITY looks like.
fn disguise(network: &Topology) -> XrayProcess {
    let made = rcgen::generate_simple_self_signed([DISGUISE.to_owned()]).unwrap();
    let (chain, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    let address = format!("{}:{DISGUISE_PORT}", Topology::SERVER_ADDRESS);
    XrayProcess::disguise(network.server(), address.parse().unwrap(), &chain, &key)
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).unwrap();
    bytes
}
