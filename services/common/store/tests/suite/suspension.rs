//! A suspended tenant: its users are cut off wherever they connect, and nobody else's.

use std::collections::BTreeMap;

use vpnpanel_domain::{Limit, UserId, UserStatus};
use vpnpanel_link::collector::Policy;
use vpnpanel_store::testing::TestStore;
use vpnpanel_store::{ChangeKind, NodeUser, StoreError, fresh_id, on_each_database};

use crate::changes::read_until;
use crate::fixture::{Agent, World, new_group, new_node, new_tenant, new_user};

on_each_database!(
    nodes_lose_the_users_of_a_suspended_tenant_and_regain_them_as_they_were,
    a_suspension_concerns_the_nodes_of_its_tenant,
    a_suspended_tenant_is_granted_no_allowance,
    suspending_twice_changes_nothing,
);

async fn users_on_node(world: &World) -> BTreeMap<UserId, NodeUser> {
    let state = world.store.desired_state(world.node).await.unwrap();
    state
        .users
        .into_iter()
        .map(|user| (user.id, user))
        .collect()
}

async fn nodes_lose_the_users_of_a_suspended_tenant_and_regain_them_as_they_were(test: TestStore) {
    let world = World::new(test).await;
    let active = world.user("active", Limit::Bytes(500)).await.id;
    let disabled = world.user("disabled", Limit::None).await.id;
    world
        .store
        .set_user_disabled(world.tenant, disabled, true)
        .await
        .unwrap();
    let other = new_tenant(&world.store, "other").await;
    let group = new_group(&world.store, other, "everybody", [world.inbound]).await;
    let neighbour = new_user("neighbour", [group]);
    let neighbour = world.store.create_user(other, neighbour, None).await;
    let neighbour = neighbour.unwrap().id;

    let before = users_on_node(&world).await;
    let connecting = |users: &BTreeMap<UserId, NodeUser>| -> Vec<UserId> {
        let pass = users.values().filter(|user| user.may_connect());
        pass.map(|user| user.id).collect()
    };
    assert_eq!(connecting(&before), [active, neighbour]);
    let suspended = world.store.set_tenant_suspended(world.tenant, true).await;
    assert!(suspended.unwrap().suspended_at_ms.is_some());
    let during = users_on_node(&world).await;
    assert_eq!(connecting(&during), [neighbour]);
    assert_eq!(
        during[&active].status,
        UserStatus::Active,
        "its own status stays"
    );
    // What is changed meanwhile holds afterwards.
    world
        .store
        .set_user_disabled(world.tenant, disabled, false)
        .await
        .unwrap();
    assert_eq!(connecting(&users_on_node(&world).await), [neighbour]);
    world
        .store
        .set_user_disabled(world.tenant, disabled, true)
        .await
        .unwrap();

    world
        .store
        .set_tenant_suspended(world.tenant, false)
        .await
        .unwrap();
    assert_eq!(users_on_node(&world).await, before);
}

async fn a_suspension_concerns_the_nodes_of_its_tenant(test: TestStore) {
    let world = World::new(test).await;
    world.user("ada", Limit::None).await;
    let own = new_tenant(&world.store, "other").await;
    let unconcerned = new_node(&world.store, Some(own), "unconcerned").await;
    for suspended in [true, false] {
        let before = world.store.log_tail().await.unwrap();
        world
            .store
            .set_tenant_suspended(world.tenant, suspended)
            .await
            .unwrap();
        let changes = read_until(&world.store, before, |it| {
            it.kind == ChangeKind::Suspension && it.tenant_id == Some(world.tenant)
        })
        .await;
        // What is read may begin earlier, while older transactions of the server are running.
        let changes: Vec<_> = changes
            .into_iter()
            .filter(|it| it.kind == ChangeKind::Suspension)
            .collect();
        let nodes = world.store.nodes_concerned(&changes).await.unwrap();
        assert!(nodes.contains(&world.node), "{changes:?}");
        assert!(!nodes.contains(&unconcerned));
    }
}

async fn a_suspended_tenant_is_granted_no_allowance(test: TestStore) {
    let world = World::new(test).await;
    world.user("ada", Limit::Bytes(1_000_000)).await;
    let agent = Agent::connect(&world.store, world.node).await;
    let open = async || {
        let policy = Policy::default();
        let opened = world
            .store
            .open_leases(world.node, agent.generation, &policy);
        opened.await.unwrap().len()
    };
    let suspend = async |suspended| {
        let changed = world.store.set_tenant_suspended(world.tenant, suspended);
        changed.await.unwrap();
    };
    suspend(true).await;
    assert_eq!(open().await, 0);
    suspend(false).await;
    assert_eq!(open().await, 1);
}

async fn suspending_twice_changes_nothing(test: TestStore) {
    let world = World::new(test).await;
    let once = world.store.set_tenant_suspended(world.tenant, true).await;
    world.test.clock.advance(1_000);
    let twice = world.store.set_tenant_suspended(world.tenant, true).await;
    assert_eq!(once.unwrap(), twice.unwrap());
    let nowhere = world.store.set_tenant_suspended(fresh_id(), true).await;
    assert!(matches!(nowhere, Err(StoreError::NotFound("tenant"))));
}
