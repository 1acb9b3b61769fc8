//! An address names one device of an inbound at a time, however many users are made at once.

use std::collections::BTreeSet;

use vpnpanel_store::testing::TestStore;
use vpnpanel_store::{
    GroupPatch, InboundPatch, InboundSettings, StoreError, UserPatch, on_each_database,
};

use crate::fixture::{Keys, World, address, new_inbound, new_user, wireguard};

on_each_database!(
    a_hundred_users_made_at_once_share_no_address,
    an_address_rests_before_it_is_given_out_again,
    a_full_pool_refuses_and_changes_nothing,
    a_pool_may_grow_and_not_move,
    inbounds_of_a_node_share_neither_port_nor_addresses,
    a_group_that_gains_an_inbound_gives_every_member_a_peer,
);

async fn addresses(world: &World) -> Vec<String> {
    let state = world.store.desired_state(world.node).await.unwrap();
    state
        .users
        .iter()
        .flat_map(|user| user.peers.iter().map(|peer| address(peer).to_string()))
        .collect()
}

async fn a_hundred_users_made_at_once_share_no_address(test: TestStore) {
    let world = World::new(test).await;
    let mut tasks = Vec::new();
    for number in 0..100 {
        let (store, tenant) = (world.store.clone(), world.tenant);
        let new = new_user(&format!("user{number}"), [world.group]);
        tasks.push(tokio::spawn(async move {
            store.create_user(tenant, new, None).await.unwrap();
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    let given = addresses(&world).await;
    assert_eq!(given.len(), 100);
    assert_eq!(given.iter().collect::<BTreeSet<_>>().len(), 100);
}

async fn an_address_rests_before_it_is_given_out_again(test: TestStore) {
    // .0 is the network, .1 the node, .3 the broadcast address.
    let world = World::with_pool(test, "10.9.0.0/30").await;
    let first = world.user("first", Default::default()).await;
    assert_eq!(addresses(&world).await, ["10.9.0.2"]);
    world
        .store
        .delete_user(world.tenant, first.id, None)
        .await
        .unwrap();
    let new = new_user("second", [world.group]);
    let early = world
        .store
        .create_user(world.tenant, new.clone(), None)
        .await;
    assert!(
        matches!(early, Err(StoreError::PoolExhausted { .. })),
        "{early:?}"
    );
    world.test.clock.advance(3_600_001);
    world
        .store
        .create_user(world.tenant, new, None)
        .await
        .unwrap();
    assert_eq!(addresses(&world).await, ["10.9.0.2"]);
}

async fn a_full_pool_refuses_and_changes_nothing(test: TestStore) {
    let world = World::with_pool(test, "10.9.0.0/29").await;
    for number in 0..5 {
        world
            .user(&format!("user{number}"), Default::default())
            .await;
    }
    let sixth = new_user("sixth", [world.group]);
    let refused = world
        .store
        .create_user(world.tenant, sixth.clone(), None)
        .await;
    assert!(
        matches!(refused, Err(StoreError::PoolExhausted { .. })),
        "{refused:?}"
    );
    let gone = world.store.user(world.tenant, sixth.id).await;
    assert!(matches!(gone, Err(StoreError::NotFound("user"))));
    assert_eq!(addresses(&world).await.len(), 5);
}

async fn a_pool_may_grow_and_not_move(test: TestStore) {
    let world = World::with_pool(test, "10.9.1.0/24").await;
    world.user("ada", Default::default()).await;
    let change = |pool: &str| InboundPatch {
        settings: Some(InboundSettings::WireGuard(wireguard(51820, pool))),
        ..InboundPatch::default()
    };
    let moved = world
        .store
        .update_inbound(None, world.inbound, change("10.9.2.0/24"), None, &Keys)
        .await;
    assert!(matches!(moved, Err(StoreError::PoolInUse)), "{moved:?}");
    world
        .store
        .update_inbound(None, world.inbound, change("10.9.0.0/16"), None, &Keys)
        .await
        .unwrap();
    assert_eq!(addresses(&world).await, ["10.9.1.2"]);
    world.user("bob", Default::default()).await;
    let given = addresses(&world).await;
    assert_eq!(given.iter().collect::<BTreeSet<_>>().len(), 2);
}

async fn inbounds_of_a_node_share_neither_port_nor_addresses(test: TestStore) {
    let world = World::new(test).await;
    let make = |port, pool: &'static str| {
        let new = vpnpanel_store::NewInbound {
            id: vpnpanel_store::fresh_id(),
            tenant_id: None,
            name: format!("other{port}"),
            nodes: Default::default(),
            offered: false,
            settings: InboundSettings::WireGuard(wireguard(port, pool)),
            sealed_secret: None,
        };
        let store = world.store.clone();
        async move { store.create_inbound(new, &Keys, None).await }
    };
    let same_port = make(51820, "10.10.0.0/16").await;
    assert!(
        matches!(&same_port, Err(StoreError::PortInUse(taken)) if taken.port == 51820),
        "{same_port:?}"
    );
    let same_pool = make(51821, "10.8.4.0/24").await;
    assert!(
        matches!(same_pool, Err(StoreError::InvalidArgument { .. })),
        "{same_pool:?}"
    );
    let picked = make(51821, "0.0.0.0/0").await.unwrap();
    assert_eq!(
        picked.settings.wireguard().unwrap().ipv4_pool.to_string(),
        "10.9.0.0/16"
    );
}

async fn a_group_that_gains_an_inbound_gives_every_member_a_peer(test: TestStore) {
    let world = World::new(test).await;
    let mut ids = Vec::new();
    for number in 0..12 {
        ids.push(
            world
                .user(&format!("user{number}"), Default::default())
                .await
                .id,
        );
    }
    let second = new_inbound(&world.store, None, "second", 51900, "10.20.0.0/16").await;
    let both = GroupPatch {
        inbound_ids: Some([world.inbound, second].into()),
        ..GroupPatch::default()
    };
    world
        .store
        .update_group(world.tenant, world.group, both, None)
        .await
        .unwrap();
    let state = world.store.desired_state(world.node).await.unwrap();
    assert!(state.users.iter().all(|user| user.peers.len() == 2));
    let kept: BTreeSet<_> = state.users[0].peers.iter().map(|peer| peer.id).collect();

    let only_second = GroupPatch {
        inbound_ids: Some([second].into()),
        ..GroupPatch::default()
    };
    world
        .store
        .update_group(world.tenant, world.group, only_second, None)
        .await
        .unwrap();
    let state = world.store.desired_state(world.node).await.unwrap();
    assert!(state.users.iter().all(|user| user.peers.len() == 1));
    assert!(
        kept.contains(&state.users[0].peers[0].id),
        "peers that stay are not touched"
    );
    let leave = UserPatch {
        group_ids: Some([].into()),
        ..UserPatch::default()
    };
    world
        .store
        .update_user(world.tenant, ids[0], leave, None)
        .await
        .unwrap();
    let state = world.store.desired_state(world.node).await.unwrap();
    assert!(state.users.iter().all(|user| user.id != ids[0]));
    world
        .store
        .delete_group(world.tenant, world.group, None)
        .await
        .unwrap();
    assert!(addresses(&world).await.is_empty());
}
