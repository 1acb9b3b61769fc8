//! Series are what one sum over everything would be, however usage came in, at whichever step the
//! roll was killed, and whatever of it has been dropped since.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::{RngExt, SeedableRng, rngs::StdRng};
use vpnpanel_domain::{Limit, Multiplier, NodeId, PeerId, UserId};
use vpnpanel_link::Bucket;
use vpnpanel_link::collector::Policy;
use vpnpanel_store::testing::TestStore;
use vpnpanel_store::{
    JobLease, Store, StoreError, Stretch, Usage, UsageKept, UsageQuery, UsageRoll, UsageSeries,
    User, on_each_database,
};

use crate::fixture::{Agent, World, new_node};

on_each_database!(
    series_are_the_plain_sum_of_late_usage_through_kills_and_repeated_rolls,
    usage_of_a_dropped_range_is_added_to_its_sums_once,
    usage_that_comes_during_rolls_is_added_once,
    usage_from_before_there_were_sums_gets_into_them,
    nothing_is_dropped_before_it_is_rolled,
    a_lost_lease_rolls_and_drops_nothing,
    series_are_read_from_keys,
);

const QUARTER: i64 = 900_000;
const HOUR: i64 = 3_600_000;
const DAY: i64 = 24 * HOUR;

fn policy() -> Policy {
    Policy {
        line_rate: u64::MAX,
        ..Policy::default()
    }
}

async fn lease(store: &Store) -> JobLease {
    let every = Duration::from_secs(60);
    let length = Duration::from_secs(3_600);
    store.register_job("roll", "rolls", every).await.unwrap();
    let lease = store.claim_job(&["roll"], "test", length).await;
    lease.unwrap().unwrap()
}

/// Rolls until nothing is left.
async fn roll(store: &Store, lease: &JobLease) -> u64 {
    let mut state = UsageRoll::default();
    let mut changed = 0;
    while let Some(batch) = store.roll_usage(lease, &mut state, 1_000).await.unwrap() {
        changed += batch;
    }
    changed
}

async fn drop_old(store: &Store, lease: &JobLease, quarters_ms: i64, hours_ms: i64) -> u64 {
    let keep = UsageKept {
        quarters_ms: Some(quarters_ms),
        hours_ms: Some(hours_ms),
    };
    let mut removed = 0;
    while let Some(batch) = store.retain_usage(lease, keep).await.unwrap() {
        removed += batch;
    }
    removed
}

/// Users on nodes, with an agent for each node, and what they have used by plain sums.
struct Fleet {
    world: World,
    users: Vec<User>,
    agents: Vec<Agent>,
    peers: BTreeMap<(usize, usize), PeerId>,
    marks: BTreeMap<(usize, usize), u64>,
    plain: Vec<(usize, NodeId, i64, Usage)>,
}

impl Fleet {
    async fn new(test: TestStore, users: usize, nodes: usize) -> Self {
        let world = World::new(test).await;
        let mut fleet = Self {
            users: Vec::new(),
            agents: Vec::new(),
            peers: BTreeMap::new(),
            marks: BTreeMap::new(),
            plain: Vec::new(),
            world,
        };
        let store = &fleet.world.store;
        let mut ids = vec![fleet.world.node];
        for number in 1..nodes {
            ids.push(new_node(store, None, &format!("node{number}")).await);
        }
        for number in 0..users {
            let name = format!("user{number}");
            fleet.users.push(fleet.world.user(&name, Limit::None).await);
        }
        for (n, id) in ids.into_iter().enumerate() {
            for (u, user) in fleet.users.iter().enumerate() {
                fleet
                    .peers
                    .insert((n, u), fleet.world.peer(id, user.id).await);
            }
            fleet.agents.push(Agent::connect(store, id).await);
        }
        fleet
    }

