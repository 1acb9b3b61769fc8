//! A backup is put back: what was counted since is billed once, and nobody goes without a word.

use std::time::Duration;

use serde_json::json;
use vpnpanel_node_agent::testing::{Topology, WgQuick, eventually, require_root};

use crate::crashes::assert_books_balance;
use crate::support::{ALL_IN_ONE, ControlPlane, Edge, FLEET, Postgres, Traffic, counters, edge};

#[test]
fn an_older_backup_bills_every_byte_once_and_takes_nobody_away() {
    if !require_root() {
        return;
    }
    let network = edge::network("backup");
    let mut control = ControlPlane::remote(network.control(), ALL_IN_ONE, &[]);
    let panel = control.first_panel();
    let Edge {
        node,
        agent,
        group,
        alice,
        traffic,
        server: _server,
        tunnel: _tunnel,
        ..
    } = Edge::start(&network, &panel, 10_000_000_000);

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
    panel.wait_restored();
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

    edge::wait_flows(&traffic, 1_000_000);
    drop(traffic);
    assert_books_balance(&panel, &network, &node, std::slice::from_ref(&alice));
    assert!(
        panel
            .used_bytes(&alice.id)
            .is_some_and(|used| used > then + 2_000_000)
    );
    drop(agent);
}

#[test]
fn a_backup_of_postgres_that_is_declared_grants_nothing_twice() {
    if !require_root() {
        return;
    }
    let network = edge::network("pgdump");
    let postgres = Postgres::start(network.control());
    let database = [("VPNPANEL_DATABASE_URL", postgres.url())];
    let mut control = ControlPlane::remote(network.control(), FLEET, &database);
    let panel = control.first_panel();
    let Edge {
        node,
        agent,
        alice,
        traffic,
        server: _server,
        tunnel: _tunnel,
        ..
    } = Edge::start(&network, &panel, 1_000_000_000);

    let backup = postgres.back_up();
    let then = panel.used_bytes(&alice.id).expect("an answer");
    edge::wait_billed(&panel, &alice, then + 3_000_000);
    let billed = panel.used_bytes(&alice.id).expect("an answer");
    control.stop();
    postgres.put_back(&backup);

    // Declared before a collector runs: no grant is made that was made already.
    control.start_role("control-api");
    control.start_role("gateway");
    assert!(
        panel
            .used_bytes(&alice.id)
            .is_some_and(|used| used < billed)
    );
    panel.declare_restore();
    let declared = panel.restore();
    assert_eq!(declared["open"], json!(true), "{declared}");
    assert_eq!(declared["evidence"], "declared", "{declared}");
    assert_eq!(declared["nodes"][0]["nodeId"], json!(node), "{declared}");
    control.start_all();
    panel.wait_restored();
    edge::wait_billed(&panel, &alice, billed);
    assert_eq!(
        panel.sync(&node)["errors"].as_array().map_or(0, Vec::len),
        0
    );
    edge::wait_flows(&traffic, 1_000_000);
    assert_eq!(traffic.connections(), 1, "no tunnel was dropped");
    drop(traffic);
    assert_books_balance(&panel, &network, &node, std::slice::from_ref(&alice));
    drop(agent);
}

#[test]
fn a_node_that_is_written_off_holds_nobody_up_and_is_billed_when_it_is_back() {
    const LIMIT: u64 = 60_000_000;
    const RATE: u64 = 2_000_000;
    if !require_root() {
        return;
    }
    let mut networks = [edge::network("awaited"), Topology::new("lost")];
    let [near, far] = &mut networks;
    far.join_control(1, near);
    far.add_subscriber();
    let [near, far] = &networks;
    let mut control = ControlPlane::remote(near.control(), ALL_IN_ONE, &[]);
    let panel = control.first_panel();
    let nodes = ["near", "far"].map(|name| panel.create_node(name, Topology::NODE_ADDRESS));
    let [here, lost] = &nodes;
    let agent = edge::enrol(near.node(), &panel, here);
    let gone = edge::enrol(far.node(), &panel, lost);
    let inbound = panel.create_inbound("main", json!({}));
    let group = panel.create_group("everyone", &[&inbound]);
    let alice = panel.create_user("alice", &group, LIMIT);
    let servers = networks.each_ref().map(Topology::start_server);
    let tunnels = [(near, here), (far, lost)].map(|(network, node)| {
        let configuration = panel.configuration_for(&alice.id, node);
        WgQuick::up(network.subscriber(0), &configuration)
    });
    let passed = || {
        networks
            .each_ref()
            .map(|one| counters(one.node(), &alice.address).sum())
    };
    let taking = Traffic::start(far.subscriber(0), servers[1].address(), RATE);
    edge::wait_billed(&panel, &alice, 4_000_000);
    control.stop();
    let backup = control.back_up();
    control.start_all();
    panel.wait_node(lost, "ONLINE", Duration::from_secs(150));
    edge::wait_billed(&panel, &alice, 8_000_000);

    // The far node is cut off with what it holds, and an older database comes back.
    let folder = gone.kill9();
    control.stop();
    control.put_back(&backup);
    control.start_all();
    panel.declare_restore();
    let traffic = Traffic::start(near.subscriber(0), servers[0].address(), RATE);
    eventually("one node is awaited", Duration::from_secs(150), || {
        let restore = panel.restore();
        restore["awaited"] == json!("1") && restore["nodes"][0]["nodeId"] == json!(lost)
    });
    assert_eq!(panel.restore()["open"], json!(true));
    let held = panel.write_off(lost);
    assert!(held > 0, "the far node held something");
    panel.wait_restored();
    eventually(
        "all of it is given to the near one",
        Duration::from_secs(150),
        || panel.user(&alice.id)["status"] == "USER_STATUS_LIMITED",
    );
    drop(traffic);
    drop(taking);

    // Back after all, it is billed beyond the limit: by no more than what it had passed.
    let back = folder.run(far.node());
    eventually("billed is counted", Duration::from_secs(150), || {
        panel.used_bytes(&alice.id) == Some(passed().iter().sum())
    });
    let [by_near, by_far] = passed();
    println!("{by_near} passed near, {by_far} far, of {LIMIT}; {held} were written off");
    assert!(by_near + by_far > LIMIT, "what was written off is overrun");
    for (node, bytes) in [(here, by_near), (lost, by_far)] {
        assert_eq!(panel.node_usage(node).total.sum(), bytes);
    }
    assert_ne!(
        panel.restore()["open"],
        json!(true),
        "it is no other restore"
    );
    drop((tunnels, agent, back));
}
