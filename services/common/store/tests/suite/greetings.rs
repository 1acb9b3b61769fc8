//! Streams of many nodes open together as they would one by one.

use vpnpanel_domain::{Limit, NodeId};
use vpnpanel_link::collector::Policy;
use vpnpanel_link::{EpochSummary, Generation, LeaseState, Pace, Revision, Seq};
use vpnpanel_store::testing::TestStore;
use vpnpanel_store::{
    CommandKind, FirstLook, Greeting, NewNodeCommand, Seen, StoreError, fresh_id, on_each_database,
};

use crate::fixture::{Agent, World, new_node};

const MIB: u64 = 1024 * 1024;

on_each_database!(
    streams_that_open_together_are_told_each_what_concerns_it,
    of_two_streams_of_one_node_in_a_group_each_has_a_generation,
    what_one_of_a_group_knows_of_a_later_life_holds_back_the_others,
    a_first_look_finds_changes_commands_and_leases_and_nothing_else,
);

fn greeting(agent: &Agent) -> Greeting {
    Greeting {
        node: agent.node,
        hello: Box::new(agent.hello()),
    }
}

async fn streams_that_open_together_are_told_each_what_concerns_it(test: TestStore) {
    let world = World::new(test).await;
    let store = &world.store;
    let user = world.user("ada", Limit::Bytes(40 * MIB)).await;
    let peer = world.peer(world.node, user.id).await;
    let first = Agent::connect(store, world.node).await;
    let grant = store
        .open_leases(first.node, first.generation, &Policy::default())
        .await
        .unwrap()[0];
    let batch = first.batch(
        vec![first.row(peer, &user, (0, 0), (0, MIB))],
        store.now_ms(),
    );
    let usage = first.submission(vec![batch]);
    let ingested = store.ingest(vec![usage], &Policy::default()).await.unwrap();
    let acked = ingested.replies[0].committed[0];
    let second = new_node(store, None, "paris").await;
    let gone = fresh_id::<NodeId>();

    let mut told = greeting(&first);
    told.hello.epochs = vec![EpochSummary {
        epoch: acked.epoch,
        first: Seq(1),
        last: acked.seq,
        tail: acked.digest,
        acked: acked.seq,
    }];
    let mut stranger = told.clone();
    stranger.node = second;
    stranger.hello.generation = Generation(0);
    stranger.hello.epochs[0].acked = Seq(0);
    let mut lost = told.clone();
    lost.node = gone;
    let mut old = greeting(&first);
    old.node = new_node(store, None, "oslo").await;
    old.hello.protocol_min = 9_000;
    old.hello.protocol_max = 9_001;
    let group = [stranger, lost, told, old];
    let opened = store.open_streams(&group, Pace::default(), "test").await;
    let opened = opened.unwrap();

    let stranger = opened[0].as_ref().unwrap();
    assert_eq!(stranger.welcome.cursors, []);
    assert_eq!(stranger.ack.grants, []);
    assert_eq!(stranger.welcome.generation, Generation(1));
    assert!(matches!(opened[1], Err(StoreError::NotFound("node"))));
    let told = opened[2].as_ref().unwrap();
    assert_eq!(told.welcome.cursors, [acked]);
    assert_eq!(told.ack.grants[0].lease, grant.lease);
    assert_eq!(
        told.welcome.generation,
        Generation(first.generation.get() + 1)
    );
    assert!(matches!(opened[3], Err(StoreError::Refused(_))));
    for (node, opened) in [(second, stranger), (world.node, told)] {
        let newest = store.stream_generation(node).await.unwrap();
        assert_eq!(newest, Some(opened.welcome.generation));
        let states = store.node_states(&[node]).await.unwrap();
        assert!(states[&node].connected);
    }
}

async fn of_two_streams_of_one_node_in_a_group_each_has_a_generation(test: TestStore) {
    let world = World::new(test).await;
    let agent = Agent::connect(&world.store, world.node).await;
    let group = [greeting(&agent), greeting(&agent), greeting(&agent)];
    let opened = world
        .store
        .open_streams(&group, Pace::default(), "test")
        .await
        .unwrap();
    let generations: Vec<_> = opened
        .iter()
        .map(|opened| opened.as_ref().unwrap().welcome.generation.get())
        .collect();
    assert_eq!(generations, [2, 3, 4]);
}

