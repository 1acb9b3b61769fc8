//! The WireGuard engine on real traffic: real clients, a real server behind NAT, the kernel's
//! counters against those of a table that is not ours.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use support::{Node, PATIENCE};
use vpnpanel_node_agent::engine::{Engine, Peer, PeerOp, QUOTA_SLACK};
use vpnpanel_node_agent::testing::{
    Download, Topology, WgQuick, eventually, flood, require_root, upload,
};

const MB: u64 = 1_000_000;

#[test]
fn traffic_through_nat_is_counted_to_the_byte() {
    if !require_root() {
        return;
    }
    let (node, subscribers) = Node::new("count", 1);
    let [phone] = &subscribers[..] else { panic!() };
    node.set(&[&phone.peer]);
    let server = node.network.start_server();
    let client = node.connect(phone);
    let host = node.network.subscriber(phone.index);
    assert_eq!(
        Download::start(host, &server, 30 * MB).finish(PATIENCE),
        30 * MB
    );
    assert_eq!(upload(host, &server, 5 * MB), 5 * MB);
    drop(client);
    // The connections' last packets are on their way still.
    eventually("the counters stand still", PATIENCE, || {
        let before = node.counted(phone.peer.id);
        std::thread::sleep(Duration::from_millis(200));
        before == node.counted(phone.peer.id)
    });
    let (up, down) = node.counted(phone.peer.id);
    assert_eq!((up, down), node.passed());
    assert!(up > 5 * MB && down > 30 * MB, "{up} {down}");
}

#[test]
fn an_allowance_stops_its_user_alone_and_a_raise_lets_them_on() {
    if !require_root() {
        return;
    }
    let (node, mut subscribers) = Node::new("quota", 2);
    for subscriber in &mut subscribers {
        subscriber.peer.limited = true;
    }
    let [limited, other] = &subscribers[..] else {
        panic!()
    };
    node.set(&[&limited.peer, &other.peer]);
    let server = node.network.start_server();
    let clients = (node.connect(limited), node.connect(other));
    let used = |peer: &Peer| {
        let (up, down) = node.counted(peer.id);
        up + down
    };
    // Without an allowance a limited user gets nothing at all.
    let target = server.address();
    flood(node.network.subscriber(limited.index), target, MB);
    assert_eq!(node.counted(limited.peer.id), (0, 0));

    node.allow(limited.peer.user, 20 * MB);
    node.allow(other.peer.user, 1_000 * MB);
    let cut = Download::start(node.network.subscriber(limited.index), &server, 60 * MB);
    let free = Download::start(node.network.subscriber(other.index), &server, 60 * MB);
    // As the agent does at every poll: the same allowance again, what is left of it.
    let used_up_to = |allowance: u64| {
        let used = used(&limited.peer);
        node.allow(limited.peer.user, allowance.saturating_sub(used));
        used >= allowance
    };
    eventually("the allowance is used up", PATIENCE, || used_up_to(20 * MB));
    assert_eq!(free.finish(PATIENCE), 60 * MB);
    let stopped_at = used(&limited.peer);
    assert!(stopped_at <= 20 * MB + QUOTA_SLACK, "{stopped_at}");
    assert!(node.read().exhausted.contains(&limited.peer.user));
    assert!(cut.received() < 20 * MB, "{}", cut.received());
    assert!(!cut.ended());

    // 100 MB more: the same connection goes on, and the user stops again where they should.
    assert!(!used_up_to(120 * MB));
    assert_eq!(cut.finish(PATIENCE), 60 * MB);
    let second = Download::start(node.network.subscriber(limited.index), &server, 200 * MB);
    eventually("the raised allowance is used up", PATIENCE, || {
        used_up_to(120 * MB)
    });
    let stopped_at = used(&limited.peer);
    assert!(stopped_at <= 120 * MB + QUOTA_SLACK, "{stopped_at}");
    drop(second);
    drop(clients);
}

