//! Cost of the agent's data plane with 1,000 and 10,000 peers: a full reading of all counters, and
//! adding and removing one peer, beside the programs that do the same by hand, in the same run.
//! Needs root. Prints a section of docs/benchmarks.md; `scripts/bench` runs it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "a program for people: what goes wrong ends it, what was measured is printed"
)]

#[path = "../tests/support/mod.rs"]
mod support;

use std::time::{Duration, Instant};

use support::{Node, random};
use vpnpanel_domain::{PeerId, Speed, SpeedLimit, UserId};
use vpnpanel_node_agent::engine::{Engine, Peer};
use vpnpanel_node_agent::testing::require_root;

/// The agent reads all counters this often.
const POLL: Duration = Duration::from_secs(2);
const SAMPLES: usize = 21;

fn main() {
    // `cargo test --benches` only checks that it builds.
    if std::env::args().any(|argument| argument == "--bench") && require_root() {
        println!("## Agent, WireGuard (wireguard-go), every second user limited\n");
        println!("| peers | work | measured | beside it | ratio | target |");
        println!("| --- | --- | --- | --- | --- | --- |");
        for peers in [1_000, 10_000] {
            measure(peers);
        }
        println!();
    }
}

fn measure(count: usize) {
    let (node, _) = Node::new("bench", 0);
    let peers: Vec<Peer> = (0..count).map(|number| peer(&node, number)).collect();
    let before = resident();
    node.set(&peers.iter().collect::<Vec<_>>());
    let limits = peers.iter().filter(|peer| peer.limited);
    let limits: Vec<_> = limits.map(|peer| (peer.user, 1 << 30)).collect();
    node.host()
        .block_on(node.engine.set_allowances(limits))
        .unwrap();
    assert_eq!(node.read().peers.len(), count);
    let grown = resident().saturating_sub(before) / 1024;

    let cpu = cpu_time();
    let read = median(|| {
        node.read();
    });
    let cpu = (cpu_time() - cpu) / u32::try_from(SAMPLES).unwrap();
    let by_hand = median(|| {
        node.host().run("nft", &["-j", "list", "counters"]);
    });
    row(
        count,
        "read all counters and quotas",
        read,
        "nft -j list counters",
        by_hand,
        "≤ 56 ms at 10,000",
    );
    let share = cpu.as_secs_f64() / POLL.as_secs_f64() * 100.0;
    println!(
        "| {count} | CPU at a reading every 2 s | {share:.1} % of a core | – | – | ≤ 5 % at 10,000 |"
    );
    println!("| {count} | memory for the peers | {grown} MiB | – | – | ≤ 40 MiB at 10,000 |");

    classes(&node, &peers);

    let one = peer(&node, count);
    let add = median(|| {
        node.set(&[&one]);
        node.remove(one.id);
    });
    let interface = interface(&node);
    let key = {
        use base64::Engine as _;
        base64::engine::general_purpose::STANDARD.encode(one.public_key)
    };
    let by_hand = median(|| {
        node.host().run(
            "wg",
            &[
                "set",
                &interface,
                "peer",
                &key,
                "allowed-ips",
                "10.66.255.1/32",
            ],
        );
        node.host()
            .run("wg", &["set", &interface, "peer", &key, "remove"]);
    });
    row(
        count,
        "add and remove a peer",
        add,
        "wg set, twice",
        by_hand,
        "–",
    );
}

/// Everybody gets a limit of its speed, and a packet: how fast are classes made?
fn classes(node: &Node, peers: &[Peer]) {
    let speed = SpeedLimit {
        down: Speed::nearest(10_000_000),
        ..SpeedLimit::NONE
    };
    let limited: Vec<Peer> = peers
        .iter()
        .map(|peer| Peer {
            speed,
            limited: false,
            ..peer.clone()
        })
        .collect();
    node.set(&limited.iter().collect::<Vec<_>>());
    node.read();
    let pass = || {
        node.host().enter(|| {
            let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
            for address in peers.iter().flat_map(|peer| &peer.addresses) {
                socket.send_to(b"hello", (*address, 9)).unwrap();
            }
        });
    };
    let interface = node.interface();
    let made = || {
        let args = ["class", "show", "dev", &interface];
        let listed = node.host().run("tc", &args);
        listed.matches("class htb").count()
    };
    let mut spent = Duration::ZERO;
    while made() < peers.len() {
        pass();
        let began = Instant::now();
        node.read();
        spent += began.elapsed();
    }
    let count = peers.len();
    let each = count as f64 / spent.as_secs_f64();
    println!("| {count} | make a class for each, readings included | {each:.0} / s | – | – | – |");
    node.set(&peers.iter().collect::<Vec<_>>());
}

fn peer(node: &Node, number: usize) -> Peer {
    let [high, low] = u16::try_from(number + 2).unwrap().to_be_bytes();
    Peer {
        id: PeerId::from_bytes(random()),
        user: UserId::from_bytes(random()),
        inbound: node.inbound.id,
        public_key: random(),
        preshared_key: None,
        addresses: [std::net::Ipv4Addr::new(10, 66, high, low).into()].into(),
        blocked: false,
        limited: number.is_multiple_of(2),
        not_after_ms: None,
        speed: SpeedLimit::NONE,
    }
}

fn interface(node: &Node) -> String {
    let listed = node.host().run("wg", &["show", "interfaces"]);
    listed.split_whitespace().next().unwrap().to_owned()
}

fn median(mut work: impl FnMut()) -> Duration {
    let mut samples: Vec<Duration> = (0..SAMPLES)
        .map(|_| {
            let began = Instant::now();
            work();
            began.elapsed()
        })
        .collect();
    samples.sort_unstable();
    samples[SAMPLES / 2]
}

fn row(peers: usize, work: &str, ours: Duration, name: &str, theirs: Duration, target: &str) {
    println!(
        "| {peers} | {work} | {:.1} ms | {name}: {:.1} ms | {:.2} × | {target} |",
        ours.as_secs_f64() * 1e3,
        theirs.as_secs_f64() * 1e3,
        ours.as_secs_f64() / theirs.as_secs_f64(),
    );
}

/// Resident memory of this process, KiB.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// CPU time of this process; that of the children is theirs.
fn cpu_time() -> Duration {
    let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF).unwrap();
    let micros = |time: nix::sys::time::TimeVal| {
        u64::try_from(time.tv_sec() * 1_000_000 + time.tv_usec()).unwrap()
    };
    Duration::from_micros(micros(usage.user_time()) + micros(usage.system_time()))
}
