//! The status of users over random histories: whatever the API, the nodes, the jobs and the clock do in
//! which order, readers, lists and nodes agree on what is derived from the facts.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rand::{RngExt, SeedableRng, rngs::StdRng};
use vpnpanel_domain::{Limit, ResetStrategy, UserFacts, UserId, UserStatus};
use vpnpanel_link::collector::Policy;
use vpnpanel_link::{Attribution, Bucket, Row};
use vpnpanel_store::testing::TestStore;
use vpnpanel_store::{
    Extension, JobEnd, NextPlan, Page, Plan, PlanTerms, Store, StoreError, UserCounts, UserFilter,
    UserPatch, on_each_database,
};

use crate::fixture::{Agent, World, new_user};
use crate::periods::support::{DAY, roll};
use crate::plans::{follow, new_plan};

on_each_database!(readers_lists_and_nodes_agree_on_every_status);

const STEPS: usize = 150;
const JOB: &str = "expire-users";
const LEASE: Duration = Duration::from_secs(3_600);

/// A run of the job that expires users.
pub(crate) async fn expire(store: &Store) -> u64 {
    store.register_job(JOB, "expires", LEASE).await.unwrap();
    store.make_job_due(JOB).await.unwrap();
    let lease = loop {
        match store.claim_job(&[JOB], "me", LEASE).await.unwrap() {
            Some(lease) => break lease,
            None => tokio::task::yield_now().await,
        }
    };
    let count = store.expire_users(&lease, 1_000).await.unwrap();
    let end = JobEnd {
        error: None,
        due_in: Duration::ZERO,
    };
    store.finish_job(&lease, end).await.unwrap();
    count
}

struct History {
    world: World,
    agent: Agent,
    random: StdRng,
    users: BTreeMap<UserId, Known>,
    plans: Vec<Plan>,
    /// Users of others.
    others: u64,
}

/// What somebody outside knows of a user: what was asked for.
#[derive(Default)]
struct Known {
    disabled: bool,
    deleted: bool,
    counted: AtomicU64,
}

async fn readers_lists_and_nodes_agree_on_every_status(test: TestStore) {
    let replayed = std::env::var("VPNPANEL_TEST_SEED").ok();
    let seed: u64 = replayed.map_or_else(|| rand::rng().random(), |seed| seed.parse().unwrap());
    eprintln!("VPNPANEL_TEST_SEED={seed}");
    // Every look is at one moment, and a seed has its own time of day.
    test.clock.stop();
    let time_of_day = (seed % DAY.unsigned_abs()) as i64;
    let ahead = (time_of_day - test.clock.now_ms()).rem_euclid(DAY);
    test.clock.advance(ahead);
    let world = World::new(test).await;
    let agent = Agent::connect(&world.store, world.node).await;
    let mut plans = Vec::new();
    for (name, reset_strategy, duration_ms, on_first_use) in [
        ("daily", ResetStrategy::Daily, Some(3 * DAY), false),
        ("pack", ResetStrategy::None, None, false),
        ("waits", ResetStrategy::Daily, Some(2 * DAY), true),
    ] {
        let terms = PlanTerms {
            limit: Limit::Bytes(2_000),
            reset_strategy,
            duration_ms,
            on_first_use,
            ..PlanTerms::default()
        };
        plans.push(new_plan(&world, name, terms).await);
    }
    let mut history = History {
        others: world.store.user_counts(None).await.unwrap().total(),
        world,
        agent,
        random: StdRng::seed_from_u64(seed),
        users: BTreeMap::new(),
        plans,
    };
    for number in 0..5 {
        let mut new = new_user(&format!("user{number}"), [history.world.group]);
        new.limit = history.limit();
        if number % 2 == 0 {
            new.reset_strategy = ResetStrategy::Daily;
        }
        history.users.insert(new.id, Known::default());
        let made = history
            .world
            .store
            .create_user(history.world.tenant, new, None);
        made.await.unwrap();
    }
    for _ in 0..STEPS {
        history.happen().await;
        history.look().await;
    }
}

