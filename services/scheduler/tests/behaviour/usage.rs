//! Usage is rolled up by replicas that are killed at any moment, and dropped when its time is over;
//! its series stay what they were.

use std::time::Duration;

use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio_util::sync::CancellationToken;
use vpnpanel_domain::NodeId;
use vpnpanel_store::{
    Page, Usage, UsageQuery, User, UserFilter, fresh_id, on_each_database, testing::TestStore,
};

use crate::fixture::{quick, replica, until, users};

on_each_database! {
    usage_is_rolled_once_by_replicas_that_are_killed_at_any_moment,
    usage_is_removed_when_its_time_is_over_and_its_days_stay,
}

const QUARTER_MS: i64 = 900_000;
const HOUR_MS: i64 = 4 * QUARTER_MS;
const DAY_MS: i64 = 24 * HOUR_MS;

struct Used {
    users: Vec<User>,
    node: NodeId,
    from_ms: i64,
    bytes: u64,
}

/// Users of a tenant, each of which used something in some hours from now on.
async fn used(test: &TestStore, hours: i64) -> Used {
    let tenant = users(&test.store, 8, None).await;
    let filter = UserFilter::default();
    let all = test.store.users(tenant, &filter, Page::first(100));
    let mut used = Used {
        users: all.await.unwrap(),
        node: fresh_id(),
        from_ms: test.clock.now_ms(),
        bytes: 0,
    };
    for hour in 0..hours {
        use_again(test, &mut used, hour).await;
    }
    used
}

async fn use_again(test: &TestStore, used: &mut Used, hour: i64) {
    let at_ms = used.from_ms + hour * HOUR_MS;
    for (number, user) in used.users.iter().enumerate() {
        let bytes = 1_000 + number as u64;
        test.count_usage(user, used.node, at_ms, bytes).await;
        used.bytes += bytes;
    }
}

async fn sum(test: &TestStore, used: &Used, step_ms: i64) -> Usage {
    let query = UsageQuery {
        from_ms: used.from_ms,
        to_ms: test.clock.now_ms(),
        step_ms,
    };
    let mut sum = Usage::default();
    for user in &used.users {
        let series = test.store.user_usage(user.tenant_id, user.id, query).await;
        let total = series.unwrap().total;
        sum.up += total.up;
        sum.down += total.down;
        sum.billed += total.billed;
    }
    let of_tenant = test.store.tenant_usage(used.users[0].tenant_id, query);
    assert_eq!(of_tenant.await.unwrap().total, sum);
    sum
}

/// Runs the job, once a replica has made its row, and waits until a run has come to a good end.
async fn run(test: &TestStore, job: &str) {
    until(async || test.store.job(job).await.is_ok()).await;
    let before = test.store.job(job).await.unwrap().last_run;
    let before = before.map_or(0, |run| run.number);
    test.store.make_job_due(job).await.unwrap();
    until(async || {
        let last = test.store.job(job).await.unwrap().last_run;
        last.is_some_and(|run| run.number > before && run.ended_at.is_some() && run.error.is_none())
    })
    .await;
}

async fn usage_is_rolled_once_by_replicas_that_are_killed_at_any_moment(test: TestStore) {
    let seed = rand::rng().random();
    eprintln!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut used = used(&test, 6).await;
    test.clock.advance(8 * HOUR_MS);
    let stop = CancellationToken::new();
    for round in 0..4 {
        let replicas = [
            replica(test.another().await, quick(), &stop),
            replica(test.another().await, quick(), &stop),
        ];
        // not a wait for something to happen: the moment of the kill is what is drawn
        tokio::time::sleep(Duration::from_millis(random.random_range(5..60))).await;
        use_again(&test, &mut used, round).await;
        for killed in replicas {
            killed.abort();
            let _aborted = killed.await;
        }
        for step_ms in [QUARTER_MS, HOUR_MS, DAY_MS] {
            assert_eq!(sum(&test, &used, step_ms).await.up, used.bytes);
        }
        // the dead hold their lease until it ends, and the job is due again
        test.clock.advance(61_000);
    }
    let survivor = replica(test.another().await, quick(), &stop);
    run(&test, "roll-usage").await;
    for step_ms in [QUARTER_MS, HOUR_MS, DAY_MS] {
        assert_eq!(sum(&test, &used, step_ms).await.up, used.bytes);
    }
    stop.cancel();
    survivor.await.unwrap();
}

async fn usage_is_removed_when_its_time_is_over_and_its_days_stay(test: TestStore) {
    let used = used(&test, 2).await;
    let stop = CancellationToken::new();
    let running = replica(test.another().await, quick(), &stop);
    for (days, quarters, hours) in [(30, true, true), (20, false, true), (370, false, false)] {
        test.clock.advance(days * DAY_MS);
        run(&test, "roll-usage").await;
        run(&test, "retain-usage").await;
        let kept = |kept: bool| if kept { used.bytes } else { 0 };
        assert_eq!(sum(&test, &used, QUARTER_MS).await.up, kept(quarters));
        assert_eq!(sum(&test, &used, HOUR_MS).await.up, kept(hours));
        assert_eq!(sum(&test, &used, DAY_MS).await.up, used.bytes);
    }
    stop.cancel();
    running.await.unwrap();
}
