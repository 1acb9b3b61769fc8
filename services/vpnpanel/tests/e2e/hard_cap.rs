//! A limit holds over several nodes at once, also while none of them can ask anybody.

use std::time::Duration;

use serde_json::json;
use vpnpanel_node_agent::engine::QUOTA_SLACK;
use vpnpanel_node_agent::testing::{Topology, WgQuick, eventually, require_root};

use crate::support::{
    AgentFolder, ControlPlane, FLEET, Postgres, Traffic, counters, small_buffers,
};

const MB: u64 = 1_000_000;
const NODES: usize = 3;
const LIMIT: u64 = 100 * MB;
/// What a user takes on each node in a second, and how often agents read their counters.
const RATE: u64 = 2 * MB;
const POLL_SECS: u64 = 2;

#[test]
fn nodes_that_are_cut_off_let_no_more_through_than_the_limit() {
    passes_no_more_than(true, NODES as u64 * QUOTA_SLACK);
}

#[test]
fn without_kernel_quotas_each_node_lets_through_one_poll_interval_more() {
    // What passes until the reading that finds the allowance used up, and until it is acted upon.
    passes_no_more_than(false, NODES as u64 * RATE * (POLL_SECS + 1));
}

/// Takes traffic for twice the limit on three nodes that lose the control plane meanwhile.
fn passes_no_more_than(kernel_quota: bool, excess: u64) {
    if !require_root() {
        return;
    }
    let mut networks = [
        Topology::new("cap0"),
        Topology::new("cap1"),
        Topology::new("cap2"),
    ];
    let (first, others) = networks.split_first_mut().expect("three");
    first.add_control();
    for (index, other) in (1..).zip(others) {
        other.join_control(index, first);
    }
    for network in &mut networks {
        network.add_subscriber();
        small_buffers(network.subscriber(0));
        small_buffers(network.server());
    }
    let host = networks[0].control();
    let postgres = Postgres::start(host);
    let database = postgres.url().to_owned();
    let mut control = ControlPlane::remote(host, FLEET, &[("VPNPANEL_DATABASE_URL", &database)]);
    let panel = control.first_panel();
    let nodes: Vec<_> = (0..NODES)
        .map(|n| panel.create_node(&format!("edge-{n}"), Topology::NODE_ADDRESS))
        .collect();
    let agents: Vec<_> = nodes
        .iter()
        .zip(&networks)
        .map(|(node, network)| {
            AgentFolder::new()
                .with("VPNPANEL_AGENT_KERNEL_QUOTA", &kernel_quota.to_string())
                .enrol(network.node(), &panel.join_token(node))
        })
        .collect();
    for node in &nodes {
        panel.wait_node(node, "ONLINE", Duration::from_secs(60));
    }
    let inbound = panel.create_inbound("main", json!({}));
    let group = panel.create_group("everyone", &[&inbound]);
    let alice = panel.create_user("alice", &group, LIMIT);
    let tunnels: Vec<_> = nodes
        .iter()
        .zip(&networks)
        .map(|(node, network)| {
            WgQuick::up(
                network.subscriber(0),
                &panel.configuration_for(&alice.id, node),
            )
        })
        .collect();
    let servers: Vec<_> = networks.iter().map(Topology::start_server).collect();
    let traffic: Vec<_> = networks
        .iter()
        .zip(&servers)
        .map(|(network, server)| Traffic::start(network.subscriber(0), server.address(), RATE))
        .collect();
    let counted = || -> Vec<u64> {
        networks
            .iter()
            .map(|network| counters(network.node(), &alice.address).sum())
            .collect()
    };
    let passed = || counted().iter().sum::<u64>();

    // A third of it is used when every node loses the control plane.
    eventually("a third is used", Duration::from_secs(60), || {
        passed() > LIMIT / 3
    });
    for network in &networks {
        network.set_control_link(false);
    }
    let alone_from = passed();
    let mut before = counted();
    eventually("every node stops alice", Duration::from_secs(90), || {
        std::thread::sleep(Duration::from_secs(3));
        let now = counted();
        let still = now == before;
        before = now;
        still
    });
    let alone = passed();
    println!(
        "kernel quota {kernel_quota}: {alone_from} passed with the control plane, {} without it",
        alone - alone_from
    );
    assert!(alone <= LIMIT + excess, "{alone} passed of {LIMIT}");
    assert!(
        alone > alone_from,
        "nothing passed without the control plane"
    );

    // With it, alice gets the rest, and not more.
    for network in &networks {
        network.set_control_link(true);
    }
    eventually("alice is limited", Duration::from_secs(180), || {
        panel.user(&alice.id)["status"] == "USER_STATUS_LIMITED"
    });
    drop(traffic);
    drop(tunnels);
    eventually("billed is counted", Duration::from_secs(60), || {
        panel.used_bytes(&alice.id) == Some(passed())
    });
    let all = passed();
    println!("{all} passed of {LIMIT} in the end: {:?}", counted());
    assert!((LIMIT..=LIMIT + excess).contains(&all), "{all} of {LIMIT}");
    for agent in agents {
        agent.stop();
    }
    control.stop();
}
