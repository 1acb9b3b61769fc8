//! Periods: made in advance, rolled over on time, late or not at all, and never billed twice.

mod calendar;
mod histories;
mod leases;
mod rollover;
pub(crate) mod support;

use vpnpanel_domain::{Limit, MicroBytes, ResetStrategy};
use vpnpanel_store::testing::TestStore;
use vpnpanel_store::{Page, StoreError, TenantPatch, UserPatch, on_each_database};

use support::{DAY, Member};

on_each_database!(
    a_period_and_the_next_are_made_in_advance_and_announced,
    another_strategy_holds_behind_the_announced_periods,
    a_period_without_an_end_gets_one_at_once,
    another_zone_moves_no_announced_boundary,
    a_limit_holds_in_the_current_period_and_the_next,
    a_reset_begins_anew_by_the_strategy_that_the_user_has,
    periods_are_listed_page_by_page,
    lists_and_sweeps_of_periods_scan_no_table,
);

async fn a_period_and_the_next_are_made_in_advance_and_announced(test: TestStore) {
    let member = Member::daily(test, Limit::Bytes(500)).await;
    let user = member.user().await;
    assert_eq!(user.reset_strategy, ResetStrategy::Daily);
    assert_eq!(user.period.reset_strategy, ResetStrategy::Daily);
    let periods = member.periods().await;
    let [next, current] = &periods[..] else {
        panic!("{periods:?}")
    };
    assert_eq!(*current, user.period);
    assert_eq!(Some(next.starts_at_ms), current.ends_at_ms);
    assert_eq!(next.ends_at_ms.unwrap() - next.starts_at_ms, DAY);
    assert_eq!(next.limit, Limit::Bytes(500));
    let told = member.told().await;
    assert_eq!(
        (told.period.id, told.period.ends_at_ms),
        (current.id, current.ends_at_ms)
    );
    let told = told.next_period.unwrap();
    assert_eq!((told.id, told.ends_at_ms), (next.id, next.ends_at_ms));
}

async fn another_strategy_holds_behind_the_announced_periods(test: TestStore) {
    let member = Member::daily(test, Limit::None).await;
    let before = member.periods().await;
    let changed = member.change_strategy(ResetStrategy::Monthly).await;
    assert_eq!(changed.reset_strategy, ResetStrategy::Monthly);
    assert_eq!(changed.period.reset_strategy, ResetStrategy::Daily);
    assert_eq!(member.periods().await, before);

    member.roll_at(before[1].ends_at_ms.unwrap()).await;
    let after = member.periods().await;
    assert_eq!(after[1].id, before[0].id);
    assert_eq!(after[1].ends_at_ms, before[0].ends_at_ms);
    assert_eq!(Some(after[0].starts_at_ms), before[0].ends_at_ms);
    assert_eq!(after[0].reset_strategy, ResetStrategy::Monthly);
    let days = (after[0].ends_at_ms.unwrap() - after[0].starts_at_ms) / DAY;
    assert!((28..=31).contains(&days), "a whole month: {days}");
    // Taken back before anybody was told: what follows is the month that was announced.
    member.change_strategy(ResetStrategy::Daily).await;
    assert_eq!(member.periods().await, after);
}

async fn a_period_without_an_end_gets_one_at_once(test: TestStore) {
    let member = Member::new(test, Limit::Bytes(9), ResetStrategy::None).await;
    let before = member.user().await;
    assert_eq!(before.period.ends_at_ms, None);
    assert_eq!(member.told().await.next_period, None);
    member.test.clock.advance(5 * DAY);
    let now = member.store.now_ms();
    let changed = member
        .change_strategy(ResetStrategy::Rolling { days: 30 })
        .await;
    assert_eq!(changed.period.id, before.period.id);
    assert_eq!(changed.period.starts_at_ms, before.period.starts_at_ms);
    let left = changed.period.ends_at_ms.unwrap() - now;
    assert!((30 * DAY..30 * DAY + 60_000).contains(&left), "{left}");
    let told = member.told().await;
    assert_eq!(told.period.ends_at_ms, changed.period.ends_at_ms);
    assert!(told.next_period.is_some());

    // And back: the last one that is announced is followed by one without an end, which gets it
    // again when the strategy changes while it is announced.
    member.change_strategy(ResetStrategy::None).await;
    member.roll_at(changed.period.ends_at_ms.unwrap()).await;
    let endless = member.periods().await[0].clone();
    assert_eq!(endless.ends_at_ms, None);
    member.change_strategy(ResetStrategy::Weekly).await;
    let ended = member.periods().await[0].clone();
    assert_eq!(ended.id, endless.id);
    let days = (ended.ends_at_ms.unwrap() - ended.starts_at_ms + DAY - 1) / DAY;
    assert_eq!(days, 7);
}

