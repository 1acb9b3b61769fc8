//! Whatever is killed, whenever: billed is what was counted, once.

use std::time::Duration;

use serde_json::json;
use vpnpanel_node_agent::testing::{Topology, WgQuick, eventually, require_root};

use crate::support::hosts;
use crate::support::{
    ALL_IN_ONE, Chance, ControlPlane, Counted, Panel, Subscriber, Traffic, counters, setting,
};

#[test]
fn random_kills_under_traffic_lose_nothing_and_double_nothing() {
    if !require_root() {
        return;
    }
    let mut chance = Chance::new("kills");
    let kills = setting("VPNPANEL_TEST_KILLS", 8);
    let mut network = Topology::new("kill");
    let hosts = [network.add_subscriber(), network.add_subscriber()];
    let server = network.start_server();
    let mut control = ControlPlane::start(network.node(), ALL_IN_ONE, &[]);
    let panel = control.first_panel();
    let node = panel.local_node(Topology::NODE_ADDRESS);
    let inbound = panel.create_inbound("main", json!({}));
    let group = panel.create_group("everyone", &[&inbound]);
    let users = [
        panel.create_user("free", &group, 0),
        panel.create_user("limited", &group, 10_000_000_000),
    ];
    let tunnels: Vec<_> = users
        .iter()
        .zip(hosts)
        .map(|(user, host)| WgQuick::up(network.subscriber(host), &user.configuration))
        .collect();
    let traffic: Vec<_> = hosts
        .iter()
        .map(|host| Traffic::start(network.subscriber(*host), server.address(), 1_000_000))
        .collect();

    for round in 1..=kills {
        std::thread::sleep(Duration::from_millis(chance.between(300..4000)));
        let victim = *chance.one_of(&["all-in-one", "vpnpanel-agent", "wireguard-go"]);
        match victim {
            "all-in-one" => {
                control.kill9();
                std::thread::sleep(Duration::from_millis(chance.between(0..2000)));
                control.start_all();
            }
            program => {
                hosts::kill9(network.node(), program);
            }
        }
        println!("kill {round}: {victim}");
    }

    let before: Vec<_> = traffic.iter().map(Traffic::received).collect();
    eventually(
        "every subscriber is served again",
        Duration::from_secs(90),
        || {
            traffic
                .iter()
                .zip(&before)
                .all(|(now, before)| now.received() > before + 100_000)
        },
    );
    drop(traffic);
    drop(tunnels);
    assert_books_balance(&panel, &network, &node, &users);
}

/// Waits until what is billed is what the node counted, for every user, and checks that every
/// view of it adds up to the same.
pub(crate) fn assert_books_balance(
    panel: &Panel,
    network: &Topology,
    node: &str,
    users: &[Subscriber],
) {
    let counted = |user: &Subscriber| counters(network.node(), &user.address);
    for user in users {
        eventually("billed is counted", Duration::from_secs(60), || {
            let billed = panel.used_bytes(&user.id);
            let counted = counted(user).sum();
            assert!(
                billed.is_none_or(|billed| billed <= counted),
                "{billed:?} of {counted}"
            );
            billed == Some(counted)
        });
    }
    // A packet may still come after the last look; then everything moves together.
    eventually("all sums are the same", Duration::from_secs(30), || {
        let by_user: Vec<Counted> = users.iter().map(counted).collect();
        let total: Counted = by_user.iter().copied().sum();
        users.iter().zip(&by_user).all(|(user, counted)| {
            let usage = panel.user_usage(&user.id);
            panel.period(&user.id) == *counted
                && usage.total == *counted
                && usage.nodes.values().copied().sum::<Counted>() == *counted
                && usage.points.values().copied().sum::<Counted>() == *counted
        }) && panel.node_usage(node).total == total
            && panel.tenant_usage().total == total
    });
    for user in users {
        println!(
            "billed {:?} = counted {:?}",
            panel.period(&user.id),
            counted(user)
        );
    }
}
