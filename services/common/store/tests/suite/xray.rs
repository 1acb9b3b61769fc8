//! Inbounds of Xray, what devices show to them, and the ports that inbounds share out.

use std::collections::BTreeSet;

use vpnpanel_domain::{DeviceId, Limit, PeerId, UserId, XrayProtocol};
use vpnpanel_store::testing::TestStore;
use vpnpanel_store::{
    ConnectionAccess, DesiredChanges, DesiredFacts, GroupPatch, InboundPatch, InboundSettings,
    LogPosition, NodePeerAccess, NodeUser, PortInUse, Result, StoreError, on_each_database,
};

use crate::changes::changed_since;
use crate::fixture::{
    Keys, World, new_inbound, new_node, new_xray, reality, shadowsocks, subscription_token,
    wireguard,
};

on_each_database!(
    a_device_has_a_peer_without_address_on_each_inbound_of_xray,
    a_user_that_is_made_is_told_by_itself_with_its_peers_of_xray,
    ports_of_tcp_and_udp_are_spaces_apart,
    a_port_in_use_says_who_has_it_and_where,
    an_inbound_moves_to_another_port_and_leaves_the_one_it_had,
    the_port_at_which_the_agent_is_reached_is_no_inbounds,
    an_inbound_stays_of_its_kind,
    revoked_credentials_are_new_in_everything_and_the_rest_of_the_user_stays,
    a_pool_without_a_free_address_keeps_the_old_credentials,
    what_devices_show_is_read_by_indexes,
);

const VLESS: XrayProtocol = XrayProtocol::Vless { vision: true };

async fn facts(world: &World) -> DesiredFacts {
    world.store.desired_state(world.node).await.unwrap()
}

/// A second inbound in the world's group: VLESS on TCP 443.
async fn with_vless(world: &World) -> vpnpanel_domain::InboundId {
    let vless = new_xray(&world.store, None, "vless", reality(443, VLESS))
        .await
        .unwrap();
    let both = GroupPatch {
        inbound_ids: Some([world.inbound, vless].into()),
        ..GroupPatch::default()
    };
    let (tenant, group) = (world.tenant, world.group);
    world
        .store
        .update_group(tenant, group, both, None)
        .await
        .unwrap();
    vless
}

async fn a_device_has_a_peer_without_address_on_each_inbound_of_xray(test: TestStore) {
    let world = World::new(test).await;
    let user = world.user("ada", Limit::None).await;
    let vless = with_vless(&world).await;
    let facts = facts(&world).await;
    let inbound = facts.inbounds.iter().find(|it| it.id == vless).unwrap();
    assert_eq!(inbound.settings, reality(443, VLESS));
    assert_eq!(inbound.sealed_secret, Some(vec![6; 60]));
    assert_eq!(inbound.sealed_private_key, None);

    let peers = &facts.users[0].peers;
    assert_eq!(peers.len(), 2);
    let peer = peers.iter().find(|it| it.inbound_id == vless).unwrap();
    let NodePeerAccess::Xray {
        protocol,
        sealed_seed,
    } = &peer.access
    else {
        panic!("{peer:?}")
    };
    assert_eq!((*protocol, sealed_seed), (VLESS, &vec![3; 48]));

    let found = world.store.connections(world.tenant, user.id).await;
    let found = found.unwrap();
    assert_eq!(found.len(), 2);
    assert!(matches!(
        found[0].access,
        ConnectionAccess::WireGuard { .. }
    ));
    let ConnectionAccess::Xray {
        sealed_secret,
        sealed_seed,
        ..
    } = &found[1].access
    else {
        panic!("{found:?}")
    };
    assert_eq!(sealed_secret, &Some(vec![6; 60]));
    assert_eq!(sealed_seed, &vec![3; 48]);
    let printed = format!("{facts:?} {found:?}");
    assert!(!printed.contains("6, 6, 6") && !printed.contains("3, 3, 3"));
}

/// The user among those that changed since a moment; nothing but users did, and none lost all peers.
async fn changed(world: &World, since: LogPosition, user: UserId) -> NodeUser {
    let DesiredChanges::Users { users, removed, .. } = changed_since(world, since).await else {
        panic!("more than users")
    };
    assert_eq!(removed, []);
    users.into_iter().find(|it| it.id == user).unwrap()
}

/// A moment behind everything that was done so far.
async fn moment(world: &World) -> LogPosition {
    changed_since(world, LogPosition::default()).await;
    world.store.log_tail().await.unwrap()
}

async fn a_user_that_is_made_is_told_by_itself_with_its_peers_of_xray(test: TestStore) {
    let world = World::new(test).await;
    let vless = with_vless(&world).await;
    let since = moment(&world).await;
    let user = world.user("ada", Limit::None).await;
    let told = changed(&world, since, user.id).await;
    let on: BTreeSet<_> = told.peers.iter().map(|it| it.inbound_id).collect();
    assert_eq!(on, [world.inbound, vless].into());
}

