//! Rollovers at the places where calendars are awkward.

use vpnpanel_domain::{Limit, ResetStrategy};
use vpnpanel_store::testing::TestStore;
use vpnpanel_store::{TenantPatch, on_each_database};

use super::support::{periods, roll, set_clock};
use crate::fixture::{World, new_user};

on_each_database!(
    boundaries_keep_the_anniversary_over_short_months,
    a_leap_day_is_the_28th_in_other_years,
    days_are_local_ones_on_both_changes_of_the_clock,
    zones_off_the_hour_begin_their_days_off_the_hour,
);

fn at(text: &str) -> i64 {
    let instant: jiff::Timestamp = text.parse().unwrap();
    instant.as_millisecond()
}

/// Rolls a user that is made at `created` over at each boundary: they are `boundaries`.
async fn rolls_over(
    test: TestStore,
    strategy: ResetStrategy,
    zone: &str,
    created: &str,
    boundaries: &[&str],
) {
    let world = World::new(test).await;
    let patch = TenantPatch {
        time_zone: Some(zone.parse().unwrap()),
        ..TenantPatch::default()
    };
    let zoned = world.store.update_tenant(world.tenant, patch, None);
    zoned.await.unwrap();
    set_clock(&world.test, at(created));
    let mut new = new_user("ada", [world.group]);
    (new.limit, new.reset_strategy) = (Limit::Bytes(9), strategy);
    let user = world.store.create_user(world.tenant, new, None).await;
    let user = user.unwrap();
    for (number, boundary) in boundaries.iter().enumerate() {
        let boundary = at(boundary);
        let shown = world.store.user(world.tenant, user.id).await.unwrap();
        assert_eq!(shown.period.ends_at_ms, Some(boundary), "{number}");
        set_clock(&world.test, boundary - 30_000);
        assert_eq!(roll(&world.store, 10).await, 0, "{number}: not yet");
        set_clock(&world.test, boundary);
        assert_eq!(roll(&world.store, 10).await, 1, "{number}");
        let shown = world.store.user(world.tenant, user.id).await.unwrap();
        assert_eq!(shown.period.starts_at_ms, boundary, "{number}");
    }
    let mut listed = periods(&world.store, world.tenant, user.id).await;
    listed.reverse();
    assert_eq!(listed.len(), boundaries.len() + 2);
    for pair in listed.windows(2) {
        assert_eq!(pair[0].ends_at_ms, Some(pair[1].starts_at_ms));
    }
}

async fn boundaries_keep_the_anniversary_over_short_months(test: TestStore) {
    let boundaries = [
        "2027-02-27T23:00:00Z",
        "2027-03-30T22:00:00Z",
        "2027-04-29T22:00:00Z",
        "2027-05-30T22:00:00Z",
    ];
    let created = "2027-01-31T15:00:00Z";
    rolls_over(
        test,
        ResetStrategy::Monthly,
        "Europe/Berlin",
        created,
        &boundaries,
    )
    .await;
}

async fn a_leap_day_is_the_28th_in_other_years(test: TestStore) {
    let boundaries = [
        "2029-02-28T00:00:00Z",
        "2030-02-28T00:00:00Z",
        "2031-02-28T00:00:00Z",
        "2032-02-29T00:00:00Z",
    ];
    let created = "2028-02-29T12:00:00Z";
    rolls_over(test, ResetStrategy::Yearly, "UTC", created, &boundaries).await;
}

async fn days_are_local_ones_on_both_changes_of_the_clock(test: TestStore) {
    let boundaries = [
        "2027-03-27T23:00:00Z",
        "2027-03-28T22:00:00Z",
        "2027-03-29T22:00:00Z",
    ];
    let created = "2027-03-27T10:00:00Z";
    rolls_over(
        test,
        ResetStrategy::Daily,
        "Europe/Berlin",
        created,
        &boundaries,
    )
    .await;
    let boundaries = ["2027-10-30T22:00:00Z", "2027-10-31T23:00:00Z"];
    let created = "2027-10-30T10:00:00Z";
    let test = TestStore::sqlite().await;
    rolls_over(
        test,
        ResetStrategy::Daily,
        "Europe/Berlin",
        created,
        &boundaries,
    )
    .await;
}

async fn zones_off_the_hour_begin_their_days_off_the_hour(test: TestStore) {
    let boundaries = ["2027-01-15T18:15:00Z", "2027-01-22T18:15:00Z"];
    let created = "2027-01-09T10:00:00Z";
    rolls_over(
        test,
        ResetStrategy::Weekly,
        "Asia/Kathmandu",
        created,
        &boundaries,
    )
    .await;
}