async fn what_one_of_a_group_knows_of_a_later_life_holds_back_the_others(test: TestStore) {
    let world = World::new(test).await;
    let user = world.user("ada", Limit::Bytes(40 * MIB)).await;
    let first = Agent::connect(&world.store, world.node).await;
    let second = Agent::connect(&world.store, new_node(&world.store, None, "paris").await).await;
    let backup = world.test.copy().await;
    let grant = world
        .store
        .open_leases(first.node, first.generation, &Policy::default())
        .await
        .unwrap()[0];
    let mut knows = greeting(&first);
    knows.hello.leases = vec![LeaseState {
        user: user.id,
        period: grant.period,
        lease: grant.lease,
        version: grant.version,
        allowance: grant.allowance,
        consumed: Default::default(),
    }];
    let group = [knows, greeting(&second)];
    let opened = backup
        .store
        .open_streams(&group, Pace::default(), "test")
        .await
        .unwrap();
    let knows = opened[0].as_ref().unwrap();
    assert!(knows.restored.is_some() && knows.welcome.report);
    let epoch = knows.welcome.state_epoch;
    // The other was let in before that was known: its stream is of the former life and grants nothing.
    let other = opened[1].as_ref().unwrap().welcome.generation;
    assert!(other.get() < epoch.floor());
    let refused = backup
        .store
        .open_leases(second.node, other, &Policy::default())
        .await;
    assert!(matches!(refused, Err(StoreError::StreamSuperseded)));
}

async fn a_first_look_finds_changes_commands_and_leases_and_nothing_else(test: TestStore) {
    let world = World::new(test).await;
    let store = &world.store;
    let agent = Agent::connect(store, world.node).await;
    // The tenant's own, on which the platform's inbound is not.
    let idle = new_node(store, Some(world.tenant), "paris").await;
    let idle = Agent::connect(store, idle).await;
    let since = Revision(
        store
            .desired_state(idle.node)
            .await
            .unwrap()
            .position
            .revision(),
    );
    let look = |agent: &Agent, since| FirstLook {
        node: agent.node,
        generation: agent.generation,
        since,
    };
    let settled = [look(&agent, Some(since)), look(&idle, Some(since))];
    let nothing = |seen: &Seen| seen.unchanged.is_some() && !seen.commands && !seen.leases;
    let seen = store.first_looks(&settled).await.unwrap();
    let settled = seen.iter().flatten().filter(|seen| nothing(seen)).count();
    assert_eq!(settled, 2, "{seen:?}");

    world.user("ada", Limit::Bytes(40 * MIB)).await;
    let new = NewNodeCommand {
        id: fresh_id(),
        node_id: idle.node,
        request_id: fresh_id(),
        kind: CommandKind::RestartEngine,
        ttl_ms: 60_000,
    };
    store
        .create_node_command(Some(world.tenant), new)
        .await
        .unwrap();
    let stale = FirstLook {
        generation: Generation(agent.generation.get() + 1),
        ..look(&agent, None)
    };
    let looks = [
        look(&agent, Some(since)),
        look(&idle, Some(since)),
        look(&idle, None),
        stale,
    ];
    let mut seen = store.first_looks(&looks).await.unwrap();
    for _ in 0..3_000 {
        // Changes, the user's and the command's, are seen once no older transaction of the server
        // is under way.
        let changed = |seen: &Option<Seen>| seen.is_some_and(|seen| seen.unchanged.is_none());
        if seen[..2].iter().all(changed) {
            break;
        }
        seen = store.first_looks(&looks).await.unwrap();
    }
    let (with_user, without) = (seen[0].unwrap(), seen[1].unwrap());
    assert_eq!(
        with_user.unchanged, None,
        "the user's change concerns the node"
    );
    assert!(with_user.leases && !with_user.commands);
    assert!(without.commands && !without.leases);
    assert!(seen[2].unwrap().unchanged.is_none(), "nothing is known");
    assert_eq!(seen[3], None, "not the node's newest stream");
}
