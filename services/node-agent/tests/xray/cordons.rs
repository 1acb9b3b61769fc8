//! A node that takes no newcomers: told apart by what they know, not by where they come from.

use vpnpanel_node_agent::engine::xray::XrayPeer;
use vpnpanel_node_agent::testing::{Download, Server, eventually, require_root};

use crate::support::{MB, Node, PATIENCE};

const ENDLESS: u64 = 1 << 40;

/// Bytes of 2 MiB that a new connection of a peer gets.
fn gets(node: &Node, peer: &XrayPeer, server: &Server) -> u64 {
    let (_client, address) = node.connect(0, peer, server);
    Download::through(node.network.subscriber(0), address, 2 * MB).finish(PATIENCE)
}

#[test]
fn a_cordoned_node_keeps_who_is_there_and_nobody_else_from_the_same_address() {
    if !require_root() {
        return;
    }
    let mut node = Node::new("cordon", 1);
    let inbound = node.open_vmess();
    let (there, newcomer) = (node.peer(inbound), node.peer(inbound));
    let server = node.network.start_server();
    let (_client, address) = node.connect(0, &there, &server);
    let going = Download::through(node.network.subscriber(0), address, ENDLESS);
    eventually("it runs", PATIENCE, || going.received() > 2 * MB);

    node.run(node.engine.set_cordoned(true)).unwrap();
    assert_eq!(gets(&node, &newcomer, &server), 0);
    assert_eq!(gets(&node, &there, &server), 2 * MB, "it may connect anew");
    let latecomer = node.peer(inbound);
    assert_eq!(gets(&node, &latecomer, &server), 0);

    // Nor with another agent, whatever else is told to it.
    node.restart_agent();
    node.ensure();
    node.set(&[&there, &newcomer, &latecomer]);
    node.run(node.engine.set_draining(true)).unwrap();
    node.run(node.engine.set_cordoned(false)).unwrap();
    node.ensure();
    assert_eq!(gets(&node, &newcomer, &server), 0);
    assert_eq!(gets(&node, &there, &server), 2 * MB);

    // Nor when Xray had to be started again: who was there may come back.
    node.run(node.engine.stop()).unwrap();
    node.ensure();
    eventually("it ended with Xray", PATIENCE, || going.ended());
    assert_eq!(gets(&node, &newcomer, &server), 0);
    assert_eq!(gets(&node, &there, &server), 2 * MB);

    node.run(node.engine.set_draining(false)).unwrap();
    assert_eq!(gets(&node, &newcomer, &server), 2 * MB);
    assert_eq!(gets(&node, &latecomer, &server), 2 * MB);
}

#[test]
fn a_cordon_ends_no_running_connection() {
    if !require_root() {
        return;
    }
    let mut node = Node::new("keeps", 1);
    let inbound = node.open_vmess();
    let (there, _idle) = (node.peer(inbound), node.peer(inbound));
    let server = node.network.start_server();
    let (_client, address) = node.connect(0, &there, &server);
    let going = Download::through(node.network.subscriber(0), address, ENDLESS);
    eventually("it runs", PATIENCE, || going.received() > 2 * MB);
    for on in [true, false, true] {
        node.run(node.engine.set_cordoned(on)).unwrap();
        node.ensure();
        let so_far = going.received();
        eventually("it goes on", PATIENCE, || {
            going.received() > so_far + 5 * MB
        });
        assert!(!going.ended());
    }
}
