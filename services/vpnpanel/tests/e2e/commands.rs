//! Commands reach a node that is there and one that comes back, and tunnels go on.

use std::time::Duration;

use serde_json::{Value, json};
use vpnpanel_node_agent::testing::{Topology, WgQuick, eventually, require_root};

use crate::support::{ALL_IN_ONE, AgentFolder, ControlPlane, Panel, Traffic};

const PATIENCE: Duration = Duration::from_secs(60);

fn give(panel: &Panel<'_>, node: &str, kind: &str) -> String {
    let path = format!("/v1/nodes/{node}/commands");
    let made = panel.rest.post(&path, &json!({"kind": kind}));
    made["id"].as_str().unwrap().to_owned()
}

fn wait_done(panel: &Panel<'_>, node: &str, id: &str) -> Value {
    let path = format!("/v1/nodes/{node}/commands/{id}");
    let mut shown = Value::Null;
    eventually("the command has a result", PATIENCE, || {
        shown = panel.rest.get(&path);
        shown["endTime"].is_string()
    });
    assert_eq!(shown["state"], "NODE_COMMAND_STATE_SUCCEEDED", "{shown}");
    shown
}

#[test]
fn a_node_does_what_it_is_told_once_and_tunnels_go_on() {
    if !require_root() {
        return;
    }
    let mut network = Topology::new("commands");
    network.add_control();
    let host = network.add_subscriber();
    let server = network.start_server();
    let control = ControlPlane::remote(network.control(), ALL_IN_ONE, &[]);
    let panel = control.first_panel();
    let node = panel.create_node("edge", Topology::NODE_ADDRESS);
    let agent = AgentFolder::new().enrol(network.node(), &panel.join_token(&node));
    panel.wait_node(&node, "ONLINE", PATIENCE);
    let inbound = panel.create_inbound("main", json!({}));
    let group = panel.create_group("everyone", &[&inbound]);
    let alice = panel.create_user("alice", &group, 0);
    let _tunnel = WgQuick::up(network.subscriber(host), &alice.configuration);
    let traffic = Traffic::start(network.subscriber(host), server.address(), 500_000);
    let flows = |reason: &str| {
        let before = traffic.received();
        eventually(reason, PATIENCE, || traffic.received() > before + 500_000);
    };
    flows("traffic flows");

    let restart = give(&panel, &node, "NODE_COMMAND_KIND_RESTART_ENGINE");
    wait_done(&panel, &node, &restart);
    flows("traffic flows through the new engine");
    let resync = give(&panel, &node, "NODE_COMMAND_KIND_RESYNC");
    wait_done(&panel, &node, &resync);
    let drain = give(&panel, &node, "NODE_COMMAND_KIND_DRAIN");
    wait_done(&panel, &node, &drain);
    let logs = give(&panel, &node, "NODE_COMMAND_KIND_COLLECT_LOGS");
    let logs = wait_done(&panel, &node, &logs);
    let lines = logs["output"].as_str().unwrap();
    for said in ["told to come back", "restart_engine", "command_begun"] {
        assert!(lines.contains(said), "{said}: {lines}");
    }

    // While the agent is away a command waits, and is done when it is back.
    let folder = agent.kill9();
    let waits = give(&panel, &node, "NODE_COMMAND_KIND_RESTART_ENGINE");
    let agent = folder.run(network.node());
    wait_done(&panel, &node, &waits);
    flows("traffic flows at the end");
    let begun = |line: &&String| line.contains("command_begun");
    assert_eq!(agent.output().iter().filter(begun).count(), 3, "each once");

    // Asked directly as well, it is the same command, and done once; the log is asked for as it is.
    let address = format!("{}:50061", Topology::NODE_FOR_CONTROL);
    let path = format!("/v1/nodes/{node}:setControlAddress");
    let set = panel.rest.post(&path, &json!({"controlAddress": address}));
    assert_eq!(set["controlAddress"], address);
    for kind in ["RESTART_ENGINE", "COLLECT_LOGS"] {
        let given = give(&panel, &node, &format!("NODE_COMMAND_KIND_{kind}"));
        wait_done(&panel, &node, &given);
    }
    flows("traffic flows through the newest engine");
    let log = panel.rest.get(&format!("/v1/nodes/{node}/logs"));
    let lines = log["result"]["lines"].as_str().unwrap();
    assert!(lines.contains("restart_engine"), "{log}");
    assert_eq!(agent.output().iter().filter(begun).count(), 5, "each once");
    assert_eq!(traffic.connections(), 1, "the tunnel went on");
    traffic.stop();
    drop(agent);
}
