//! Three schedulers on one PostgreSQL, each killed or frozen again and again: what each due run does is
//! committed once. `VPNPANEL_TEST_SEED` replays the random choices, `VPNPANEL_TEST_SCHEDULERS_SECS`
//! is how long they are killed (default 30).

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use vpnpanel_domain::{Limit, ResetStrategy, SpeedLimit, TenantId, UserId, Zone};
use vpnpanel_store::testing::TestStore;
use vpnpanel_store::{
    AuditFilter, ChangeKind, LogPosition, NewTenant, NewUser, Page, Store, StoreError,
    TenantLimits, UserFilter, fresh_id,
};

use crate::process::{PATIENCE, Process};

const EXPIRING: usize = 900;
const ROLLING: usize = 600;
/// Their times come for many at once, so that runs are long enough to be killed at.
const BURSTS: usize = 30;
const DAY_MS: i64 = 86_400_000;

const SETTINGS: &[(&str, &str)] = &[
    ("VPNPANEL_SCHEDULER_POLL_INTERVAL", "20ms"),
    ("VPNPANEL_SCHEDULER_LEASE", "700ms"),
    ("VPNPANEL_SCHEDULER_EXPIRY_INTERVAL", "50ms"),
    ("VPNPANEL_SCHEDULER_EXPIRY_BATCH", "1"),
    ("VPNPANEL_SCHEDULER_PERIOD_INTERVAL", "50ms"),
    ("VPNPANEL_SCHEDULER_PERIOD_BATCH", "1"),
    ("VPNPANEL_SCHEDULER_AUDIT_CHAIN_INTERVAL", "50ms"),
];

fn setting(name: &str, default: u64) -> u64 {
    let given = std::env::var(name).ok();
    given.map_or(default, |text| text.parse().unwrap())
}

fn scheduler(data: &Path, database: &str) -> Process {
    let database = [("VPNPANEL_DATABASE_URL", database)];
    let settings: Vec<_> = SETTINGS.iter().chain(&database).copied().collect();
    Process::start(&["scheduler"], data, &settings)
}

async fn tenant(store: &Store, name: &str) -> TenantId {
    let new = NewTenant {
        id: fresh_id(),
        name: name.to_owned(),
        time_zone: Zone::utc(),
        limits: TenantLimits::default(),
    };
    store.create_tenant(new, None).await.unwrap().id
}

fn user(reset_strategy: ResetStrategy, expires_at_ms: Option<i64>) -> NewUser {
    let id: UserId = fresh_id();
    NewUser {
        id,
        username: format!("user-{id}"),
        note: String::new(),
        group_ids: Default::default(),
        limit: Limit::None,
        speed: SpeedLimit::NONE,
        reset_strategy,
        expires_at_ms,
        on_hold_ms: None,
        plan_id: None,
        plan_version: None,
        next_plan: None,
        device_limit: 0,
        disabled: false,
        devices: Vec::new(),
        subscription: None,
    }
}

/// How often each user is in the change log since a position, and where it ends.
async fn changes(store: &Store, since: LogPosition) -> (BTreeMap<UserId, usize>, LogPosition) {
    let (mut users, mut position) = (BTreeMap::new(), since);
    loop {
        let read = store.changes_since(position, 1_000).await.unwrap();
        for change in read.changes {
            if let (ChangeKind::User, Some(user)) = (change.kind, change.user_id) {
                *users.entry(user).or_default() += 1;
            }
        }
        position = read.position;
        if !read.more {
            return (users, position);
        }
    }
}

/// What all kept runs of a job say that they changed, how many there were, and how many of them ended
/// because their scheduler was gone.
async fn runs(store: &Store, job: &str) -> (u64, usize, usize) {
    match store.job_runs(job, Page::first(1_000)).await {
        Ok(runs) => {
            assert!(runs.len() < 1_000, "older runs are forgotten");
            let gone = runs.iter().filter(|run| run.error.is_some()).count();
            let changed = runs.iter().map(|run| run.changed).sum();
            (changed, runs.len(), gone)
        }
        Err(StoreError::NotFound(_)) => (0, 0, 0),
        Err(error) => panic!("{error}"),
    }
}

/// A run has committed something, and goes on.
async fn works(store: &Store) -> bool {
    let jobs = store.jobs().await.unwrap();
    let under_way = jobs.into_iter().filter_map(|job| job.last_run);
    under_way
        .into_iter()
        .any(|run| run.ended_at.is_none() && run.changed > 0)
}

async fn until<F: Future<Output = bool>>(what: &str, mut look: impl FnMut() -> F) {
    let looking = async {
        while !look().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, looking).await.expect(what);
}