/// Who has the port that was refused.
#[track_caller]
fn taken<T: std::fmt::Debug>(answer: Result<T>) -> PortInUse {
    match answer {
        Err(StoreError::PortInUse(taken)) => *taken,
        other => panic!("{other:?}"),
    }
}

async fn ports_of_tcp_and_udp_are_spaces_apart(test: TestStore) {
    let world = World::new(test).await;
    let store = &world.store;
    new_inbound(store, None, "wg", 443, "10.20.0.0/16").await;
    new_xray(store, None, "vless", reality(443, VLESS))
        .await
        .unwrap();
    // WireGuard has the UDP port, VLESS the TCP port of the same number.
    for (name, settings) in [
        ("trojan", reality(443, XrayProtocol::Trojan)),
        ("ss", shadowsocks(443)),
        ("ss", shadowsocks(51820)),
    ] {
        taken(new_xray(store, None, name, settings).await);
    }
    new_xray(store, None, "ss", shadowsocks(8388))
        .await
        .unwrap();
    let trojan = new_xray(store, None, "t", reality(8388, XrayProtocol::Trojan)).await;
    assert_eq!(taken(trojan).transport, "TCP");
}

async fn a_port_in_use_says_who_has_it_and_where(test: TestStore) {
    let world = World::new(test).await;
    let first = new_xray(&world.store, None, "first", reality(443, VLESS))
        .await
        .unwrap();
    let second = new_xray(&world.store, None, "second", reality(443, VLESS)).await;
    let taken = taken(second);
    assert_eq!((taken.transport, taken.port), ("TCP", 443));
    assert_eq!((taken.node, &*taken.node_name), (world.node, "frankfurt"));
    assert_eq!(taken.inbound, Some((first, "first".to_owned())));
    let said = StoreError::PortInUse(Box::new(taken)).to_string();
    assert!(
        said.contains("\"frankfurt\"") && said.contains("\"first\""),
        "{said}"
    );
}

async fn an_inbound_moves_to_another_port_and_leaves_the_one_it_had(test: TestStore) {
    let world = World::new(test).await;
    let store = &world.store;
    new_node(store, None, "paris").await;
    let first = new_xray(store, None, "first", reality(443, VLESS))
        .await
        .unwrap();
    let second = new_xray(store, None, "second", reality(8443, VLESS))
        .await
        .unwrap();
    let to = |port| InboundPatch {
        settings: Some(reality(port, VLESS)),
        ..InboundPatch::default()
    };
    taken(
        store
            .update_inbound(None, second, to(443), None, &Keys)
            .await,
    );
    store
        .update_inbound(None, first, to(444), None, &Keys)
        .await
        .unwrap();
    store
        .update_inbound(None, second, to(443), None, &Keys)
        .await
        .unwrap();
    taken(new_xray(store, None, "third", reality(444, VLESS)).await);
    new_xray(store, None, "third", reality(8443, VLESS))
        .await
        .unwrap();
}

async fn the_port_at_which_the_agent_is_reached_is_no_inbounds(test: TestStore) {
    let world = World::new(test).await;
    let store = &world.store;
    let address = |port| format!("192.0.2.1:{port}");
    store
        .set_control_address(None, world.node, address(8443))
        .await
        .unwrap();
    let refused = taken(new_xray(store, None, "vless", reality(8443, VLESS)).await);
    assert_eq!((refused.port, refused.inbound), (8443, None));
    let vless = new_xray(store, None, "vless", reality(443, VLESS))
        .await
        .unwrap();
    let refused = store
        .set_control_address(None, world.node, address(443))
        .await;
    assert_eq!(taken(refused).inbound, Some((vless, "vless".to_owned())));
    // WireGuard's port is a UDP port.
    store
        .set_control_address(None, world.node, address(51820))
        .await
        .unwrap();
    let node = store.node(None, world.node).await.unwrap();
    assert_eq!(node.control_address, address(51820));
}

async fn an_inbound_stays_of_its_kind(test: TestStore) {
    let world = World::new(test).await;
    let vless = with_vless(&world).await;
    for settings in [
        reality(443, XrayProtocol::Trojan),
        InboundSettings::WireGuard(wireguard(443, "10.30.0.0/16")),
    ] {
        let patch = InboundPatch {
            settings: Some(settings),
            ..InboundPatch::default()
        };
        let refused = world.store.update_inbound(None, vless, patch, None, &Keys);
        let refused = refused.await;
        assert!(
            matches!(refused, Err(StoreError::InvalidArgument { .. })),
            "{refused:?}"
        );
    }
}

