//! A limit stops its user, in the kernel and at the byte, and nobody else.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::json;
use vpnpanel_node_agent::engine::QUOTA_SLACK;
use vpnpanel_node_agent::testing::{Download, Topology, WgQuick, eventually, flood, require_root};

use crate::support::rest::integer;
use crate::support::{ALL_IN_ONE, ControlPlane, Traffic, counters};

const MB: u64 = 1_000_000;

#[test]
fn a_limited_user_is_cut_at_the_limit_and_nobody_else_notices() {
    if !require_root() {
        return;
    }
    let mut network = Topology::new("quota");
    let (first, second) = (network.add_subscriber(), network.add_subscriber());
    let server = network.start_server();
    let control = ControlPlane::start(network.node(), ALL_IN_ONE, &[]);
    let panel = control.first_panel();
    let node = panel.local_node(Topology::NODE_ADDRESS);
    let inbound = panel.create_inbound("main", json!({}));
    let group = panel.create_group("everyone", &[&inbound]);
    let limit = 20 * MB;
    let alice = panel.create_user("alice", &group, limit);
    let bob = panel.create_user("bob", &group, 0);
    let (alice_host, bob_host) = (network.subscriber(first), network.subscriber(second));
    let alice_tunnel = WgQuick::up(alice_host, &alice.configuration);
    let _bob_tunnel = WgQuick::up(bob_host, &bob.configuration);
    let counted = || counters(network.node(), &alice.address).sum();

    let other = Traffic::start(bob_host, server.address(), 3 * MB);
    let download = Download::start(alice_host, &server, 60 * MB);
    // How fast that is can be watched.
    let rates = panel.rest.wait_in_stream("/v1/usage:watch", |rates| {
        integer(&rates["result"]["downBytesPerSecond"]) > 100_000
    });
    assert_eq!(rates["result"]["nodes"][0]["nodeId"], *node);
    // Whoever looks meanwhile how far the node is behind is answered.
    let (mut looked, mut used_up) = (Vec::new(), None);
    eventually("alice is limited", Duration::from_secs(60), || {
        let asked = Instant::now();
        let sync = panel.sync(&node);
        looked.push(asked.elapsed());
        assert!(sync["desiredRevision"].is_string(), "{sync}");
        if used_up.is_none() && counted() > limit - QUOTA_SLACK {
            used_up = Some(Instant::now());
        }
        panel.user(&alice.id)["status"] == "USER_STATUS_LIMITED"
    });
    let cut_at = counted();
    println!(
        "shown as limited {:?} after the kernel let the last packet pass; …/sync was read {} times \
         meanwhile, in {:?} at the longest",
        used_up.map(|at: Instant| at.elapsed()),
        looked.len(),
        looked.iter().max()
    );
    // The kernel lets the packet pass that reaches the limit; its packets are up to 64 KiB.
    assert!(
        cut_at <= limit + QUOTA_SLACK,
        "{cut_at} passed, the limit is {limit}"
    );
    assert!(
        cut_at > limit - QUOTA_SLACK,
        "cut at {cut_at} already, the limit is {limit}"
    );
    assert!(!download.ended() && download.received() < limit);
    eventually(
        "alice's usage is what passed",
        Duration::from_secs(10),
        || panel.used_bytes(&alice.id) == Some(cut_at),
    );

    // Sent by a blocked client: it reaches the node's WireGuard, and nobody pays for it.
    let reached = || transferred(&network, alice_tunnel.interface(), first);
    let before = reached();
    let target = SocketAddr::from(([198, 51, 100, 2], 9));
    let sent = flood(alice_host, target, 10 * MB);
    eventually(
        "the flood reaches the node",
        Duration::from_secs(20),
        || reached() >= before + sent / 2,
    );
    assert_eq!(counted(), cut_at);
    assert_eq!(panel.used_bytes(&alice.id), Some(cut_at));
    assert!(!download.ended());

    // A raised limit lets the very same connection go on.
    panel.set_limit(&alice.id, 40 * MB);
    let stood_at = download.received();
    eventually("alice's download goes on", Duration::from_secs(60), || {
        download.received() > stood_at + MB
    });
    eventually(
        "alice is cut at the new limit",
        Duration::from_secs(60),
        || panel.user(&alice.id)["status"] == "USER_STATUS_LIMITED",
    );
    assert!(
        (40 * MB - QUOTA_SLACK..=40 * MB + QUOTA_SLACK).contains(&counted()),
        "{}",
        counted()
    );

    // Without a limit the rest arrives as well.
    panel.set_limit(&alice.id, 0);
    assert_eq!(download.finish(Duration::from_secs(90)), 60 * MB);
    assert_eq!(panel.user(&alice.id)["status"], "USER_STATUS_ACTIVE");
    eventually(
        "everything of alice is billed",
        Duration::from_secs(10),
        || panel.used_bytes(&alice.id) == Some(counted()),
    );

    // The other user's one connection ran through all of it.
    assert_eq!(other.connections(), 1);
    assert!(
        other.longest_gap() < Duration::from_secs(4),
        "{:?}",
        other.longest_gap()
    );
    assert!(other.received() > 20 * MB, "{}", other.received());
    other.stop();
    let bobs = || counters(network.node(), &bob.address).sum();
    eventually(
        "everything of bob is billed",
        Duration::from_secs(10),
        || panel.used_bytes(&bob.id) == Some(bobs()),
    );
}

/// Bytes that a client's WireGuard has sent: outer bytes, whether or not anybody took them.
fn transferred(network: &Topology, interface: &str, host: usize) -> u64 {
    let listing = network
        .subscriber(host)
        .run("wg", &["show", interface, "transfer"]);
    let sent = listing.split_whitespace().nth(2);
    sent.and_then(|word| word.parse().ok()).expect("bytes sent")
}