async fn another_zone_moves_no_announced_boundary(test: TestStore) {
    let member = Member::daily(test, Limit::None).await;
    let before = member.periods().await;
    let patch = TenantPatch {
        time_zone: Some("Asia/Kathmandu".parse().unwrap()),
        ..TenantPatch::default()
    };
    let changed = member.store.update_tenant(member.tenant, patch, None);
    changed.await.unwrap();
    assert_eq!(member.periods().await, before);
    member.roll_at(before[1].ends_at_ms.unwrap()).await;
    let after = member.periods().await;
    assert_eq!(after[1].id, before[0].id);
    assert_eq!(Some(after[0].starts_at_ms), before[0].ends_at_ms);
    // 18:15 UTC is midnight there.
    let boundary = after[0].ends_at_ms.unwrap();
    assert_eq!(boundary.rem_euclid(DAY), 18 * 3_600_000 + 15 * 60_000);
}

async fn a_limit_holds_in_the_current_period_and_the_next(test: TestStore) {
    let member = Member::daily(test, Limit::Bytes(1_000)).await;
    member.use_now(700).await;
    let patch = UserPatch {
        limit: Some(Limit::Bytes(600)),
        ..UserPatch::default()
    };
    member.update(patch).await;
    for period in member.periods().await {
        assert_eq!(period.limit, Limit::Bytes(600));
    }
    let told = member.told().await;
    assert!(told.period.spent && !told.barred);
    assert!(!told.next_period.unwrap().spent, "that one is not touched");
}

async fn a_reset_begins_anew_by_the_strategy_that_the_user_has(test: TestStore) {
    let member = Member::daily(test, Limit::Bytes(1_000)).await;
    let before = member.periods().await;
    member.use_now(400).await;
    member
        .change_strategy(ResetStrategy::Rolling { days: 2 })
        .await;
    let reset = member
        .store
        .reset_user_usage(member.tenant, member.id, None)
        .await
        .unwrap();
    assert_eq!(reset.period.used, MicroBytes::ZERO);
    assert_eq!(
        reset.period.reset_strategy,
        ResetStrategy::Rolling { days: 2 }
    );
    let length = reset.period.ends_at_ms.unwrap() - reset.period.starts_at_ms;
    assert_eq!(length, 2 * DAY);
    let listed: Vec<_> = member.periods().await.iter().map(|it| it.id).collect();
    assert_eq!(listed.len(), 3, "the one that never began is left out");
    assert!(!listed.contains(&before[0].id));
    // A silent node rolled over into it all the same.
    member.use_in(before[0].id, 300).await;
    member.use_in(before[1].id, 50).await;
    let listed = member.periods().await;
    let used = |id| {
        let period = listed.iter().find(|it| it.id == id);
        period.unwrap().used.floor_bytes()
    };
    assert_eq!((used(before[0].id), used(before[1].id)), (300, 450));
    assert_eq!(member.user().await.period.used, MicroBytes::ZERO);
}

async fn periods_are_listed_page_by_page(test: TestStore) {
    let member = Member::daily(test, Limit::None).await;
    for _ in 0..5 {
        let end = member.user().await.period.ends_at_ms.unwrap();
        member.roll_at(end).await;
    }
    let all = member.periods().await;
    assert_eq!(all.len(), 7);
    assert!(all.is_sorted_by(|newer, older| newer.starts_at_ms > older.starts_at_ms));
    let mut paged = Vec::new();
    let mut page = Page::first(3);
    loop {
        let part = member
            .store
            .user_periods(member.tenant, member.id, page)
            .await
            .unwrap();
        let Some(last) = part.last() else { break };
        page = Page::after(3, last.id);
        paged.extend(part);
    }
    assert_eq!(paged, all);
    let missing =
        member
            .store
            .user_periods(member.tenant, vpnpanel_store::fresh_id(), Page::first(1));
    assert!(matches!(missing.await, Err(StoreError::NotFound("user"))));
}

async fn lists_and_sweeps_of_periods_scan_no_table(test: TestStore) {
    for plan in test.period_plans().await {
        let whole = plan.lines().find(|line| {
            let line = line.trim_start_matches([' ', '-', '>']);
            ["Seq Scan", "SCAN"].iter().any(|it| line.starts_with(it))
                // the union that was made of what indexes found
                && !["SCAN s", "SCAN (subquery"].iter().any(|it| line.starts_with(it))
        });
        assert_eq!(whole, None, "of\n{plan}");
    }
}
