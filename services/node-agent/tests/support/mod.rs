//! A node with the WireGuard engine in its namespace, and subscribers with real clients.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::collections::BTreeSet;
use std::time::Duration;

use vpnpanel_domain::{InboundId, PeerId, SpeedLimit, UserId};
use vpnpanel_node_agent::engine::{
    Engine, Inbound, Key32, MOST_PACED, Peer, PeerOp, Reading, WireGuardEngine, WireGuardOptions,
};
use vpnpanel_node_agent::testing::{Namespace, Topology, WgQuick};
use x25519_dalek::{PublicKey, StaticSecret};

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Node {
    pub(crate) network: Topology,
    pub(crate) engine: WireGuardEngine,
    pub(crate) inbound: Inbound,
    pub(crate) folder: tempfile::TempDir,
}

pub(crate) struct Subscriber {
    pub(crate) index: usize,
    pub(crate) peer: Peer,
    secret: StaticSecret,
}

impl Node {
    pub(crate) fn new(label: &str, subscribers: u8) -> (Self, Vec<Subscriber>) {
        Self::with_most_paced(label, subscribers, MOST_PACED)
    }

    pub(crate) fn with_most_paced(
        label: &str,
        subscribers: u8,
        most_paced: usize,
    ) -> (Self, Vec<Subscriber>) {
        let mut network = Topology::new(label);
        let folder = tempfile::tempdir().unwrap();
        let engine = engine(&folder, most_paced);
        let inbound = Inbound {
            id: InboundId::from_bytes(random()),
            private_key: Key32::new(random()),
            port: 51820,
            addresses: BTreeSet::from([
                "10.66.0.1/16".parse().unwrap(),
                "fd66::1/64".parse().unwrap(),
            ]),
            mtu: 1420,
        };
        network.node().run("nft", &[ORACLE]);
        let subscribers: Vec<_> = (0..subscribers)
            .map(|number| Subscriber::new(network.add_subscriber(), number, inbound.id))
            .collect();
        let node = Self {
            network,
            engine,
            inbound,
            folder,
        };
        node.ensure();
        (node, subscribers)
    }

    pub(crate) fn host(&self) -> &Namespace {
        self.network.node()
    }

    /// Has an engine adopt what runs, as a restarted agent does, and do without the old one.
    pub(crate) fn restart_agent(&mut self) {
        self.engine = engine(&self.folder, MOST_PACED);
        self.ensure();
    }

    pub(crate) fn ensure(&self) -> [u8; 16] {
        let running = self
            .host()
            .block_on(self.engine.ensure_running(vec![self.inbound.clone()]))
            .unwrap();
        assert!(running.failed.is_empty(), "{:?}", running.failed);
        running.incarnation
    }

    pub(crate) fn set(&self, peers: &[&Peer]) {
        let ops = peers
            .iter()
            .map(|peer| PeerOp::Set(Box::new((*peer).clone())))
            .collect();
        for result in self.host().block_on(self.engine.apply(ops)) {
            result.unwrap();
        }
    }

    pub(crate) fn remove(&self, peer: PeerId) {
        let results = self
            .host()
            .block_on(self.engine.apply(vec![PeerOp::Remove(peer)]));
        results.into_iter().for_each(|result| result.unwrap());
    }

    pub(crate) fn read(&self) -> Reading {
        self.host().block_on(self.engine.read_counters()).unwrap()
    }

    pub(crate) fn allow(&self, user: UserId, remainder: u64) {
        self.host()
            .block_on(self.engine.set_allowances(vec![(user, remainder)]))
            .unwrap();
    }

    /// Bytes of a peer: (up, down).
    pub(crate) fn counted(&self, peer: PeerId) -> (u64, u64) {
        self.read().peers.get(&peer).copied().unwrap_or_default()
    }