    /// A user uses bytes through a node; the node counted them at `at_ms` and says so now.
    async fn use_bytes(&mut self, node: usize, user: usize, at_ms: i64, bytes: u64) {
        let mark = self.marks.entry((node, user)).or_default();
        let range = (*mark, *mark + bytes);
        *mark += bytes;
        let agent = &self.agents[node];
        let multiplier = Multiplier::from_ppm(333_333).unwrap();
        let mut row = agent.row(self.peers[&(node, user)], &self.users[user], range, range);
        row.bucket = Bucket::at(at_ms);
        row.attribution.multiplier = multiplier;
        let batch = agent.batch(vec![row], self.world.store.now_ms());
        let submission = agent.submission(vec![batch]);
        let done = self.world.store.ingest(vec![submission], &policy()).await;
        let done = done.unwrap();
        assert_eq!((done.orphans, done.held, done.dead_letters), (0, 0, 0));
        let usage = Usage {
            up: bytes,
            down: bytes,
            billed: multiplier.bill(2 * bytes),
        };
        let at = at_ms - at_ms.rem_euclid(QUARTER);
        self.plain.push((user, agent.node, at, usage));
    }

    /// Every series at every step says what the plain sums say from `from_ms` on.
    async fn assert_series(&self, from_ms: i64, steps: &[i64]) {
        let store = &self.world.store;
        for &step_ms in steps {
            let query = UsageQuery {
                from_ms,
                to_ms: store.now_ms() + DAY,
                step_ms,
            };
            for (number, user) in self.users.iter().enumerate() {
                let got = store.user_usage(self.world.tenant, user.id, query).await;
                self.assert_is(got.unwrap(), query, |it| it.0 == number);
            }
            let got = store.tenant_usage(self.world.tenant, query).await.unwrap();
            self.assert_is(got, query, |_| true);
            for agent in &self.agents {
                let got = store.node_usage(agent.node, query).await.unwrap();
                self.assert_is(got, query, |it| it.1 == agent.node);
            }
        }
        let totals = store.ledger_totals(self.world.tenant).await.unwrap();
        assert!(totals.agree(), "{totals:?}");
    }

    /// What dashboards show of the time from `from_ms` on, and what explains it, is made of the plain sums.
    async fn assert_figures(&self, from_ms: i64) {
        let (store, tenant) = (&self.world.store, self.world.tenant);
        let quarter = from_ms - from_ms.rem_euclid(QUARTER);
        let to_ms = store.now_ms() + QUARTER;
        let plain = |from: i64| self.plain.iter().filter(move |it| it.2 >= from);
        let mut total = Usage::default();
        let mut nodes: BTreeMap<NodeId, Usage> = BTreeMap::new();
        for one in plain(quarter) {
            add(&mut total, one.3);
            add(nodes.entry(one.1).or_default(), one.3);
        }
        let mut users: BTreeMap<UserId, Usage> = BTreeMap::new();
        for one in plain(from_ms - from_ms.rem_euclid(DAY)) {
            add(users.entry(self.users[one.0].id).or_default(), one.3);
        }
        let stretch = Stretch { from_ms, to_ms };
        for tenant in [Some(tenant), None] {
            let sums = store.traffic(tenant, &[stretch]).await.unwrap();
            assert_eq!(sums, [total]);
            let top = store.top_nodes(tenant, stretch, 10).await.unwrap();
            assert!(top.is_sorted_by(|a, b| a.usage.billed >= b.usage.billed));
            let top: BTreeMap<_, _> = top.into_iter().map(|it| (it.id, it.usage)).collect();
            assert_eq!(top, nodes);
            let top = store.top_users(tenant, from_ms, 10).await.unwrap();
            assert!(top.is_sorted_by(|a, b| a.usage.billed >= b.usage.billed));
            let top: BTreeMap<_, _> = top.into_iter().map(|it| (it.id, it.usage)).collect();
            assert_eq!(top, users);
        }
        for (number, user) in self.users.iter().enumerate() {
            let mut parts: BTreeMap<(i64, NodeId), Usage> = BTreeMap::new();
            for one in plain(quarter).filter(|it| it.0 == number) {
                add(parts.entry((one.2, one.1)).or_default(), one.3);
            }
            let span = (quarter, to_ms);
            let found = store
                .explain_usage(tenant, user.id, span, 1_000)
                .await
                .unwrap();
            assert!(found.pieces.is_sorted_by(|a, b| a.at_ms >= b.at_ms));
            let pieces = found
                .pieces
                .iter()
                .map(|it| ((it.at_ms, it.node), it.usage));
            assert_eq!(pieces.collect::<BTreeMap<_, _>>(), parts);
            for batch in found.batches {
                let agent = self.agents.iter().find(|it| it.node == batch.node).unwrap();
                assert_eq!(batch.epoch, agent.epoch);
                assert!(batch.committed_at_ms.is_some());
            }
        }
    }

