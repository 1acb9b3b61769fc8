//! The network of a test: subscribers — node — server, and a host for the control plane.
//!
//! ```text
//! subscriber n  192.0.2.(4n+2) ── 192.0.2.(4n+1)  ┐
//! control       198.18.0.2     ── 198.18.0.1      ├ node, 203.0.113.1 ── 198.51.100.2 server
//! ```
//! The server has no route but to 198.51.100.0/24, so what reaches it came through NAT.

use super::{Namespace, Server, unique};

/// A node, its uplink and whoever is connected to it.
#[derive(Debug)]
pub struct Topology {
    // Subscribers and the rest first: they hold what the node's end of a link needs.
    subscribers: Vec<Namespace>,
    control: Option<Namespace>,
    server: Namespace,
    node: Namespace,
    /// The way to a control plane's host that is another topology's.
    way_to_control: Option<String>,
}

impl Topology {
    /// The node's address, as subscribers reach it.
    pub const NODE_ADDRESS: &str = "203.0.113.1";
    /// The server's address.
    pub const SERVER_ADDRESS: &str = "198.51.100.2";
    /// The node's address, as the control plane's host reaches it.
    pub const NODE_FOR_CONTROL: &str = "198.18.0.1";
    /// The address of the control plane's host.
    pub const CONTROL_ADDRESS: &str = "198.18.0.2";
    /// The node's interface towards the server.
    pub const UPLINK: &str = "up0";

    /// Makes the node and the server, and nothing else yet. The label is for people.
    pub fn new(label: &str) -> Self {
        let node = Namespace::new(&format!("{label}-node"));
        let server = Namespace::new(&format!("{label}-server"));
        node.run("ip", &["address", "add", "203.0.113.1/32", "dev", "lo"]);
        link(
            &node,
            Self::UPLINK,
            "198.51.100.1/24",
            &server,
            "198.51.100.2/24",
        );
        Self {
            subscribers: Vec::new(),
            control: None,
            server,
            node,
            way_to_control: None,
        }
    }

    /// The node's namespace: the agent runs here.
    pub fn node(&self) -> &Namespace {
        &self.node
    }

    /// The server's namespace.
    pub fn server(&self) -> &Namespace {
        &self.server
    }

    /// Starts the server of traffic behind the node.
    pub fn start_server(&self) -> Server {
        Server::start(&self.server, Self::SERVER_ADDRESS)
    }

    /// Adds a subscriber's host and returns its index.
    pub fn add_subscriber(&mut self) -> usize {
        let index = self.subscribers.len();
        let base = u8::try_from(index * 4).expect("at most 60 subscribers");
        let host = Namespace::new(&format!("sub{index}"));
        let (gateway, address) = (base + 1, base + 2);
        link(
            &self.node,
            &format!("sub{index}"),
            &format!("192.0.2.{gateway}/30"),
            &host,
            &format!("192.0.2.{address}/30"),
        );
        host.run(
            "ip",
            &[
                "route",
                "add",
                "default",
                "via",
                &format!("192.0.2.{gateway}"),
            ],
        );
        self.subscribers.push(host);
        index
    }

    /// A subscriber's host.
    pub fn subscriber(&self, index: usize) -> &Namespace {
        &self.subscribers[index]
    }

    /// Adds the control plane's host; it reaches the node and nothing else.
    pub fn add_control(&mut self) {
        let host = Namespace::new("control");
        link(&self.node, "ctl0", "198.18.0.1/30", &host, "198.18.0.2/30");
        self.control = Some(host);
    }

    /// Connects the node to the control plane's host of another topology; there may be up to 60 such
    /// nodes, each with an index of its own from 1 on.
    pub fn join_control(&mut self, index: u8, of: &Self) {
        let (near, far) = (format!("198.18.{index}.1"), format!("198.18.{index}.2"));
        link_as(
            (&self.node, "ctl0", &format!("{near}/30")),
            (of.control(), &format!("node{index}"), &format!("{far}/30")),
        );
        self.way_to_control = Some(far);
        self.add_way_to_control();
    }

    fn add_way_to_control(&self) {
        if let Some(via) = &self.way_to_control {
            let control = format!("{}/32", Self::CONTROL_ADDRESS);
            self.node.run("ip", &["route", "add", &control, "via", via]);
        }
    }

    /// The control plane's host.
    ///
    /// # Panics
    /// When it was not added.
    pub fn control(&self) -> &Namespace {
        self.control.as_ref().expect("add_control was called")
    }

    /// Cuts or mends the link between the node and the control plane's host. No packet passes a
    /// cut link, and nobody is told: connections hang, they are not reset.
    pub fn set_control_link(&self, up: bool) {
        let state = if up { "up" } else { "down" };
        self.node.run("ip", &["link", "set", "ctl0", state]);
        if up {
            // The kernel forgets ways over a link that goes down.
            self.add_way_to_control();
        }
    }
}

/// Connects two namespaces by a veth pair; the far end is always called `eth0`.
fn link(near: &Namespace, name: &str, address: &str, far: &Namespace, far_address: &str) {
    link_as((near, name, address), (far, "eth0", far_address));
}

/// The same with a name for the far end too.
fn link_as(near: (&Namespace, &str, &str), far: (&Namespace, &str, &str)) {
    // Both ends are born in a namespace of the test: nothing passes through the host's.
    let temporary = format!("vt{}", unique());
    near.0.run(
        "ip",
        &[
            "link", "add", near.1, "type", "veth", "peer", "name", &temporary,
        ],
    );
    near.0
        .run("ip", &["link", "set", &temporary, "netns", far.0.name()]);
    far.0.run("ip", &["link", "set", &temporary, "name", far.1]);
    for (namespace, device, address) in [near, far] {
        namespace.run("ip", &["address", "add", address, "dev", device]);
        namespace.run("ip", &["link", "set", device, "up"]);
    }
}
