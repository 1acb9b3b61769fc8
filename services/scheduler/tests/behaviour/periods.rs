//! Rollover by two replicas, killed at any moment: each user rolls over once.

use std::{collections::BTreeSet, time::Duration};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio_util::sync::CancellationToken;
use vpnpanel_domain::{ResetStrategy, TenantId};
use vpnpanel_store::{Page, Store, UserFilter, on_each_database, testing::TestStore};

use crate::fixture::{changed_by_runs_of, changes, quick, replica, settled, until, users_with};

const USERS: usize = 150;
const DAY: i64 = 24 * 3_600_000;
const JOB: &str = "roll-periods";

on_each_database! {
    users_roll_over_once_with_two_replicas_that_are_killed_at_any_moment,
    after_three_weeks_everybody_is_in_the_window_that_holds_now,
}

async fn users_roll_over_once_with_two_replicas_that_are_killed_at_any_moment(test: TestStore) {
    let seed = rand::rng().random();
    eprintln!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let tenant = users_with(&test.store, USERS, None, ResetStrategy::Rolling { days: 1 }).await;
    let since = settled(&test.store, USERS).await;
    test.clock.advance(DAY);
    let stop = CancellationToken::new();
    for _ in 0..6 {
        let (one, two) = (test.another().await, test.another().await);
        let replicas = [replica(one, quick(), &stop), replica(two, quick(), &stop)];
        // not a wait for something to happen: the moment of the kill is what is drawn
        tokio::time::sleep(Duration::from_millis(random.random_range(5..60))).await;
        for killed in replicas {
            killed.abort();
            let _aborted = killed.await;
        }
        // the dead hold their lease until it ends
        test.clock.advance(1_000);
    }
    let survivor = replica(test.another().await, quick(), &stop);
    until(async || rolled(&test.store).await == USERS).await;
    stop.cancel();
    survivor.await.unwrap();
    // A transaction of any database of the server that is still running holds the log's end back.
    until(async || changes(&test.store, since).await.len() >= USERS).await;
    let log = changes(&test.store, since).await;
    assert_eq!(log.len(), USERS, "a user rolled over twice, or not at all");
    assert_eq!(log.iter().collect::<BTreeSet<_>>().len(), USERS);
    let mut ids = BTreeSet::new();
    for periods in periods_of_all(&test.store, tenant).await {
        assert_eq!(periods.len(), 3);
        for pair in periods.windows(2) {
            assert_eq!(Some(pair[0].starts_at_ms), pair[1].ends_at_ms);
        }
        ids.extend(periods.iter().map(|period| period.id));
    }
    assert_eq!(ids.len(), 3 * USERS, "no id comes twice");
}

async fn after_three_weeks_everybody_is_in_the_window_that_holds_now(test: TestStore) {
    let tenant = users_with(&test.store, 20, None, ResetStrategy::Rolling { days: 1 }).await;
    test.clock.advance(21 * DAY);
    let stop = CancellationToken::new();
    let running = replica(test.store.clone(), quick(), &stop);
    until(async || rolled(&test.store).await == 20).await;
    // Nobody is due any more.
    let runs = async || test.store.job(JOB).await.unwrap().last_run.unwrap().number;
    let seen = runs().await;
    until(async || runs().await > seen + 2).await;
    assert_eq!(rolled(&test.store).await, 20);
    let now = test.clock.now_ms();
    for periods in periods_of_all(&test.store, tenant).await {
        let current = &periods[1];
        assert!(current.starts_at_ms <= now && now < current.ends_at_ms.unwrap());
        assert_eq!(
            periods.len(),
            4,
            "two that were announced, and two new ones"
        );
    }
    stop.cancel();
    running.await.unwrap();
}

async fn rolled(store: &Store) -> usize {
    usize::try_from(changed_by_runs_of(store, JOB).await).unwrap()
}

async fn periods_of_all(store: &Store, tenant: TenantId) -> Vec<Vec<vpnpanel_store::Period>> {
    let users = store
        .users(tenant, &UserFilter::default(), Page::first(1_000))
        .await
        .unwrap();
    let mut all = Vec::new();
    for user in users {
        let listed = store.user_periods(tenant, user.id, Page::first(10));
        all.push(listed.await.unwrap());
    }
    all
}
