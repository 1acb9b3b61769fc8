//! What outlives what: the engine the agent, the peers the engine, the counters a lost answer.

use std::collections::BTreeSet;
use std::net::UdpSocket;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use vpnpanel_node_agent::engine::xray::{Protocol, Security, Transport, XrayOp};
use vpnpanel_node_agent::testing::{Download, Topology, eventually, require_root};

use crate::support::{MB, Node, PATIENCE};

const ENDLESS: u64 = 1 << 40;

#[test]
fn an_engine_killed_in_mid_transfer_comes_back_with_its_peers_and_counts_nothing_twice() {
    if !require_root() {
        return;
    }
    let mut node = Node::new("killed", 1);
    let inbound = node.open_vmess();
    let peer = node.peer(inbound);
    let server = node.network.start_server();
    let (client, address) = node.connect(0, &peer, &server);
    let host = node.network.subscriber(0);
    let download = Download::through(host, address, ENDLESS);
    eventually("the download runs", PATIENCE, || {
        download.received() > 5 * MB
    });
    let incarnation = node.ensure();
    assert_eq!(node.read().incarnation, incarnation);
    kill(Pid::from_raw(node.engine_pid()), Signal::SIGKILL).unwrap();
    eventually("the download ends", PATIENCE, || download.ended());
    assert!(node.run(node.engine.read_counters()).is_err());
    assert_eq!(node.run(node.engine.status()).incarnation, None);
    let next = node.ensure();
    assert_ne!(next, incarnation);
    assert_eq!(node.counted(peer.id), (0, 0));
    assert_eq!(
        Download::through(host, address, 10 * MB).finish(PATIENCE),
        10 * MB
    );
    let (_, down) = node.counted(peer.id);
    assert!((10 * MB..11 * MB).contains(&down), "{down}");
    assert_eq!(node.read().incarnation, next);
    drop(client);
}

#[test]
fn a_restarted_agent_adopts_the_engine_and_its_connections() {
    if !require_root() {
        return;
    }
    let mut node = Node::new("adopt", 1);
    let inbound = node.open_vmess();
    let (phone, gone, stray) = (node.peer(inbound), node.peer(inbound), node.peer(inbound));
    let (pid, incarnation) = (node.engine_pid(), node.ensure());
    let server = node.network.start_server();
    let host = node.network.subscriber(0);
    let clients = [&phone, &gone].map(|peer| node.connect(0, peer, &server));
    let [staying, going] = [0, 1].map(|n: usize| Download::through(host, clients[n].1, ENDLESS));
    eventually("both run", PATIENCE, || {
        staying.received() > 5 * MB && going.received() > 5 * MB
    });
    let before = node.counted(phone.id);

    node.restart_agent();
    assert_eq!(node.ensure(), incarnation);
    assert_eq!(node.engine_pid(), pid);
    let listed: BTreeSet<_> = node.run(node.engine.list()).unwrap().into_iter().collect();
    assert_eq!(listed, BTreeSet::from([phone.id, gone.id, stray.id]));
    assert!(node.counted(phone.id).1 >= before.1);
    let ops = vec![
        XrayOp::Set(Box::new(phone.clone())),
        XrayOp::Remove(gone.id),
        XrayOp::Remove(stray.id),
    ];
    for result in node.run(node.engine.apply(ops)) {
        result.unwrap();
    }
    eventually("the removed peer is cut", Duration::from_secs(2), || {
        going.ended()
    });
    let so_far = staying.received();
    eventually("the same connection goes on", PATIENCE, || {
        staying.received() > so_far + 5 * MB
    });
    assert!(!staying.ended());
}

#[test]
fn a_restarted_agent_keeps_limited_users_connected_until_it_knows_their_allowance() {
    if !require_root() {
        return;
    }
    let mut node = Node::new("adoptlimit", 1);
    let inbound = node.open_vmess();
    let mut peer = node.unknown_peer(inbound);
    peer.limited = true;
    node.set(&[&peer]);
    node.run(node.engine.set_allowances(vec![(peer.user, ENDLESS)]))
        .unwrap();
    let server = node.network.start_server();
    let (client, address) = node.connect(0, &peer, &server);
    let download = Download::through(node.network.subscriber(0), address, ENDLESS);
    eventually("it runs", PATIENCE, || download.received() > 30 * MB);

    node.restart_agent();
    node.ensure();
    node.set(&[&peer]);
    node.run(node.engine.set_allowances(vec![(peer.user, 30 * MB)]))
        .unwrap();
    let so_far = download.received();
    eventually("the same connection goes on", PATIENCE, || {
        download.received() > so_far + MB
    });
    eventually("it is stopped where its allowance ends", PATIENCE, || {
        node.read().exhausted.contains(&peer.user)
    });
    eventually("it is cut", Duration::from_secs(2), || download.ended());
    drop(client);
}

