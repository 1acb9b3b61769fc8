//! What is billed is what the kernel counted.

use std::time::Duration;

use vpnpanel_node_agent::testing::{Download, Topology, WgQuick, eventually, require_root, upload};

use crate::support::{ALL_IN_ONE, ControlPlane, counters};

#[test]
fn a_download_of_100_mb_is_billed_to_the_byte_within_6_seconds() {
    if !require_root() {
        return;
    }
    let mut network = Topology::new("bill");
    let host = network.add_subscriber();
    let server = network.start_server();
    let mut control = ControlPlane::start(network.node(), ALL_IN_ONE, &[]);
    let panel = control.first_panel();
    let node = panel.local_node(Topology::NODE_ADDRESS);
    let inbound = panel.create_inbound("main", serde_json::json!({}));
    let group = panel.create_group("everyone", &[&inbound]);
    let alice = panel.create_user("alice", &group, 0);

    let host = network.subscriber(host);
    let _tunnel = WgQuick::up(host, &alice.configuration);
    let size = 100_000_000;
    let received = Download::start(host, &server, size).finish(Duration::from_secs(120));
    assert_eq!(received, size);
    let counted = || counters(network.node(), &alice.address);
    eventually(
        "usage shows what the node counted",
        Duration::from_secs(6),
        || panel.used_bytes(&alice.id) == Some(counted().sum()),
    );
    assert!(
        (size..size * 3 / 2).contains(&counted().down),
        "{:?}",
        counted()
    );

    // Uploads are billed too, in their own direction, and every view shows the same.
    assert_eq!(upload(host, &server, 5_000_000), 5_000_000);
    eventually("usage shows the upload too", Duration::from_secs(6), || {
        panel.used_bytes(&alice.id) == Some(counted().sum())
    });
    let counted = counted();
    assert!(counted.up > 5_000_000, "{counted:?}");
    assert_eq!(panel.period(&alice.id), counted);
    let usage = panel.user_usage(&alice.id);
    assert_eq!((usage.total, usage.billed), (counted, counted.sum()));
    assert_eq!(
        usage
            .points
            .values()
            .copied()
            .sum::<crate::support::Counted>(),
        counted
    );
    assert_eq!(usage.nodes.get(&node), Some(&counted));
    assert_eq!(panel.tenant_usage().total, counted);
    assert_eq!(panel.node_usage(&node).total, counted);

    // Stop and start again: everything is still there, and the tunnel went on meanwhile.
    control.stop();
    control.start_all();
    assert_eq!(panel.used_bytes(&alice.id), Some(counted.sum()));
    assert_eq!(
        Download::start(host, &server, 1_000_000).finish(Duration::from_secs(60)),
        1_000_000
    );
    eventually("usage goes on", Duration::from_secs(20), || {
        let counted = counters(network.node(), &alice.address);
        counted.sum() > usage.billed && panel.used_bytes(&alice.id) == Some(counted.sum())
    });
}
