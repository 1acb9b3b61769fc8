//! Two agents with one identity: never billed automatically, never silent.

use std::time::Duration;

use serde_json::json;
use vpnpanel_node_agent::testing::{eventually, require_root};

use crate::crashes::assert_books_balance;
use crate::support::{ALL_IN_ONE, ControlPlane, Edge, edge};

#[test]
fn a_cloned_agent_folder_is_found_out_and_its_node_quarantined() {
    if !require_root() {
        return;
    }
    let network = edge::network("clone");
    let control = ControlPlane::remote(network.control(), ALL_IN_ONE, &[]);
    let panel = control.first_panel();
    let Edge {
        node,
        agent,
        alice,
        traffic,
        server: _server,
        tunnel: _tunnel,
        ..
    } = Edge::start(&network, &panel, 0);

    // A copy of the folder, as of a virtual machine's snapshot, started elsewhere.
    let folder = agent.stop();
    let copy = folder.copy();
    let agent = folder.run(network.node());
    panel.wait_node(&node, "ONLINE", Duration::from_secs(60));
    let clone = copy.run(network.control());
    panel.wait_node(&node, "QUARANTINED", Duration::from_secs(60));
    let said = control
        .output()
        .into_iter()
        .any(|line| line.contains("quarantine"));
    assert!(said, "the control plane says so in its log");

    // What follows waits for a person; the tunnel goes on.
    let billed = panel.used_bytes(&alice.id);
    let received = traffic.received();
    eventually("traffic goes on", Duration::from_secs(20), || {
        traffic.received() > received + 3_000_000
    });
    assert_eq!(panel.used_bytes(&alice.id), billed);
    assert_eq!(traffic.connections(), 1);
    drop((agent, clone));
}

#[test]
fn a_node_whose_spool_was_deleted_bills_every_byte_once() {
    if !require_root() {
        return;
    }
    let network = edge::network("emptied");
    let control = ControlPlane::remote(network.control(), ALL_IN_ONE, &[]);
    let panel = control.first_panel();
    let Edge {
        node,
        agent,
        alice,
        traffic,
        server: _server,
        tunnel: _tunnel,
        ..
    } = Edge::start(&network, &panel, 0);

    let folder = agent.stop();
    std::fs::remove_file(folder.path().join("spool.redb")).expect("the spool");
    let agent = folder.run(network.node());
    panel.wait_node(&node, "ONLINE", Duration::from_secs(60));
    let billed = panel.used_bytes(&alice.id).expect("an answer");
    eventually("more is billed", Duration::from_secs(60), || {
        panel
            .used_bytes(&alice.id)
            .is_some_and(|used| used > billed + 1_000_000)
    });
    assert_eq!(traffic.connections(), 1, "the tunnel goes on");
    drop(traffic);
    assert_books_balance(&panel, &network, &node, std::slice::from_ref(&alice));
    drop(agent);
}

#[test]
fn a_node_with_an_older_image_of_its_disk_is_quarantined() {
    if !require_root() {
        return;
    }
    let network = edge::network("image");
    let control = ControlPlane::remote(network.control(), ALL_IN_ONE, &[]);
    let panel = control.first_panel();
    let Edge {
        node,
        agent,
        alice,
        traffic,
        server: _server,
        tunnel: _tunnel,
        ..
    } = Edge::start(&network, &panel, 0);

    let folder = agent.stop();
    let image = folder.copy();
    let billed = panel.used_bytes(&alice.id).expect("an answer");
    let agent = folder.run(network.node());
    eventually("more is billed", Duration::from_secs(60), || {
        panel
            .used_bytes(&alice.id)
            .is_some_and(|used| used > billed + 1_000_000)
    });
    drop(agent.stop());
    let agent = image.run(network.node());
    panel.wait_node(&node, "QUARANTINED", Duration::from_secs(60));
    assert_eq!(traffic.connections(), 1, "the tunnel goes on");
    assert_ne!(panel.restore()["open"], json!(true), "it is no restore");
    drop(agent);
}