#[test]
fn an_answer_that_nobody_took_loses_nothing() {
    if !require_root() {
        return;
    }
    let mut node = Node::new("lost", 1);
    let inbound = node.open_vmess();
    let peer = node.peer(inbound);
    let server = node.network.start_server();
    let (client, address) = node.connect(0, &peer, &server);
    let host = node.network.subscriber(0);
    assert_eq!(
        Download::through(host, address, 10 * MB).finish(PATIENCE),
        10 * MB
    );
    for _ in 0..20 {
        node.run(async {
            let reading = node.engine.read_counters();
            let _ = tokio::time::timeout(Duration::from_micros(300), reading).await;
        });
    }
    let (_, down) = node.counted(peer.id);
    assert!((10 * MB..11 * MB).contains(&down), "{down}");
    drop(client);
}

#[test]
fn a_changed_inbound_is_reloaded_and_nobody_elses_connection_touched() {
    if !require_root() {
        return;
    }
    let mut node = Node::new("reload", 1);
    let (one, other) = (node.open_vmess(), node.open_vmess());
    let (peer, neighbour) = (node.peer(one), node.peer(other));
    let pid = node.engine_pid();
    let server = node.network.start_server();
    let host = node.network.subscriber(0);
    let clients = [&peer, &neighbour].map(|peer| node.connect(0, peer, &server));
    let [mine, theirs] = [0, 1].map(|n: usize| Download::through(host, clients[n].1, ENDLESS));
    eventually("both run", PATIENCE, || {
        mine.received() > MB && theirs.received() > MB
    });
    node.inbounds[0].port = 4500;
    node.ensure();
    eventually("connections to the old port end", PATIENCE, || mine.ended());
    assert_eq!(node.engine_pid(), pid);
    let so_far = theirs.received();
    eventually("the other's goes on", PATIENCE, || {
        theirs.received() > so_far + 5 * MB
    });
    let before = node.counted(peer.id).1;
    let (client, address) = node.connect(0, &peer, &server);
    assert_eq!(
        Download::through(host, address, 3 * MB).finish(PATIENCE),
        3 * MB
    );
    assert!(node.counted(peer.id).1 >= before + 3 * MB);
    drop(client);
    // Closed altogether: its port is free and its connections are gone.
    node.inbounds.remove(1);
    node.ensure();
    eventually("the closed inbound's connections end", PATIENCE, || {
        theirs.ended()
    });
}

#[test]
fn subscribers_reach_neither_the_node_nor_its_private_neighbours() {
    if !require_root() {
        return;
    }
    let mut node = Node::new("wall", 1);
    let inbound = node.open_vmess();
    let peer = node.peer(inbound);
    let host = node.network.subscriber(0);
    node.network
        .node()
        .run("ip", &["address", "add", "192.0.2.250/32", "dev", "lo"]);
    // Listeners that answer whoever gets to them.
    let addresses = [
        "127.0.0.1",
        Topology::NODE_ADDRESS,
        "192.0.2.250",
        "198.51.100.1",
    ];
    let servers =
        addresses.map(|address| vpnpanel_node_agent::testing::Server::start(node.host(), address));
    let reached = |target: &str, port: u16| {
        let (client, address) = node.connect_to(0, &peer, target, port);
        let received = Download::through(host, address, MB).finish(PATIENCE);
        drop(client);
        received > 0
    };
    let outside = node.network.start_server();
    assert!(reached(
        &outside.address().ip().to_string(),
        outside.address().port()
    ));
    for server in &servers {
        let address = server.address();
        assert!(
            !reached(&address.ip().to_string(), address.port()),
            "{address}"
        );
    }
    // A name for the node itself, as the node resolves it: only the kernel sees the address.
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    for name in ["localhost", "ip6-localhost", name.trim()] {
        assert!(!reached(name, servers[0].address().port()), "{name}");
    }
    drop(servers);
}

