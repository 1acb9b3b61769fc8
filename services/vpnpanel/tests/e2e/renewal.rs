//! Certificates of a node that live for seconds: renewed under way, renewed after their end, revoked.
//! Tunnels notice nothing of it.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::json;
use vpnpanel_node_agent::testing::{Topology, WgQuick, eventually, require_root};

use crate::support::{ALL_IN_ONE, AgentFolder, ControlPlane, Panel, Traffic};

const PATIENCE: Duration = Duration::from_secs(60);

/// When the node's certificate ends, seconds of the Unix epoch.
fn ends(panel: &Panel<'_>) -> Option<i64> {
    let nodes = panel.nodes();
    let time = nodes[0]["certificateExpireTime"].as_str()?;
    let time: prost_types::Timestamp = time.parse().unwrap();
    Some(time.seconds)
}

fn wait_renewed(panel: &Panel<'_>, before: i64) -> i64 {
    eventually("the certificate is renewed and in use", PATIENCE, || {
        ends(panel).is_some_and(|ends| ends > before)
    });
    ends(panel).unwrap()
}

/// Copies the database of a control plane that does not run.
fn copy_database(from: &Path, to: &Path) {
    for name in ["vpnpanel.db", "vpnpanel.db-wal", "vpnpanel.db-shm"] {
        let _ = std::fs::remove_file(to.join(name));
        let there = from.join(name);
        if there.exists() {
            std::fs::copy(there, to.join(name)).unwrap();
        }
    }
}

#[test]
fn a_node_that_was_renewed_since_the_backup_connects_again_after_a_restore() {
    if !require_root() {
        return;
    }
    let mut network = Topology::new("restore");
    network.add_control();
    let settings = [("VPNPANEL_NODE_CERTIFICATE_LIFETIME", "30s")];
    let mut control = ControlPlane::remote(network.control(), ALL_IN_ONE, &settings);
    let panel = control.first_panel();
    let node = panel.create_node("edge", Topology::NODE_ADDRESS);
    let agent = AgentFolder::new().enrol(network.node(), &panel.join_token(&node));
    panel.wait_node(&node, "ONLINE", PATIENCE);
    let backup = tempfile::tempdir().unwrap();
    control.stop();
    copy_database(control.data(), backup.path());
    control.start_all();

    let panel = Panel::sign_in(network.control(), "127.0.0.1:8080");
    panel.wait_node(&node, "ONLINE", PATIENCE);
    let first = ends(&panel).unwrap();
    let second = wait_renewed(&panel, first);
    wait_renewed(&panel, second);
    control.kill9();
    copy_database(backup.path(), control.data());
    control.start_all();
    let said = |what: &str| control.output().iter().any(|line| line.contains(what));
    assert!(said("certificates_reconciled"), "{:#?}", control.output());

    let panel = Panel::sign_in(network.control(), "127.0.0.1:8080");
    let restored = ends(&panel).unwrap();
    panel.wait_node(&node, "ONLINE", PATIENCE);
    wait_renewed(&panel, restored);
    assert!(
        !agent
            .output()
            .iter()
            .any(|line| line.contains("enrol this host again"))
    );
    drop(agent);
}

#[test]
fn a_node_renews_its_certificate_by_itself_and_tunnels_go_on() {
    if !require_root() {
        return;
    }
    let mut network = Topology::new("renew");
    network.add_control();
    let host = network.add_subscriber();
    let server = network.start_server();
    let settings = [
        ("VPNPANEL_NODE_CERTIFICATE_LIFETIME", "24s"),
        ("VPNPANEL_COLLECTOR_SERIAL_CHECK", "1s"),
    ];
    let control = ControlPlane::remote(network.control(), ALL_IN_ONE, &settings);
    let panel = control.first_panel();
    let node = panel.create_node("edge", Topology::NODE_ADDRESS);
    let agent = AgentFolder::new().enrol(network.node(), &panel.join_token(&node));
    panel.wait_node(&node, "ONLINE", PATIENCE);
    let inbound = panel.create_inbound("main", json!({}));
    let group = panel.create_group("everyone", &[&inbound]);
    let alice = panel.create_user("alice", &group, 0);
    let _tunnel = WgQuick::up(network.subscriber(host), &alice.configuration);
    let traffic = Traffic::start(network.subscriber(host), server.address(), 500_000);

    // Over the link, twice: the second time by what it was given the first time.
    let first = ends(&panel).unwrap();
    let second = wait_renewed(&panel, first);
    let third = wait_renewed(&panel, second);
    panel.wait_node(&node, "ONLINE", PATIENCE);

    // The agent is away until its certificate has ended.
    let folder = agent.kill9();
    eventually("the certificate has ended", PATIENCE, || {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        now.as_secs() as i64 > third + 1
    });
    let agent = folder.run(network.node());
    let fourth = wait_renewed(&panel, third);
    panel.wait_node(&node, "ONLINE", PATIENCE);
    let asked = |line: &String| line.contains("renewal_lapsed");
    assert!(agent.output().iter().any(asked));
    let billed = panel.used_bytes(&alice.id).unwrap();
    eventually("usage is billed", PATIENCE, || {
        panel
            .used_bytes(&alice.id)
            .is_some_and(|used| used > billed)
    });

    // Revoked: the live stream is cut, and the agent is let in no more.
    let revoke = format!("/v1/nodes/{node}:revokeCertificate");
    panel.rest.post(&revoke, &json!({}));
    panel.wait_node(&node, "PENDING", PATIENCE);
    eventually("the agent is told to enrol again", PATIENCE, || {
        let told = |line: &String| line.contains("enrol this host again");
        agent.output().iter().any(told)
    });
    assert_eq!(ends(&panel), None);

    // A new install command makes the host the same node again.
    let folder = agent.stop();
    let agent = folder.enrol(network.node(), &panel.join_token(&node));
    panel.wait_node(&node, "ONLINE", PATIENCE);
    assert!(ends(&panel).unwrap() > fourth);
    let billed = panel.used_bytes(&alice.id).unwrap();
    eventually("usage is billed again", PATIENCE, || {
        panel
            .used_bytes(&alice.id)
            .is_some_and(|used| used > billed)
    });
    assert_eq!(traffic.connections(), 1, "the tunnel went on");
    traffic.stop();
    drop(agent);
}
