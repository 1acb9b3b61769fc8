//! Two of every service, PostgreSQL, Redis and fifty nodes, of which everything breaks at random: in
//! the end each byte is billed once, no allowances pass a limit, and every node does what it should.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use vpnpanel_node_agent::engine::QUOTA_SLACK;
use vpnpanel_node_agent::testing::{Namespace, Topology, WgQuick, eventually, require_root, run};

use crate::crashes::assert_books_balance;
use crate::support::hosts;
use crate::support::panel::id_of;
use crate::support::process::{Output, Process};
use crate::support::rest::integer;
use crate::support::{
    AgentFolder, Balancer, Chance, ControlPlane, Panel, Postgres, REPLICATED, Redis, Traffic,
    counters, setting,
};

const MB: u64 = 1_000_000;
/// What breaks, as often as it is named.
const FAULTS: &[&str] = &[
    "control-api-1",
    "control-api-2",
    "collector-1",
    "collector-1",
    "collector-2",
    "collector-2",
    "scheduler-1",
    "scheduler-2",
    "gateway",
    "vpnpanel-agent",
    "vpnpanel-agent",
    "wireguard-go",
    "postgres",
    "redis",
    "wipe redis",
    "half-open",
    "disk full",
    "rolling restart",
];
/// How long simulated nodes may need to come back and settle: agents wait up to two minutes.
const SETTLE: u64 = 300;

#[test]
fn whatever_breaks_of_a_replicated_fleet_the_books_agree() {
    if !require_root() {
        return;
    }
    let mut chance = Chance::new("chaos");
    let length = Duration::from_secs(setting("VPNPANEL_TEST_CHAOS_SECS", 120));
    let mut network = Topology::new("chaos");
    network.add_control();
    let subscribers = [network.add_subscriber(), network.add_subscriber()];
    let server = network.start_server();
    let host = network.control();
    let mut postgres = Postgres::start(host);
    let mut redis = Redis::start(host);
    let _balancer = Balancer::start(
        host,
        &[
            ("127.0.0.1", 50_051),
            ("127.0.0.1", 50_054),
            ("127.0.0.1", 50_055),
            (Topology::CONTROL_ADDRESS, 50_052),
            (Topology::CONTROL_ADDRESS, 50_053),
        ],
    );
    let (database, cache) = (postgres.url().to_owned(), redis.url().to_owned());
    let settings = [
        ("VPNPANEL_DATABASE_URL", database.as_str()),
        ("VPNPANEL_REDIS_URL", &cache),
        ("VPNPANEL_RATE_LIMITS", "false"),
    ];
    let mut control = ControlPlane::remote(host, REPLICATED, &settings);
    let panel = control.first_panel();

    // One node is real, with a data plane in the kernel's hands and a small disk.
    let node = panel.create_node("edge", Topology::NODE_ADDRESS);
    let disk = AgentFolder::on_small_disk(24);
    let mut agent = disk.enrol(network.node(), &panel.join_token(&node));
    panel.wait_node(&node, "ONLINE", Duration::from_secs(60));
    let inbound = json!({
        "name": "main", "offeredToTenants": true, "wireguard": {}, "nodes": {"nodeIds": [node]},
    });
    let inbound = id_of(&panel.rest.post("/v1/inbounds", &inbound));
    let group = panel.create_group("everyone", &[&inbound]);
    let limit = length.as_secs() * MB / 4;
    let users = [
        panel.create_user("free", &group, 0),
        panel.create_user("limited", &group, limit),
    ];
    let _tunnels: Vec<_> = users
        .iter()
        .zip(subscribers)
        .map(|(user, host)| WgQuick::up(network.subscriber(host), &user.configuration))
        .collect();
    let traffic =
        subscribers.map(|host| Traffic::start(network.subscriber(host), server.address(), MB / 2));

    // The others are simulated: users without limits that are switched all the time, and users
    // that run into their limits half way.
    let token = platform_token(&panel);
    let half = format!("{}KiB", length.as_secs() * 25 * 32 / 2);
    let mut fleets = [
        Fleet::start(
            host,
            &token,
            length,
            &["--nodes", "25", "--change-every", "1s"],
        ),
        Fleet::start(host, &token, length, &["--nodes", "24", "--limit", &half]),
    ];
    for fleet in &mut fleets {
        fleet.wait_for_traffic();
    }

    let began = Instant::now();
    let mut faults = 0;
    while began.elapsed() < length {
        std::thread::sleep(Duration::from_millis(chance.between(300..3000)));
        let fault = *chance.one_of(FAULTS);
        let away = Duration::from_millis(chance.between(0..3000));
        faults += 1;
        println!("{:>6.1} s: {fault}", began.elapsed().as_secs_f64());
        match fault {
            "postgres" => {
                postgres.kill9();
                std::thread::sleep(away);
                postgres.start_again();
            }
            "redis" => {
                redis.kill9();
                std::thread::sleep(away);
                redis.start_again();
            }
            "wipe redis" => redis.wipe(),
            "vpnpanel-agent" => {
                let folder = agent.kill9();
                std::thread::sleep(away);
                agent = folder.run(network.node());
            }
            "wireguard-go" => {
                hosts::kill9(network.node(), fault);
            }
            "half-open" => {
                network.set_control_link(false);
                std::thread::sleep(away);
                network.set_control_link(true);
            }
            "disk full" => fill(agent.path(), away),
            "rolling restart" => {
                for role in REPLICATED {
                    control.stop_role(&role.label());
                    control.start_all();
                }
            }
            service => {
                control.kill9_role(service);
                std::thread::sleep(away);
            }
        }
        // As a supervisor would.
        if !agent.runs() {
            agent = agent.kill9().run(network.node());
        }
        control.start_all();
        assert_no_allowance_passes_a_limit(host, &database);
    }
    println!("{faults} faults in {:.0} s", began.elapsed().as_secs_f64());

    for fleet in fleets {
        fleet.finish();
    }
    drop(traffic);
    panel.wait_node(&node, "ONLINE", Duration::from_secs(150));
    assert_books_balance(&panel, &network, &node, &users);
    let passed = counters(network.node(), &users[1].address).sum();
    assert!(passed <= limit + QUOTA_SLACK, "{passed} of {limit} passed");
    assert_no_allowance_passes_a_limit(host, &database);
    assert_desired_is_applied(&panel);
    let mut said = control.output();
    said.extend(agent.output());
    assert!(
        !said.iter().any(|line| line.contains("panicked")),
        "{said:#?}"
    );
    agent.stop();
    control.stop();
}