#[test]
fn a_blocked_client_that_keeps_sending_is_not_billed() {
    if !require_root() {
        return;
    }
    let (node, subscribers) = Node::new("block", 1);
    let [phone] = &subscribers[..] else { panic!() };
    node.set(&[&phone.peer]);
    let server = node.network.start_server();
    let client = node.connect(phone);
    let host = node.network.subscriber(phone.index);
    let download = Download::start(host, &server, 200 * MB);
    eventually("the download runs", PATIENCE, || {
        download.received() > 2 * MB
    });
    node.host()
        .block_on(node.engine.set_blocked(vec![phone.peer.id], true))
        .unwrap();
    let at_block = node.counted(phone.peer.id);
    flood(host, server.address(), 5 * MB);
    assert_eq!(node.counted(phone.peer.id), at_block);
    node.host()
        .block_on(node.engine.set_blocked(vec![phone.peer.id], false))
        .unwrap();
    let so_far = download.received();
    eventually("the same connection goes on", PATIENCE, || {
        download.received() > so_far + MB
    });
    drop(download);
    drop(client);
}

#[test]
fn a_peer_is_changed_in_place_and_its_download_runs_on() {
    if !require_root() {
        return;
    }
    let (node, mut subscribers) = Node::new("modify", 2);
    let other = subscribers.pop().unwrap();
    let mut phone = subscribers.pop().unwrap();
    node.set(&[&phone.peer]);
    let server = node.network.start_server();
    let client = node.connect(&phone);
    let download = Download::start(node.network.subscriber(phone.index), &server, 200 * MB);
    eventually("the download runs", PATIENCE, || download.received() > MB);
    let handshake = client.last_handshake();

    phone.peer.addresses.insert("10.66.9.9".parse().unwrap());
    phone.peer.not_after_ms = Some(unix_ms() + 3_600_000);
    node.set(&[&phone.peer, &other.peer]);
    node.set(&[&phone.peer, &other.peer]);
    node.remove(other.peer.id);
    let so_far = download.received();
    eventually("it runs on", Duration::from_secs(3), || {
        download.received() > so_far + MB
    });
    assert_eq!(client.last_handshake(), handshake);

    let sessions = node.host().block_on(node.engine.sessions()).unwrap();
    assert_eq!(sessions.len(), 1);
    assert_eq!(sessions[0].peer, phone.peer.id);
    drop(download);
}

#[test]
fn a_removed_peer_is_cut_and_its_counters_outlive_it() {
    if !require_root() {
        return;
    }
    let (node, subscribers) = Node::new("remove", 1);
    let [phone] = &subscribers[..] else { panic!() };
    node.set(&[&phone.peer]);
    let server = node.network.start_server();
    let client = node.connect(phone);
    let download = Download::start(node.network.subscriber(phone.index), &server, 200 * MB);
    eventually("the download runs", PATIENCE, || {
        download.received() > 2 * MB
    });
    node.remove(phone.peer.id);
    let at_removal = node.counted(phone.peer.id);
    assert!(at_removal.1 > 2 * MB);
    flood(node.network.subscriber(phone.index), server.address(), MB);
    assert_eq!(node.counted(phone.peer.id), at_removal);
    assert!(node.host().block_on(node.engine.list()).unwrap().is_empty());

    node.set(&[&phone.peer]);
    eventually("the client is back", PATIENCE, || {
        node.counted(phone.peer.id).1 > at_removal.1 + MB
    });
    drop(download);
    drop(client);
}

#[test]
fn an_engine_killed_in_mid_transfer_comes_back_and_loses_no_byte() {
    if !require_root() {
        return;
    }
    let (node, subscribers) = Node::new("killed", 1);
    let [phone] = &subscribers[..] else { panic!() };
    node.set(&[&phone.peer]);
    let server = node.network.start_server();
    let client = node.connect(phone);
    let download = Download::start(node.network.subscriber(phone.index), &server, 200 * MB);
    eventually("the download runs", PATIENCE, || {
        download.received() > 5 * MB
    });
    node.host().block_on(node.engine.sessions()).unwrap();
    let incarnation = node.ensure();
    kill(Pid::from_raw(node.engine_pid()), Signal::SIGKILL).unwrap();
    eventually("it is gone", PATIENCE, || {
        node.host()
            .run("ip", &["-br", "link"])
            .matches("vp")
            .count()
            == 0
    });
    let before = node.counted(phone.peer.id);
    assert!(before.1 > 5 * MB);
    assert_eq!(node.ensure(), incarnation);
    assert!(node.counted(phone.peer.id).1 >= before.1);
    let so_far = download.received();
    eventually("the same connection goes on", PATIENCE, || {
        download.received() > so_far + MB
    });
    drop(download);
    drop(client);
    // The two are read one after the other, while last packets pass.
    eventually("what passed is counted", PATIENCE, || {
        node.counted(phone.peer.id) == node.passed()
    });
}

