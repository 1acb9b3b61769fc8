//! The job: on time, late, by two at once, and not at all.

use vpnpanel_domain::{Limit, MicroBytes, UserStatus};
use vpnpanel_store::testing::TestStore;
use vpnpanel_store::{
    ChangeKind, Page, RollCursor, StoreError, UserFilter, UserPatch, on_each_database,
};

use super::support::{DAY, Member, lease, roll, set_clock};
use crate::changes::read_until;
use crate::fixture::new_user;

on_each_database!(
    the_next_period_becomes_the_current_one_and_lets_the_user_on_again,
    usage_that_comes_late_stays_in_its_period,
    readers_follow_the_clock_while_nobody_rolls_over,
    after_three_weeks_one_rollover_leads_to_the_window_that_holds_now,
    a_clock_that_goes_back_rolls_nobody_over_again,
    a_rollover_lifts_no_other_reason,
    who_has_lost_the_job_rolls_nobody_over,
    rollovers_and_edits_at_once_lose_nothing,
    deleted_users_are_left_alone,
);

async fn the_next_period_becomes_the_current_one_and_lets_the_user_on_again(test: TestStore) {
    let member = Member::daily(test, Limit::Bytes(1_000)).await;
    let before = member.periods().await;
    member.use_now(1_000).await;
    let limited = member.user().await;
    assert_eq!(limited.status, UserStatus::Limited);
    assert!(member.told().await.period.spent);
    assert_eq!(roll(&member.store, 10).await, 0, "nothing is due");

    let seen = member.store.log_tail().await.unwrap();
    assert_eq!(member.roll_at(before[1].ends_at_ms.unwrap()).await, 1);
    let rolled = member.user().await;
    assert_eq!(rolled.status, UserStatus::Active);
    assert_eq!(rolled.period.id, before[0].id);
    assert_eq!(rolled.version, limited.version, "nobody has changed it");
    let told = member.told().await;
    assert_eq!(told.period.id, before[0].id);
    assert!(!told.period.spent);
    let next = told.next_period.unwrap();
    assert!(before.iter().all(|period| period.id != next.id), "a new id");
    read_until(&member.store, seen, |it| {
        it.kind == ChangeKind::User && it.user_id == Some(member.id)
    })
    .await;
    assert_eq!(roll(&member.store, 10).await, 0);
}

async fn usage_that_comes_late_stays_in_its_period(test: TestStore) {
    let member = Member::daily(test, Limit::Bytes(1_000)).await;
    let before = member.periods().await;
    member.use_in(before[0].id, 30).await;
    member.roll_at(before[1].ends_at_ms.unwrap()).await;
    assert_eq!(
        member.user().await.period.used,
        MicroBytes::from_bytes(30),
        "what a node put there ahead of the job"
    );
    member.use_in(before[1].id, 2_000).await;
    let user = member.user().await;
    assert_eq!(
        user.status,
        UserStatus::Active,
        "an old period limits nobody"
    );
    assert_eq!(user.period.used, MicroBytes::from_bytes(30));
    let listed = member.periods().await;
    assert_eq!(listed[2].id, before[1].id);
    assert_eq!(listed[2].used, MicroBytes::from_bytes(2_000));
}

async fn of_status(member: &Member, status: UserStatus) -> usize {
    let filter = UserFilter {
        status: Some(status),
        ..UserFilter::default()
    };
    let listed = member
        .store
        .users(member.tenant, &filter, Page::first(10))
        .await
        .unwrap();
    assert!(listed.iter().all(|user| user.status == status));
    listed.len()
}

async fn readers_follow_the_clock_while_nobody_rolls_over(test: TestStore) {
    let member = Member::daily(test, Limit::Bytes(1_000)).await;
    let before = member.periods().await;
    member.use_now(1_000).await;
    assert_eq!(of_status(&member, UserStatus::Limited).await, 1);
    assert_eq!(of_status(&member, UserStatus::Active).await, 0);

    set_clock(&member.test, before[1].ends_at_ms.unwrap() + 1_000);
    let user = member.user().await;
    assert_eq!(
        (user.period.id, user.status),
        (before[0].id, UserStatus::Active)
    );
    assert_eq!(of_status(&member, UserStatus::Limited).await, 0);
    assert_eq!(of_status(&member, UserStatus::Active).await, 1);
    // Nodes were told of both, and are told the same still.
    assert_eq!(member.told().await.period.id, before[1].id);

    member.use_in(before[0].id, 1_000).await;
    assert_eq!(member.user().await.status, UserStatus::Limited);
    assert_eq!(of_status(&member, UserStatus::Limited).await, 1);
    assert_eq!(of_status(&member, UserStatus::Active).await, 0);
    assert!(member.told().await.next_period.unwrap().spent);
    // An edit meanwhile goes by what is in force.
    let raised = member
        .update(UserPatch {
            limit: Some(Limit::Bytes(1_500)),
            ..UserPatch::default()
        })
        .await;
    assert_eq!(raised.status, UserStatus::Active);
    // Longer than the next one lasts: what nodes count still goes there.
    set_clock(&member.test, before[0].ends_at_ms.unwrap() + 5 * DAY);
    assert_eq!(member.user().await.period.id, before[0].id);
}

