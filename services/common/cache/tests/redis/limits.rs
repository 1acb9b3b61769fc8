//! Replicas count together.

use std::time::{Duration, Instant};

use vpnpanel_auth::limits::{Limit, Quota, QuotaSetting, Verdict};
use vpnpanel_cache::testing::{TestRedis, eventually};

use crate::replica::{Database, Replica};

fn quota(text: &str) -> Quota {
    text.parse::<QuotaSetting>().unwrap().0.unwrap()
}

async fn count(replica: &Replica, key: &str, quota: Quota) -> Verdict {
    let limiter = &replica.cache.limiter;
    limiter.count(Limit::SignInAddress, key, quota).await
}

/// How many of `attempts` are permitted, by turns on each replica.
async fn permitted(replicas: &[&Replica], key: &str, quota: Quota, attempts: usize) -> usize {
    let mut permitted = 0;
    for at in 0..attempts {
        let replica = replicas[at % replicas.len()];
        permitted += usize::from(count(replica, key, quota).await == Verdict::Permitted);
    }
    permitted
}

#[tokio::test]
async fn replicas_share_a_quota_in_each_kind_of_redis() {
    for redis in [
        TestRedis::standalone(),
        TestRedis::cluster(),
        TestRedis::sentinel(),
    ] {
        let database = Database::default();
        let one = Replica::start(&redis, &database).await;
        let other = Replica::start(&redis, &database).await;
        let both = [&one, &other];
        counts_in_redis(&one).await;
        counts_in_redis(&other).await;
        assert_eq!(permitted(&both, "a", quota("10/10m"), 25).await, 10);
        assert_eq!(permitted(&both, "b", quota("10/10m"), 5).await, 5);
        let Verdict::Refused { retry_after } = count(&one, "a", quota("10/10m")).await else {
            panic!("beyond the quota");
        };
        assert!(retry_after <= Duration::from_secs(60), "{retry_after:?}");
        assert!(retry_after > Duration::from_secs(50), "{retry_after:?}");
    }
}

/// In Redis a quota of four is four; the guard makes one of it.
async fn counts_in_redis(replica: &Replica) {
    let mut at = 0;
    eventually("it counts in Redis", async || {
        at += 1;
        let key = format!("probe {at} {:p}", replica);
        permitted(&[replica], &key, quota("4/10m"), 4).await == 4
    })
    .await;
}

#[tokio::test]
async fn one_more_is_permitted_when_its_time_has_come() {
    let redis = TestRedis::standalone();
    let replica = Replica::start(&redis, &Database::default()).await;
    counts_in_redis(&replica).await;
    assert_eq!(permitted(&[&replica], "a", quota("2/1s"), 2).await, 2);
    let Verdict::Refused { retry_after } = count(&replica, "a", quota("2/1s")).await else {
        panic!("beyond the quota");
    };
    tokio::time::sleep(retry_after).await;
    assert_eq!(
        count(&replica, "a", quota("2/1s")).await,
        Verdict::Permitted
    );
}

#[tokio::test]
async fn without_redis_each_replica_permits_a_part_and_is_not_open() {
    let mut redis = TestRedis::standalone();
    let replica = Replica::start(&redis, &Database::default()).await;
    counts_in_redis(&replica).await;
    redis.kill();
    let asked = Instant::now();
    assert_eq!(permitted(&[&replica], "a", quota("40/10m"), 100).await, 10);
    assert_eq!(permitted(&[&replica], "b", quota("1/10m"), 100).await, 1);
    assert!(
        asked.elapsed() < Duration::from_secs(2),
        "{:?}",
        asked.elapsed()
    );
    redis.restart();
    counts_in_redis(&replica).await;
}

#[tokio::test]
async fn a_slow_redis_makes_no_caller_wait_and_lets_none_pass_for_that() {
    let redis = TestRedis::standalone();
    let replica = Replica::start(&redis, &Database::default()).await;
    counts_in_redis(&replica).await;
    redis.sleep(3.0);
    eventually("Redis is found slow", async || {
        let asked = Instant::now();
        count(&replica, "probe", quota("1000/1m")).await;
        asked.elapsed() > Duration::from_millis(50)
    })
    .await;
    let asked = Instant::now();
    assert_eq!(permitted(&[&replica], "a", quota("40/10m"), 100).await, 10);
    assert!(
        asked.elapsed() < Duration::from_secs(2),
        "{:?}",
        asked.elapsed()
    );
}

#[tokio::test]
async fn a_count_that_lies_far_ahead_keeps_nobody_out_for_longer_than_the_quota_says() {
    let redis = TestRedis::standalone();
    let replica = Replica::start(&redis, &Database::default()).await;
    counts_in_redis(&replica).await;
    // As after a clock that was put back by years.
    redis.command("SELECT 2\r\nSET vpnpanel:limits:sign_in_address:a 9000000000000000");
    let Verdict::Refused { retry_after } = count(&replica, "a", quota("10/1m")).await else {
        panic!("beyond the quota");
    };
    assert!(retry_after <= Duration::from_secs(60), "{retry_after:?}");
}