#[test]
fn an_engine_stopped_on_purpose_comes_back_with_its_peers_and_counters() {
    if !require_root() {
        return;
    }
    let (node, subscribers) = Node::new("stop", 1);
    let [phone] = &subscribers[..] else { panic!() };
    node.set(&[&phone.peer]);
    let server = node.network.start_server();
    let client = node.connect(phone);
    let host = node.network.subscriber(phone.index);
    let download = Download::start(host, &server, 500 * MB);
    eventually("the download runs", PATIENCE, || {
        download.received() > 5 * MB
    });
    node.host().block_on(node.engine.sessions()).unwrap();
    let (incarnation, pid) = (node.ensure(), node.engine_pid());
    node.host().block_on(node.engine.stop()).unwrap();
    let links = node.host().run("ip", &["-br", "link"]);
    assert_eq!(links.matches("vp").count(), 0, "{links}");
    let before = node.counted(phone.peer.id);
    assert!(before.1 > 5 * MB);
    assert_eq!(node.ensure(), incarnation);
    assert_ne!(node.engine_pid(), pid);
    assert!(node.counted(phone.peer.id).1 >= before.1);
    let so_far = download.received();
    eventually("the same connection goes on", PATIENCE, || {
        download.received() > so_far + MB
    });
    drop(download);
    drop(client);
    // The two are read one after the other, while last packets pass.
    eventually("what passed is counted", PATIENCE, || {
        node.counted(phone.peer.id) == node.passed()
    });
}

#[test]
fn a_restarted_agent_adopts_engine_peers_and_counters() {
    if !require_root() {
        return;
    }
    let (mut node, mut subscribers) = Node::new("adopt", 2);
    subscribers[0].peer.limited = true;
    subscribers[1].peer.not_after_ms = Some(unix_ms() + 3_600_000);
    let [phone, gone] = &subscribers[..] else {
        panic!()
    };
    node.set(&[&phone.peer, &gone.peer]);
    node.allow(phone.peer.user, 25 * MB);
    let (pid, incarnation) = (node.engine_pid(), node.ensure());
    let server = node.network.start_server();
    let configuration = node.configuration(phone);
    let host_index = phone.index;
    let running = vpnpanel_node_agent::testing::WgQuick::up(
        node.network.subscriber(host_index),
        &configuration,
    );
    let download = Download::start(node.network.subscriber(host_index), &server, 60 * MB);
    eventually("the download runs", PATIENCE, || {
        download.received() > 5 * MB
    });
    // The kernel keeps to the allowance with no agent at all; then one comes and knows nothing.
    let engine = vpnpanel_node_agent::engine::WireGuardEngine::new(
        vpnpanel_node_agent::engine::WireGuardOptions {
            identity: node.folder.path().as_os_str().as_encoded_bytes().to_vec(),
            folder: node.folder.path().to_owned(),
            force_userspace: false,
            kernel_quota: true,
            most_paced: vpnpanel_node_agent::engine::MOST_PACED,
        },
    );
    let inbounds = vec![node.inbound.clone()];
    let running_again = node
        .host()
        .block_on(engine.ensure_running(inbounds))
        .unwrap();
    assert_eq!(running_again.incarnation, incarnation);
    assert_eq!(node.engine_pid(), pid);
    let listed: BTreeSet<_> = node
        .host()
        .block_on(engine.list())
        .unwrap()
        .into_iter()
        .map(|listed| listed.peer)
        .collect();
    assert_eq!(listed, BTreeSet::from([phone.peer.id, gone.peer.id]));
    let results = node.host().block_on(engine.apply(vec![
        PeerOp::Set(Box::new(phone.peer.clone())),
        PeerOp::Remove(gone.peer.id),
    ]));
    results.into_iter().for_each(|result| result.unwrap());
    let used = |reading: vpnpanel_node_agent::engine::Reading| {
        let (up, down) = reading.peers[&phone.peer.id];
        up + down
    };
    eventually("the old allowance is used up", PATIENCE, || {
        used(node.host().block_on(engine.read_counters()).unwrap()) >= 25 * MB
    });
    let at = used(node.host().block_on(engine.read_counters()).unwrap());
    assert!(at <= 25 * MB + QUOTA_SLACK, "{at}");
    node.host()
        .block_on(engine.set_allowances(vec![(phone.peer.user, 100 * MB)]))
        .unwrap();
    assert_eq!(download.finish(PATIENCE), 60 * MB);
    drop(running);
    assert_eq!(
        node.host().block_on(engine.read_counters()).unwrap().peers[&phone.peer.id],
        node.passed()
    );
    node.engine = engine;
}

