//! A backup is put back: what was counted since is billed once, and nobody goes without a word.

use std::time::Duration;

use serde_json::json;
use vpnpanel_node_agent::testing::{Topology, WgQuick, eventually, require_root};

use crate::crashes::assert_books_balance;
use crate::support::{ALL_IN_ONE, AgentFolder, ControlPlane, Traffic};

#[test]
fn an_older_backup_bills_every_byte_once_and_takes_nobody_away() {
    if !require_root() {
        return;
    }
    let mut network = Topology::new("backup");
    network.add_control();
    let host = network.add_subscriber();
    let server = network.start_server();
    let mut control = ControlPlane::remote(network.control(), ALL_IN_ONE, &[]);
    let panel = control.first_panel();
    let node = panel.create_node("edge", Topology::NODE_ADDRESS);
    let agent = AgentFolder::new().enrol(network.node(), &panel.join_token(&node));
    panel.wait_node(&node, "ONLINE", Duration::from_secs(60));
    let inbound = panel.create_inbound("main", json!({}));
    let group = panel.create_group("everyone", &[&inbound]);
    let alice = panel.create_user("alice", &group, 10_000_000_000);
    let _tunnel = WgQuick::up(network.subscriber(host), &alice.configuration);
    let traffic = Traffic::start(network.subscriber(host), server.address(), 500_000);
    eventually("usage is billed", Duration::from_secs(30), || {
        panel.used_bytes(&alice.id).is_some_and(|used| used > 0)
    });

    control.stop();
    let backup = control.back_up();
    control.start_all();
    panel.wait_node(&node, "ONLINE", Duration::from_secs(150));
    let then = panel.used_bytes(&alice.id).expect("an answer");
    panel.create_user("bob", &group, 0);
    panel.wait_applied();
    eventually("more is billed", Duration::from_secs(60), || {
        panel
            .used_bytes(&alice.id)
            .is_some_and(|used| used > then + 2_000_000)
    });

    control.stop();
    control.put_back(&backup);
    control.start_all();
    assert!(panel.used_bytes(&alice.id).is_some_and(|used| used <= then));
    eventually("the restore is found", Duration::from_secs(150), || {
        panel.restore()["nodeId"] == json!(node)
    });
    let found = panel.restore();
    assert!(
        !found["evidence"].as_str().unwrap_or_default().is_empty(),
        "{found}"
    );
    eventually("the node has reported", Duration::from_secs(60), || {
        let restore = panel.restore();
        restore["open"] != json!(true) && restore["closeTime"].is_string()
    });
    eventually(
        "bob's removal waits for a person",
        Duration::from_secs(60),
        || {
            panel.sync(&node)["errors"]
                .as_array()
                .is_some_and(|errors| {
                    errors.iter().any(|error| {
                        let message = error["message"].as_str().unwrap_or_default();
                        message.contains("would take away 1")
                    })
                })
        },
    );
    assert_eq!(traffic.connections(), 1, "no tunnel was dropped");
    panel.confirm_removals(&node);
    eventually("bob is gone", Duration::from_secs(90), || {
        panel.sync(&node)["errors"]
            .as_array()
            .is_none_or(Vec::is_empty)
    });

    let received = traffic.received();
    eventually("traffic goes on", Duration::from_secs(20), || {
        traffic.received() > received + 1_000_000
    });
    drop(traffic);
    assert_books_balance(&panel, &network, &node, std::slice::from_ref(&alice));
    assert!(
        panel
            .used_bytes(&alice.id)
            .is_some_and(|used| used > then + 2_000_000)
    );
    drop(agent);
}
