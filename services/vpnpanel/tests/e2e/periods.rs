//! A period ends while nobody is there to say so: its node begins the next one by itself, on time.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use vpnpanel_node_agent::engine::QUOTA_SLACK;
use vpnpanel_node_agent::testing::{
    Download, Namespace, Topology, WgQuick, eventually, require_root, run,
};

use crate::support::rest::integer;
use crate::support::{ALL_IN_ONE, ControlPlane, Panel, Postgres, counters};

const MB: u64 = 1_000_000;
const LIMIT: u64 = 6 * MB;
/// From when the boundary is set until it comes.
const AHEAD: Duration = Duration::from_secs(75);

#[test]
fn a_period_that_ends_without_the_control_plane_lets_its_user_on_again() {
    if !require_root() {
        return;
    }
    let mut network = Topology::new("period");
    let host = network.add_subscriber();
    let server = network.start_server();
    let postgres = Postgres::start(network.node());
    let database = [("VPNPANEL_DATABASE_URL", postgres.url())];
    let mut control = ControlPlane::start(network.node(), ALL_IN_ONE, &database);
    let panel = control.first_panel();
    let node = panel.local_node(Topology::NODE_ADDRESS);
    let inbound = panel.create_inbound("main", json!({}));
    let group = panel.create_group("everyone", &[&inbound]);
    // No node knows the user yet: its boundary can still be moved.
    let path = format!("/v1/tenants/{}/users", panel.tenant);
    let body = json!({
        "username": "alice", "dataLimitBytes": LIMIT.to_string(),
        "usageReset": {"strategy": "RESET_STRATEGY_ROLLING", "rollingDays": 1},
    });
    let made = panel.rest.post(&path, &body);
    let alice = made["id"].as_str().expect("an id").to_owned();
    let boundary = Instant::now() + AHEAD;
    move_boundary(network.node(), postgres.url(), &alice, AHEAD);
    let path = format!("{path}/{alice}");
    let body = json!({"groupIds": [group]});
    panel
        .rest
        .patch(&format!("{path}?updateMask=groupIds"), &body);
    panel.wait_applied();
    let configuration = panel.configuration(&alice);
    let address = address(&configuration);
    let host = network.subscriber(host);
    let _tunnel = WgQuick::up(host, &configuration);
    let counted = || counters(network.node(), &address).sum();

    let download = Download::start(host, &server, 60 * MB);
    eventually("alice is limited", Duration::from_secs(40), || {
        panel.user(&alice)["status"] == "USER_STATUS_LIMITED"
    });
    let before = counted();
    assert!(
        (LIMIT - QUOTA_SLACK..=LIMIT + QUOTA_SLACK).contains(&before),
        "{before}"
    );
    eventually("all of it is billed", Duration::from_secs(10), || {
        panel.used_bytes(&alice) == Some(before)
    });
    control.kill9();
    assert!(
        Instant::now() < boundary,
        "too slow a machine for this boundary"
    );
    while Instant::now() + Duration::from_secs(1) < boundary {
        assert_eq!(counted(), before, "passed though the limit was reached");
        std::thread::sleep(Duration::from_millis(200));
    }
    // What TCP had under way waits for up to two minutes more before it tries again.
    drop(download);
    let download = Download::start(host, &server, 60 * MB);
    eventually("alice passes again", Duration::from_secs(60), || {
        counted() >= before + MB
    });
    // Within what the node holds of the new period: that is a part of its limit.
    let held = |counted| counted <= before + LIMIT + QUOTA_SLACK;
    assert!(held(counted()), "{}", counted());
    drop(download);

    control.start_all();
    panel.wait_node(&node, "ONLINE", Duration::from_secs(150));
    eventually(
        "each byte is in its period",
        Duration::from_secs(30),
        || {
            let (old, new) = used(&panel, &path);
            old == before && new == counted() - before
        },
    );
    assert!(held(counted()), "{}", counted());
    let shown = panel.user(&alice);
    assert_eq!(integer(&shown["usedBytes"]), counted() - before);

    // What is left of the new period passes as well, and no more.
    let _rest = Download::start(host, &server, 60 * MB);
    eventually("alice is limited again", Duration::from_secs(60), || {
        panel.user(&alice)["status"] == "USER_STATUS_LIMITED"
    });
    assert!(held(counted()), "{}", counted());
    eventually(
        "each byte is in its period",
        Duration::from_secs(10),
        || used(&panel, &path) == (before, counted() - before),
    );
}

/// Billed bytes of the period that is over and of the one in force.
fn used(panel: &Panel<'_>, user: &str) -> (u64, u64) {
    let listed = panel.rest.get(&format!("{user}/periods"));
    let periods: Vec<&Value> = listed["periods"].as_array().into_iter().flatten().collect();
    let [_next, current, old] = periods[..] else {
        // Not rolled over yet: the one that follows is in force.
        let [next, current] = periods[..] else {
            panic!("{listed}")
        };
        return (integer(&current["usedBytes"]), integer(&next["usedBytes"]));
    };
    (integer(&old["usedBytes"]), integer(&current["usedBytes"]))
}

/// Has the current period of a user end after a while, and the next one begin then.
fn move_boundary(host: &Namespace, database: &str, user: &str, ahead: Duration) {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("after 1970");
    let at = (now + ahead).as_millis();
    let next = format!("(SELECT next_period_id FROM users WHERE id = '{user}')");
    let text = format!(
        "UPDATE periods SET ends_at = {at} WHERE user_id = '{user}' AND id <> {next};
         UPDATE periods SET starts_at = {at} WHERE id = {next};
         UPDATE users SET period_ends_at = {at} WHERE id = '{user}'"
    );
    let mut psql = host.command("psql");
    run(psql
        .arg(database)
        .args(["-v", "ON_ERROR_STOP=1", "-c", &text]));
}

fn address(configuration: &str) -> String {
    let line = configuration
        .lines()
        .find_map(|line| line.strip_prefix("Address = "));
    let address = line.and_then(|line| line.split(['/', ',']).next());
    address.expect("an address").to_owned()
}