    fn assert_is(
        &self,
        got: UsageSeries,
        query: UsageQuery,
        of: impl Fn(&(usize, NodeId, i64, Usage)) -> bool,
    ) {
        let from = query.from_ms - query.from_ms.rem_euclid(query.step_ms);
        let mut points: BTreeMap<i64, Usage> = BTreeMap::new();
        let mut nodes: BTreeMap<NodeId, Usage> = BTreeMap::new();
        for one in self.plain.iter().filter(|it| of(it) && it.2 >= from) {
            add(
                points
                    .entry(one.2 - one.2.rem_euclid(query.step_ms))
                    .or_default(),
                one.3,
            );
            add(nodes.entry(one.1).or_default(), one.3);
        }
        let got_nodes: BTreeMap<NodeId, Usage> = got.nodes.into_iter().collect();
        assert_eq!(
            got.points,
            points.into_iter().collect::<Vec<_>>(),
            "{query:?}"
        );
        assert_eq!(got_nodes, nodes, "{query:?}");
    }
}

fn add(sum: &mut Usage, other: Usage) {
    sum.up += other.up;
    sum.down += other.down;
    sum.billed += other.billed;
}

async fn series_are_the_plain_sum_of_late_usage_through_kills_and_repeated_rolls(test: TestStore) {
    let seed = rand::rng().random();
    eprintln!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut fleet = Fleet::new(test, 3, 2).await;
    let store = fleet.world.store.clone();
    let lease = lease(&store).await;
    let all = [QUARTER, HOUR, DAY];
    let started = store.now_ms() - 4 * DAY;
    let mut rolls = UsageRoll::default();
    for _ in 0..80 {
        match random.random_range(0..10) {
            // what is used now, and what a node says late
            0..=4 => {
                let ago = if random.random() {
                    0
                } else {
                    random.random_range(0..3 * DAY)
                };
                let at = store.now_ms() - ago;
                let (node, user) = (random.random_range(0..2), random.random_range(0..3));
                let bytes = random.random_range(1..1_000_000);
                fleet.use_bytes(node, user, at, bytes).await;
            }
            5..=7 => {
                // batches of one user, so that kills fall between a tenant's users
                store.roll_usage(&lease, &mut rolls, 1).await.unwrap();
            }
            // a kill: the state of the roll is gone
            8 => rolls = UsageRoll::default(),
            _ => fleet
                .world
                .test
                .clock
                .advance(random.random_range(0..2 * HOUR)),
        }
        if random.random_range(0..15) == 0 {
            fleet.assert_series(started, &all).await;
            let from = started + random.random_range(0..4 * DAY);
            fleet.assert_figures(from).await;
        }
    }
    fleet.assert_series(started, &all).await;
    fleet.assert_figures(started).await;
    fleet.world.test.clock.advance(2 * HOUR);
    roll(&store, &lease).await;
    fleet.assert_series(started, &all).await;
    assert_eq!(
        roll(&store, &lease).await,
        0,
        "a roll of nothing changes nothing"
    );
    fleet.assert_series(started, &all).await;
}