#[test]
fn access_ends_in_the_kernel_without_anybody_asking() {
    if !require_root() {
        return;
    }
    let (node, mut subscribers) = Node::new("end", 1);
    subscribers[0].peer.not_after_ms = Some(unix_ms() + 8_000);
    let [phone] = &subscribers[..] else { panic!() };
    node.set(&[&phone.peer]);
    let server = node.network.start_server();
    let client = node.connect(phone);
    let download = Download::start(node.network.subscriber(phone.index), &server, 2_000 * MB);
    eventually("the download runs", Duration::from_secs(7), || {
        download.received() > MB
    });
    eventually("it ends", PATIENCE, || {
        let so_far = download.received();
        std::thread::sleep(Duration::from_millis(500));
        download.received() == so_far
    });
    let at_end = node.counted(phone.peer.id);
    flood(node.network.subscriber(phone.index), server.address(), MB);
    assert_eq!(node.counted(phone.peer.id), at_end);

    // Extended: the same session goes on.
    let extended = Peer {
        not_after_ms: Some(unix_ms() + 3_600_000),
        ..phone.peer.clone()
    };
    node.set(&[&extended]);
    let so_far = download.received();
    eventually("it goes on", PATIENCE, || download.received() > so_far + MB);
    drop(download);
    drop(client);
}

#[test]
fn a_removed_table_is_made_anew_under_another_incarnation() {
    if !require_root() {
        return;
    }
    let (node, subscribers) = Node::new("table", 1);
    let [phone] = &subscribers[..] else { panic!() };
    node.set(&[&phone.peer]);
    let incarnation = node.ensure();
    node.host().run("nft", &["flush", "ruleset"]);
    assert!(node.host().block_on(node.engine.read_counters()).is_err());
    assert_ne!(node.ensure(), incarnation);
    let server = node.network.start_server();
    let client = node.connect(phone);
    let host = node.network.subscriber(phone.index);
    assert_eq!(
        Download::start(host, &server, 2 * MB).finish(PATIENCE),
        2 * MB
    );
    assert!(node.counted(phone.peer.id).1 > 2 * MB);
    drop(client);
}

#[test]
fn subscribers_reach_neither_each_other_nor_the_hosts_metadata() {
    if !require_root() {
        return;
    }
    let (node, subscribers) = Node::new("apart", 2);
    let [one, two] = &subscribers[..] else {
        panic!()
    };
    node.set(&[&one.peer, &two.peer]);
    let clients = (node.connect(one), node.connect(two));
    eventually("both are connected", PATIENCE, || {
        clients.0.last_handshake() > 0 && clients.1.last_handshake() > 0
    });
    let host = node.network.subscriber(one.index);
    for target in ["10.66.0.3:9", "169.254.169.254:80"] {
        let outcome = host.enter(|| {
            std::net::TcpStream::connect_timeout(
                &target.parse().unwrap(),
                Duration::from_millis(800),
            )
        });
        let kind = outcome.unwrap_err().kind();
        assert_eq!(kind, std::io::ErrorKind::TimedOut, "{target}");
    }
    // The node itself is reached, and that traffic is counted like any other.
    let refused = host.enter(|| std::net::TcpStream::connect("10.66.0.1:9").unwrap_err());
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    let (up, down) = node.counted(one.peer.id);
    assert!(up > 0 && down > 0);
    assert_eq!(node.passed(), (0, 0), "{}", Topology::UPLINK);
}

