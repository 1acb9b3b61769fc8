//! Who is cut and who is not: a removed, blocked, expired or exhausted peer at once, its
//! neighbour behind the same address never.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use vpnpanel_node_agent::engine::xray::{Protocol, Transport, XrayPeer};
use vpnpanel_node_agent::testing::{Download, eventually, require_root};

use crate::support::{MB, Node, PATIENCE};

/// Within this time a cut must have ended a download.
const AT_ONCE: Duration = Duration::from_secs(2);
const ENDLESS: u64 = 1 << 40;

/// Two peers download from one host, so from one address; one of them is cut.
fn only_one_is_cut(
    node: &Node,
    peers: [&XrayPeer; 2],
    cut: impl FnOnce(&Node, &XrayPeer),
) -> Duration {
    let [gone, neighbour] = peers;
    let server = node.network.start_server();
    let host = node.network.subscriber(0);
    let clients = [gone, neighbour].map(|peer| node.connect(0, peer, &server));
    let [going, staying] = [0, 1].map(|n: usize| Download::through(host, clients[n].1, ENDLESS));
    eventually("both run", PATIENCE, || {
        going.received() > 2 * MB && staying.received() > 2 * MB
    });
    let start = Instant::now();
    cut(node, gone);
    eventually("it is cut", AT_ONCE, || going.ended());
    let took = start.elapsed();
    node.ensure();
    let (so_far, counted) = (staying.received(), node.counted(gone.id));
    eventually("the neighbour's goes on", PATIENCE, || {
        staying.received() > so_far + 5 * MB
    });
    assert!(!staying.ended());
    // It does not come back.
    let again = Download::through(host, clients[0].1, MB);
    assert_eq!(again.finish(PATIENCE), 0);
    assert_eq!(node.counted(gone.id), counted);
    took
}

#[test]
fn a_removed_peer_is_cut_in_mid_download_and_its_neighbour_is_not() {
    if !require_root() {
        return;
    }
    let mut node = Node::new("cut", 1);
    let inbound = node.open_vmess();
    let (one, two) = (node.peer(inbound), node.peer(inbound));
    let took = only_one_is_cut(&node, [&one, &two], |node, peer| node.remove(peer.id));
    eprintln!("cut {took:?} after the removal was asked for");
    assert!(node.counted(one.id).1 > 2 * MB, "counters outlive it");
}

#[test]
fn a_removed_peer_is_cut_behind_reality_websocket_and_grpc_too() {
    if !require_root() {
        return;
    }
    let vless = |vision| Protocol::Vless { vision };
    let mut node = Node::new("cuts", 1);
    let (reality, tls) = (node.reality(), node.tls());
    let socket = Transport::WebSocket {
        path: "/".to_owned(),
        host: String::new(),
    };
    let grpc = Transport::Grpc {
        service: "tunnel".to_owned(),
    };
    for inbound in [
        node.open(vless(true), Transport::Tcp, reality),
        node.open(vless(false), socket, tls.clone()),
        node.open(vless(false), grpc, tls),
    ] {
        let (one, two) = (node.peer(inbound), node.peer(inbound));
        let took = only_one_is_cut(&node, [&one, &two], |node, peer| node.remove(peer.id));
        eprintln!("cut {took:?} after the removal was asked for");
    }
}

#[test]
fn a_removed_peer_whose_client_joins_connections_is_cut_too() {
    if !require_root() {
        return;
    }
    let mut node = Node::new("mux", 1);
    node.mux = true;
    let inbound = node.open_vmess();
    let (one, two) = (node.peer(inbound), node.peer(inbound));
    only_one_is_cut(&node, [&one, &two], |node, peer| node.remove(peer.id));
}

