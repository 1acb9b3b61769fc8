//! The README's commands do what it says, as they are written there.

use std::path::Path;
use std::process::Command;

use serde_json::Value;
use vpnpanel_node_agent::testing::{Download, Namespace, Topology, WgQuick, require_root, run};

use crate::support::{ALL_IN_ONE, ControlPlane, Panel};

const README: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../README.md");
const TOOLS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/tools/bin");

#[test]
fn the_first_session_of_the_readme_works_as_written() {
    if !require_root() {
        return;
    }
    let mut network = Topology::new("readme");
    let host = network.add_subscriber();
    let server = network.start_server();
    let control = ControlPlane::first_start(network.node(), ALL_IN_ONE, &[]);
    let password = control.printed_password();
    let panel = || Panel::sign_in(network.node(), "127.0.0.1:8080");

    let session = block("```sh session\n", "API=");
    let output = shell(network.node(), &[session.as_str()], &password);
    let (configuration, user) = output.split_at(output.rfind('{').expect("the user as JSON"));
    assert!(
        configuration.contains("[Interface]") && configuration.contains("[Peer]"),
        "{output}"
    );
    let user: Value = serde_json::from_str(user).expect("the user as JSON");
    assert_eq!(user["username"], "ada");
    assert_eq!(user["status"], "USER_STATUS_ACTIVE");
    assert_eq!(user["dataLimitBytes"], "20000000000");

    // What it printed is a configuration that works.
    panel().local_node(Topology::NODE_ADDRESS);
    panel().wait_applied();
    let users = panel()
        .rest
        .get(&format!("/v1/tenants/{}/users", panel().tenant));
    let configuration = panel().configuration(users["users"][0]["id"].as_str().expect("an id"));
    let host = network.subscriber(host);
    let _tunnel = WgQuick::up(host, &configuration);
    let limit = std::time::Duration::from_secs(60);
    assert_eq!(
        Download::start(host, &server, 1_000_000).finish(limit),
        1_000_000
    );

    // The same over gRPC, by reflection.
    let token = format!("TOKEN={}", panel().rest.token());
    let listed = shell(
        network.node(),
        &[&token, &block("```sh\n", "grpcurl")],
        &password,
    );
    for service in ["vpnpanel.user.v1.UserService", "grpc.health.v1.Health"] {
        assert!(listed.contains(service), "{listed}");
    }
    assert!(
        listed.contains("\"email\": \"admin@localhost\""),
        "{listed}"
    );
    let refused = network
        .node()
        .command(grpcurl())
        .args(["-plaintext", "127.0.0.1:50051", "list"])
        .output()
        .expect("grpcurl");
    assert!(!refused.status.success(), "reflection without a permission");

    // The command that adds a node.
    let api = "API=http://127.0.0.1:8080/v1; \
               api() { curl -sS -H \"authorization: Bearer $TOKEN\" \"$@\"; }";
    let command = shell(
        network.node(),
        &[&token, api, &block("```sh\n", "NODE=")],
        &password,
    );
    assert!(command.contains("vpnpanel-agent"), "{command}");
}

/// The first fenced block of the README that opens with `fence` and whose text begins so.
fn block(fence: &str, beginning: &str) -> String {
    let readme = std::fs::read_to_string(README).expect("the README");
    let found = readme
        .split(fence)
        .skip(1)
        .find(|rest| rest.starts_with(beginning))
        .unwrap_or_else(|| panic!("the README has no block {fence:?} with {beginning}"));
    found.split("```").next().expect("an end").to_owned()
}

/// Runs lines in one shell that stops at the first failure.
fn shell(host: &Namespace, lines: &[&str], password: &str) -> String {
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command: Command = host.command("bash");
    command
        .args(["-euo", "pipefail", "-c", &lines.join("\n")])
        .env("PASSWORD", password)
        .env("PATH", format!("{TOOLS}:{path}"));
    run(&mut command)
}

fn grpcurl() -> &'static Path {
    let path = Path::new(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../target/tools/bin/grpcurl"
    ));
    assert!(path.exists(), "run scripts/install-grpcurl target/tools");
    path
}
