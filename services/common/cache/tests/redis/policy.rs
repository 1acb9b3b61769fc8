//! What roles permit, remembered among replicas.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use async_trait::async_trait;
use vpnpanel_auth::{
    CachedPolicy, PermissionSet, Policy, SourceError,
    policy_cache::{RoleTicket, SharedRole},
};
use vpnpanel_cache::testing::{TestRedis, eventually};

use crate::replica::{Database, Replica};

/// Permits one thing more each time it is asked.
#[derive(Default)]
struct Growing(AtomicUsize);

#[async_trait]
impl Policy for Growing {
    async fn permissions(&self, role: &str) -> Result<Option<Arc<PermissionSet>>, SourceError> {
        let asked = self.0.fetch_add(1, Ordering::SeqCst) + 1;
        let names = (0..asked).map(|n| format!("{role}.{n}"));
        Ok((role != "unknown").then(|| Arc::new(names.collect())))
    }
}

async fn ticket(replica: &Replica, role: &str) -> RoleTicket {
    let mut found = None;
    eventually("the shared policy is asked", async || {
        match replica.cache.policy.read(role).await {
            SharedRole::Unknown { ticket } => found = Some(ticket),
            SharedRole::Known { .. } | SharedRole::Away => {}
        }
        found.is_some()
    })
    .await;
    found.unwrap()
}

fn set(name: &str) -> PermissionSet {
    [name.to_owned()].into()
}

async fn known(replica: &Replica, role: &str) -> Option<Option<PermissionSet>> {
    match replica.cache.policy.read(role).await {
        SharedRole::Known { permissions, .. } => Some(permissions.map(|set| (*set).clone())),
        SharedRole::Unknown { .. } | SharedRole::Away => None,
    }
}

#[tokio::test]
async fn replicas_share_an_answer_and_a_change_is_seen_by_all_of_them() {
    for redis in [TestRedis::standalone(), TestRedis::cluster()] {
        let database = Database::default();
        let (one, other) = (
            Replica::start(&redis, &database).await,
            Replica::start(&redis, &database).await,
        );
        ticket(&one, "probe").await;
        ticket(&other, "probe").await;
        let truth = Arc::new(Growing::default());
        let policy = |replica: &Replica| {
            CachedPolicy::new(
                Arc::clone(&truth) as _,
                Arc::clone(&replica.cache.policy),
                Arc::clone(&replica.cache.signals),
            )
        };
        let (here, there) = (policy(&one), policy(&other));
        let count =
            async |policy: &CachedPolicy| policy.permissions("owner").await.unwrap().unwrap().len();
        assert_eq!(count(&here).await, 1);
        assert!(count(&there).await <= 2);
        let before = truth.0.load(Ordering::SeqCst);
        here.forget().await;
        assert!(count(&here).await > before);
        eventually("the other replica asks again", async || {
            count(&there).await > before
        })
        .await;
    }
}

#[tokio::test]
async fn what_was_asked_before_a_change_is_not_remembered_after_it() {
    let redis = TestRedis::standalone();
    let database = Database::default();
    let one = Replica::start(&redis, &database).await;
    let other = Replica::start(&redis, &database).await;
    ticket(&other, "probe").await;
    let old = ticket(&one, "owner").await;
    other.cache.policy.changed().await;
    one.cache
        .policy
        .write("owner", Some(&set("old.write")), old)
        .await;
    assert_eq!(known(&one, "owner").await, None);
    let new = ticket(&one, "owner").await;
    one.cache.policy.write("owner", None, new).await;
    assert_eq!(known(&other, "owner").await, Some(None), "no such role");
}

#[tokio::test]
async fn an_answer_that_arrives_late_is_not_believed_for_longer() {
    let redis = TestRedis::standalone();
    let replica = Replica::start(&redis, &Database::default()).await;
    let mut ticket = ticket(&replica, "owner").await;
    ticket.asked_ms -= 5_000;
    replica
        .cache
        .policy
        .write("owner", Some(&set("a.b")), ticket)
        .await;
    assert_eq!(known(&replica, "owner").await, None);
}

#[tokio::test]
async fn who_can_write_to_redis_cannot_grant_anything() {
    let redis = TestRedis::standalone();
    let replica = Replica::start(&redis, &Database::default()).await;
    let first = ticket(&replica, "auditor").await;
    let all = set("tenant.write");
    replica.cache.policy.write("owner", Some(&all), first).await;
    assert_eq!(known(&replica, "owner").await, Some(Some(all)));
    // Another role's entry, and one of their own.
    redis.command("COPY vpnpanel:{policy}:role:owner vpnpanel:{policy}:role:auditor REPLACE");
    assert_eq!(known(&replica, "auditor").await, None);
    redis.command("SET vpnpanel:{policy}:role:auditor [\"tenant.write\"] PX 900");
    assert_eq!(known(&replica, "auditor").await, None);
}
