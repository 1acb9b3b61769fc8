//! What nodes may let through by themselves never adds up to more than the limit.

use vpnpanel_domain::{Limit, MicroBytes};
use vpnpanel_link::LeaseState;
use vpnpanel_link::collector::{BOOT_STRIKES, Policy};
use vpnpanel_store::testing::TestStore;
use vpnpanel_store::{StoreError, UserPatch, on_each_database};

use crate::fixture::{Agent, World, new_node};

const MIB: u64 = 1024 * 1024;

on_each_database!(
    users_with_a_limit_get_a_lease_on_each_node_and_no_more_than_the_limit,
    a_raised_limit_reaches_the_nodes_that_ran_dry,
    a_lost_disk_strands_what_it_held,
    two_agents_with_one_identity_are_quarantined_until_the_host_enrols_again,
);

async fn users_with_a_limit_get_a_lease_on_each_node_and_no_more_than_the_limit(test: TestStore) {
    let world = World::new(test).await;
    let second = new_node(&world.store, None, "paris").await;
    let limited = world.user("ada", Limit::Bytes(20 * MIB)).await;
    world.user("free", Limit::None).await;
    let policy = Policy::default();
    let mut sum = MicroBytes::ZERO;
    for node in [world.node, second] {
        let agent = Agent::connect(&world.store, node).await;
        let grants = world
            .store
            .open_leases(node, agent.generation, &policy)
            .await
            .unwrap();
        assert_eq!(grants.len(), 1, "only users with a limit need one");
        assert_eq!(grants[0].user, limited.id);
        assert_eq!(grants[0].period, limited.period.id);
        sum += grants[0].allowance;
        let again = world
            .store
            .open_leases(node, agent.generation, &policy)
            .await
            .unwrap();
        assert!(again.is_empty());
        let hello = world
            .store
            .open_stream(node, &agent.hello(), Default::default(), "test")
            .await
            .unwrap();
        assert_eq!(hello.ack.grants, grants, "told again until answered");
        let stale = world
            .store
            .open_leases(node, agent.generation, &policy)
            .await;
        assert!(matches!(stale, Err(StoreError::StreamSuperseded)));
    }
    assert!(sum <= MicroBytes::from_bytes(20 * MIB), "{sum}");
}

async fn a_raised_limit_reaches_the_nodes_that_ran_dry(test: TestStore) {
    let world = World::new(test).await;
    let user = world.user("ada", Limit::Bytes(MIB)).await;
    let peer = world.peer(world.node, user.id).await;
    let agent = Agent::connect(&world.store, world.node).await;
    let policy = Policy::default();
    let grant = world
        .store
        .open_leases(world.node, agent.generation, &policy)
        .await
        .unwrap()[0];
    assert_eq!(grant.allowance, MicroBytes::from_bytes(MIB));
    let row = agent.row(peer, &user, (0, 0), (0, MIB));
    let batch = agent.batch(vec![row], world.store.now_ms());
    let mut submission = agent.submission(vec![batch]);
    submission.leases = vec![LeaseState {
        user: user.id,
        period: user.period.id,
        lease: grant.lease,
        version: grant.version,
        allowance: grant.allowance,
        consumed: grant.allowance,
    }];
    let done = world.store.ingest(vec![submission], &policy).await.unwrap();
    assert_eq!(done.limited, 1);
    assert!(
        done.replies[0].grants.is_empty(),
        "there is nothing to give"
    );

    let patch = UserPatch {
        limit: Some(Limit::Bytes(3 * MIB)),
        ..UserPatch::default()
    };
    world
        .store
        .update_user(world.tenant, user.id, patch, None)
        .await
        .unwrap();
    let grants = world
        .store
        .rebalance_users(&[(world.tenant, user.id)], &policy)
        .await
        .unwrap();
    assert_eq!(grants.len(), 1);
    let (node, raised) = grants[0];
    assert_eq!((node, raised.lease), (world.node, grant.lease));
    assert!(raised.version > grant.version);
    assert!(raised.allowance > grant.allowance);
    assert!(raised.allowance <= MicroBytes::from_bytes(3 * MIB));
}

async fn a_lost_disk_strands_what_it_held(test: TestStore) {
    let world = World::new(test).await;
    let user = world.user("ada", Limit::Bytes(MIB)).await;
    let policy = Policy::default();
    let first = Agent::connect(&world.store, world.node).await;
    let held = world
        .store
        .open_leases(world.node, first.generation, &policy)
        .await
        .unwrap()[0];
    let second = Agent::connect(&world.store, world.node).await;
    let fresh = world
        .store
        .open_leases(world.node, second.generation, &policy)
        .await
        .unwrap()[0];
    assert_ne!(held.lease, fresh.lease);
    assert_eq!(
        fresh.allowance,
        MicroBytes::ZERO,
        "what the lost disk held stays reserved"
    );
    assert_eq!(fresh.user, user.id);
}

async fn two_agents_with_one_identity_are_quarantined_until_the_host_enrols_again(test: TestStore) {
    let world = World::new(test).await;
    world.user("ada", Limit::Bytes(MIB)).await;
    let mut one = Agent::connect(&world.store, world.node).await;
    let mut two = Agent::connect(&world.store, world.node).await;
    for _ in 0..BOOT_STRIKES.div_ceil(2) {
        one.reconnect(&world.store).await;
        two.reconnect(&world.store).await;
    }
    let state = &world.store.node_states(&[world.node]).await.unwrap()[&world.node];
    assert!(state.quarantined.is_some());
    let none = world
        .store
        .open_leases(world.node, two.generation, &Policy::default())
        .await
        .unwrap();
    assert!(none.is_empty(), "a quarantined node gets nothing");

    crate::identity::enrol(&world.store, world.node, b"serial").await;
    let state = &world.store.node_states(&[world.node]).await.unwrap()[&world.node];
    assert_eq!(state.quarantined, None);
}
