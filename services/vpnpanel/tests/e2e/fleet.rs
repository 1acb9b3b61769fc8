//! The same path with a process for each service, on PostgreSQL, with the node on another host.

use std::time::Duration;

use serde_json::json;
use vpnpanel_node_agent::engine::QUOTA_SLACK;
use vpnpanel_node_agent::testing::{Download, Topology, WgQuick, eventually, require_root};

use crate::crashes::assert_books_balance;
use crate::support::hosts;
use crate::support::{
    AgentFolder, Chance, ControlPlane, FLEET, Postgres, Traffic, counters, setting,
};

const MB: u64 = 1_000_000;

#[test]
fn separate_services_on_postgres_bill_and_cut_and_survive_random_kills() {
    if !require_root() {
        return;
    }
    let mut chance = Chance::new("fleet");
    let kills = setting("VPNPANEL_TEST_KILLS", 8);
    let mut network = Topology::new("fleet");
    network.add_control();
    let (first, second) = (network.add_subscriber(), network.add_subscriber());
    let server = network.start_server();
    let mut postgres = Postgres::start(network.control());
    let database = [("VPNPANEL_DATABASE_URL", postgres.url().to_owned())];
    let database = database
        .each_ref()
        .map(|(key, value)| (*key, value.as_str()));
    let mut control = ControlPlane::remote(network.control(), FLEET, &database);
    let panel = control.first_panel();
    assert_eq!(panel.rest.get("/v1/system/info")["database"], "postgres");
    let node = panel.create_node("edge", Topology::NODE_ADDRESS);
    let mut agent = AgentFolder::new().enrol(network.node(), &panel.join_token(&node));
    panel.wait_node(&node, "ONLINE", Duration::from_secs(60));
    let inbound = panel.create_inbound("main", json!({}));
    let group = panel.create_group("everyone", &[&inbound]);
    let alice = panel.create_user("alice", &group, 20 * MB);
    let bob = panel.create_user("bob", &group, 0);
    let (alice_host, bob_host) = (network.subscriber(first), network.subscriber(second));
    let _tunnels = [
        WgQuick::up(alice_host, &alice.configuration),
        WgQuick::up(bob_host, &bob.configuration),
    ];

    // Billed to the byte, and cut at the limit.
    let size = 50 * MB;
    assert_eq!(
        Download::start(bob_host, &server, size).finish(Duration::from_secs(90)),
        size
    );
    eventually(
        "usage shows what the node counted",
        Duration::from_secs(6),
        || {
            let counted = counters(network.node(), &bob.address).sum();
            counted > size && panel.used_bytes(&bob.id) == Some(counted)
        },
    );
    let cut = Download::start(alice_host, &server, size);
    eventually("alice is limited", Duration::from_secs(60), || {
        panel.user(&alice.id)["status"] == "USER_STATUS_LIMITED"
    });
    let cut_at = counters(network.node(), &alice.address).sum();
    assert!(cut_at <= 20 * MB + QUOTA_SLACK, "{cut_at} passed");
    panel.set_limit(&alice.id, 0);
    assert_eq!(cut.finish(Duration::from_secs(90)), size);

    // Anything dies at any moment, the database too.
    let traffic = [alice_host, bob_host].map(|host| Traffic::start(host, server.address(), MB));
    let services: Vec<&str> = FLEET.iter().map(|role| role.name).collect();
    let others = ["postgres", "vpnpanel-agent", "wireguard-go"];
    for round in 1..=kills {
        std::thread::sleep(Duration::from_millis(chance.between(300..4000)));
        let victim = *chance.one_of(&[&services[..], &others].concat());
        let away = Duration::from_millis(chance.between(0..2000));
        match victim {
            "postgres" => {
                postgres.kill9();
                std::thread::sleep(away);
                postgres.start_again();
            }
            "vpnpanel-agent" => {
                let folder = agent.kill9();
                std::thread::sleep(away);
                agent = folder.run(network.node());
            }
            "wireguard-go" => {
                hosts::kill9(network.node(), victim);
            }
            service => {
                control.kill9_role(service);
                std::thread::sleep(away);
            }
        }
        // Services that gave up without a database are started again, as a supervisor would.
        control.start_all();
        println!("kill {round}: {victim}");
    }
    let before = traffic.each_ref().map(Traffic::received);
    eventually(
        "every subscriber is served again",
        Duration::from_secs(90),
        || {
            traffic
                .iter()
                .zip(&before)
                .all(|(now, before)| now.received() > before + MB / 10)
        },
    );
    drop(traffic);
    panel.wait_node(&node, "ONLINE", Duration::from_secs(150));
    assert_books_balance(&panel, &network, &node, &[alice, bob]);

    let mut said = control.output();
    said.extend(agent.output());
    assert!(
        !said.iter().any(|line| line.contains("panicked")),
        "{said:#?}"
    );
    agent.stop();
    control.stop();
}
