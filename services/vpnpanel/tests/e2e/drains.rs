//! A node that takes no new sessions: who is there goes on, whatever starts again.

use std::time::Duration;

use serde_json::json;
use vpnpanel_node_agent::testing::{WgQuick, eventually, require_root};

use crate::support::{ALL_IN_ONE, ControlPlane, Edge, edge};

const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn a_draining_node_keeps_who_is_there_and_lets_nobody_in_even_on_a_new_disk() {
    if !require_root() {
        return;
    }
    let mut network = edge::network("drain");
    let newcomer = network.add_subscriber();
    let control = ControlPlane::remote(network.control(), ALL_IN_ONE, &[]);
    let panel = control.first_panel();
    let Edge {
        node,
        agent,
        group,
        traffic,
        server: _server,
        tunnel: _tunnel,
        ..
    } = Edge::start(&network, &panel, 10_000_000_000);
    let bob = panel.create_user("bob", &group, 0);
    let path = format!("/v1/tenants/{}/users/{}/connections", panel.tenant, bob.id);
    let connections = || {
        let answer = panel.rest.get(&path);
        answer["connections"].as_array().map_or(0, Vec::len)
    };
    assert_eq!(connections(), 1);

    panel.drain(&node, true);
    panel.wait_applied();
    assert_eq!(connections(), 0, "nobody is sent there");
    let is_closed = || {
        let tables = network.node().run("nft", &["list", "tables"]);
        tables.lines().any(|line| line.contains("_gate"))
    };
    eventually("the gate is closed", PATIENCE, is_closed);
    let late = WgQuick::up(network.subscriber(newcomer), &bob.configuration);
    let turned_away = || {
        edge::wait_flows(&traffic, 2_000_000);
        assert_eq!(late.last_handshake(), 0);
        assert!(is_closed());
    };
    turned_away();

    let agent = agent.kill9().run(network.node());
    panel.wait_node(&node, "ONLINE", PATIENCE);
    turned_away();
    let uncordon = panel.command(&node, "UNCORDON");
    panel.wait_done(&node, &uncordon);
    turned_away();
    assert_eq!(traffic.connections(), 1, "who was there noticed nothing");

    // With a disk that knows nothing of it interfaces are made anew, and everybody is a newcomer.
    let folder = agent.stop();
    for name in ["spool.redb", "draining"] {
        std::fs::remove_file(folder.path().join(name)).expect("a file");
    }
    let agent = folder.run(network.node());
    panel.wait_node(&node, "ONLINE", PATIENCE);
    panel.wait_applied();
    eventually("the gate is closed again", PATIENCE, is_closed);
    let dropped = || {
        let rules = network.node().run("nft", &["list", "ruleset"]);
        let rule = rules.lines().find(|line| line.contains("@ports counter"));
        rule.is_some_and(|rule| !rule.contains("packets 0 "))
    };
    eventually("handshakes are turned away", PATIENCE, dropped);
    assert_eq!(late.last_handshake(), 0);

    panel.drain(&node, false);
    assert_eq!(connections(), 1);
    eventually("the newcomer is in", PATIENCE, || late.last_handshake() > 0);
    assert!(!is_closed());
    edge::wait_flows(&traffic, 1_000_000);
    let shown = panel.rest.get(&format!("/v1/nodes/{node}"));
    assert_ne!(shown["draining"], json!(true));
    drop(agent);
}