#[test]
fn datagrams_reach_the_outside_and_not_the_node() {
    if !require_root() {
        return;
    }
    let mut node = Node::new("udp", 1);
    let inbound = node.open_vmess();
    let peer = node.peer(inbound);
    let host = node.network.subscriber(0);
    let listen = |host: &vpnpanel_node_agent::testing::Namespace, address: &str| {
        let socket = host.enter(|| UdpSocket::bind((address, 0)).unwrap());
        socket.set_nonblocking(true).unwrap();
        socket
    };
    let inside = [Topology::NODE_ADDRESS, "127.0.0.1"].map(|a| listen(node.host(), a));
    let outside = listen(node.network.server(), Topology::SERVER_ADDRESS);
    let sender = listen(host, "127.0.0.1");
    // Those that must not arrive are sent first, and again with each of the other.
    let all = [&inside[0], &inside[1], &outside];
    let clients = all.map(|socket| {
        let target = socket.local_addr().unwrap();
        node.connect_to(0, &peer, &target.ip().to_string(), target.port())
    });
    let mut arrived = 0;
    eventually("datagrams arrive outside", PATIENCE, || {
        for (_, address) in &clients {
            sender.send_to(b"hello", address).unwrap();
        }
        arrived += usize::from(outside.recv(&mut [0; 16]).is_ok());
        arrived == 5
    });
    for socket in &inside {
        let kind = socket.recv(&mut [0; 16]).unwrap_err().kind();
        assert_eq!(kind, std::io::ErrorKind::WouldBlock);
    }
    assert!(node.counted(peer.id).0 > 0);
}

#[test]
fn ten_thousand_peers_are_let_in_while_somebody_downloads() {
    if !require_root() {
        return;
    }
    let mut node = Node::new("many", 1);
    let security = node.tls();
    let vless = Protocol::Vless { vision: false };
    let inbound = node.open(vless, Transport::Tcp, security);
    let peer = node.peer(inbound);
    let server = node.network.start_server();
    let (client, address) = node.connect(0, &peer, &server);
    let download = Download::through(node.network.subscriber(0), address, ENDLESS);
    eventually("the download runs", PATIENCE, || download.received() > MB);
    let pid = node.engine_pid();
    let memory = || {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status
            .lines()
            .find(|line| line.starts_with("VmRSS"))
            .unwrap();
        line.split_whitespace()
            .nth(1)
            .unwrap()
            .parse::<u64>()
            .unwrap()
            / 1024
    };
    let before = memory();
    let peers: Vec<_> = (0..10_000).map(|_| node.unknown_peer(inbound)).collect();
    let start = Instant::now();
    node.set(&peers.iter().collect::<Vec<_>>());
    let added = start.elapsed();
    let start = Instant::now();
    node.set(&[&node.unknown_peer(inbound)]);
    let one = start.elapsed();
    let start = Instant::now();
    node.read();
    let read = start.elapsed();
    let start = Instant::now();
    node.remove(peers[0].id);
    let removed = start.elapsed();
    eprintln!(
        "10,000 peers in {added:?}, one more in {one:?}, one out in {removed:?}, counters in {read:?}, memory {before} to {} MiB",
        memory()
    );
    let so_far = download.received();
    eventually("it goes on", PATIENCE, || download.received() > so_far + MB);
    assert!(!download.ended());
    // All of them are in again after the engine died.
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    eventually("it is gone", PATIENCE, || {
        node.run(node.engine.read_counters()).is_err()
    });
    let start = Instant::now();
    node.ensure();
    eprintln!("started again with all of them in {:?}", start.elapsed());
    assert_eq!(node.run(node.engine.status()).peers, 10_001);
    drop(client);
}

#[test]
fn a_port_that_is_taken_fails_its_inbound_alone_and_is_tried_again() {
    if !require_root() {
        return;
    }
    let mut node = Node::new("taken", 1);
    let inbound = node.open_vmess();
    let squatter = node
        .host()
        .enter(|| std::net::TcpListener::bind("0.0.0.0:4431").unwrap());
    let mut second = node.inbounds[0].clone();
    second.id = vpnpanel_domain::InboundId::from_bytes([7; 16]);
    second.port = 4431;
    node.inbounds.push(second);
    let running = node
        .run(node.engine.ensure_running(node.inbounds.clone()))
        .unwrap();
    assert_eq!(running.failed.len(), 1, "{:?}", running.failed);
    let status = node.run(node.engine.status());
    assert!(status.problem.is_some());
    assert!(status.version.starts_with("xray 2"), "{}", status.version);
    node.peer(inbound);
    drop(squatter);
    node.ensure();
    assert_eq!(node.inbounds[1].security, Security::None);
}