fn unix_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    i64::try_from(now.as_millis()).unwrap()
}

#[test]
fn a_cordoned_node_takes_no_newcomers_and_loses_nobody_who_is_there() {
    if !require_root() {
        return;
    }
    let (mut node, subscribers) = Node::new("cordon", 2);
    let [phone, newcomer] = &subscribers[..] else {
        panic!()
    };
    node.set(&[&phone.peer, &newcomer.peer]);
    let server = node.network.start_server();
    let there = node.connect(phone);
    let host = node.network.subscriber(phone.index);
    assert_eq!(Download::start(host, &server, MB).finish(PATIENCE), MB);
    let download = Download::start(host, &server, 2_000 * MB);
    let cordon = |node: &Node, on| {
        let done = node.host().block_on(node.engine.set_cordoned(on));
        done.unwrap();
    };
    cordon(&node, true);

    // Nobody new comes in, however often they try; and who is there is not disturbed.
    let configuration = node.configuration(newcomer);
    let other = node.network.subscriber(newcomer.index);
    let late = WgQuick::up(other, &configuration);
    let gate = |node: &Node| {
        let tables = node.host().run("nft", &["list", "tables"]);
        tables.lines().filter(|line| line.contains("_gate")).count()
    };
    let turned_away = |node: &Node| -> u64 {
        let rules = node.host().run("nft", &["list", "ruleset"]);
        let rule = rules.lines().find(|line| line.contains("@ports counter"));
        let words: Vec<_> = rule.unwrap_or_default().split_whitespace().collect();
        let packets = words.iter().position(|word| *word == "packets");
        packets.map_or(0, |at| words[at + 1].parse().unwrap())
    };
    assert_eq!(gate(&node), 1);
    let so_far = download.received();
    eventually("the download goes on", PATIENCE, || {
        download.received() > so_far + 20 * MB
    });
    eventually("the newcomer is turned away", PATIENCE, || {
        turned_away(&node) > 0
    });
    assert_eq!(late.last_handshake(), 0);
    // Its tunnel begins anew from where it is, as after two minutes.
    drop(download);
    there.shake_hands_again();
    eventually("it shakes hands again", PATIENCE, || {
        there.last_handshake() > 0
    });
    assert_eq!(Download::start(host, &server, MB).finish(PATIENCE), MB);

    // An agent that starts again keeps it so.
    drop((there, late));
    node.restart_agent();
    assert_eq!(gate(&node), 1);
    let late = WgQuick::up(node.network.subscriber(newcomer.index), &configuration);
    eventually("the newcomer is turned away again", PATIENCE, || {
        turned_away(&node) > 0
    });
    assert_eq!(late.last_handshake(), 0);

    // What the desired state says holds by itself.
    let drain = |node: &Node, on| {
        let done = node.host().block_on(node.engine.set_draining(on));
        done.unwrap();
    };
    drain(&node, true);
    cordon(&node, false);
    assert_eq!(gate(&node), 1);
    assert_eq!(late.last_handshake(), 0);
    drop(late);
    node.restart_agent();
    assert_eq!(gate(&node), 1);
    drain(&node, false);
    assert_eq!(gate(&node), 0);
    let late = WgQuick::up(node.network.subscriber(newcomer.index), &configuration);
    eventually("the newcomer is in", PATIENCE, || late.last_handshake() > 0);
    assert_eq!(
        Download::start(node.network.subscriber(newcomer.index), &server, MB).finish(PATIENCE),
        MB
    );
}