/// Simulated nodes in a process of their own.
struct Fleet {
    process: Process,
    output: Output,
}

impl Fleet {
    fn start(host: &Namespace, token: &str, length: Duration, arguments: &[&str]) -> Self {
        let output = Output::of("fleet");
        let mut command = host.command(env!("CARGO_BIN_EXE_vpnpanel"));
        command
            .args(["fleet", "run", "--users-per-node", "10", "--rate", "32KiB"])
            .args(["--faults", "kill-agents,cut,half-open"])
            .args(["--control-api", "http://127.0.0.1:50051"])
            .arg("--enrollment-url")
            .arg(format!("https://{}:50053", Topology::CONTROL_ADDRESS))
            .args(["--for", &format!("{}s", length.as_secs())])
            .args(["--settle", &format!("{SETTLE}s")])
            .args(arguments)
            .env("VPNPANEL_FLEET_API_TOKEN", token);
        Self {
            process: Process::start(&output, &mut command),
            output,
        }
    }

    fn wait_for_traffic(&mut self) {
        eventually("traffic flows", Duration::from_secs(120), || {
            assert!(self.process.runs(), "{:#?}", self.output.lines());
            self.output
                .lines()
                .iter()
                .any(|line| line.contains("traffic flows"))
        });
    }

    /// Waits for its verdict on its own books.
    fn finish(mut self) {
        let limit = Duration::from_secs(SETTLE + 120);
        eventually("the fleet's run ends", limit, || !self.process.runs());
        let status = self.process.stop(Duration::from_secs(1));
        for line in self.output.lines() {
            println!("fleet: {line}");
        }
        assert!(status.success(), "{status}");
    }
}

/// Nothing can be written on a disk for a while.
fn fill(folder: &Path, length: Duration) {
    let filler = folder.join("filler");
    // It ends when there is no room any more.
    let _ = Command::new("dd")
        .args(["if=/dev/zero", "bs=64k"])
        .arg(format!("of={}", filler.display()))
        .output();
    std::thread::sleep(length);
    std::fs::remove_file(filler).expect("the filler");
}

/// Used and reserved together never pass what a user may use, but for the packet by which a kernel's
/// quota cuts late on each node: summed up anew, not as the ledger keeps it.
fn assert_no_allowance_passes_a_limit(host: &Namespace, database: &str) {
    let query = format!(
        "
        SELECT p.id, p.limit_bytes, p.billed_bytes, sum(greatest(0, open.micro)) / 1000000
        FROM periods p
        JOIN LATERAL (
            SELECT (allowance_bytes - billed_bytes) * 1000000::numeric
                 + allowance_micro - billed_micro AS micro
            FROM leases WHERE period_id = p.id AND state <> 'written_off'
        ) open ON true
        WHERE p.limit_bytes > 0
        GROUP BY p.id
        HAVING p.billed_bytes * 1000000::numeric + p.billed_micro + sum(greatest(0, open.micro))
             > (p.limit_bytes + count(*) * {QUOTA_SLACK}) * 1000000::numeric"
    );
    let mut psql = host.command("psql");
    let over = run(psql.args([database, "-qAtc", &query]));
    assert!(over.trim().is_empty(), "over their limits: {over}");
}

fn assert_desired_is_applied(panel: &Panel) {
    let mut nodes: Vec<Value> = Vec::new();
    let mut page = String::new();
    loop {
        let answer = panel
            .rest
            .get(&format!("/v1/nodes?pageSize=1000&pageToken={page}"));
        nodes.extend(answer["nodes"].as_array().cloned().unwrap_or_default());
        answer["nextPageToken"]
            .as_str()
            .unwrap_or_default()
            .clone_into(&mut page);
        if page.is_empty() {
            break;
        }
    }
    assert_eq!(nodes.len(), 50);
    // The simulated ones have said goodbye; what they had applied is on record.
    let behind: Vec<Value> = nodes
        .iter()
        .map(|node| panel.rest.get(&format!("/v1/nodes/{}/sync", id_of(node))))
        .filter(|sync| {
            let desired = integer(&sync["desiredRevision"]);
            desired == 0 || integer(&sync["appliedRevision"]) != desired
        })
        .collect();
    assert!(behind.is_empty(), "{behind:#?}");
}

/// A token that may do what a fleet does.
fn platform_token(panel: &Panel) -> String {
    let permissions = [
        "tenant.read",
        "tenant.create",
        "user.read",
        "user.write",
        "node.read",
        "node.write",
        "inbound.read",
        "inbound.write",
        "group.read",
        "group.write",
        "usage.read",
    ];
    let body = json!({"name": "fleet", "permissions": permissions});
    let made = panel.rest.post("/v1/auth/apiTokens", &body);
    let token = made["token"].as_str();
    token
        .unwrap_or_else(|| panic!("no token: {made}"))
        .to_owned()
}
