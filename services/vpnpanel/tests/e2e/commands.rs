//! Commands reach a node that is there and one that comes back, and tunnels go on.

use std::time::Duration;

use serde_json::json;
use vpnpanel_node_agent::testing::{Topology, eventually, require_root};

use crate::support::{ALL_IN_ONE, ControlPlane, Edge, edge};

const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn a_node_does_what_it_is_told_once_and_tunnels_go_on() {
    if !require_root() {
        return;
    }
    let network = edge::network("commands");
    let control = ControlPlane::remote(network.control(), ALL_IN_ONE, &[]);
    let panel = control.first_panel();
    let Edge {
        node,
        agent,
        traffic,
        server: _server,
        tunnel: _tunnel,
        ..
    } = Edge::start(&network, &panel, 0);
    let flows = |reason: &str| {
        let before = traffic.received();
        eventually(reason, PATIENCE, || traffic.received() > before + 500_000);
    };
    flows("traffic flows");

    let restart = panel.command(&node, "RESTART_ENGINE");
    panel.wait_done(&node, &restart);
    flows("traffic flows through the new engine");
    let resync = panel.command(&node, "RESYNC");
    panel.wait_done(&node, &resync);
    let drain = panel.command(&node, "DRAIN");
    panel.wait_done(&node, &drain);
    let logs = panel.command(&node, "COLLECT_LOGS");
    let logs = panel.wait_done(&node, &logs);
    let lines = logs["output"].as_str().unwrap();
    for said in ["told to come back", "restart_engine", "command_begun"] {
        assert!(lines.contains(said), "{said}: {lines}");
    }

    // While the agent is away a command waits, and is done when it is back.
    let folder = agent.kill9();
    let waits = panel.command(&node, "RESTART_ENGINE");
    let agent = folder.run(network.node());
    panel.wait_done(&node, &waits);
    flows("traffic flows at the end");
    let begun = |line: &&String| line.contains("command_begun");
    assert_eq!(agent.output().iter().filter(begun).count(), 3, "each once");

    // Asked directly as well, it is the same command, and done once; the log is asked for as it is.
    let address = format!("{}:50061", Topology::NODE_FOR_CONTROL);
    let path = format!("/v1/nodes/{node}:setControlAddress");
    let set = panel.rest.post(&path, &json!({"controlAddress": address}));
    assert_eq!(set["controlAddress"], address);
    for kind in ["RESTART_ENGINE", "COLLECT_LOGS"] {
        let given = panel.command(&node, kind);
        panel.wait_done(&node, &given);
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
