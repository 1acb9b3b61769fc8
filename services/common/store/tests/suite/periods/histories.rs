//! Random histories of users: whatever happens in which order, sums agree, no id comes twice, and what
//! was announced stands.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use vpnpanel_domain::{Limit, MicroBytes, PeriodId, ResetStrategy, UserFacts, UserId};
use vpnpanel_link::collector::Policy;
use vpnpanel_link::{Attribution, Row};
use vpnpanel_store::testing::TestStore;
use vpnpanel_store::{NodePeriod, TenantPatch, UserPatch, on_each_database};

use super::support::{DAY, periods, roll};
use crate::fixture::{Agent, World, new_user};

on_each_database!(histories_add_up_and_what_was_announced_stands);

const STEPS: usize = 120;

struct History {
    world: World,
    agent: Agent,
    random: StdRng,
    users: BTreeMap<UserId, Seen>,
    /// Whose each period is, its end, and what was used in it.
    periods: BTreeMap<PeriodId, Known>,
}

/// What is known of a user.
#[derive(Default)]
struct Seen {
    announced: Option<(NodePeriod, Option<NodePeriod>)>,
    counted: AtomicU64,
    /// It was reset since it was looked at.
    reset: bool,
}

struct Known {
    user: UserId,
    ends_at_ms: Option<i64>,
    used: u64,
}

async fn histories_add_up_and_what_was_announced_stands(test: TestStore) {
    let seed = rand::rng().random();
    eprintln!("seed {seed}");
    let world = World::new(test).await;
    let agent = Agent::connect(&world.store, world.node).await;
    let mut history = History {
        world,
        agent,
        random: StdRng::seed_from_u64(seed),
        users: BTreeMap::new(),
        periods: BTreeMap::new(),
    };
    for _ in 0..4 {
        history.create().await;
    }
    history.look().await;
    for _ in 0..STEPS {
        history.happen().await;
        history.look().await;
    }
    history.add_up().await;
}

impl History {
    async fn happen(&mut self) {
        let users: Vec<_> = self.users.keys().copied().collect();
        let user = users[self.random.random_range(0..users.len())];
        match self.random.random_range(0..100) {
            0..3 => self.create().await,
            3..13 => {
                let patch = UserPatch {
                    limit: Some(self.limit()),
                    ..UserPatch::default()
                };
                self.update(user, patch).await;
            }
            13..23 => {
                let patch = UserPatch {
                    reset_strategy: Some(self.strategy()),
                    ..UserPatch::default()
                };
                self.update(user, patch).await;
            }
            23..28 => self.change_zone().await,
            28..33 => {
                let (store, tenant) = (&self.world.store, self.world.tenant);
                store.reset_user_usage(tenant, user, None).await.unwrap();
                self.users.get_mut(&user).unwrap().reset = true;
            }
            33..55 => {
                let ahead = match self.random.random_range(0..10) {
                    0 => self.random.random_range(0..60 * DAY),
                    _ => self.random.random_range(0..DAY),
                };
                self.world.test.clock.advance(ahead);
            }
            55..57 => {
                // Somebody sets the clock back.
                self.world
                    .test
                    .clock
                    .advance(-self.random.random_range(0..DAY));
            }
            57..75 => {
                roll(&self.world.store, 2).await;
            }
            _ => self.report().await,
        }
    }

    fn limit(&mut self) -> Limit {
        match self.random.random_range(0..4) {
            0 => Limit::None,
            _ => Limit::Bytes(self.random.random_range(1..5_000)),
        }
    }

    fn strategy(&mut self) -> ResetStrategy {
        match self.random.random_range(0..7) {
            0 => ResetStrategy::None,
            1 => ResetStrategy::Weekly,
            2 => ResetStrategy::Monthly,
            3 => ResetStrategy::Yearly,
            4 => ResetStrategy::Rolling {
                days: self.random.random_range(1..20),
            },
            _ => ResetStrategy::Daily,
        }
    }

    async fn create(&mut self) {
        let name = format!("user{}", self.users.len());
        let mut new = new_user(&name, [self.world.group]);
        (new.limit, new.reset_strategy) = (self.limit(), self.strategy());
        self.users.insert(new.id, Seen::default());
        let made = self.world.store.create_user(self.world.tenant, new, None);
        made.await.unwrap();
    }

    async fn update(&self, user: UserId, patch: UserPatch) {
        let changed = self
            .world
            .store
            .update_user(self.world.tenant, user, patch, None);
        changed.await.unwrap();
    }