/// Peers of the one user, and what each shows.
async fn shown(world: &World) -> (BTreeSet<PeerId>, BTreeSet<DeviceId>, Vec<Vec<u8>>) {
    let facts = facts(world).await;
    let peers = &facts.users[0].peers;
    let mut shown: Vec<Vec<u8>> = Vec::new();
    for peer in peers {
        match &peer.access {
            NodePeerAccess::WireGuard {
                public_key,
                sealed_preshared_key,
                ipv4,
                ..
            } => shown.extend([
                public_key.clone(),
                sealed_preshared_key.clone().unwrap(),
                ipv4.octets().to_vec(),
            ]),
            NodePeerAccess::Xray { sealed_seed, .. } => shown.push(sealed_seed.clone()),
        }
    }
    let ids = peers.iter().map(|peer| peer.id).collect();
    let devices = peers.iter().map(|peer| peer.device_id).collect();
    (ids, devices, shown)
}

async fn revoked_credentials_are_new_in_everything_and_the_rest_of_the_user_stays(test: TestStore) {
    let world = World::new(test).await;
    let user = world.user("ada", Limit::Bytes(1_000)).await;
    with_vless(&world).await;
    let before = shown(&world).await;
    assert_eq!((before.0.len(), before.2.len()), (2, 4));
    let since = moment(&world).await;
    let (store, tenant) = (&world.store, world.tenant);
    let after = store
        .revoke_user_credentials(tenant, user.id, &Keys, subscription_token(), None)
        .await
        .unwrap();
    assert_eq!(after.credentials_version, user.credentials_version + 1);
    assert_eq!((after.limit, after.period.id), (user.limit, user.period.id));
    assert_eq!(after.group_ids, user.group_ids);

    let now = shown(&world).await;
    assert_eq!((now.0.len(), now.2.len()), (2, 4));
    assert!(now.0.is_disjoint(&before.0), "peers are others");
    assert_eq!(now.1, before.1, "devices are the same");
    assert!(now.2.iter().all(|it| !before.2.contains(it)));
    let told = changed(&world, since, user.id).await;
    assert_eq!(told.peers.len(), 2);
}

async fn a_pool_without_a_free_address_keeps_the_old_credentials(test: TestStore) {
    // .0 is the network, .1 the node, .3 the broadcast address.
    let world = World::with_pool(test, "10.9.0.0/30").await;
    let user = world.user("ada", Limit::None).await;
    with_vless(&world).await;
    let before = shown(&world).await;
    let revoke = || {
        world.store.revoke_user_credentials(
            world.tenant,
            user.id,
            &Keys,
            subscription_token(),
            None,
        )
    };
    let refused = revoke().await;
    assert!(
        matches!(refused, Err(StoreError::PoolExhausted { .. })),
        "{refused:?}"
    );
    assert_eq!(shown(&world).await, before);
}

async fn what_devices_show_is_read_by_indexes(test: TestStore) {
    for plan in test.access_plans().await {
        let whole = plan.lines().find(|line| {
            let line = line.trim_start_matches([' ', '-', '>']);
            // An index that holds nothing else is walked from its beginning.
            (line.starts_with("Seq Scan") || line.starts_with("SCAN"))
                && !line.contains("USING INDEX devices_without_seed")
        });
        assert_eq!(whole, None, "of\n{plan}");
    }
}

/// The schema of before Xray, and back: what WireGuard has stays, and devices get what they lack.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_before_xray_stays_and_devices_get_what_they_lack() {
    for test in [TestStore::sqlite().await, TestStore::postgres().await] {
        let world = World::new(test).await;
        let user = world.user("ada", Limit::None).await;
        new_xray(&world.store, None, "vless", reality(443, VLESS))
            .await
            .unwrap();
        let before = shown(&world).await;
        // Over what came after it, too.
        world.store.migrate_down(8).await.unwrap();
        world.store.migrate().await.unwrap();
        assert_eq!(shown(&world).await, before);
        assert_eq!(facts(&world).await.inbounds.len(), 1);

        // Their device has nothing to show to Xray yet: nodes and people are told nothing of it.
        with_vless(&world).await;
        assert_eq!(shown(&world).await, before);
        let connections = || world.store.connections(world.tenant, user.id);
        assert_eq!(connections().await.unwrap().len(), 1);
        let since = moment(&world).await;
        let seal = |device: DeviceId| Ok(device.as_bytes().to_vec());
        assert!(!world.store.seed_devices(&seal).await.unwrap());
        assert_eq!(changed(&world, since, user.id).await.peers.len(), 2);
        assert_eq!(connections().await.unwrap().len(), 2);
        let seeded = shown(&world).await.2;
        assert!(seeded.contains(&before.1.first().unwrap().as_bytes().to_vec()));
        let never = |_| -> std::result::Result<Vec<u8>, Box<dyn std::error::Error + Send + Sync>> {
            Err("every device has one".into())
        };
        assert!(!world.store.seed_devices(&never).await.unwrap());
    }
}
