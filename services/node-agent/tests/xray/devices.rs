//! How many hosts the credentials of a user are good for at a time.

use vpnpanel_node_agent::engine::xray::XrayPeer;
use vpnpanel_node_agent::testing::{Download, eventually, require_root};

use crate::support::{MB, Node, PATIENCE};

const ENDLESS: u64 = 1 << 40;

#[test]
fn beyond_the_limit_of_devices_the_address_that_came_last_is_cut_and_nobody_else() {
    if !require_root() {
        return;
    }
    let mut node = Node::new("places", 2);
    let (inbound, other) = (node.open_vmess(), node.open_vmess());
    let peer = XrayPeer {
        devices: 1,
        ..node.unknown_peer(inbound)
    };
    // The same user's, on another inbound; and somebody else, who comes from where it is cut.
    let second = XrayPeer {
        user: peer.user,
        devices: 1,
        ..node.unknown_peer(other)
    };
    node.set(&[&peer, &second]);
    let neighbour = node.peer(inbound);
    let server = node.network.start_server();
    let download = |subscriber, peer: &XrayPeer| {
        let (client, address) = node.connect(subscriber, peer, &server);
        let host = node.network.subscriber(subscriber);
        (Download::through(host, address, ENDLESS), client)
    };
    let runs = |download: &Download| {
        let so_far = download.received();
        eventually("it goes on", PATIENCE, || {
            node.ensure();
            download.received() > so_far + 2 * MB
        });
    };
    let (first, _client) = download(0, &peer);
    runs(&first);
    let (beside, _client) = download(1, &neighbour);
    runs(&beside);
    for peer in [&peer, &second] {
        let (late, _client) = download(1, peer);
        eventually("it is cut", PATIENCE, || {
            node.ensure();
            late.ended()
        });
    }
    runs(&first);
    runs(&beside);
    // From its own address as often as it likes.
    let (more, _client) = download(0, &second);
    runs(&more);

    let two = [&peer, &second].map(|peer| XrayPeer {
        devices: 2,
        ..peer.clone()
    });
    node.set(&[&two[0], &two[1]]);
    let (late, _client) = download(1, &two[0]);
    runs(&late);
    assert!(!first.ended() && !beside.ended() && !more.ended());
}