    async fn change_zone(&mut self) {
        let zones = ["UTC", "Europe/Berlin", "Asia/Kathmandu", "Pacific/Niue"];
        let zone = zones[self.random.random_range(0..zones.len())];
        let patch = TenantPatch {
            time_zone: Some(zone.parse().unwrap()),
            ..TenantPatch::default()
        };
        let changed = self
            .world
            .store
            .update_tenant(self.world.tenant, patch, None);
        changed.await.unwrap();
    }

    /// A node reports usage of any period that it was ever told of.
    async fn report(&mut self) {
        let periods: Vec<_> = self.periods.keys().copied().collect();
        let period = periods[self.random.random_range(0..periods.len())];
        let bytes = self.random.random_range(1..2_000);
        let known = self.periods.get_mut(&period).unwrap();
        known.used += bytes;
        let (store, tenant) = (&self.world.store, self.world.tenant);
        let user = store.user(tenant, known.user).await.unwrap();
        let peer = self.world.peer(self.world.node, known.user).await;
        let from = self.users[&known.user]
            .counted
            .fetch_add(bytes, Ordering::SeqCst);
        let row = self.agent.row(peer, &user, (0, 0), (from, from + bytes));
        let row = Row {
            attribution: Attribution {
                period,
                leased: false,
                ..row.attribution
            },
            ..row
        };
        let batch = self.agent.batch(vec![row], store.now_ms());
        let submission = self.agent.submission(vec![batch]);
        let policy = Policy::default();
        let done = store.ingest(vec![submission], &policy).await.unwrap();
        assert_eq!((done.orphans, done.held, done.dead_letters), (0, 0, 0));
    }

    /// Looks at everybody as nodes and readers do.
    async fn look(&mut self) {
        let (store, tenant) = (&self.world.store, self.world.tenant);
        let now = store.now_ms();
        let state = store.desired_state(self.world.node).await.unwrap();
        assert_eq!(state.users.len(), self.users.len());
        for told in state.users {
            let seen = self.users.get_mut(&told.id).unwrap();
            let user = store.user(tenant, told.id).await.unwrap();
            let facts = UserFacts {
                limit: user.limit,
                used: user.period.used,
                ..UserFacts::default()
            };
            assert_eq!(user.status, facts.status(now));
            for period in [Some(told.period), told.next_period].into_iter().flatten() {
                let known = self.periods.entry(period.id).or_insert(Known {
                    user: told.id,
                    ends_at_ms: period.ends_at_ms,
                    used: 0,
                });
                assert_eq!(known.user, told.id, "an id came twice");
                if known.ends_at_ms.is_some() {
                    assert_eq!(known.ends_at_ms, period.ends_at_ms, "an end has moved");
                }
                known.ends_at_ms = period.ends_at_ms;
            }
            assert_eq!(told.period.ends_at_ms.is_some(), told.next_period.is_some());
            let announced = (told.period, told.next_period);
            let reset = std::mem::take(&mut seen.reset);
            if let Some((current, next)) = seen.announced.replace(announced)
                && told.period.id != current.id
                && !reset
            {
                let next = next.expect("one that was announced");
                let listed = periods(store, tenant, told.id).await;
                let now_in = listed.iter().find(|it| it.id == told.period.id).unwrap();
                if told.period.id != next.id {
                    // Nobody was there while the next one passed.
                    assert!(now_in.starts_at_ms >= next.ends_at_ms.unwrap());
                }
                assert!(now_in.starts_at_ms >= current.ends_at_ms.unwrap());
            }
        }
    }

    async fn add_up(&self) {
        let (store, tenant) = (&self.world.store, self.world.tenant);
        let totals = store.ledger_totals(tenant).await.unwrap();
        assert!(totals.agree(), "{totals:?}");
        for (user, seen) in &self.users {
            let mut listed = periods(store, tenant, *user).await;
            listed.reverse();
            for period in &listed {
                let used = self.periods.get(&period.id).map_or(0, |known| known.used);
                assert_eq!(period.used, MicroBytes::from_bytes(used), "{}", period.id);
                assert!(
                    period
                        .ends_at_ms
                        .is_none_or(|end| end > period.starts_at_ms)
                );
            }
            let ids = listed.iter().map(|it| it.id);
            let used = self
                .periods
                .iter()
                .filter(|(_, it)| it.user == *user && it.used > 0);
            for (id, _) in used {
                assert!(ids.clone().any(|listed| listed == *id), "{id} is not shown");
            }
            let (current, next) = seen.announced.unwrap();
            if let Some(next) = next {
                let next = listed.iter().find(|it| it.id == next.id).unwrap();
                assert_eq!(current.ends_at_ms, Some(next.starts_at_ms));
            }
        }
    }
}
