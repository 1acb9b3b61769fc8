//! A node that takes no new sessions: who is there goes on, nobody is sent there, and what lies idle
//! goes back to where it is used.

use vpnpanel_domain::{Limit, MicroBytes};
use vpnpanel_link::collector::Policy;
use vpnpanel_link::{Grant, LeaseState};
use vpnpanel_store::testing::TestStore;
use vpnpanel_store::{StoreError, on_each_database};

use crate::fixture::{Agent, World};

const MIB: u64 = 1024 * 1024;

on_each_database!(
    nobody_is_sent_to_a_draining_node_and_it_is_told,
    idle_leases_of_a_draining_node_are_free_once_it_has_answered,
    only_who_uses_a_draining_node_gets_leases_there,
);

async fn drain(world: &World, draining: bool) {
    let set = world.store.set_draining(None, world.node, draining);
    assert_eq!(set.await.unwrap().draining, draining);
}

async fn leases(world: &World, agent: &Agent) -> Vec<Grant> {
    let policy = Policy::default();
    let opened = world
        .store
        .open_leases(agent.node, agent.generation, &policy);
    opened.await.unwrap()
}

/// What the node is told when somebody has looked for what lies idle.
async fn asked(world: &World, agent: &Agent) -> Vec<Grant> {
    let policy = Policy::default();
    let ask = || {
        let store = &world.store;
        store.ask_back_leases(agent.node, agent.generation, &policy)
    };
    while ask().await.unwrap() {}
    world.store.unanswered_grants(agent.node).await.unwrap()
}

fn answer(grant: Grant, consumed: u64) -> LeaseState {
    LeaseState {
        user: grant.user,
        period: grant.period,
        lease: grant.lease,
        version: grant.version,
        allowance: grant.allowance,
        consumed: MicroBytes::from_bytes(consumed),
    }
}

async fn say(world: &World, agent: &Agent, state: LeaseState) {
    let mut submission = agent.submission(Vec::new());
    submission.leases = vec![state];
    let policy = Policy::default();
    let done = world.store.ingest(vec![submission], &policy).await.unwrap();
    assert_eq!(done.replies[0].grants, [], "nothing comes back at once");
}

async fn nobody_is_sent_to_a_draining_node_and_it_is_told(test: TestStore) {
    let world = World::new(test).await;
    let user = world.user("ada", Limit::None).await;
    let store = &world.store;
    let connections = async || {
        store
            .connections(world.tenant, user.id)
            .await
            .unwrap()
            .len()
    };
    assert_eq!(connections().await, 1);
    drain(&world, true).await;
    drain(&world, true).await;
    assert_eq!(connections().await, 0);
    let state = store.desired_state(world.node).await.unwrap();
    assert!(state.node.draining);
    assert_eq!(state.users.len(), 1, "who is there stays");
    drain(&world, false).await;
    assert_eq!(connections().await, 1);
    let others = store.set_draining(Some(world.tenant), world.node, true);
    assert!(matches!(others.await, Err(StoreError::NotFound(_))));
}

async fn idle_leases_of_a_draining_node_are_free_once_it_has_answered(test: TestStore) {
    let world = World::new(test).await;
    world.user("ada", Limit::Bytes(32 * MIB)).await;
    let agent = Agent::connect(&world.store, world.node).await;
    let grant = leases(&world, &agent).await[0];
    assert_eq!(grant.allowance, MicroBytes::from_bytes(16 * MIB));
    say(&world, &agent, answer(grant, 0)).await;
    assert_eq!(asked(&world, &agent).await, [], "it is not drained");

    drain(&world, true).await;
    assert_eq!(asked(&world, &agent).await, [], "it has just moved");
    world.test.clock.advance(20_000);
    let asked = asked(&world, &agent).await;
    assert_eq!((asked.len(), asked[0].lease), (1, grant.lease));
    assert_eq!(asked[0].allowance, MicroBytes::ZERO);
    say(
        &world,
        &agent,
        answer(
            Grant {
                allowance: MicroBytes::from_bytes(3 * MIB),
                ..asked[0]
            },
            3 * MIB,
        ),
    )
    .await;
    // What it has consumed is not billed yet; nothing else is kept for it.
    let kept = world.store.write_off_node(None, world.node).await.unwrap();
    assert_eq!(kept.freed, MicroBytes::from_bytes(3 * MIB));
}

async fn only_who_uses_a_draining_node_gets_leases_there(test: TestStore) {
    let world = World::new(test).await;
    let agent = Agent::connect(&world.store, world.node).await;
    drain(&world, true).await;
    let user = world.user("ada", Limit::Bytes(64 * MIB)).await;
    assert_eq!(leases(&world, &agent).await, []);
    // Who is there and passes something has what it needs.
    let peer = world.peer(world.node, user.id).await;
    let row = agent.row(peer, &user, (0, 0), (0, MIB));
    let batch = agent.batch(vec![row], world.store.now_ms());
    let submission = agent.submission(vec![batch]);
    let policy = Policy::default();
    let done = world.store.ingest(vec![submission], &policy).await.unwrap();
    assert_eq!(done.replies[0].grants.len(), 1);
}