async fn after_three_weeks_one_rollover_leads_to_the_window_that_holds_now(test: TestStore) {
    let member = Member::daily(test, Limit::Bytes(1_000)).await;
    let before = member.periods().await;
    let (current, next) = (before[1].clone(), before[0].clone());
    let back = next.ends_at_ms.unwrap() + 21 * DAY + 3_600_000;
    set_clock(&member.test, back);
    member.use_in(next.id, 700).await;
    assert_eq!(roll(&member.store, 10).await, 1);
    assert_eq!(roll(&member.store, 10).await, 0, "once is enough");
    let user = member.user().await;
    let now = member.store.now_ms();
    assert!(user.period.starts_at_ms <= now && now < user.period.ends_at_ms.unwrap());
    assert_eq!(
        user.period.ends_at_ms.unwrap() - user.period.starts_at_ms,
        DAY
    );
    assert_eq!(user.period.used, MicroBytes::ZERO);
    let listed = member.periods().await;
    let ids: Vec<_> = listed.iter().map(|it| it.id).collect();
    assert_eq!(ids[1..], [user.period.id, next.id, current.id]);
    assert_eq!(listed[0].starts_at_ms, user.period.ends_at_ms.unwrap());
    // The rest of what the node had there.
    member.use_in(next.id, 200).await;
    let listed = member.periods().await;
    assert_eq!(listed[2].used, MicroBytes::from_bytes(900));
    assert_eq!(listed[2].ends_at_ms, next.ends_at_ms);
}

async fn a_clock_that_goes_back_rolls_nobody_over_again(test: TestStore) {
    let member = Member::daily(test, Limit::Bytes(1_000)).await;
    let before = member.periods().await;
    let end = before[1].ends_at_ms.unwrap();
    assert_eq!(member.roll_at(end).await, 1);
    let rolled = member.periods().await;
    set_clock(&member.test, end - 3_600_000);
    assert_eq!(roll(&member.store, 10).await, 0);
    let user = member.user().await;
    assert_eq!(user.period.id, before[0].id, "that has begun");
    assert_eq!(member.roll_at(end).await, 0);
    assert_eq!(member.periods().await, rolled);
}

async fn a_rollover_lifts_no_other_reason(test: TestStore) {
    let member = Member::daily(test, Limit::Bytes(1_000)).await;
    member.use_now(1_000).await;
    let end = member.user().await.period.ends_at_ms.unwrap();
    member
        .update(UserPatch {
            expires_at_ms: Some(Some(end)),
            ..UserPatch::default()
        })
        .await;
    let set = member
        .store
        .set_user_disabled(member.tenant, member.id, true);
    set.await.unwrap();
    assert_eq!(member.roll_at(end).await, 1);
    assert_eq!(of_status(&member, UserStatus::Disabled).await, 1);
    let set = member
        .store
        .set_user_disabled(member.tenant, member.id, false);
    assert_eq!(set.await.unwrap().status, UserStatus::Expired);
    assert!(member.told().await.barred);
}

async fn who_has_lost_the_job_rolls_nobody_over(test: TestStore) {
    let member = Member::daily(test, Limit::None).await;
    let end = member.user().await.period.ends_at_ms.unwrap();
    set_clock(&member.test, end + 1_000);
    let lost = lease(&member.store).await;
    member.test.clock.advance(2 * 3_600_000);
    let held = lease(&member.store).await;
    let mut cursor = RollCursor::default();
    let refused = member.store.roll_periods(&lost, &mut cursor, 10).await;
    assert!(matches!(refused, Err(StoreError::LeaseLost)), "{refused:?}");
    assert_eq!(cursor, RollCursor::default());
    let rolled = member.store.roll_periods(&held, &mut cursor, 10).await;
    assert_eq!(rolled.unwrap(), Some(1));
    let done = member.store.roll_periods(&held, &mut cursor, 10).await;
    assert_eq!(done.unwrap(), None);
}

async fn rollovers_and_edits_at_once_lose_nothing(test: TestStore) {
    let member = Member::daily(test, Limit::Bytes(1_000)).await;
    let before = member.periods().await;
    set_clock(&member.test, before[1].ends_at_ms.unwrap() + 1_000);
    let edits = async {
        for limit in 1_001..1_020 {
            let patch = UserPatch {
                limit: Some(Limit::Bytes(limit)),
                ..UserPatch::default()
            };
            member.update(patch).await;
        }
    };
    let usage = async {
        for _ in 0..10 {
            member.use_in(before[1].id, 10).await;
            member.use_in(before[0].id, 10).await;
        }
    };
    let (other, third) = (member.test.another().await, member.store.clone());
    let rolls = async {
        while third.user(member.tenant, member.id).await.unwrap().limit != Limit::Bytes(1_019) {
            roll(&other, 1).await;
        }
        roll(&other, 1).await;
    };
    tokio::join!(edits, usage, rolls);
    let user = member.user().await;
    assert_eq!(user.period.id, before[0].id);
    let listed = member.periods().await;
    assert_eq!(listed.len(), 3);
    assert!(listed[..2].iter().all(|it| it.limit == Limit::Bytes(1_019)));
    assert_eq!(listed[1].used, MicroBytes::from_bytes(100));
    assert_eq!(listed[2].used, MicroBytes::from_bytes(100));
}

async fn deleted_users_are_left_alone(test: TestStore) {
    let member = Member::daily(test, Limit::None).await;
    let end = member.user().await.period.ends_at_ms.unwrap();
    let mut other = new_user("bob", [member.group]);
    other.reset_strategy = vpnpanel_domain::ResetStrategy::Daily;
    let made = member.store.create_user(member.tenant, other, None).await;
    let gone = member
        .store
        .delete_user(member.tenant, made.unwrap().id, None);
    gone.await.unwrap();
    assert_eq!(member.roll_at(end).await, 1);
}
