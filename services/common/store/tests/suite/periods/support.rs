//! A user whose quota begins anew, and a node that counts for it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use vpnpanel_domain::{Limit, PeriodId, ResetStrategy, TenantId, UserId};
use vpnpanel_link::collector::Policy;
use vpnpanel_link::{Attribution, Row};
use vpnpanel_store::testing::TestStore;
use vpnpanel_store::{
    JobEnd, JobLease, NodeUser, Page, Period, RollCursor, Store, User, UserPatch,
};

use crate::fixture::{Agent, World, new_user};

pub(crate) const DAY: i64 = 24 * 3_600_000;
/// 10:00 UTC on 10 January 2027: no midnight comes in the middle of a test.
const MORNING: i64 = 1_799_575_200_000;
const LEASE: Duration = Duration::from_secs(3_600);
const JOB: &str = "roll-periods";

/// The lease on the job that rolls over.
pub(crate) async fn lease(store: &Store) -> JobLease {
    store.register_job(JOB, "rolls over", LEASE).await.unwrap();
    store.make_job_due(JOB).await.unwrap();
    // One whose lease nobody gave back is due a millisecond from now.
    loop {
        let claimed = store.claim_job(&[JOB], "me", LEASE).await.unwrap();
        match claimed {
            Some(lease) => return lease,
            None => tokio::task::yield_now().await,
        }
    }
}

/// A run of the job; returns how many users it rolled over.
pub(crate) async fn roll(store: &Store, batch: u32) -> u64 {
    let lease = lease(store).await;
    let (mut cursor, mut rolled) = (RollCursor::default(), 0);
    while let Some(some) = store
        .roll_periods(&lease, &mut cursor, batch)
        .await
        .unwrap()
    {
        rolled += some;
    }
    let end = JobEnd {
        error: None,
        due_in: Duration::ZERO,
    };
    store.finish_job(&lease, end).await.unwrap();
    rolled
}

/// Puts a test's clock to an instant, forward or back.
pub(crate) fn set_clock(test: &TestStore, at_ms: i64) {
    test.clock.advance(at_ms - test.clock.now_ms());
}

/// A user on a node, with the agent of that.
pub(crate) struct Member {
    pub(crate) world: World,
    pub(crate) id: UserId,
    pub(crate) agent: Agent,
    counted: AtomicU64,
}

impl std::ops::Deref for Member {
    type Target = World;

    fn deref(&self) -> &World {
        &self.world
    }
}

impl Member {
    pub(crate) async fn new(test: TestStore, limit: Limit, strategy: ResetStrategy) -> Self {
        set_clock(&test, MORNING);
        let world = World::new(test).await;
        let mut new = new_user("ada", [world.group]);
        new.limit = limit;
        new.reset_strategy = strategy;
        let id = new.id;
        world
            .store
            .create_user(world.tenant, new, None)
            .await
            .unwrap();
        let agent = Agent::connect(&world.store, world.node).await;
        Self {
            world,
            id,
            agent,
            counted: AtomicU64::new(0),
        }
    }

    pub(crate) async fn daily(test: TestStore, limit: Limit) -> Self {
        Self::new(test, limit, ResetStrategy::Daily).await
    }

    pub(crate) async fn user(&self) -> User {
        self.store.user(self.tenant, self.id).await.unwrap()
    }

    pub(crate) async fn periods(&self) -> Vec<Period> {
        periods(&self.store, self.tenant, self.id).await
    }

    /// What the node is told of the user.
    pub(crate) async fn told(&self) -> NodeUser {
        let state = self.store.desired_state(self.node).await.unwrap();
        let user = state.users.into_iter().find(|user| user.id == self.id);
        user.expect("the user on its node")
    }

    pub(crate) async fn update(&self, patch: UserPatch) -> User {
        let changed = self.store.update_user(self.tenant, self.id, patch, None);
        changed.await.unwrap()
    }

    pub(crate) async fn change_strategy(&self, strategy: ResetStrategy) -> User {
        self.update(UserPatch {
            reset_strategy: Some(strategy),
            ..UserPatch::default()
        })
        .await
    }

    /// The job runs a second after an instant.
    pub(crate) async fn roll_at(&self, at_ms: i64) -> u64 {
        set_clock(&self.test, at_ms + 1_000);
        roll(&self.store, 10).await
    }

    pub(crate) async fn use_now(&self, bytes: u64) {
        self.use_in(self.user().await.period.id, bytes).await;
    }

    /// The node reports usage of a period.
    pub(crate) async fn use_in(&self, period: PeriodId, bytes: u64) {
        let peer = self.peer(self.node, self.id).await;
        let from = self.counted.fetch_add(bytes, Ordering::SeqCst);
        let user = self.user().await;
        let row = self.agent.row(peer, &user, (0, 0), (from, from + bytes));
        let row = Row {
            attribution: Attribution {
                period,
                leased: false,
                ..row.attribution
            },
            ..row
        };
        let batch = self.agent.batch(vec![row], self.store.now_ms());
        let submission = self.agent.submission(vec![batch]);
        let policy = Policy::default();
        let done = self.store.ingest(vec![submission], &policy).await.unwrap();
        assert_eq!((done.orphans, done.held, done.dead_letters), (0, 0, 0));
    }
}

pub(crate) async fn periods(store: &Store, tenant: TenantId, user: UserId) -> Vec<Period> {
    let listed = store.user_periods(tenant, user, Page::first(1_000));
    listed.await.unwrap()
}
