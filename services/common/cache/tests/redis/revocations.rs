//! Ended credentials are known to every replica.

use std::time::{Duration, Instant};

use vpnpanel_auth::revocation::Listed;
use vpnpanel_cache::testing::{TestRedis, eventually};
use vpnpanel_runtime::clock::Clock;

use crate::replica::{Database, LIFE, Replica, session};

async fn lists(replica: &Replica, n: u8) -> Listed {
    replica.cache.revocations.check(session(n)).await
}

fn now_ms() -> i64 {
    Clock::system().unix_millis()
}

#[tokio::test]
async fn what_one_replica_revokes_the_other_knows_at_once_in_each_kind_of_redis() {
    for redis in [
        TestRedis::standalone(),
        TestRedis::cluster(),
        TestRedis::sentinel(),
    ] {
        let database = Database::default();
        let one = Replica::start(&redis, &database).await;
        let other = Replica::start(&redis, &database).await;
        assert_eq!(lists(&other, 1).await, Listed::Clear);
        one.cache
            .revocations
            .revoke(&[session(1), session(2)])
            .await;
        assert_eq!(lists(&other, 1).await, Listed::Revoked);
        assert_eq!(lists(&other, 2).await, Listed::Revoked);
        assert_eq!(lists(&other, 3).await, Listed::Clear);
    }
}

#[tokio::test]
async fn a_wiped_list_is_not_taken_for_an_empty_one_and_is_built_again() {
    let redis = TestRedis::standalone();
    let database = Database::default();
    let replica = Replica::start(&redis, &database).await;
    database.end(session(1), now_ms());
    let long_ago = now_ms() - i64::try_from(LIFE.as_millis()).unwrap() - 1_000;
    database.end(session(2), long_ago);
    replica.cache.revocations.revoke(&[session(1)]).await;
    redis.wipe();
    assert_ne!(lists(&replica, 1).await, Listed::Clear);
    eventually("the list is built again", async || {
        lists(&replica, 1).await == Listed::Revoked
    })
    .await;
    replica.has_complete_list().await;
    // Nobody can present it any more.
    assert_eq!(lists(&replica, 2).await, Listed::Clear);
}

#[tokio::test]
async fn what_was_revoked_while_redis_was_away_is_on_the_list_when_it_is_back() {
    let mut redis = TestRedis::standalone();
    let database = Database::default();
    let one = Replica::start(&redis, &database).await;
    let other = Replica::start(&redis, &database).await;
    redis.kill();
    database.end(session(1), now_ms());
    let asked = Instant::now();
    one.cache.revocations.revoke(&[session(1)]).await;
    assert_eq!(lists(&other, 1).await, Listed::Unknown);
    assert!(asked.elapsed() < Duration::from_millis(500));
    redis.restart();
    eventually("the other replica knows", async || {
        lists(&other, 1).await == Listed::Revoked
    })
    .await;
}

#[tokio::test]
async fn a_slow_redis_makes_nobody_wait_and_nothing_clear() {
    let redis = TestRedis::standalone();
    let replica = Replica::start(&redis, &Database::default()).await;
    redis.sleep(3.0);
    eventually("Redis is found slow", async || {
        lists(&replica, 1).await == Listed::Unknown
    })
    .await;
    let asked = Instant::now();
    for _ in 0..200 {
        assert_eq!(lists(&replica, 1).await, Listed::Unknown);
    }
    assert!(
        asked.elapsed() < Duration::from_secs(1),
        "{:?}",
        asked.elapsed()
    );
    replica.has_complete_list().await;
}

#[tokio::test]
async fn a_revocation_that_redis_did_not_take_is_made_good() {
    let redis = TestRedis::standalone();
    let database = Database::default();
    let replica = Replica::start(&redis, &database).await;
    redis.sleep(1.0);
    eventually("Redis is found slow", async || {
        lists(&replica, 9).await == Listed::Unknown
    })
    .await;
    database.end(session(1), now_ms());
    replica.cache.revocations.revoke(&[session(1)]).await;
    eventually("the list has it", async || {
        lists(&replica, 1).await == Listed::Revoked
    })
    .await;
}
