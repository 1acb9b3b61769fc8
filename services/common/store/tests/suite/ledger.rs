//! Usage is billed exactly once, to the right books, whatever is sent again and by whom.

use vpnpanel_domain::{Limit, MicroBytes, Multiplier, UserStatus};
use vpnpanel_link::Seq;
use vpnpanel_link::collector::Policy;
use vpnpanel_store::testing::TestStore;
use vpnpanel_store::{UsageQuery, UserPatch, on_each_database};

use crate::fixture::{Agent, World, new_node};

on_each_database!(
    every_byte_is_billed_once_however_often_it_is_sent,
    products_are_kept_unrounded_in_every_book,
    a_superseded_stream_writes_nothing,
    a_user_that_crosses_its_limit_is_limited_in_the_same_transaction,
    usage_of_unknown_periods_is_kept_apart,
    a_batch_that_the_database_refuses_becomes_a_dead_letter,
    nodes_may_report_the_same_users_at_once,
    usage_after_a_reset_belongs_to_the_period_it_names,
);

fn policy() -> Policy {
    Policy {
        line_rate: u64::MAX,
        ..Policy::default()
    }
}

async fn every_byte_is_billed_once_however_often_it_is_sent(test: TestStore) {
    let world = World::new(test).await;
    let user = world.user("ada", Limit::None).await;
    let peer = world.peer(world.node, user.id).await;
    let agent = Agent::connect(&world.store, world.node).await;
    let now = world.store.now_ms();
    let one = agent.batch(vec![agent.row(peer, &user, (0, 100), (0, 1_000))], now);
    let two = agent.batch(
        vec![agent.row(peer, &user, (100, 150), (1_000, 5_000))],
        now,
    );

    for batches in [
        vec![one.clone()],
        vec![one.clone(), two.clone()],
        vec![two.clone()],
        vec![one, two],
    ] {
        let done = world
            .store
            .ingest(vec![agent.submission(batches)], &policy())
            .await
            .unwrap();
        assert_eq!(done.replies.len(), 1);
        assert!(!done.replies[0].committed.is_empty());
    }

    let after = world.store.user(world.tenant, user.id).await.unwrap();
    assert_eq!((after.period.up, after.period.down), (150, 5_000));
    assert_eq!(after.period.used, MicroBytes::from_bytes(5_150));
    assert_eq!(
        after.version, user.version,
        "usage is no change of the user"
    );
    let totals = world.store.ledger_totals(world.tenant).await.unwrap();
    assert!(totals.agree(), "{totals:?}");
    let series = UsageQuery {
        from_ms: now - 3_600_000,
        to_ms: now + 3_600_000,
        step_ms: 900_000,
    };
    let of_user = world
        .store
        .user_usage(world.tenant, user.id, series)
        .await
        .unwrap();
    let of_node = world.store.node_usage(world.node, series).await.unwrap();
    let of_tenant = world
        .store
        .tenant_usage(world.tenant, series)
        .await
        .unwrap();
    assert_eq!(of_user.total, of_node.total);
    assert_eq!(of_user, of_tenant);
    assert_eq!((of_user.total.up, of_user.total.down), (150, 5_000));
    assert_eq!(of_user.nodes.len(), 1);
}

async fn products_are_kept_unrounded_in_every_book(test: TestStore) {
    let world = World::new(test).await;
    let user = world.user("ada", Limit::None).await;
    let peer = world.peer(world.node, user.id).await;
    let agent = Agent::connect(&world.store, world.node).await;
    let third = Multiplier::from_ppm(333_333).unwrap();
    for step in 0..10_u64 {
        let mut row = agent.row(peer, &user, (step, step + 1), (step * 7, step * 7 + 7));
        row.attribution.multiplier = third;
        let batch = agent.batch(vec![row], world.store.now_ms());
        world
            .store
            .ingest(vec![agent.submission(vec![batch])], &policy())
            .await
            .unwrap();
    }
    let totals = world.store.ledger_totals(world.tenant).await.unwrap();
    assert!(totals.agree(), "{totals:?}");
    assert_eq!(totals.periods.billed, third.bill(80));
}

