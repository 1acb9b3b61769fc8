//! What dashboards show beside sums of usage, and what was counted and is in no sum.

use vpnpanel_domain::Limit;
use vpnpanel_link::Bucket;
use vpnpanel_link::collector::Policy;
use vpnpanel_store::testing::TestStore;
use vpnpanel_store::{
    Backend, NodePatch, ONLINE_MS, StoreError, UnbilledReason, UsageQuery, User, fresh_id,
    on_each_database,
};

use crate::fixture::{Agent, Keys, World, new_node, new_tenant};
use crate::periods::support::DAY;

on_each_database!(
    users_are_online_while_traffic_of_theirs_is_counted,
    nodes_are_counted_in_one_state_each,
    what_was_not_billed_is_explained_to_whom_it_concerns,
    figures_are_counted_from_keys,
);

async fn users_are_online_while_traffic_of_theirs_is_counted(test: TestStore) {
    test.clock.stop();
    let world = World::new(test).await;
    let (store, clock) = (&world.store, &world.test.clock);
    let mut users = Vec::new();
    for name in ["ada", "bob", "cyd", "dan"] {
        users.push(world.user(name, Limit::None).await);
    }
    let begun = store.now_ms();
    let agent = Agent::connect(store, world.node).await;
    let uses = async |user: &User| {
        let peer = world.peer(world.node, user.id).await;
        let mut row = agent.row(peer, user, (0, 10), (0, 10));
        row.bucket = Bucket::at(store.now_ms());
        let batch = agent.batch(vec![row], store.now_ms());
        let submission = agent.submission(vec![batch]);
        store
            .ingest(vec![submission], &Policy::default())
            .await
            .unwrap();
    };
    uses(&users[0]).await;
    clock.advance(DAY);
    uses(&users[1]).await;
    clock.advance(ONLINE_MS + 1);
    uses(&users[2]).await;
    let other = new_tenant(store, "other").await;
    for (tenant, expected) in [
        (Some(world.tenant), [1, 2, 3]),
        (None, [1, 2, 3]),
        (Some(other), [0, 0, 0]),
    ] {
        let counts = store
            .online_counts(tenant, begun + 1, begun - 1)
            .await
            .unwrap();
        assert_eq!([counts.now, counts.today, counts.week], expected);
    }
}

async fn nodes_are_counted_in_one_state_each(test: TestStore) {
    let before = test.store.node_counts(None).await.unwrap();
    let world = World::new(test).await;
    let store = &world.store;
    let own = new_node(store, Some(world.tenant), "own").await;
    let off = new_node(store, Some(world.tenant), "off").await;
    let patch = NodePatch {
        disabled: Some(true),
        ..NodePatch::default()
    };
    store
        .update_node(Some(world.tenant), off, patch, None, &Keys)
        .await
        .unwrap();
    store
        .set_draining(Some(world.tenant), own, true)
        .await
        .unwrap();
    let counts = store.node_counts(Some(world.tenant)).await.unwrap();
    assert_eq!(
        (counts.pending, counts.disabled, counts.draining),
        (1, 1, 1)
    );
    let all = store.node_counts(None).await.unwrap();
    assert_eq!(all.pending - before.pending, 2);
    Agent::connect(store, world.node).await;
    let all = store.node_counts(None).await.unwrap();
    let changed = (all.pending - before.pending, all.online - before.online);
    assert_eq!(changed, (1, 1));
}

async fn what_was_not_billed_is_explained_to_whom_it_concerns(test: TestStore) {
    let world = World::new(test).await;
    let store = &world.store;
    let user = world.user("ada", Limit::None).await;
    let peer = world.peer(world.node, user.id).await;
    let agent = Agent::connect(store, world.node).await;
    let mut stray = agent.row(peer, &user, (0, 10), (0, 20));
    stray.attribution.period = fresh_id();
    let batch = agent.batch(vec![stray], store.now_ms());
    let submission = agent.submission(vec![batch]);
    let done = store
        .ingest(vec![submission], &Policy::default())
        .await
        .unwrap();
    assert_eq!(done.orphans, 1);
    let span = (user.created_at_ms - DAY, user.created_at_ms + DAY);
    let found = store
        .explain_usage(world.tenant, user.id, span, 100)
        .await
        .unwrap();
    assert_eq!(found.pieces, []);
    let piece = found.unbilled[0];
    assert_eq!((piece.up, piece.down, piece.node), (10, 20, world.node));
    assert_eq!(piece.reason, UnbilledReason::UnknownPeriod);
    assert_eq!(piece.multiplier_ppm, 1_000_000);
    let elsewhere = new_tenant(store, "other").await;
    let refused = store.explain_usage(elsewhere, user.id, span, 100).await;
    assert!(matches!(refused, Err(StoreError::NotFound("user"))));
}

async fn figures_are_counted_from_keys(test: TestStore) {
    let query = UsageQuery {
        from_ms: 0,
        to_ms: 7 * DAY,
        step_ms: DAY,
    };
    for plan in test.figure_plans(query).await {
        let is_read_whole = |line: &str| {
            let line = line.trim_start_matches([' ', '-', '>']);
            let whole = [
                "Seq Scan on usage",
                "Seq Scan on periods",
                "SCAN x",
                "SCAN p",
            ];
            whole.iter().any(|it| line.starts_with(it)) && !line.contains("usage_floors")
        };
        assert!(!plan.lines().any(is_read_whole), "{plan}");
        if test.store.backend() == Backend::Sqlite {
            let finds = ["usage_days_day", "periods_end"];
            assert!(finds.iter().any(|it| plan.contains(it)), "{plan}");
        }
    }
}
