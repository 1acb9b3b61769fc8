//! Users whose clock begins with their first traffic, on whichever node that is, however late it is told.

use vpnpanel_domain::{Limit, ResetStrategy, UserStatus};
use vpnpanel_link::collector::Policy;
use vpnpanel_link::{Attribution, Bucket, Row};
use vpnpanel_store::testing::TestStore;
use vpnpanel_store::{
    Extension, NewUser, PlanTerms, StoreError, User, UserPatch, on_each_database,
};

use crate::fixture::{Agent, World, new_node, new_user};
use crate::periods::support::{DAY, set_clock};
use crate::plans::new_plan;

on_each_database!(
    the_first_traffic_begins_the_clock,
    the_earliest_report_fixes_the_beginning_however_late_it_comes,
    what_was_added_to_the_end_stays_added,
    an_end_that_was_set_by_hand_is_not_moved,
    a_node_whose_clock_is_slow_begins_it_all_the_same,
    a_plan_may_begin_with_the_first_traffic,
);

/// A quarter of an hour, in which usage is counted.
const QUARTER: i64 = 900_000;
/// 10:00 UTC on 10 January 2027.
const MORNING: i64 = 1_799_575_200_000;

/// A user that waits, on two nodes.
struct Waiting {
    world: World,
    user: User,
    agents: [Agent; 2],
}

impl Waiting {
    async fn new(test: TestStore) -> Self {
        set_clock(&test, MORNING);
        let world = World::new(test).await;
        let second = new_node(&world.store, None, "paris").await;
        let new = NewUser {
            on_hold_ms: Some(10 * DAY),
            ..new_user("ada", [world.group])
        };
        let user = world.store.create_user(world.tenant, new, None).await;
        let user = user.unwrap();
        assert_eq!(user.status, UserStatus::OnHold);
        assert_eq!(
            (user.on_hold_ms, user.expires_at_ms),
            (Some(10 * DAY), None)
        );
        let agents = [
            Agent::connect(&world.store, world.node).await,
            Agent::connect(&world.store, second).await,
        ];
        Self {
            world,
            user,
            agents,
        }
    }

    async fn shown(&self) -> Result<User, StoreError> {
        self.world.store.user(self.world.tenant, self.user.id).await
    }

    /// A node tells now of ten bytes that passed at an instant.
    async fn report(&self, node: usize, from: u64, at_ms: i64) -> User {
        let store = &self.world.store;
        let agent = &self.agents[node];
        let user = self.shown().await.unwrap();
        let peer = self.world.peer(agent.node, user.id).await;
        let row = agent.row(peer, &user, (from, from + 10), (0, 0));
        let row = Row {
            attribution: Attribution {
                leased: false,
                ..row.attribution
            },
            bucket: Bucket::at(at_ms),
            ..row
        };
        let batch = agent.batch(vec![row], at_ms);
        let submission = agent.submission(vec![batch]);
        let done = store.ingest(vec![submission], &Policy::default()).await;
        assert_eq!(done.unwrap().orphans, 0);
        self.shown().await.unwrap()
    }
}

async fn the_first_traffic_begins_the_clock(test: TestStore) {
    let waiting = Waiting::new(test).await;
    waiting.world.test.clock.advance(40 * DAY);
    assert_eq!(waiting.shown().await.unwrap().status, UserStatus::OnHold);
    let now = waiting.world.store.now_ms();
    let user = waiting.report(0, 0, now).await;
    assert_eq!((user.status, user.on_hold_ms), (UserStatus::Active, None));
    let end = user.expires_at_ms.unwrap();
    assert!((now..now + QUARTER).contains(&(end - 10 * DAY)), "{end}");
    assert_eq!(user.version, waiting.user.version, "nobody's edit is stale");
    let state = waiting.world.store.desired_state(waiting.world.node).await;
    assert_eq!(
        state.unwrap().users[0].expires_at_ms,
        Some(end),
        "nodes know"
    );
    // More of it changes nothing.
    let again = waiting.report(0, 10, now + DAY).await;
    assert_eq!(again.expires_at_ms, Some(end));
    waiting.world.test.clock.advance(11 * DAY);
    assert_eq!(waiting.shown().await.unwrap().status, UserStatus::Expired);
}

async fn the_earliest_report_fixes_the_beginning_however_late_it_comes(test: TestStore) {
    let waiting = Waiting::new(test).await;
    waiting.world.test.clock.advance(5 * DAY);
    let now = waiting.world.store.now_ms();
    let first = waiting.report(0, 0, now).await.expires_at_ms.unwrap();
    // A node that was cut off tells of traffic of two days before, then of one of three.
    for days in [2, 3] {
        let from = 10 * u64::try_from(days).unwrap();
        let moved = waiting.report(1, from - 20, now - days * DAY).await;
        let moved = moved.expires_at_ms.unwrap();
        assert!(
            (first - moved - days * DAY).abs() < QUARTER,
            "{first} {moved}"
        );
    }
    let fixed = waiting.shown().await.unwrap().expires_at_ms;
    let later = waiting.report(1, 20, now - DAY).await;
    assert_eq!(later.expires_at_ms, fixed);
}

