//! An edge host with a subscriber behind it: what most tests begin with.

use std::time::Duration;

use serde_json::json;
use vpnpanel_node_agent::testing::{Namespace, Server, Topology, WgQuick, eventually};

use super::agent::{Agent, AgentFolder};
use super::{Panel, Subscriber, Traffic};

/// Bytes that the subscriber takes in a second.
const RATE: u64 = 500_000;

/// A network of an edge host, a control plane's host and one subscriber's.
pub(crate) fn network(label: &str) -> Topology {
    let mut network = Topology::new(label);
    network.add_control();
    network.add_subscriber();
    network
}

/// A node that is online, one user, and traffic of that which goes on by itself.
pub(crate) struct Edge<'a> {
    /// The node.
    pub(crate) node: String,
    /// Its agent.
    pub(crate) agent: Agent,
    /// The group of everyone.
    pub(crate) group: String,
    /// The user.
    pub(crate) alice: Subscriber,
    /// Where it takes its traffic from.
    pub(crate) server: Server,
    /// The tunnel, until this is dropped.
    pub(crate) tunnel: WgQuick<'a>,
    /// What it takes.
    pub(crate) traffic: Traffic,
}

impl<'a> Edge<'a> {
    /// Enrols the edge host, makes a user with a limit (0 is none), and waits until something is billed.
    pub(crate) fn start(network: &'a Topology, panel: &Panel<'_>, limit: u64) -> Self {
        let node = panel.create_node("edge", Topology::NODE_ADDRESS);
        let agent = enrol(network.node(), panel, &node);
        let inbound = panel.create_inbound("main", json!({}));
        let group = panel.create_group("everyone", &[&inbound]);
        let alice = panel.create_user("alice", &group, limit);
        let server = network.start_server();
        let host = network.subscriber(0);
        let tunnel = WgQuick::up(host, &alice.configuration);
        let traffic = Traffic::start(host, server.address(), RATE);
        let edge = Self {
            node,
            agent,
            group,
            alice,
            server,
            tunnel,
            traffic,
        };
        edge.wait_billed(panel, 1);
        edge
    }

    /// Waits until so much is billed.
    pub(crate) fn wait_billed(&self, panel: &Panel<'_>, bytes: u64) {
        wait_billed(panel, &self.alice, bytes);
    }
}

/// Has an agent enrolled on a host, and waits until it is online.
pub(crate) fn enrol(host: &Namespace, panel: &Panel<'_>, node: &str) -> Agent {
    let agent = AgentFolder::new().enrol(host, &panel.join_token(node));
    panel.wait_node(node, "ONLINE", Duration::from_secs(60));
    agent
}

/// Waits until so much of a user is billed.
pub(crate) fn wait_billed(panel: &Panel<'_>, user: &Subscriber, bytes: u64) {
    eventually("usage is billed", Duration::from_secs(60), || {
        let used = panel.used_bytes(&user.id);
        used.is_some_and(|used| used >= bytes)
    });
}

/// Waits until traffic that goes on has brought so much more.
pub(crate) fn wait_flows(traffic: &Traffic, bytes: u64) {
    let before = traffic.received();
    eventually("traffic goes on", Duration::from_secs(60), || {
        traffic.received() > before + bytes
    });
}