impl History {
    fn limit(&mut self) -> Limit {
        match self.random.random_range(0..4) {
            0 => Limit::None,
            _ => Limit::Bytes(self.random.random_range(1..4_000)),
        }
    }

    async fn happen(&mut self) {
        let users: Vec<_> = self.users.keys().copied().collect();
        let user = users[self.random.random_range(0..users.len())];
        let now = self.world.store.now_ms();
        match self.random.random_range(0..100) {
            0..8 => {
                let disabled = self.random.random();
                let (store, tenant) = (&self.world.store, self.world.tenant);
                match store.set_user_disabled(tenant, user, disabled).await {
                    Ok(_) => self.users.get_mut(&user).unwrap().disabled = disabled,
                    Err(error) => self.is_gone(user, &error),
                }
            }
            8..14 => {
                let (store, tenant) = (&self.world.store, self.world.tenant);
                if self.users[&user].deleted {
                    store.undelete_user(tenant, user).await.unwrap();
                } else {
                    store.delete_user(tenant, user, None).await.unwrap();
                }
                let known = self.users.get_mut(&user).unwrap();
                known.deleted = !known.deleted;
                // Who comes back has peers whose counters begin at nothing.
                known.counted = AtomicU64::new(0);
            }
            14..22 => {
                let patch = UserPatch {
                    limit: Some(self.limit()),
                    ..UserPatch::default()
                };
                self.update(user, patch).await;
            }
            22..30 => {
                let end = match self.random.random_range(0..3) {
                    0 => None,
                    _ => Some(now + self.random.random_range(-DAY..3 * DAY)),
                };
                let patch = UserPatch {
                    expires_at_ms: Some(end),
                    ..UserPatch::default()
                };
                self.update(user, patch).await;
            }
            30..36 => {
                let lasts = self.random.random_range(3_600_000..2 * DAY);
                let patch = UserPatch {
                    on_hold_ms: Some(Some(lasts)),
                    ..UserPatch::default()
                };
                self.update(user, patch).await;
            }
            36..42 => {
                let plan = &self.plans[self.random.random_range(0..self.plans.len())];
                let start = vpnpanel_domain::NextPlanStart::ALL[self.random.random_range(0..2)];
                let plan_id = plan.id;
                let patch = UserPatch {
                    next_plan: Some(Some(NextPlan { plan_id, start })),
                    ..UserPatch::default()
                };
                self.update(user, patch).await;
            }
            42..46 => {
                let plan = self.plans[self.random.random_range(0..self.plans.len())].id;
                let (store, tenant) = (&self.world.store, self.world.tenant);
                let changed = store.change_user_plan(tenant, user, plan, None, None);
                if let Err(error) = changed.await {
                    self.is_gone(user, &error);
                }
            }
            46..52 => {
                let (store, tenant) = (&self.world.store, self.world.tenant);
                let by = Extension {
                    time_ms: DAY,
                    bytes: 100,
                };
                match store.extend_user(tenant, user, by, None).await {
                    Ok(_) | Err(StoreError::NoDataLimit | StoreError::NoExpireTime) => {}
                    Err(error) => self.is_gone(user, &error),
                }
            }
            52..57 => {
                let (store, tenant) = (&self.world.store, self.world.tenant);
                if let Err(error) = store.reset_user_usage(tenant, user, None).await {
                    self.is_gone(user, &error);
                }
            }
            57..68 => {
                let ahead = match self.random.random_range(0..12) {
                    // The scheduler is away for three weeks.
                    0 => 21 * DAY,
                    _ => self.random.random_range(0..DAY / 2),
                };
                // Who was deleted can be taken back as long as this test needs it.
                if ahead < DAY || self.users.values().all(|known| !known.deleted) {
                    self.world.test.clock.advance(ahead);
                }
            }
            68..74 => {
                roll(&self.world.store, 2).await;
            }
            74..80 => {
                expire(&self.world.store).await;
            }
            80..86 => {
                follow(&self.world.store).await;
            }
            _ => self.report(user).await,
        }
    }