async fn what_was_added_to_the_end_stays_added(test: TestStore) {
    let waiting = Waiting::new(test).await;
    let (store, tenant, id) = (&waiting.world.store, waiting.world.tenant, waiting.user.id);
    let by = Extension {
        time_ms: 2 * DAY,
        bytes: 0,
    };
    let longer = store.extend_user(tenant, id, by, None).await.unwrap();
    assert_eq!(longer.on_hold_ms, Some(12 * DAY));
    waiting.world.test.clock.advance(5 * DAY);
    let now = store.now_ms();
    let first = waiting.report(0, 0, now).await.expires_at_ms.unwrap();
    assert!((first - now - 12 * DAY).abs() < QUARTER);
    let more = store.extend_user(tenant, id, by, None).await.unwrap();
    assert_eq!(more.expires_at_ms, Some(first + 2 * DAY));
    let moved = waiting.report(1, 0, now - DAY).await.expires_at_ms.unwrap();
    assert!((first + DAY - moved).abs() < QUARTER, "{first} {moved}");
}

async fn an_end_that_was_set_by_hand_is_not_moved(test: TestStore) {
    let waiting = Waiting::new(test).await;
    let (store, tenant, id) = (&waiting.world.store, waiting.world.tenant, waiting.user.id);
    waiting.world.test.clock.advance(5 * DAY);
    let now = store.now_ms();
    waiting.report(0, 0, now).await;
    let patch = UserPatch {
        expires_at_ms: Some(Some(now + DAY)),
        ..UserPatch::default()
    };
    store.update_user(tenant, id, patch, None).await.unwrap();
    let same = waiting.report(1, 0, now - 2 * DAY).await;
    assert_eq!(same.expires_at_ms, Some(now + DAY));
    // On hold again, what passed before is not the first.
    let patch = UserPatch {
        on_hold_ms: Some(Some(DAY)),
        ..UserPatch::default()
    };
    let held = store.update_user(tenant, id, patch, None).await.unwrap();
    assert_eq!(
        (held.status, held.expires_at_ms),
        (UserStatus::OnHold, None)
    );
    let held = waiting.report(1, 10, now - DAY).await;
    assert_eq!(held.status, UserStatus::OnHold);
    // Nor is what may have passed before: of the quarter of an hour in which it was put on hold.
    waiting.world.test.clock.advance(900_000);
    let begun = waiting.report(1, 20, store.now_ms()).await;
    assert_eq!(begun.status, UserStatus::Active);
}

async fn a_node_whose_clock_is_slow_begins_it_all_the_same(test: TestStore) {
    let waiting = Waiting::new(test).await;
    let begun = waiting.report(0, 0, MORNING - 30 * DAY).await;
    assert_eq!(begun.status, UserStatus::Active);
    let end = begun.expires_at_ms.unwrap();
    assert!(end >= waiting.user.created_at_ms + 10 * DAY, "{end}");
}

async fn a_plan_may_begin_with_the_first_traffic(test: TestStore) {
    let waiting = Waiting::new(test).await;
    let (store, tenant, id) = (&waiting.world.store, waiting.world.tenant, waiting.user.id);
    let now = store.now_ms();
    let terms = PlanTerms {
        limit: Limit::Bytes(15),
        reset_strategy: ResetStrategy::None,
        duration_ms: Some(DAY),
        on_first_use: true,
        ..PlanTerms::default()
    };
    let plan = new_plan(&waiting.world, "day", terms).await;
    waiting.report(0, 0, now).await;
    let held = store
        .change_user_plan(tenant, id, plan.id, None, None)
        .await;
    assert_eq!(held.unwrap().status, UserStatus::OnHold);
    let begun = waiting.report(0, 10, store.now_ms()).await;
    assert_eq!(begun.status, UserStatus::Active);
    assert!((begun.expires_at_ms.unwrap() - now - DAY).abs() < QUARTER);
    // What begins the clock may use up the bytes too.
    let held = store
        .change_user_plan(tenant, id, plan.id, None, None)
        .await;
    assert_eq!(held.unwrap().status, UserStatus::OnHold);
    waiting.report(0, 20, store.now_ms()).await;
    let limited = waiting.report(0, 30, store.now_ms()).await;
    assert_eq!(limited.status, UserStatus::Limited);
    assert!(limited.expires_at_ms.is_some());
}
