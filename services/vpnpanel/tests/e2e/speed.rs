//! A speed limit set in the panel holds a connection that runs back, and lets it go again.

use std::time::{Duration, Instant};

use serde_json::json;
use vpnpanel_node_agent::testing::{Download, Topology, WgQuick, eventually, require_root};

use crate::support::{ALL_IN_ONE, ControlPlane, counters};

const MB: u64 = 1_000_000;
const LIMIT_BPS: u64 = 10_000_000;

#[test]
fn a_speed_limit_takes_hold_of_a_running_download_and_lets_it_go_again() {
    if !require_root() {
        return;
    }
    let mut network = Topology::new("speed");
    let first = network.add_subscriber();
    let server = network.start_server();
    let control = ControlPlane::start(network.node(), ALL_IN_ONE, &[]);
    let panel = control.first_panel();
    panel.local_node(Topology::NODE_ADDRESS);
    let inbound = panel.create_inbound("main", json!({}));
    let group = panel.create_group("everyone", &[&inbound]);
    let alice = panel.create_user("alice", &group, 0);
    let host = network.subscriber(first);
    let _tunnel = WgQuick::up(host, &alice.configuration);
    let download = Download::start(host, &server, 1 << 40);
    let patience = Duration::from_secs(60);
    let rate = || {
        let (start, before) = (Instant::now(), download.received());
        std::thread::sleep(Duration::from_secs(3));
        (download.received() - before) as f64 / start.elapsed().as_secs_f64()
    };
    let limit = (LIMIT_BPS / 8) as f64;
    eventually("the download runs freely", patience, || {
        rate() > 4.0 * limit
    });

    let limited = panel.set_speed_down(&alice.id, LIMIT_BPS);
    assert_eq!(limited["speedLimitDownBps"], LIMIT_BPS.to_string());
    eventually("it keeps to the limit", patience, || {
        (0.5 * limit..1.25 * limit).contains(&rate())
    });

    panel.set_speed_down(&alice.id, 0);
    eventually("it runs freely again", patience, || rate() > 4.0 * limit);
    assert!(!download.ended() && download.received() > MB);
    drop(download);
    eventually("what was counted is billed", patience, || {
        let counted = counters(network.node(), &alice.address).sum();
        panel.used_bytes(&alice.id) == Some(counted)
    });
}
