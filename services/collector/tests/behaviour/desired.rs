//! Desired state reaches the nodes it concerns, once, and what they say of it is on record.

use std::time::Duration;

use vpnpanel_domain::{InboundId, ShadowsocksCipher, UserId, XrayProtocol, XrayTransport};
use vpnpanel_link::{
    self as link, AppliedState, ConfigError, DesiredState, InboundSettings, PeerAccess, Secret,
    XraySecurity,
};
use vpnpanel_pki::DeviceSeed;
use vpnpanel_store::{
    self as store, GroupPatch, NodeState, Xray, XrayReality, XrayTls, on_each_database,
    testing::TestStore,
};

use crate::{
    agent::{Disk, Link},
    fleet::{Fleet, Node},
};

on_each_database! {
    a_new_stream_gets_the_whole_state_and_then_every_change,
    a_change_of_a_user_is_told_by_itself_also_on_the_next_stream,
    an_inbound_of_xray_is_told_with_its_secret_and_with_what_each_device_shows,
    what_a_node_cannot_apply_is_on_record_and_not_sent_again,
    a_change_that_takes_most_users_away_waits_until_somebody_confirms_it,
}

/// Looks at a node's state until it is as expected.
async fn until(fleet: &Fleet, node: &Node, expected: impl Fn(&NodeState) -> bool) -> NodeState {
    let looking = async {
        loop {
            let states = fleet.store.node_states(&[node.id]).await.unwrap();
            if let Some(state) = states.get(&node.id).filter(|state| expected(state)) {
                return state.clone();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(120), looking)
        .await
        .expect("the expected state")
}

/// Whether it is on record that a node has a state, under whatever revision its content was last found
/// right.
fn has(node: &NodeState, state: AppliedState) -> bool {
    node.applied
        .is_some_and(|applied| applied.digest == state.digest)
}

async fn a_new_stream_gets_the_whole_state_and_then_every_change(test: TestStore) {
    let fleet = Fleet::new(test).await;
    let (node, first) = (fleet.node().await, fleet.user(0).await);
    let mut disk = Disk::new();
    let channel = || fleet.channel(Some(node.credentials.clone()));
    let (mut link, _) = Link::greet(channel(), &disk).await;
    let (name, state) = link.desired().await;
    assert_eq!(state.inbounds.len(), 1);
    let InboundSettings::WireGuard(wireguard) = &state.inbounds[0].settings else {
        panic!("WireGuard")
    };
    assert_eq!(
        wireguard.private_key.0, [7; 32],
        "the key is opened for the node"
    );
    assert_eq!(
        state.users.iter().map(|user| user.id).collect::<Vec<_>>(),
        [first.id]
    );
    link.apply(name, Vec::new()).await;

    let second = fleet.user(1 << 30).await;
    let (name, state) = link.desired().await;
    let users: Vec<_> = state
        .users
        .iter()
        .map(|user| (user.id, user.limited))
        .collect();
    assert_eq!(users, [(first.id, false), (second.id, true)]);
    link.apply(name, Vec::new()).await;
    let seen = until(&fleet, &node, |state| has(state, name)).await;
    assert!(seen.desired >= Some(name.revision));
    assert!(seen.connected && seen.refused.is_empty());

    // who has it already is not sent it again: the next state is that of the next change
    drop(link);
    disk.applied = Some(name);
    disk.state = state;
    let (mut link, _) = Link::greet(channel(), &disk).await;
    let id = second.id;
    fleet
        .store
        .set_user_disabled(fleet.tenant, id, true)
        .await
        .unwrap();
    let (_, state) = link.desired().await;
    let blocked: Vec<_> = state
        .users
        .iter()
        .map(|user| (user.id, user.blocked))
        .collect();
    assert_eq!(blocked, [(first.id, false), (second.id, true)]);
    fleet.stop().await;
}

/// Changes a user until that is told by itself: on Postgres, while other transactions run, the making
/// of the node may lie ahead of what was read, and is told whole.
async fn told_by_itself(
    fleet: &Fleet,
    link: &mut Link,
    user: UserId,
    blocked: bool,
) -> (AppliedState, DesiredState) {
    for blocked in [blocked, !blocked].into_iter().cycle().take(1_000) {
        let change = fleet.store.set_user_disabled(fleet.tenant, user, blocked);
        change.await.unwrap();
        let (name, state) = link.desired().await;
        link.apply(name, Vec::new()).await;
        if link.deltas > 0 {
            return (name, state);
        }
    }
    panic!("always told whole")
}

async fn a_change_of_a_user_is_told_by_itself_also_on_the_next_stream(test: TestStore) {
    let fleet = Fleet::new(test).await;
    let (node, user) = (fleet.node().await, fleet.user(0).await);
    let mut disk = Disk::new();
    let channel = || fleet.channel(Some(node.credentials.clone()));
    let (mut link, _) = Link::greet(channel(), &disk).await;
    let (name, _) = link.desired().await;
    link.apply(name, Vec::new()).await;
    let (name, state) = told_by_itself(&fleet, &mut link, user.id, true).await;
    until(&fleet, &node, |state| has(state, name)).await;
    drop(link);

    disk.applied = Some(name);
    disk.state = state;
    let blocked = disk.state.users[0].blocked;
    let (mut link, _) = Link::greet(channel(), &disk).await;
    let (name, told) = told_by_itself(&fleet, &mut link, user.id, !blocked).await;
    assert_eq!(told.users.len(), 1);
    until(&fleet, &node, |state| has(state, name)).await;
    let delete = fleet.store.delete_user(fleet.tenant, user.id, None);
    delete.await.unwrap();
    let (_, told) = link.desired().await;
    assert!(told.users.is_empty(), "{told:?}");
    fleet.stop().await;
}

async fn an_inbound_of_xray_is_told_with_its_secret_and_with_what_each_device_shows(
    test: TestStore,
) {
    let fleet = Fleet::new(test).await;
    let (node, first) = (fleet.node().await, fleet.user(0).await);
    let vless = XrayProtocol::Vless { vision: true };
    let shadowsocks = XrayProtocol::Shadowsocks {
        cipher: ShadowsocksCipher::Aes128,
    };
    let xray = |port, protocol, security| Xray {
        port,
        protocol,
        transport: XrayTransport::Tcp,
        security,
    };
    let reality = store::XraySecurity::Reality(XrayReality {
        target: "example.com:443".to_owned(),
        server_names: vec!["example.com".to_owned()],
        public_key: [1; 32],
        short_ids: vec!["01".parse().unwrap()],
    });
    let tls = store::XraySecurity::Tls(XrayTls {
        server_name: "example.com".to_owned(),
        certificate: "the chain".to_owned(),
        names: vec!["example.com".to_owned()],
        not_after_ms: i64::MAX,
    });
    let trojan = XrayProtocol::Trojan;
    let plain = store::XraySecurity::None;
    let made = [
        (
            fleet.xray("a", xray(443, vless, reality), &[9; 32]).await,
            vless,
        ),
        (
            fleet.xray("b", xray(444, trojan, tls), b"the key").await,
            trojan,
        ),
        (
            fleet
                .xray("c", xray(445, shadowsocks, plain), &[9; 16])
                .await,
            shadowsocks,
        ),
    ];
    let (mut link, _) =
        Link::greet(fleet.channel(Some(node.credentials.clone())), &Disk::new()).await;
    let (name, state) = link.desired().await;
    let security = |id: InboundId| {
        let found = state.inbounds.iter().find(|it| it.id == id).unwrap();
        match &found.settings {
            InboundSettings::Xray(xray) => (xray.protocol.clone(), xray.security.clone()),
            other => panic!("{other:?}"),
        }
    };
    let XraySecurity::Reality {
        private_key,
        short_ids,
        ..
    } = security(made[0].0).1
    else {
        panic!("REALITY")
    };
    assert_eq!(private_key, Secret([9; 32]));
    assert_eq!(short_ids, [[1, 0, 0, 0, 0, 0, 0, 0]].into());
    let XraySecurity::Tls { certificate, key } = security(made[1].0).1 else {
        panic!("TLS")
    };
    assert_eq!((&*certificate, key.text()), ("the chain", "the key"));
    let link::XrayProtocol::Shadowsocks { key, .. } = security(made[2].0).0 else {
        panic!("Shadowsocks")
    };
    assert_eq!(key.text(), "CQkJCQkJCQkJCQkJCQkJCQ==");
    assert_shows(&state, first.id, &made);
    link.apply(name, Vec::new()).await;

    let second = fleet.user(0).await;
    let (_, state) = link.desired().await;
    assert_shows(&state, second.id, &made);
}

/// A user's device shows on each inbound what its links say.
fn assert_shows(state: &DesiredState, user: UserId, inbounds: &[(InboundId, XrayProtocol)]) {
    let user = state.users.iter().find(|it| it.id == user).unwrap();
    assert_eq!(user.peers.len(), inbounds.len() + 1);
    let seed = DeviceSeed::from_bytes(&[8; 32]).unwrap();
    for (inbound, protocol) in inbounds {
        let peer = user.peers.iter().find(|it| it.inbound == *inbound).unwrap();
        let expected = seed.credential(*inbound, *protocol).unwrap();
        let PeerAccess::Xray { credential } = &peer.access else {
            panic!("{peer:?}")
        };
        assert_eq!(credential.text(), expected.as_str());
    }
}

async fn what_a_node_cannot_apply_is_on_record_and_not_sent_again(test: TestStore) {
    let fleet = Fleet::new(test).await;
    let node = fleet.node().await;
    let disk = Disk::new();
    let (mut link, _) = Link::greet(fleet.channel(Some(node.credentials.clone())), &disk).await;
    let (name, told) = link.desired().await;
    let error = ConfigError {
        kind: "inbound".to_owned(),
        id: fleet.inbound.to_string(),
        message: "port 51820 is in use".to_owned(),
    };
    link.apply(name, vec![error]).await;
    let state = until(&fleet, &node, |state| state.refused_revision > 0).await;
    // later, where the log moved on by what does not concern the node before this was written
    assert!(state.refused_revision >= name.revision.get());
    assert_eq!(state.refused[0].message, "port 51820 is in use");
    let refused_at = state.applied_at_ms;
    // the next thing it hears of is the next change, also on a stream that begins with what it has
    drop(link);
    let disk = Disk {
        applied: Some(name),
        state: told,
        ..disk
    };
    let (mut link, _) = Link::greet(fleet.channel(Some(node.credentials.clone())), &disk).await;
    until(&fleet, &node, |state| {
        state.applied_at_ms > refused_at && state.applied.is_some_and(|a| a.digest == name.digest)
    })
    .await;
    let states = fleet.store.node_states(&[node.id]).await.unwrap();
    assert_eq!(states[&node.id].refused[0].message, "port 51820 is in use");
    fleet.user(0).await;
    let (next, state) = link.desired().await;
    assert_ne!(next, name);
    assert_eq!(state.users.len(), 1);
    fleet.stop().await;
}

async fn a_change_that_takes_most_users_away_waits_until_somebody_confirms_it(test: TestStore) {
    let fleet = Fleet::new(test).await;
    let node = fleet.node().await;
    let mut users = Vec::new();
    for _ in 0..12 {
        users.push(fleet.user(0).await.id);
    }
    let disk = Disk::new();
    let (mut link, _) = Link::greet(fleet.channel(Some(node.credentials.clone())), &disk).await;
    let (mut name, mut state) = link.desired().await;
    while state.users.len() < users.len() {
        link.apply(name, Vec::new()).await;
        (name, state) = link.desired().await;
    }
    link.apply(name, Vec::new()).await;
    until(&fleet, &node, |state| has(state, name)).await;
    let leave = GroupPatch {
        inbound_ids: Some([].into()),
        ..GroupPatch::default()
    };
    let (store, tenant) = (&fleet.store, fleet.tenant);
    let left = store.update_group(tenant, fleet.group, leave, None).await;
    left.unwrap();
    let update = link.update().await;
    let bound = update.removals.expect("a bound");
    assert!(!bound.permits(12, 12) && bound.permits(10, 12) && bound.permits(50, 100));
    link.hold(name, update.revision, 12).await;
    let seen = until(&fleet, &node, |state| !state.refused.is_empty()).await;
    let message = &seen.refused[0].message;
    assert!(message.contains("12 of this node's users"), "{message}");
    assert_eq!(seen.applied.unwrap().digest, name.digest);
    drop(link);

    store.confirm_removals(Some(tenant), node.id).await.unwrap();
    let disk = Disk {
        applied: Some(name),
        state,
        ..disk
    };
    let (mut link, _) = Link::greet(fleet.channel(Some(node.credentials.clone())), &disk).await;
    let mut update = link.update().await;
    while update.removals.is_some() {
        // What was read before the word was given.
        link.hold(name, update.revision, 12).await;
        update = link.update().await;
    }
    fleet.stop().await;
}