async fn a_superseded_stream_writes_nothing(test: TestStore) {
    let world = World::new(test).await;
    let user = world.user("ada", Limit::None).await;
    let peer = world.peer(world.node, user.id).await;
    let mut agent = Agent::connect(&world.store, world.node).await;
    let old = agent.batch(
        vec![agent.row(peer, &user, (0, 10), (0, 10))],
        world.store.now_ms(),
    );
    let stale = agent.submission(vec![old]);
    agent.reconnect(&world.store).await;

    let done = world.store.ingest(vec![stale], &policy()).await.unwrap();
    assert!(done.replies[0].superseded);
    assert!(done.replies[0].committed.is_empty());
    let after = world.store.user(world.tenant, user.id).await.unwrap();
    assert_eq!(after.period.used, MicroBytes::ZERO);
}

async fn a_user_that_crosses_its_limit_is_limited_in_the_same_transaction(test: TestStore) {
    let world = World::new(test).await;
    let user = world.user("ada", Limit::Bytes(1_000)).await;
    let peer = world.peer(world.node, user.id).await;
    let agent = Agent::connect(&world.store, world.node).await;
    let before = world.store.log_tail().await.unwrap();
    let now = world.store.now_ms();

    let below = agent.batch(vec![agent.row(peer, &user, (0, 0), (0, 999))], now);
    let done = world
        .store
        .ingest(vec![agent.submission(vec![below])], &policy())
        .await
        .unwrap();
    assert_eq!(done.limited, 0);
    let at = agent.batch(vec![agent.row(peer, &user, (0, 1), (999, 999))], now);
    let done = world
        .store
        .ingest(vec![agent.submission(vec![at])], &policy())
        .await
        .unwrap();
    assert_eq!(done.limited, 1);
    let limited = world.store.user(world.tenant, user.id).await.unwrap();
    assert_eq!(limited.status, UserStatus::Limited);
    let changes =
        crate::changes::read_until(&world.store, before, |it| it.user_id == Some(user.id)).await;
    let nodes = world.store.nodes_concerned(&changes).await.unwrap();
    assert!(nodes.contains(&world.node));

    let patch = UserPatch {
        limit: Some(Limit::Bytes(2_000)),
        ..UserPatch::default()
    };
    let raised = world
        .store
        .update_user(world.tenant, user.id, patch, None)
        .await
        .unwrap();
    assert_eq!(raised.status, UserStatus::Active);
}

async fn usage_of_unknown_periods_is_kept_apart(test: TestStore) {
    let world = World::new(test).await;
    let user = world.user("ada", Limit::None).await;
    let peer = world.peer(world.node, user.id).await;
    let agent = Agent::connect(&world.store, world.node).await;
    let mut stray = agent.row(peer, &user, (0, 10), (0, 10));
    stray.attribution.period = vpnpanel_store::fresh_id();
    let batch = agent.batch(vec![stray], world.store.now_ms());
    let done = world
        .store
        .ingest(vec![agent.submission(vec![batch])], &policy())
        .await
        .unwrap();
    assert_eq!(done.orphans, 1);
    assert_eq!(done.replies[0].committed[0].seq, Seq(1));
    let totals = world.store.ledger_totals(world.tenant).await.unwrap();
    assert_eq!(totals.periods.up, 0);
}

