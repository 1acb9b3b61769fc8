//! Each protocol over each transport: a real client downloads and uploads through the node, and
//! what it got is what is counted, while it runs too.

use vpnpanel_node_agent::engine::xray::{Protocol, Security, ShadowsocksMethod, Text, Transport};
use vpnpanel_node_agent::testing::{Download, eventually, require_root, upload_through};

use crate::support::{MB, Node, PATIENCE, shadowsocks_key};

/// What a protocol and HTTP add to a download of this size.
const OVERHEAD: u64 = MB;

fn carries_and_counts(node: &Node, inbound: vpnpanel_domain::InboundId) {
    let peer = node.peer(inbound);
    let server = node.network.start_server();
    let (client, address) = node.connect(0, &peer, &server);
    let host = node.network.subscriber(0);
    let download = Download::through(host, address, 100 * MB);
    // Shadowsocks does not carry the end of a connection: the bytes are waited for.
    eventually("all of it arrives", PATIENCE, || {
        download.received() == 100 * MB
    });
    drop(download);
    let (up, down) = node.counted(peer.id);
    assert!((100 * MB..100 * MB + OVERHEAD).contains(&down), "{down}");
    assert!(up < OVERHEAD, "{up}");
    assert_eq!(upload_through(host, address, 20 * MB), 20 * MB);
    let (up, down) = node.counted(peer.id);
    assert!((20 * MB..20 * MB + OVERHEAD).contains(&up), "{up}");
    assert!(down < 100 * MB + OVERHEAD, "{down}");

    // One that runs is counted while it runs, not at its end.
    let running = Download::through(host, address, 100_000 * MB);
    eventually("it is counted while it runs", PATIENCE, || {
        node.counted(peer.id).1 > 200 * MB
    });
    assert!(!running.ended());
    drop(running);
    drop(client);
}

#[test]
fn vless_with_reality_and_vision() {
    if !require_root() {
        return;
    }
    let mut node = Node::new("vision", 1);
    let security = node.reality();
    let inbound = node.open(Protocol::Vless { vision: true }, Transport::Tcp, security);
    carries_and_counts(&node, inbound);
}

#[test]
fn vless_over_websocket_with_tls() {
    if !require_root() {
        return;
    }
    let mut node = Node::new("vlessws", 1);
    let security = node.tls();
    let inbound = node.open(Protocol::Vless { vision: false }, web_socket(), security);
    carries_and_counts(&node, inbound);
}

#[test]
fn vless_over_grpc_with_tls() {
    if !require_root() {
        return;
    }
    let mut node = Node::new("vlessgrpc", 1);
    let security = node.tls();
    let grpc = Transport::Grpc {
        service: "tunnel".to_owned(),
    };
    let inbound = node.open(Protocol::Vless { vision: false }, grpc, security);
    carries_and_counts(&node, inbound);
}

#[test]
fn vmess_over_tcp() {
    if !require_root() {
        return;
    }
    let mut node = Node::new("vmess", 1);
    let inbound = node.open_vmess();
    carries_and_counts(&node, inbound);
}

#[test]
fn vmess_over_websocket() {
    if !require_root() {
        return;
    }
    let mut node = Node::new("vmessws", 1);
    let inbound = node.open(Protocol::Vmess, web_socket(), Security::None);
    carries_and_counts(&node, inbound);
}

#[test]
fn trojan_with_tls() {
    if !require_root() {
        return;
    }
    let mut node = Node::new("trojan", 1);
    let security = node.tls();
    let inbound = node.open(Protocol::Trojan, Transport::Tcp, security);
    carries_and_counts(&node, inbound);
}

#[test]
fn shadowsocks_of_2022() {
    if !require_root() {
        return;
    }
    for method in [ShadowsocksMethod::Aes128, ShadowsocksMethod::Aes256] {
        let mut node = Node::new("ss", 1);
        let key = Text::new(shadowsocks_key(method));
        let protocol = Protocol::Shadowsocks { method, key };
        let inbound = node.open(protocol, Transport::Tcp, Security::None);
        carries_and_counts(&node, inbound);
    }
}

fn web_socket() -> Transport {
    Transport::WebSocket {
        path: "/stream".to_owned(),
        host: String::new(),
    }
}
