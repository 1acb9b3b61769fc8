//! The test network itself: a subscriber reaches the node but not the server behind it, a real
//! client pair carries traffic, and nothing is left when the test is over.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::net::TcpStream;
use std::time::Duration;

use vpnpanel_node_agent::testing::{Topology, require_root};

#[test]
fn the_server_is_reached_from_the_node_alone_and_everything_is_taken_down() {
    if !require_root() {
        return;
    }
    let names = {
        let mut network = Topology::new("net");
        let subscriber = network.add_subscriber();
        let server = network.start_server();
        let node = network.node();
        assert_eq!(node.run("curl", &["-s", &server.url(1000)]).len(), 1000);
        let host = network.subscriber(subscriber);
        let refused = host.enter(|| TcpStream::connect((Topology::NODE_ADDRESS, 9)).unwrap_err());
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
        let direct = host
            .command("curl")
            .args(["-s", "-m", "1", &server.url(1000)])
            .status()
            .unwrap();
        assert!(!direct.success());
        let mut sleeper = node.command("sleep").arg("1000").spawn().unwrap();
        vpnpanel_node_agent::testing::eventually("it runs", Duration::from_secs(5), || {
            node.pids().contains(&(sleeper.id() as i32))
        });
        let names = [node.name().to_owned(), host.name().to_owned()];
        drop(server);
        drop(network);
        assert!(!sleeper.wait().unwrap().success());
        names
    };
    for name in names {
        assert!(!std::path::Path::new("/var/run/netns").join(name).exists());
    }
}
