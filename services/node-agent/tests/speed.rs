//! Speed limits on real traffic: each direction, changed while a connection runs, with and without
//! classes, over restarts, and with nothing left behind.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use support::{Node, PATIENCE, Subscriber};
use vpnpanel_domain::{PeerId, Speed, SpeedLimit, UserId};
use vpnpanel_node_agent::engine::{Engine, Peer};
use vpnpanel_node_agent::testing::{Download, Upload, eventually, require_root};

const MB: u64 = 1_000_000;
/// As often as an agent looks at its counters.
const POLL: Duration = Duration::from_millis(500);
/// A second's worth may pass at once, and a connection needs a moment to find its speed.
const WARM_UP: Duration = Duration::from_secs(4);
const WINDOW: Duration = Duration::from_secs(5);

fn mbit(megabits: u64) -> Speed {
    Speed::new(megabits * MB).unwrap()
}

fn down(megabits: u64) -> SpeedLimit {
    SpeedLimit {
        down: mbit(megabits),
        ..SpeedLimit::NONE
    }
}

fn up(megabits: u64) -> SpeedLimit {
    SpeedLimit {
        up: mbit(megabits),
        ..SpeedLimit::NONE
    }
}

/// Lets time pass as an agent does.
fn run_for(node: &Node, time: Duration) {
    let end = Instant::now() + time;
    while Instant::now() < end {
        node.read();
        std::thread::sleep(POLL);
    }
}

/// How much a count grows in a second.
fn rates<const N: usize>(node: &Node, counts: impl Fn() -> [u64; N]) -> [f64; N] {
    run_for(node, WARM_UP);
    let (start, before) = (Instant::now(), counts());
    run_for(node, WINDOW);
    let (seconds, after) = (start.elapsed().as_secs_f64(), counts());
    std::array::from_fn(|index| (after[index] - before[index]) as f64 / seconds)
}

/// Asserts that a rate in bytes per second is what a limit lets through.
fn assert_limited(rate: f64, megabits: u64) {
    let limit = (megabits * MB / 8) as f64;
    assert!(
        rate < limit * 1.25 && rate > limit * 0.5,
        "{:.2} Mbit/s at a limit of {megabits}",
        rate * 8.0 / 1e6
    );
}

fn classes(node: &Node, device: &str) -> Vec<String> {
    let listed = node.host().run("tc", &["class", "show", "dev", device]);
    let htb = listed.lines().filter(|line| line.contains("class htb"));
    htb.map(ToOwned::to_owned).collect()
}

fn through(node: &Node) -> Option<String> {
    let links = node.host().run("ip", &["-br", "link"]);
    let mut names = links
        .lines()
        .filter_map(|line| line.split_whitespace().next());
    let ours = |name: &&str| name.starts_with("vp") && name.ends_with('u');
    names.find(ours).map(ToOwned::to_owned)
}

fn nothing_is_left(node: &Node) -> bool {
    node.read();
    let qdiscs = node.host().run("tc", &["qdisc", "show"]);
    let rules = node.host().run("nft", &["list", "ruleset"]);
    let named = rules.contains("limit sd_") || rules.contains("limit su_");
    !qdiscs.contains("htb") && !named && !rules.contains("table netdev") && through(node).is_none()
}

fn limited(subscriber: &Subscriber, speed: SpeedLimit) -> Peer {
    Peer {
        speed,
        ..subscriber.peer.clone()
    }
}