    /// Bytes that passed between the tunnels and the uplink, by a table that is not ours and
    /// stands behind it: (up, down).
    pub(crate) fn passed(&self) -> (u64, u64) {
        let bytes = |name: &str| {
            let text = self
                .host()
                .run("nft", &["-j", "list", "counter", "inet", "oracle", name]);
            let json: serde_json::Value = serde_json::from_str(&text).unwrap();
            json["nftables"][1]["counter"]["bytes"].as_u64().unwrap()
        };
        (bytes("up"), bytes("down"))
    }

    pub(crate) fn connect<'a>(&'a self, subscriber: &Subscriber) -> WgQuick<'a> {
        WgQuick::up(
            self.network.subscriber(subscriber.index),
            &self.configuration(subscriber),
        )
    }

    pub(crate) fn configuration(&self, subscriber: &Subscriber) -> String {
        use base64::Engine as _;
        use base64::engine::general_purpose::STANDARD;
        let server = StaticSecret::from(*self.inbound.private_key.bytes());
        let addresses: Vec<_> = subscriber
            .peer
            .addresses
            .iter()
            .map(ToString::to_string)
            .collect();
        format!(
            "[Interface]\nPrivateKey = {}\nAddress = {}\nDNS = 9.9.9.9\nMTU = 1420\n\n\
             [Peer]\nPublicKey = {}\nAllowedIPs = 0.0.0.0/0\nEndpoint = {}:{}\nPersistentKeepalive = 5\n",
            STANDARD.encode(subscriber.secret.to_bytes()),
            addresses.join(", "),
            STANDARD.encode(PublicKey::from(&server).as_bytes()),
            Topology::NODE_ADDRESS,
            self.inbound.port,
        )
    }

    /// The name of the tunnel's interface.
    pub(crate) fn interface(&self) -> String {
        let links = self.host().run("ip", &["-br", "link"]);
        let mut names = links
            .lines()
            .filter_map(|line| line.split_whitespace().next());
        let ours = |name: &&str| name.starts_with("vp") && name.len() == 14;
        names.find(ours).expect("an interface").to_owned()
    }

    /// The process of wireguard-go.
    pub(crate) fn engine_pid(&self) -> i32 {
        let ours = |pid: &i32| {
            let cmdline = std::fs::read_to_string(format!("/proc/{pid}/cmdline"));
            cmdline.is_ok_and(|text| text.contains("wireguard-go"))
        };
        let pids: Vec<_> = self.host().pids().into_iter().filter(ours).collect();
        assert_eq!(pids.len(), 1, "one engine");
        pids[0]
    }
}

impl Subscriber {
    fn new(index: usize, number: u8, inbound: InboundId) -> Self {
        let secret = StaticSecret::from(random::<32>());
        let peer = Peer {
            id: PeerId::from_bytes(random()),
            user: UserId::from_bytes(random()),
            inbound,
            public_key: *PublicKey::from(&secret).as_bytes(),
            preshared_key: None,
            addresses: BTreeSet::from([
                format!("10.66.0.{}", number + 2).parse().unwrap(),
                format!("fd66::{}", number + 2).parse().unwrap(),
            ]),
            blocked: false,
            limited: false,
            not_after_ms: None,
            speed: SpeedLimit::NONE,
        };
        Self {
            index,
            peer,
            secret,
        }
    }
}

/// Counts behind every other chain of the forward hook.
const ORACLE: &str = "table inet oracle { counter up { } \n counter down { } \n \
    chain forward { type filter hook forward priority 50; policy accept; \
    oifname \"up0\" counter name up \n iifname \"up0\" counter name down \n } \n }";

fn engine(folder: &tempfile::TempDir, most_paced: usize) -> WireGuardEngine {
    WireGuardEngine::new(WireGuardOptions {
        identity: folder.path().as_os_str().as_encoded_bytes().to_vec(),
        folder: folder.path().to_owned(),
        force_userspace: false,
        kernel_quota: true,
        most_paced,
    })
}

pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).unwrap();
    bytes
}
