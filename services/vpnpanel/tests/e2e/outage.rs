//! Without its control plane a node goes on, and what it counted meanwhile is billed later.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::json;
use vpnpanel_node_agent::testing::{Topology, WgQuick, eventually, require_root};

use crate::crashes::assert_books_balance;
use crate::support::hosts::{self, Invocation};
use crate::support::{ALL_IN_ONE, ControlPlane, Traffic, counters, setting};

#[test]
fn an_outage_of_the_control_plane_drops_no_tunnel_and_loses_no_byte() {
    if !require_root() {
        return;
    }
    let away = Duration::from_secs(setting("VPNPANEL_TEST_OUTAGE_SECS", 15));
    let mut network = Topology::new("away");
    let host = network.add_subscriber();
    let server = network.start_server();
    let mut control = ControlPlane::start(network.node(), ALL_IN_ONE, &[]);
    let panel = control.first_panel();
    let node = panel.local_node(Topology::NODE_ADDRESS);
    let inbound = panel.create_inbound("main", json!({}));
    let group = panel.create_group("everyone", &[&inbound]);
    let alice = panel.create_user("alice", &group, 0);
    let host = network.subscriber(host);
    let _tunnel = WgQuick::up(host, &alice.configuration);
    let traffic = Traffic::start(host, server.address(), 2_000_000);
    eventually("traffic runs", Duration::from_secs(20), || {
        traffic.received() > 1_000_000
    });
    eventually("usage is billed", Duration::from_secs(20), || {
        panel.used_bytes(&alice.id).is_some_and(|used| used > 0)
    });
    let engines = hosts::running(network.node(), "wireguard-go");
    assert_eq!(engines.len(), 1);

    let began = bucket();
    control.kill9();
    let until = Instant::now() + away;
    let billed_before = counters(network.node(), &alice.address).sum();
    std::thread::sleep(away / 3);
    // The agent dies as well, and comes back with nobody to ask.
    let agent = hosts::running(network.node(), "vpnpanel-agent")[0];
    let agent = {
        let invocation = Invocation::of(agent);
        assert_eq!(hosts::kill9(network.node(), "vpnpanel-agent"), 1);
        std::thread::sleep(away / 5);
        invocation.start(network.node(), &control.output_of("up"))
    };
    std::thread::sleep(until.saturating_duration_since(Instant::now()));
    let ended = bucket();
    assert_eq!(
        hosts::running(network.node(), "wireguard-go"),
        engines,
        "the engine was adopted"
    );
    assert_eq!(traffic.connections(), 1);
    assert!(
        traffic.longest_gap() < Duration::from_secs(3),
        "{:?}",
        traffic.longest_gap()
    );
    let during = counters(network.node(), &alice.address).sum() - billed_before;
    assert!(during > 1_000_000, "{during}");

    control.start_all();
    // An agent that was refused for a while tries again after 120 s at the latest.
    panel.wait_node(&node, "ONLINE", Duration::from_secs(150));
    drop(traffic);
    assert_books_balance(&panel, &network, &node, std::slice::from_ref(&alice));
    let usage = panel.user_usage(&alice.id);
    let in_time: u64 = usage
        .points
        .range(began..)
        .map(|(_, counted)| counted.sum())
        .sum();
    assert!(in_time >= during, "{usage:?} from {began} to {ended}");
    assert!(
        usage.points.keys().all(|start| *start <= bucket()),
        "{usage:?}"
    );
    drop(agent);
}

/// The quarter of an hour that it is, seconds of the Unix epoch.
fn bucket() -> i64 {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("after 1970");
    i64::try_from(now.as_secs() / 900 * 900).expect("in range")
}