#[test]
fn a_download_keeps_to_its_limit_through_changes_and_nobody_else_is_held_back() {
    if !require_root() {
        return;
    }
    let (node, subscribers) = Node::new("down", 2);
    let [slow, free] = &subscribers[..] else {
        panic!()
    };
    node.set(&[&limited(slow, down(10)), &free.peer]);
    let server = node.network.start_server();
    let clients = (node.connect(slow), node.connect(free));
    let download = Download::start(node.network.subscriber(slow.index), &server, 1 << 40);
    let other = Download::start(node.network.subscriber(free.index), &server, 1 << 40);
    let counts = || {
        let billed = node.counted(slow.peer.id).1;
        [download.received(), other.received(), billed]
    };
    let [slow_rate, free_rate, billed] = rates(&node, counts);
    assert_limited(slow_rate, 10);
    assert!(free_rate > 3.0 * slow_rate, "{free_rate} {slow_rate}");
    assert!(billed < 1.1 * slow_rate, "{billed} {slow_rate}");
    assert_eq!(classes(&node, &node.interface()).len(), 1);

    node.set(&[&limited(slow, down(20))]);
    let [faster, free_rate, billed] = rates(&node, counts);
    assert_limited(faster, 20);
    assert!(free_rate > 1.5 * faster, "{free_rate} {faster}");
    assert!(billed < 1.1 * faster, "{billed} {faster}");

    node.set(&[&slow.peer]);
    let [unlimited, ..] = rates(&node, counts);
    assert!(unlimited > 2.0 * faster, "{unlimited} {faster}");
    assert!(!download.ended() && !other.ended());
    eventually("nothing is left", PATIENCE, || nothing_is_left(&node));
    drop((download, other, clients));
}

#[test]
fn an_upload_keeps_to_its_limit_and_what_waits_is_not_billed() {
    if !require_root() {
        return;
    }
    let (node, subscribers) = Node::new("up", 2);
    let [slow, free] = &subscribers[..] else {
        panic!()
    };
    node.set(&[&limited(slow, up(10)), &free.peer]);
    let server = node.network.start_server();
    let clients = (node.connect(slow), node.connect(free));
    let upload = Upload::start(node.network.subscriber(slow.index), &server);
    let other = Upload::start(node.network.subscriber(free.index), &server);
    let counts = || [node.counted(slow.peer.id).0, node.counted(free.peer.id).0];
    let [slow_rate, free_rate] = rates(&node, counts);
    assert_limited(slow_rate, 10);
    assert!(free_rate > 3.0 * slow_rate, "{free_rate} {slow_rate}");
    let device = through(&node).expect("a device of ours");
    assert_eq!(classes(&node, &device).len(), 1);
    drop(other);

    node.set(&[&limited(slow, up(20))]);
    let [faster, _] = rates(&node, counts);
    assert_limited(faster, 20);
    assert!(!upload.ended());
    let counted = node.counted(slow.peer.id).0 + node.counted(free.peer.id).0;
    let passed = node.passed().0;
    assert!(passed.abs_diff(counted) < MB, "{passed} {counted}");

    node.remove(slow.peer.id);
    eventually("nothing is left", PATIENCE, || nothing_is_left(&node));
    drop((upload, clients));
}

#[test]
fn all_devices_of_a_user_share_its_limit() {
    if !require_root() {
        return;
    }
    let (node, mut subscribers) = Node::new("shared", 2);
    let user = UserId::from_bytes(support::random());
    for subscriber in &mut subscribers {
        subscriber.peer.user = user;
        subscriber.peer.speed = down(20);
    }
    let [phone, laptop] = &subscribers[..] else {
        panic!()
    };
    node.set(&[&phone.peer, &laptop.peer]);
    let server = node.network.start_server();
    let clients = (node.connect(phone), node.connect(laptop));
    let one = Download::start(node.network.subscriber(phone.index), &server, 1 << 40);
    let two = Download::start(node.network.subscriber(laptop.index), &server, 1 << 40);
    let [together] = rates(&node, || [one.received() + two.received()]);
    assert_limited(together, 20);
    drop((one, two, clients));
}

#[test]
fn without_classes_the_limits_hold_by_drops_that_are_not_billed() {
    if !require_root() {
        return;
    }
    let (node, subscribers) = Node::with_most_paced("policed", 1, 0);
    let [slow] = &subscribers[..] else { panic!() };
    let both = SpeedLimit {
        up: mbit(10),
        down: mbit(10),
    };
    node.set(&[&limited(slow, both)]);
    let server = node.network.start_server();
    let client = node.connect(slow);
    let host = node.network.subscriber(slow.index);
    let download = Download::start(host, &server, 1 << 40);
    let counts = || [download.received(), node.counted(slow.peer.id).1];
    let [received, billed] = rates(&node, counts);
    assert_limited(received, 10);
    assert!(billed < 1.1 * received, "{billed} {received}");
    drop(download);
    let upload = Upload::start(host, &server);
    let [sent] = rates(&node, || [node.passed().0]);
    assert_limited(sent, 10);
    drop(upload);
    let qdiscs = node.host().run("tc", &["qdisc", "show"]);
    assert!(!qdiscs.contains("htb"), "{qdiscs}");
    let status = node.host().block_on(node.engine.status());
    assert!(status.shortfall.is_some());
    drop(client);
}