#[test]
fn a_blocked_peer_is_cut_and_let_in_again() {
    if !require_root() {
        return;
    }
    let mut node = Node::new("block", 1);
    let inbound = node.open_vmess();
    let (one, two) = (node.peer(inbound), node.peer(inbound));
    only_one_is_cut(&node, [&one, &two], |node, peer| {
        node.run(node.engine.set_blocked(vec![peer.id], true))
            .unwrap();
    });
    node.run(node.engine.set_blocked(vec![one.id], false))
        .unwrap();
    let before = node.counted(one.id).1;
    let server = node.network.start_server();
    let (client, address) = node.connect(0, &one, &server);
    let download = Download::through(node.network.subscriber(0), address, 3 * MB);
    assert_eq!(download.finish(PATIENCE), 3 * MB);
    assert!(node.counted(one.id).1 >= before + 3 * MB);
    drop(client);
}

#[test]
fn access_ends_with_its_time_at_the_next_poll() {
    if !require_root() {
        return;
    }
    let mut node = Node::new("end", 1);
    let inbound = node.open_vmess();
    let two = node.peer(inbound);
    let one = node.peer(inbound);
    only_one_is_cut(&node, [&one, &two], |node, peer| {
        let end = unix_ms() + 1_000;
        let ending = XrayPeer {
            not_after_ms: Some(end),
            ..peer.clone()
        };
        node.set(&[&ending]);
        eventually("its time is over", PATIENCE, || {
            node.ensure();
            unix_ms() > end
        });
        node.ensure();
    });
}

#[test]
fn a_limited_user_is_stopped_at_the_first_reading_beyond_the_allowance() {
    if !require_root() {
        return;
    }
    let mut node = Node::new("limit", 1);
    let inbound = node.open_vmess();
    let mut peer = node.unknown_peer(inbound);
    peer.limited = true;
    node.set(&[&peer]);
    let server = node.network.start_server();
    let (client, address) = node.connect(0, &peer, &server);
    let host = node.network.subscriber(0);
    // No allowance, nothing passes.
    assert_eq!(Download::through(host, address, MB).finish(PATIENCE), 0);
    node.read();
    node.run(node.engine.set_allowances(vec![(peer.user, 20 * MB)]))
        .unwrap();
    let download = Download::through(host, address, ENDLESS);
    eventually("it is stopped", PATIENCE, || {
        node.read().exhausted.contains(&peer.user)
    });
    eventually("it is cut", AT_ONCE, || download.ended());
    let mut stopped = node.counted(peer.id);
    eventually("what was under way is counted", PATIENCE, || {
        let before = std::mem::replace(&mut stopped, node.counted(peer.id));
        before == stopped
    });
    assert!(stopped.0 + stopped.1 >= 20 * MB);
    assert_eq!(Download::through(host, address, MB).finish(PATIENCE), 0);
    assert_eq!(node.counted(peer.id), stopped);
    // More of it: in again.
    node.run(node.engine.set_allowances(vec![(peer.user, 20 * MB)]))
        .unwrap();
    assert_eq!(Download::through(host, address, MB).finish(PATIENCE), MB);
    drop(client);
}

#[test]
fn limited_users_are_cut_when_the_counters_are_not_read() {
    if !require_root() {
        return;
    }
    let mut node = Node::new("watch", 1);
    node.with_patience(Duration::from_secs(2));
    let inbound = node.open_vmess();
    let free = node.peer(inbound);
    let mut limited = node.unknown_peer(inbound);
    limited.limited = true;
    node.set(&[&limited]);
    node.read();
    node.run(node.engine.set_allowances(vec![(limited.user, ENDLESS)]))
        .unwrap();
    let server = node.network.start_server();
    let host = node.network.subscriber(0);
    let clients = [&limited, &free].map(|peer| node.connect(0, peer, &server));
    let [going, staying] = [0, 1].map(|n: usize| Download::through(host, clients[n].1, ENDLESS));
    node.run(async {
        let limit = Duration::from_secs(20);
        let ended = async {
            while !going.ended() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::select! {
            () = node.engine.watch() => (),
            ended = tokio::time::timeout(limit, ended) => ended.expect("it is cut"),
        }
    });
    let so_far = staying.received();
    eventually("the other goes on", PATIENCE, || {
        staying.received() > so_far + MB
    });
    // They are in again once the counters are read.
    node.read();
    assert_eq!(
        Download::through(host, clients[0].1, MB).finish(PATIENCE),
        MB
    );
}

fn unix_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    i64::try_from(now.as_millis()).unwrap()
}
