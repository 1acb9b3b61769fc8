//! Replicas tell each other what changed.

use std::time::{Duration, Instant};

use vpnpanel_auth::signals::Signal;
use vpnpanel_cache::testing::{TestRedis, eventually};
use vpnpanel_domain::AccountId;

use crate::replica::{Database, Replica};

fn change(n: u8) -> Signal {
    Signal::AccountChanged(AccountId::from_parts(1, [n; 10]))
}

async fn two(redis: &TestRedis) -> (Replica, Replica) {
    let database = Database::default();
    let one = Replica::start(redis, &database).await;
    let other = Replica::start(redis, &database).await;
    (one, other)
}

/// One tells, the other hears.
async fn passes(from: &Replica, to: &Replica, signal: Signal) {
    from.cache.signals.ring(signal);
    assert!(from.heard.has(signal), "it is told in this process at once");
    eventually("the other replica hears it", async || to.heard.has(signal)).await;
}

#[tokio::test]
async fn what_one_replica_tells_the_other_hears_in_each_kind_of_redis() {
    for redis in [
        TestRedis::standalone(),
        TestRedis::cluster(),
        TestRedis::sentinel(),
    ] {
        let (one, other) = two(&redis).await;
        passes(&one, &other, change(1)).await;
        passes(&other, &one, change(2)).await;
        passes(&one, &other, Signal::PolicyChanged).await;
    }
}

#[tokio::test]
async fn a_signal_takes_less_than_a_second() {
    let redis = TestRedis::standalone();
    let (one, other) = two(&redis).await;
    let told = Instant::now();
    passes(&one, &other, change(1)).await;
    assert!(told.elapsed() < Duration::from_secs(1));
}

#[tokio::test]
async fn who_hears_nothing_for_a_while_is_not_in_doubt() {
    let redis = TestRedis::standalone();
    let (one, other) = two(&redis).await;
    passes(&one, &other, change(1)).await;
    other.heard.clear();
    // Longer than Redis holds a question.
    tokio::time::sleep(Duration::from_secs(1)).await;
    passes(&one, &other, change(2)).await;
    assert!(!other.heard.has(Signal::Everything));
}

#[tokio::test]
async fn after_a_wipe_everything_is_in_doubt_and_signals_pass_again() {
    let redis = TestRedis::standalone();
    let (one, other) = two(&redis).await;
    passes(&one, &other, change(1)).await;
    other.heard.clear();
    redis.wipe();
    other.is_following().await;
    passes(&one, &other, change(2)).await;
}

#[tokio::test]
async fn after_a_crash_everything_is_in_doubt_and_signals_pass_again() {
    let mut redis = TestRedis::standalone();
    let (one, other) = two(&redis).await;
    redis.kill();
    other.heard.clear();
    let rung = Instant::now();
    one.cache.signals.ring(change(1));
    assert!(one.heard.has(change(1)));
    assert!(
        rung.elapsed() < Duration::from_millis(50),
        "nobody waits for Redis"
    );
    redis.restart();
    other.is_following().await;
    // Each of them comes back in its own time.
    eventually("signals pass again", async || {
        one.cache.signals.ring(change(2));
        other.heard.has(change(2))
    })
    .await;
}

#[tokio::test]
async fn a_replica_starts_without_redis_and_joins_when_it_comes() {
    let mut redis = TestRedis::standalone();
    redis.kill();
    let database = Database::default();
    let late = Replica::away(&redis, &database);
    late.cache.signals.ring(change(1));
    assert!(late.heard.has(change(1)));
    redis.restart();
    late.is_following().await;
    let other = Replica::start(&redis, &database).await;
    passes(&other, &late, change(2)).await;
}

#[tokio::test]
async fn a_signal_of_a_version_to_come_puts_everything_in_doubt() {
    let redis = TestRedis::standalone();
    let (one, _other) = two(&redis).await;
    one.heard.clear();
    let mut commands = String::from("SELECT 3\r\n");
    commands.push_str("XADD vpnpanel:{signals}:stream * signal moon-phase from nobody");
    redis.command(&commands);
    one.is_following().await;
}