#[test]
fn a_qdisc_of_somebody_elses_stays_and_limits_hold_all_the_same() {
    if !require_root() {
        return;
    }
    let (node, subscribers) = Node::new("foreign", 1);
    let [slow] = &subscribers[..] else { panic!() };
    node.set(&[&limited(slow, down(10))]);
    let interface = node.interface();
    let theirs = [
        "root", "handle", "5:", "tbf", "rate", "1gbit", "burst", "1m",
    ];
    let theirs = [&["qdisc", "add", "dev", &interface], &theirs[..]].concat();
    let limit = ["limit", "4m"];
    node.host().run("tc", &[&theirs[..], &limit].concat());
    let server = node.network.start_server();
    let client = node.connect(slow);
    let download = Download::start(node.network.subscriber(slow.index), &server, 1 << 40);
    let [rate] = rates(&node, || [download.received()]);
    assert_limited(rate, 10);
    let qdiscs = node.host().run("tc", &["qdisc", "show", "dev", &interface]);
    assert!(
        qdiscs.contains("tbf 5:") && !qdiscs.contains("htb"),
        "{qdiscs}"
    );
    let status = node.host().block_on(node.engine.status());
    let shortfall = status.shortfall.expect("a shortfall");
    assert!(shortfall.contains("somebody else"), "{shortfall}");
    assert_eq!(status.problem, None);

    node.host()
        .run("tc", &["qdisc", "delete", "dev", &interface, "root"]);
    eventually("it has a class now", PATIENCE, || {
        node.read();
        classes(&node, &interface).len() == 1
    });
    assert_eq!(node.host().block_on(node.engine.status()).shortfall, None);
    drop((download, client));
}

#[test]
fn a_restarted_agent_goes_on_with_the_classes_that_are_there_and_clears_the_rest() {
    if !require_root() {
        return;
    }
    let (mut node, subscribers) = Node::new("again", 1);
    let [slow] = &subscribers[..] else { panic!() };
    let both = SpeedLimit {
        up: mbit(10),
        down: mbit(10),
    };
    let peer = limited(slow, both);
    node.set(&[&peer]);
    let server = node.network.start_server();
    let client = node.connect(slow);
    let download = Download::start(node.network.subscriber(slow.index), &server, 1 << 40);
    let interface = node.interface();
    eventually("it has a class", PATIENCE, || {
        node.read();
        classes(&node, &interface).len() == 1
    });
    let before = classes(&node, &interface);
    // A class that nobody is in, as a killed agent may leave one.
    let root = before[0].split_whitespace().nth(2).unwrap();
    let (major, minor) = root.split_once(':').unwrap();
    let parent = format!("{major}:");
    let stray = format!("{major}:77");
    assert_ne!(minor, "77");
    let add = [
        "class", "add", "dev", &interface, "parent", &parent, "classid", &stray, "htb", "rate",
        "1mbit",
    ];
    node.host().run("tc", &add);

    drop((download, client));
    node.restart_agent();
    // Before the peers are told nothing changes.
    node.read();
    assert_eq!(classes(&node, &interface).len(), 2);
    node.set(&[&peer]);
    assert_eq!(classes(&node, &interface), before);
    let client = node.connect(slow);
    let download = Download::start(node.network.subscriber(slow.index), &server, 1 << 40);
    let [rate] = rates(&node, || [download.received()]);
    assert_limited(rate, 10);
    assert_eq!(classes(&node, &interface), before);
    drop((download, client));
}