async fn usage_of_a_dropped_range_is_added_to_its_sums_once(test: TestStore) {
    let mut fleet = Fleet::new(test, 2, 1).await;
    let store = fleet.world.store.clone();
    let lease = lease(&store).await;
    // in one bucket before and after it is dropped, and one that nobody had used
    let old = store.now_ms();
    for user in [0, 1] {
        fleet.use_bytes(0, user, old, 1_000).await;
    }
    fleet.world.test.clock.advance(2 * HOUR);
    roll(&store, &lease).await;
    fleet.world.test.clock.advance(50 * DAY);
    store.ensure_usage_partitions(4).await.unwrap();
    fleet.use_bytes(0, 0, store.now_ms(), 7).await;
    assert!(drop_old(&store, &lease, 35 * DAY, 400 * DAY).await > 0);
    fleet.assert_series(old, &[HOUR, DAY]).await;
    let quarters = UsageQuery {
        from_ms: old,
        to_ms: store.now_ms(),
        step_ms: QUARTER,
    };
    let left = store.tenant_usage(fleet.world.tenant, quarters).await;
    assert_eq!(
        left.unwrap().points.len(),
        1,
        "quarters of the last weeks are left"
    );

    for round in 0..3 {
        fleet.use_bytes(0, 0, old, 10 + round).await;
        fleet.use_bytes(0, 1, old + 2 * HOUR, 100 + round).await;
        fleet.assert_series(old, &[HOUR, DAY]).await;
        let mut state = UsageRoll::default();
        // takes notes and adds the nodes' part, and is killed
        for _ in 0..round {
            store.roll_usage(&lease, &mut state, 1).await.unwrap();
        }
        fleet.assert_series(old, &[HOUR, DAY]).await;
        roll(&store, &lease).await;
        fleet.assert_series(old, &[HOUR, DAY]).await;
    }

    // hours go; their days stay for good, and what is later yet is still added to them
    drop_old(&store, &lease, 10 * DAY, 20 * DAY).await;
    fleet.use_bytes(0, 0, old, 3).await;
    fleet.assert_series(old, &[DAY]).await;
    roll(&store, &lease).await;
    fleet.assert_series(old, &[DAY]).await;
    let hours = UsageQuery {
        step_ms: HOUR,
        ..quarters
    };
    let left = store.tenant_usage(fleet.world.tenant, hours).await.unwrap();
    assert_eq!(left.points.len(), 1, "hours of the last weeks are left");
    assert_eq!(drop_old(&store, &lease, 10 * DAY, 20 * DAY).await, 0);
}

async fn usage_that_comes_during_rolls_is_added_once(test: TestStore) {
    let world = World::new(test).await;
    let store = &world.store;
    let lease = lease(store).await;
    let users = [
        world.user("ada", Limit::None).await,
        world.user("bob", Limit::None).await,
    ];
    // one of the hours is below the floor soon, the other is not
    let old = store.now_ms();
    world.test.clock.advance(40 * DAY);
    let late = store.now_ms();
    world.test.clock.advance(2 * HOUR);
    drop_old(store, &lease, 35 * DAY, 400 * DAY).await;
    let ingest = async |user: &User| {
        for round in 0..25 {
            let at = if round % 2 == 0 { old } else { late };
            world.test.count_usage(user, world.node, at, 1_000).await;
        }
    };
    let rolls = async || {
        for _ in 0..4 {
            roll(store, &lease).await;
            drop_old(store, &lease, 35 * DAY, 400 * DAY).await;
        }
    };
    tokio::join!(
        ingest(&users[0]),
        ingest(&users[1]),
        ingest(&users[0]),
        rolls()
    );
    for rolled in [false, true] {
        if rolled {
            roll(store, &lease).await;
        }
        let query = UsageQuery {
            from_ms: old,
            to_ms: store.now_ms(),
            step_ms: DAY,
        };
        let total = store.tenant_usage(world.tenant, query).await.unwrap().total;
        assert_eq!(total.up, 75_000);
        let mut sum = 0;
        for user in &users {
            let series = store.user_usage(world.tenant, user.id, query).await;
            sum += series.unwrap().total.up;
        }
        assert_eq!(sum, 75_000);
    }
}