async fn a_batch_that_the_database_refuses_becomes_a_dead_letter(test: TestStore) {
    let world = World::new(test).await;
    let (ada, bob) = (
        world.user("ada", Limit::None).await,
        world.user("bob", Limit::None).await,
    );
    let peer = world.peer(world.node, ada.id).await;
    let other = world.peer(world.node, bob.id).await;
    let second_node = new_node(&world.store, None, "paris").await;
    let agent = Agent::connect(&world.store, world.node).await;
    let healthy = Agent::connect(&world.store, second_node).await;
    let now = world.store.now_ms();
    // More than a column holds, in two steps.
    let most = i64::MAX.unsigned_abs() - 1_000;
    let first = agent.batch(vec![agent.row(peer, &ada, (0, most), (0, 0))], now);
    let mut again = agent.row(peer, &ada, (0, most), (0, 0));
    again.counter.incarnation.0[0] ^= 1;
    let second = agent.batch(vec![again], now);
    let third = agent.batch(vec![agent.row(other, &bob, (0, 5), (0, 5))], now);
    let elsewhere = healthy.batch(vec![healthy.row(other, &bob, (0, 7), (0, 7))], now);

    let done = world
        .store
        .ingest(
            vec![
                agent.submission(vec![first, second, third]),
                healthy.submission(vec![elsewhere]),
            ],
            &Policy {
                line_burst_ms: u64::MAX / 4,
                ..policy()
            },
        )
        .await
        .unwrap();
    assert_eq!(done.dead_letters, 1);
    assert_eq!(done.replies.len(), 2);
    let reply = done
        .replies
        .iter()
        .find(|it| it.node == world.node)
        .unwrap();
    assert_eq!(reply.committed.last().unwrap().seq, Seq(3));
    let bob = world.store.user(world.tenant, bob.id).await.unwrap();
    assert_eq!((bob.period.up, bob.period.down), (12, 12));
    let totals = world.store.ledger_totals(world.tenant).await.unwrap();
    assert!(totals.agree(), "{totals:?}");
}

async fn nodes_may_report_the_same_users_at_once(test: TestStore) {
    const NODES: usize = 6;
    const USERS: usize = 40;
    const ROUNDS: u64 = 8;
    let world = World::new(test).await;
    let mut users = Vec::new();
    for number in 0..USERS {
        users.push(
            world
                .user(&format!("user{number}"), Limit::Bytes(1 << 40))
                .await,
        );
    }
    let mut tasks = Vec::new();
    for number in 0..NODES {
        let node = new_node(&world.store, None, &format!("node{number}")).await;
        let agent = Agent::connect(&world.store, node).await;
        let mut peers = Vec::new();
        for user in &users {
            peers.push((world.peer(node, user.id).await, user.clone()));
        }
        let store = world.store.clone();
        tasks.push(tokio::spawn(async move {
            for round in 0..ROUNDS {
                let rows = peers
                    .iter()
                    .map(|(peer, user)| {
                        let range = (round * 10, round * 10 + 10);
                        agent.row(*peer, user, range, range)
                    })
                    .collect();
                let batch = agent.batch(rows, store.now_ms());
                let submission = agent.submission(vec![batch]);
                store.ingest(vec![submission], &policy()).await.unwrap();
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    let totals = world.store.ledger_totals(world.tenant).await.unwrap();
    assert!(totals.agree(), "{totals:?}");
    let expected = (NODES * USERS) as u64 * ROUNDS * 10;
    assert_eq!(
        (totals.periods.up, totals.periods.down),
        (expected, expected)
    );
}

async fn usage_after_a_reset_belongs_to_the_period_it_names(test: TestStore) {
    let world = World::new(test).await;
    let old = world.user("ada", Limit::Bytes(100)).await;
    let peer = world.peer(world.node, old.id).await;
    let agent = Agent::connect(&world.store, world.node).await;
    let now = world.store.now_ms();
    let new = world
        .store
        .reset_user_usage(world.tenant, old.id, None)
        .await
        .unwrap();
    assert_ne!(new.period.id, old.period.id);
    let rows = vec![
        agent.row(peer, &old, (0, 60), (0, 60)),
        agent.row(peer, &new, (60, 70), (60, 70)),
    ];
    let batch = agent.batch(rows, now);
    world
        .store
        .ingest(vec![agent.submission(vec![batch])], &policy())
        .await
        .unwrap();
    let after = world.store.user(world.tenant, old.id).await.unwrap();
    assert_eq!(after.period.used, MicroBytes::from_bytes(20));
    assert_eq!(
        after.status,
        UserStatus::Active,
        "a closed period that fills up limits nobody"
    );
    let totals = world.store.ledger_totals(world.tenant).await.unwrap();
    assert!(totals.agree(), "{totals:?}");
    assert_eq!(totals.periods.up, 70);
}