#[tokio::test(flavor = "multi_thread")]
async fn three_schedulers_that_are_killed_commit_what_each_due_run_does_once() {
    let seed = setting("VPNPANEL_TEST_SEED", rand::random());
    eprintln!("schedulers: VPNPANEL_TEST_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let length = Duration::from_secs(setting("VPNPANEL_TEST_SCHEDULERS_SECS", 30));
    let test = TestStore::postgres().await;
    let store = &test.store;
    let folder = tempfile::tempdir().unwrap();
    // The installation is made once, before anybody is killed.
    let first = scheduler(folder.path(), &test.url);
    first.listeners().await;
    first.stop().await;

    // Users whose time ends while schedulers are killed, and some whose daily periods end meanwhile:
    // they were made a day ago.
    let length_ms = i64::try_from(length.as_millis()).unwrap();
    let expiring = tenant(store, "expiring").await;
    let now = store.now_ms();
    for _ in 0..BURSTS {
        let at = now + 2_000 + random.random_range(0..length_ms);
        let new = (0..EXPIRING / BURSTS).map(|_| user(ResetStrategy::None, Some(at)));
        store.create_users(expiring, new.collect()).await.unwrap();
    }
    let rolling = tenant(store, "rolling").await;
    let window = ResetStrategy::Rolling { days: 1 };
    for _ in 0..BURSTS {
        let back = DAY_MS - 2_000 - random.random_range(0..length_ms);
        test.clock.advance(-back);
        let new = (0..ROLLING / BURSTS).map(|_| user(window, None));
        store.create_users(rolling, new.collect()).await.unwrap();
        test.clock.advance(back);
    }
    let all = EXPIRING + ROLLING;
    let first = LogPosition::default();
    until("the log has settled", async || {
        changes(store, first).await.0.len() == all
    })
    .await;
    let (_, since) = changes(store, first).await;

    let start = || scheduler(folder.path(), &test.url);
    let mut replicas = vec![start(), start(), start()];
    let (began, mut kills, mut freezes) = (Instant::now(), 0, 0);
    while began.elapsed() < length {
        // Not a wait for something to happen: the moment of the kill is what is drawn, mostly one at
        // which somebody works.
        tokio::time::sleep(Duration::from_millis(random.random_range(20..300))).await;
        let working = until("somebody works", async || works(store).await);
        let _nobody_does = tokio::time::timeout(Duration::from_millis(800), working).await;
        let place = random.random_range(0..replicas.len());
        // One that wakes up after its lease finds that it has lost it.
        if random.random_bool(0.2) {
            let length = Duration::from_millis(random.random_range(500..1_500));
            replicas[place].freeze(length).await;
            freezes += 1;
            continue;
        }
        replicas.swap_remove(place).kill9().await;
        replicas.push(start());
        kills += 1;
    }
    let (all_expire, all_roll) = (EXPIRING as u64, ROLLING as u64);
    until("everybody has expired", async || {
        runs(store, "expire-users").await.0 >= all_expire
    })
    .await;
    until("everybody has rolled over", async || {
        runs(store, "roll-periods").await.0 >= all_roll
    })
    .await;
    until("the log has settled", async || {
        changes(store, since).await.0.len() == all
    })
    .await;
    until("every event has its place in the chain", async || {
        store.audit_tail().await.unwrap().count == 0
    })
    .await;
    for replica in replicas {
        replica.stop().await;
    }

    let expiry = runs(store, "expire-users").await;
    let rollover = runs(store, "roll-periods").await;
    eprintln!(
        "{kills} kills, {freezes} freezes; expire-users: {expiry:?}, roll-periods: {rollover:?}"
    );
    assert_eq!((expiry.0, rollover.0), (all_expire, all_roll));
    assert!(
        kills > 0 && expiry.2 + rollover.2 > 0,
        "nobody was killed while it ran a job"
    );
    let (log, _) = changes(store, since).await;
    let twice: Vec<_> = log.iter().filter(|(_, times)| **times != 1).collect();
    assert!(
        log.len() == all && twice.is_empty(),
        "{} users, {twice:?}",
        log.len()
    );

    let filter = AuditFilter::default();
    let events = store.audit_events(Some(expiring), &filter, Page::first(1_000));
    let mut expired = BTreeMap::<String, usize>::new();
    for event in events.await.unwrap() {
        if event.actor == "system:scheduler/expiry" {
            *expired.entry(event.resource_id).or_default() += 1;
        }
    }
    let chain = store.verify_audit(Some(expiring), None).await.unwrap();
    assert_eq!((chain.broken, chain.tail.count), (None, 0));
    assert!(chain.verified >= all_expire, "{chain:?}");
    assert_eq!(expired.len(), EXPIRING);
    assert!(expired.values().all(|times| *times == 1), "{expired:?}");
    let everybody = UserFilter::default();
    let users = store.users(rolling, &everybody, Page::first(1_000)).await;
    for user in users.unwrap() {
        let periods = store.user_periods(rolling, user.id, Page::first(10));
        let periods = periods.await.unwrap();
        assert_eq!(
            periods.len(),
            3,
            "the old one, the present one and the next"
        );
        for pair in periods.windows(2) {
            assert_eq!(Some(pair[0].starts_at_ms), pair[1].ends_at_ms);
        }
    }
}