async fn usage_from_before_there_were_sums_gets_into_them(test: TestStore) {
    let mut fleet = Fleet::new(test, 2, 1).await;
    let store = fleet.world.store.clone();
    let from = store.now_ms();
    fleet.use_bytes(0, 0, from, 1_000).await;
    fleet.world.test.clock.advance(3 * HOUR);
    fleet.use_bytes(0, 1, from + 2 * HOUR, 20).await;
    let is_down = async || {
        let pending = store.pending_migrations().await.unwrap();
        pending.iter().any(|it| it.ends_with("_rollups"))
    };
    while !is_down().await {
        store.migrate_down(1).await.unwrap();
    }
    store.migrate().await.unwrap();
    fleet.assert_series(from, &[QUARTER, HOUR, DAY]).await;
    assert!(roll(&store, &lease(&store).await).await > 0);
    fleet.assert_series(from, &[QUARTER, HOUR, DAY]).await;
}

async fn nothing_is_dropped_before_it_is_rolled(test: TestStore) {
    let mut fleet = Fleet::new(test, 1, 1).await;
    let store = fleet.world.store.clone();
    let lease = lease(&store).await;
    roll(&store, &lease).await;
    let old = store.now_ms();
    fleet.use_bytes(0, 0, old, 1_000).await;
    fleet.world.test.clock.advance(50 * DAY);
    drop_old(&store, &lease, 35 * DAY, 400 * DAY).await;
    fleet.assert_series(old, &[QUARTER, HOUR, DAY]).await;
    roll(&store, &lease).await;
    assert!(drop_old(&store, &lease, 35 * DAY, 400 * DAY).await > 0);
    fleet.assert_series(old, &[HOUR, DAY]).await;
}

async fn a_lost_lease_rolls_and_drops_nothing(test: TestStore) {
    let mut fleet = Fleet::new(test, 1, 1).await;
    let store = fleet.world.store.clone();
    let lost = lease(&store).await;
    fleet.use_bytes(0, 0, store.now_ms(), 1_000).await;
    fleet.world.test.clock.advance(50 * DAY);
    let held = lease(&store).await;
    let rolled = store.roll_usage(&lost, &mut UsageRoll::default(), 10).await;
    assert!(matches!(rolled, Err(StoreError::LeaseLost)), "{rolled:?}");
    let keep = UsageKept {
        quarters_ms: Some(DAY),
        hours_ms: None,
    };
    let dropped = store.retain_usage(&lost, keep).await;
    assert!(matches!(dropped, Err(StoreError::LeaseLost)), "{dropped:?}");
    assert!(roll(&store, &held).await > 0);
}

/// No table of usage is read as a whole for a series of one user, tenant or node.
async fn series_are_read_from_keys(test: TestStore) {
    for step_ms in [QUARTER, HOUR, DAY] {
        let query = UsageQuery {
            from_ms: 0,
            to_ms: 30 * DAY,
            step_ms,
        };
        for plan in test.usage_plans(query).await {
            // what is read as a whole may be the one row of floors, and the few notes once found
            let whole = plan.lines().find(|line| {
                let line = line.trim_start_matches([' ', '-', '>']);
                ["Seq Scan", "SCAN"].iter().any(|it| line.starts_with(it))
                    && !line.contains("usage_floors")
                    && !["SCAN t", "SCAN s"].contains(&line)
            });
            assert_eq!(whole, None, "of\n{plan}");
        }
    }
}