    /// Only who is deleted cannot be changed.
    fn is_gone(&self, user: UserId, error: &StoreError) {
        let gone = matches!(error, StoreError::NotFound("user"));
        assert!(gone && self.users[&user].deleted, "{error:?}");
    }

    async fn update(&self, user: UserId, patch: UserPatch) {
        let (store, tenant) = (&self.world.store, self.world.tenant);
        if let Err(error) = store.update_user(tenant, user, patch, None).await {
            self.is_gone(user, &error);
        }
    }

    /// A node reports usage of the period in force.
    async fn report(&mut self, user: UserId) {
        let known = &self.users[&user];
        if known.deleted {
            return;
        }
        let (store, tenant) = (&self.world.store, self.world.tenant);
        let mut shown = store.user(tenant, user).await.unwrap();
        if shown.on_hold_ms.is_some() {
            // What passed in the quarter of an hour in which it was put on hold may be of before.
            self.world.test.clock.advance(900_000);
            shown = store.user(tenant, user).await.unwrap();
        }
        let peer = self.world.peer(self.world.node, user).await;
        let bytes = self.random.random_range(1..1_500);
        let from = known.counted.fetch_add(bytes, Ordering::SeqCst);
        let row = self.agent.row(peer, &shown, (0, 0), (from, from + bytes));
        let row = Row {
            attribution: Attribution {
                leased: false,
                ..row.attribution
            },
            bucket: Bucket::at(store.now_ms()),
            ..row
        };
        let batch = self.agent.batch(vec![row], store.now_ms());
        let submission = self.agent.submission(vec![batch]);
        let done = store.ingest(vec![submission], &Policy::default()).await;
        let done = done.unwrap();
        assert_eq!((done.orphans, done.held, done.dead_letters), (0, 0, 0));
        let after = store.user(tenant, user).await.unwrap();
        assert_eq!(after.on_hold_ms, None, "the clock runs");
        if shown.on_hold_ms.is_some() {
            assert!(after.expires_at_ms.is_some());
        }
    }

    /// Looks at everybody as readers, lists and nodes do.
    async fn look(&self) {
        let (store, tenant) = (&self.world.store, self.world.tenant);
        let mut listed: BTreeMap<UserId, UserStatus> = BTreeMap::new();
        for status in UserStatus::ALL {
            let filter = UserFilter {
                status: Some(status),
                ..UserFilter::default()
            };
            let users = store.users(tenant, &filter, Page::first(100)).await;
            for user in users.unwrap() {
                let before = listed.insert(user.id, status);
                assert_eq!(before, None, "{} is in two lists", user.username);
            }
        }
        let of = |status| listed.values().filter(|it| **it == status).count() as u64;
        let counts = store.user_counts(Some(tenant)).await.unwrap();
        assert_eq!(
            counts,
            UserCounts {
                active: of(UserStatus::Active),
                on_hold: of(UserStatus::OnHold),
                limited: of(UserStatus::Limited),
                expired: of(UserStatus::Expired),
                disabled: of(UserStatus::Disabled),
            }
        );
        let all = store.user_counts(None).await.unwrap();
        assert_eq!(all.total(), self.others + counts.total());
        let told = store.desired_state(self.world.node).await.unwrap().users;
        let now = store.now_ms();
        for (id, known) in &self.users {
            if known.deleted {
                assert_eq!(listed.get(id), Some(&UserStatus::Deleted));
                assert!(told.iter().all(|it| it.id != *id));
                continue;
            }
            let user = store.user(tenant, *id).await.unwrap();
            let facts = UserFacts {
                deleted: false,
                disabled: known.disabled,
                expires_at_ms: user.expires_at_ms,
                limit: user.period.limit,
                used: user.period.used,
                on_hold: user.on_hold_ms.is_some(),
            };
            assert_eq!(user.status, facts.status(now), "{user:?}");
            assert_eq!(listed.get(id), Some(&user.status), "{user:?}");
            let told = told.iter().find(|it| it.id == *id).unwrap();
            assert_eq!(told.status, user.status);
            assert_eq!(told.expires_at_ms, user.expires_at_ms);
            assert_eq!(told.may_connect(), user.status.may_connect(false));
        }
    }
}
