//! Tenants that may use so many bytes in a calendar month: looked at with each commit of usage.

use std::time::Duration;

use vpnpanel_domain::{Limit, MicroBytes, ResetStrategy, UserStatus};
use vpnpanel_store::testing::TestStore;
use vpnpanel_store::{
    Change, ChangeKind, JobEnd, LogPosition, TenantLimits, TenantMonth, TenantPatch,
    on_each_database,
};

use crate::changes::read_until;
use crate::fixture::World;
use crate::periods::support::{DAY, Member};

on_each_database!(
    users_of_a_tenant_that_has_used_up_its_month_are_stopped_until_it_ends,
    a_limit_that_is_raised_or_taken_away_lets_them_on,
    what_was_used_before_there_was_a_limit_counts,
    months_are_those_of_the_tenants_zone,
);

const JOB: &str = "begin-months";
const LEASE: Duration = Duration::from_secs(3_600);

async fn limit(world: &World, bytes: Option<u64>) {
    let patch = TenantPatch {
        limits: Some(TenantLimits {
            bytes,
            ..TenantLimits::default()
        }),
        ..TenantPatch::default()
    };
    let changed = world.store.update_tenant(world.tenant, patch, None).await;
    changed.unwrap();
}

async fn month(world: &World) -> TenantMonth {
    let month = world.store.tenant_month(world.tenant).await.unwrap();
    month.expect("a month")
}

/// A run of the job that begins months.
async fn begin(world: &World) -> u64 {
    let store = &world.store;
    store.register_job(JOB, "begins", LEASE).await.unwrap();
    store.make_job_due(JOB).await.unwrap();
    let lease = loop {
        match store.claim_job(&[JOB], "me", LEASE).await.unwrap() {
            Some(lease) => break lease,
            None => tokio::task::yield_now().await,
        }
    };
    let begun = store.begin_months(&lease, 10).await.unwrap();
    let end = JobEnd {
        error: None,
        due_in: Duration::ZERO,
    };
    store.finish_job(&lease, end).await.unwrap();
    begun
}

async fn users_of_a_tenant_that_has_used_up_its_month_are_stopped_until_it_ends(test: TestStore) {
    let member = Member::new(test, Limit::None, ResetStrategy::None).await;
    limit(&member.world, Some(1_000)).await;
    member.use_now(999).await;
    assert!(member.told().await.may_connect());
    assert_eq!(month(&member.world).await.over_at_ms, None);
    member.use_now(1).await;
    let over = month(&member.world).await;
    assert_eq!(over.used, MicroBytes::from_bytes(1_000));
    assert!(over.over_at_ms.is_some());
    let told = member.told().await;
    assert!(told.suspended && told.barred && !told.may_connect());
    // It is none of the user's doing, and none of its status.
    assert_eq!(member.user().await.status, UserStatus::Active);
    // What comes late is billed all the same.
    member.use_now(500).await;
    assert_eq!(
        month(&member.world).await.used,
        MicroBytes::from_bytes(1_500)
    );
    assert_eq!(begin(&member.world).await, 0);

    let end = over.ends_at_ms;
    crate::periods::support::set_clock(&member.test, end + 1);
    assert!(member.told().await.may_connect(), "by the clock alone");
    // What stopped them lies behind the log's end from here on.
    let told = |it: &Change| it.kind == ChangeKind::Suspension;
    read_until(&member.store, LogPosition::default(), told).await;
    let before = member.store.log_tail().await.unwrap();
    assert_eq!(begin(&member.world).await, 1);
    assert_eq!(begin(&member.world).await, 0);
    let (is_new, used) = {
        let month = month(&member.world).await;
        (month.starts_at_ms == end, month.used)
    };
    assert!(is_new);
    assert_eq!(used, MicroBytes::ZERO);
    read_until(&member.store, before, told).await;
}

async fn a_limit_that_is_raised_or_taken_away_lets_them_on(test: TestStore) {
    let member = Member::new(test, Limit::None, ResetStrategy::None).await;
    limit(&member.world, Some(1_000)).await;
    member.use_now(1_000).await;
    assert!(!member.told().await.may_connect());
    limit(&member.world, Some(2_000)).await;
    assert!(member.told().await.may_connect());
    limit(&member.world, Some(1_000)).await;
    assert!(!member.told().await.may_connect(), "at once");
    limit(&member.world, None).await;
    assert!(member.told().await.may_connect());
    assert_eq!(
        member.store.tenant_month(member.tenant).await.unwrap(),
        None
    );
}

async fn what_was_used_before_there_was_a_limit_counts(test: TestStore) {
    let member = Member::new(test, Limit::None, ResetStrategy::None).await;
    member.use_now(700).await;
    limit(&member.world, Some(1_000)).await;
    let now = month(&member.world).await;
    assert_eq!(now.used, MicroBytes::from_bytes(700));
    let used = member.store.tenant_use(member.tenant).await.unwrap();
    assert_eq!((used.users, used.month), (1, Some(now)));
    member.use_now(300).await;
    assert!(!member.told().await.may_connect());
}

async fn months_are_those_of_the_tenants_zone(test: TestStore) {
    let member = Member::new(test, Limit::None, ResetStrategy::None).await;
    let zone = TenantPatch {
        time_zone: Some("Asia/Kathmandu".parse().unwrap()),
        ..TenantPatch::default()
    };
    let (store, tenant) = (&member.store, member.tenant);
    store.update_tenant(tenant, zone, None).await.unwrap();
    limit(&member.world, Some(1_000)).await;
    let first = month(&member.world).await;
    // 5 hours 45 minutes east.
    assert_eq!((first.ends_at_ms + 20_700_000) % DAY, 0);
    member.use_now(1_000).await;
    // Three months later, nobody having been there; the next usage begins the month that it is in.
    member.test.clock.advance(90 * DAY);
    member.use_now(10).await;
    let now = month(&member.world).await;
    assert!(now.starts_at_ms <= store.now_ms() && store.now_ms() < now.ends_at_ms);
    assert!(now.used <= MicroBytes::from_bytes(10));
    assert!(member.told().await.may_connect());
}