#[test]
fn an_engine_made_anew_has_its_classes_again() {
    if !require_root() {
        return;
    }
    let (node, subscribers) = Node::new("engine", 1);
    let [slow] = &subscribers[..] else { panic!() };
    let both = SpeedLimit {
        up: mbit(10),
        down: mbit(10),
    };
    node.set(&[&limited(slow, both)]);
    let server = node.network.start_server();
    let client = node.connect(slow);
    let download = Download::start(node.network.subscriber(slow.index), &server, 1 << 40);
    eventually("it has classes", PATIENCE, || {
        node.read();
        through(&node).is_some() && classes(&node, &node.interface()).len() == 1
    });
    node.host().block_on(node.engine.sessions()).unwrap();
    let interface = node.interface();
    kill(Pid::from_raw(node.engine_pid()), Signal::SIGKILL).unwrap();
    eventually("it is gone", PATIENCE, || {
        !node.host().run("ip", &["-br", "link"]).contains(&interface)
    });
    node.ensure();
    eventually("it has its class again", PATIENCE, || {
        node.read();
        classes(&node, &node.interface()).len() == 1
    });
    let [rate] = rates(&node, || [download.received()]);
    assert_limited(rate, 10);
    drop(download);
    let upload = Upload::start(node.network.subscriber(slow.index), &server);
    let [sent] = rates(&node, || [node.passed().0]);
    assert_limited(sent, 10);
    drop((upload, client));
}

#[test]
fn of_many_limited_users_only_those_with_traffic_have_classes() {
    if !require_root() {
        return;
    }
    let (node, subscribers) = Node::new("many", 1);
    let [slow] = &subscribers[..] else { panic!() };
    let idle = crowd(slow, 2_000);
    node.set(&idle.iter().collect::<Vec<_>>());
    node.set(&[&limited(slow, down(10))]);
    node.read();
    node.read();
    let interface = node.interface();
    assert_eq!(classes(&node, &interface), Vec::<String>::new());
    let server = node.network.start_server();
    let client = node.connect(slow);
    let download = Download::start(node.network.subscriber(slow.index), &server, 1 << 40);
    let [rate] = rates(&node, || [download.received()]);
    assert_limited(rate, 10);
    assert_eq!(classes(&node, &interface).len(), 1);
    drop((download, client));
}

#[test]
fn more_active_users_than_classes_have_their_limits_and_the_status_says_so() {
    if !require_root() {
        return;
    }
    let (node, subscribers) = Node::with_most_paced("crowd", 1, 700);
    let [slow] = &subscribers[..] else { panic!() };
    let crowd = crowd(slow, 800);
    node.set(&crowd.iter().collect::<Vec<_>>());
    node.read();
    let interface = node.interface();
    node.host().enter(|| {
        let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
        let addresses = crowd.iter().flat_map(|peer| &peer.addresses);
        for address in addresses.filter(|address| address.is_ipv4()) {
            socket.send_to(b"hello", (*address, 9)).unwrap();
        }
    });
    // Not all at once: the counters would have to wait.
    node.read();
    let first = classes(&node, &interface).len();
    assert!(first > 0 && first < 700, "{first}");
    let status = || node.host().block_on(node.engine.status());
    assert_eq!(
        status().shortfall.map(|it| it.contains("100 users")),
        Some(true)
    );
    let rules = node.host().run("nft", &["list", "ruleset"]);
    assert_eq!(rules.matches("limit sd_").count(), 800);

    let peers: Vec<Peer> = crowd
        .into_iter()
        .map(|peer| Peer {
            speed: SpeedLimit::NONE,
            ..peer
        })
        .collect();
    node.set(&peers.iter().collect::<Vec<_>>());
    eventually("nothing is left", PATIENCE, || nothing_is_left(&node));
    assert_eq!(status().shortfall, None);
}

/// Limited users that nobody is connected as.
fn crowd(like: &Subscriber, count: u16) -> Vec<Peer> {
    (0..count)
        .map(|number| {
            let [high, low] = (number + 256).to_be_bytes();
            Peer {
                id: PeerId::from_bytes(support::random()),
                user: UserId::from_bytes(support::random()),
                public_key: support::random(),
                addresses: [
                    std::net::Ipv4Addr::new(10, 66, high, low).into(),
                    format!("fd66::{high:x}:{low:x}").parse().unwrap(),
                ]
                .into(),
                speed: down(5),
                ..like.peer.clone()
            }
        })
        .collect()
}
