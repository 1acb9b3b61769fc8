//! Plans, users who are given them, and what follows when one is over.

use std::time::Duration;

use vpnpanel_domain::{
    Limit, NextPlanStart, PlanId, ResetStrategy, Speed, SpeedLimit, UserId, UserStatus,
};
use vpnpanel_store::testing::TestStore;
use vpnpanel_store::{
    JobEnd, JobLease, NewPlan, NewUser, NextPlan, Page, Plan, PlanCursor, PlanFilter, PlanPatch,
    PlanTerms, Store, StoreError, User, UserFilter, UserPatch, fresh_id, on_each_database,
};

use crate::fixture::{World, new_group, new_user};
use crate::periods::support::{DAY, Member, roll};

on_each_database!(
    a_plan_is_made_changed_and_deleted,
    a_plan_in_use_is_archived_and_comes_back,
    a_plan_being_deleted_is_given_to_nobody,
    an_archived_plan_is_given_to_those_who_wait_alone,
    a_user_is_given_what_its_plan_says,
    a_plan_follows_at_the_end_of_a_period_in_the_period_that_has_begun,
    a_plan_follows_once_bytes_or_time_are_used_up,
    a_plan_that_follows_at_its_own_end_waits_for_it,
    a_plan_that_names_itself_renews_also_after_three_weeks,
    a_disabled_user_moves_on_when_it_is_enabled,
    a_next_plan_is_given_once_by_two_runs,
    terms_of_a_plan_that_was_changed_since_are_given_to_nobody,
);

#[tokio::test]
async fn lists_of_plans_and_operations_are_read_by_indexes() {
    for test in [TestStore::sqlite().await, TestStore::postgres().await] {
        for plan in test.plan_plans().await {
            assert!(
                !plan.contains("Seq Scan") && !plan.contains("SCAN"),
                "{plan}"
            );
        }
    }
}

const JOB: &str = "give-next-plans";
const LEASE: Duration = Duration::from_secs(3_600);
const GIB: u64 = 1 << 30;

/// The lease on the job that gives next plans.
async fn lease(store: &Store) -> JobLease {
    store.register_job(JOB, "gives", LEASE).await.unwrap();
    store.make_job_due(JOB).await.unwrap();
    loop {
        match store.claim_job(&[JOB], "me", LEASE).await.unwrap() {
            Some(lease) => return lease,
            None => tokio::task::yield_now().await,
        }
    }
}

/// A run of the job; returns how many users it gave their plans.
pub(crate) async fn follow(store: &Store) -> u64 {
    let lease = lease(store).await;
    let (mut cursor, mut given) = (PlanCursor::default(), 0);
    loop {
        let found = store.users_with_plan_over(&mut cursor, 2).await.unwrap();
        if found.is_empty() {
            break;
        }
        for over in found {
            given += u64::from(store.give_next_plan(&lease, over).await.unwrap());
        }
    }
    let end = JobEnd {
        error: None,
        due_in: Duration::ZERO,
    };
    store.finish_job(&lease, end).await.unwrap();
    given
}

pub(crate) async fn new_plan(world: &World, name: &str, terms: PlanTerms) -> Plan {
    let new = NewPlan {
        id: fresh_id(),
        tenant_id: world.tenant,
        name: name.to_owned(),
        note: String::new(),
        terms,
    };
    world.store.create_plan(new, None).await.unwrap()
}

fn bytes(limit: u64) -> PlanTerms {
    PlanTerms {
        limit: Limit::Bytes(limit),
        ..PlanTerms::default()
    }
}

fn then(plan_id: PlanId, start: NextPlanStart) -> NextPlan {
    NextPlan { plan_id, start }
}

async fn wait_for(member: &Member, plan: &Plan, start: NextPlanStart) -> User {
    member
        .update(UserPatch {
            next_plan: Some(Some(then(plan.id, start))),
            ..UserPatch::default()
        })
        .await
}

async fn given(world: &World, user: UserId, plan: &Plan) -> User {
    let changed = world
        .store
        .change_user_plan(world.tenant, user, plan.id, None, None);
    changed.await.unwrap()
}

async fn a_plan_is_made_changed_and_deleted(test: TestStore) {
    let world = World::new(test).await;
    let (store, tenant) = (&world.store, world.tenant);
    let terms = PlanTerms {
        limit: Limit::Bytes(GIB),
        reset_strategy: ResetStrategy::Monthly,
        duration_ms: Some(90 * DAY),
        on_first_use: true,
        speed: SpeedLimit {
            up: Speed::nearest(1_000_000),
            down: Speed::nearest(2_000_000),
        },
        device_limit: 3,
        group_ids: [world.group].into(),
        next: None,
    };
    let plan = new_plan(&world, "Month", terms.clone()).await;
    assert_eq!(plan.terms, terms);
    assert_eq!(store.plan(tenant, plan.id).await.unwrap(), plan);
    let again = NewPlan {
        id: fresh_id(),
        tenant_id: tenant,
        name: "MONTH".to_owned(),
        note: String::new(),
        terms: PlanTerms::default(),
    };
    let again = store.create_plan(again, None).await;
    assert!(matches!(
        again,
        Err(StoreError::AlreadyExists { what: "name" })
    ));

    let patch = PlanPatch {
        name: Some("Quarter".to_owned()),
        next: Some(Some(then(plan.id, NextPlanStart::PlanEnd))),
        group_ids: Some([].into()),
        ..PlanPatch::default()
    };
    let stale = store.update_plan(tenant, plan.id, patch.clone(), Some(7));
    assert!(matches!(stale.await, Err(StoreError::StaleVersion)));
    let changed = store.update_plan(tenant, plan.id, patch, Some(1)).await;
    let changed = changed.unwrap();
    assert_eq!(changed.version, 2);
    assert_eq!(changed.terms.limit, terms.limit);
    assert!(changed.terms.group_ids.is_empty());
    let next = changed.terms.next.unwrap();
    assert_eq!(
        (next.plan_id, next.start),
        (plan.id, NextPlanStart::PlanEnd)
    );
    let endless = PlanPatch {
        duration_ms: Some(None),
        ..PlanPatch::default()
    };
    let refused = store.update_plan(tenant, plan.id, endless, None).await;
    assert!(
        matches!(refused, Err(StoreError::InvalidArgument { .. })),
        "a first use begins something that ends"
    );

    // That it names itself keeps it from nothing.
    let gone = store.delete_plan(tenant, plan.id, Some(2)).await.unwrap();
    assert_eq!(gone, None);
    let gone = store.plan(tenant, plan.id).await;
    assert!(matches!(gone, Err(StoreError::NotFound("plan"))));
}

async fn listed(world: &World, archived: bool, prefix: &str) -> Vec<PlanId> {
    let filter = PlanFilter {
        name_prefix: Some(prefix.to_owned()),
        archived,
    };
    let (mut ids, mut page) = (Vec::new(), Page::first(1));
    loop {
        let found = world.store.plans(world.tenant, &filter, page).await;
        let Some(plan) = found.unwrap().pop() else {
            return ids;
        };
        ids.push(plan.id);
        page = Page::after(1, plan.id);
    }
}

async fn a_plan_in_use_is_archived_and_comes_back(test: TestStore) {
    let world = World::new(test).await;
    let (store, tenant) = (&world.store, world.tenant);
    let plan = new_plan(&world, "month", bytes(GIB)).await;
    let other = new_plan(&world, "more", bytes(2 * GIB)).await;
    let user = NewUser {
        plan_id: Some(plan.id),
        ..new_user("ada", [])
    };
    let user = store.create_user(tenant, user, None).await.unwrap();
    assert_eq!(user.plan_id, Some(plan.id));
    let of_plan = UserFilter {
        plan_id: Some(plan.id),
        ..UserFilter::default()
    };
    let users = store.users(tenant, &of_plan, Page::first(10)).await;
    assert_eq!(users.unwrap(), std::slice::from_ref(&user));

    let archived = store.delete_plan(tenant, plan.id, None).await.unwrap();
    assert!(archived.unwrap().archived_at_ms.is_some());
    assert_eq!(listed(&world, false, "M").await, [other.id]);
    assert_eq!(listed(&world, true, "m").await, [plan.id, other.id]);
    assert_eq!(listed(&world, true, "mon").await, [plan.id]);
    // Its name is free, and taken when it comes back.
    let second = new_plan(&world, "month", bytes(1)).await;
    let back = store.undelete_plan(tenant, plan.id).await;
    assert!(matches!(back, Err(StoreError::AlreadyExists { .. })));
    store.delete_plan(tenant, second.id, None).await.unwrap();
    let back = store.undelete_plan(tenant, plan.id).await.unwrap();
    assert_eq!(back.archived_at_ms, None);
    // A deleted user may come back with it.
    store.delete_user(tenant, user.id, None).await.unwrap();
    let archived = store.delete_plan(tenant, plan.id, None).await.unwrap();
    assert!(archived.is_some());
}

async fn terms_of_a_plan_that_was_changed_since_are_given_to_nobody(test: TestStore) {
    let world = World::new(test).await;
    let (store, tenant) = (&world.store, world.tenant);
    let read = new_plan(&world, "month", bytes(GIB)).await;
    let patch = PlanPatch {
        note: Some("other".to_owned()),
        ..PlanPatch::default()
    };
    let changed = store.update_plan(tenant, read.id, patch, None).await;
    let of = |plan: &Plan| NewUser {
        plan_id: Some(plan.id),
        plan_version: Some(plan.version),
        ..new_user("ada", [])
    };
    let made = store.create_user(tenant, of(&read), None).await;
    assert!(matches!(made, Err(StoreError::StaleVersion)), "{made:?}");
    let made = store.create_user(tenant, of(&changed.unwrap()), None).await;
    made.unwrap();
}

async fn a_plan_being_deleted_is_given_to_nobody(test: TestStore) {
    let world = World::new(test).await;
    for number in 0..10 {
        let (store, tenant) = (world.store.clone(), world.tenant);
        let plan = new_plan(&world, &format!("plan{number}"), bytes(GIB)).await;
        let user = NewUser {
            plan_id: Some(plan.id),
            ..new_user(&format!("user{number}"), [])
        };
        let (made, gone) = tokio::join!(
            store.create_user(tenant, user, None),
            store.delete_plan(tenant, plan.id, None)
        );
        match (made, gone.unwrap()) {
            // First the user, which archived it; or first the deletion.
            (Ok(_), Some(_)) => {}
            (Err(StoreError::InvalidReference { .. }), None) => {}
            other => panic!("{other:?}"),
        }
    }
}

async fn an_archived_plan_is_given_to_those_who_wait_alone(test: TestStore) {
    let member = Member::new(test, Limit::Bytes(1_000), ResetStrategy::None).await;
    let plan = new_plan(&member.world, "next", bytes(GIB)).await;
    wait_for(&member, &plan, NextPlanStart::FirstEnd).await;
    let (store, tenant) = (&member.store, member.tenant);
    let archived = store.delete_plan(tenant, plan.id, None).await.unwrap();
    assert!(archived.is_some());
    let refused = store.change_user_plan(tenant, member.id, plan.id, None, None);
    assert!(matches!(refused.await, Err(StoreError::PlanArchived)));
    let new = NewUser {
        plan_id: Some(plan.id),
        ..new_user("bob", [])
    };
    let refused = store.create_user(tenant, new, None).await;
    assert!(matches!(refused, Err(StoreError::PlanArchived)));
    member.use_now(1_000).await;
    assert_eq!(follow(store).await, 1);
    assert_eq!(member.user().await.plan_id, Some(plan.id));
}

async fn a_user_is_given_what_its_plan_says(test: TestStore) {
    let member = Member::daily(test, Limit::Bytes(1_000)).await;
    let other = new_group(&member.store, member.tenant, "other", []).await;
    member.use_now(600).await;
    let terms = PlanTerms {
        limit: Limit::Bytes(5_000),
        reset_strategy: ResetStrategy::Monthly,
        duration_ms: Some(30 * DAY),
        speed: SpeedLimit {
            up: Speed::nearest(64_000),
            down: Speed::UNLIMITED,
        },
        device_limit: 2,
        group_ids: [other].into(),
        ..PlanTerms::default()
    };
    let plan = new_plan(&member.world, "month", terms.clone()).await;
    let old = member.user().await.period.id;
    let now = member.store.now_ms();
    let user = given(&member.world, member.id, &plan).await;
    assert_eq!((user.limit, user.speed), (terms.limit, terms.speed));
    assert_eq!(user.reset_strategy, ResetStrategy::Monthly);
    assert_eq!(user.group_ids, [other].into());
    assert_eq!((user.device_limit, user.plan_id), (2, Some(plan.id)));
    let end = user.expires_at_ms.unwrap();
    assert!((now..now + 60_000).contains(&(end - 30 * DAY)));
    assert_ne!(user.period.id, old);
    assert_eq!(user.period.used.floor_bytes(), 0);
    assert_eq!(user.period.reset_strategy, ResetStrategy::Monthly);

    // No groups: those that it has.
    let free = new_plan(&member.world, "free", PlanTerms::default()).await;
    let user = given(&member.world, member.id, &free).await;
    assert_eq!(user.group_ids, [other].into());
    assert_eq!((user.limit, user.expires_at_ms), (Limit::None, None));
}

async fn a_plan_follows_at_the_end_of_a_period_in_the_period_that_has_begun(test: TestStore) {
    let member = Member::daily(test, Limit::Bytes(1_000)).await;
    let terms = PlanTerms {
        reset_strategy: ResetStrategy::Daily,
        duration_ms: Some(10 * DAY),
        ..bytes(9_000)
    };
    let plan = new_plan(&member.world, "more", terms).await;
    let user = wait_for(&member, &plan, NextPlanStart::FirstEnd).await;
    let told = member.told().await;
    let (end, next) = (user.period.ends_at_ms.unwrap(), told.next_period.unwrap());
    assert_eq!(follow(&member.store).await, 0, "nothing is over");

    // A node is ahead of everybody else in the next period.
    crate::periods::support::set_clock(&member.test, end + 500);
    member.use_in(next.id, 400).await;
    assert_eq!(follow(&member.store).await, 0, "nobody has rolled over");
    assert_eq!(member.roll_at(end).await, 1);
    assert_eq!(follow(&member.store).await, 1);
    let user = member.user().await;
    assert_eq!(user.plan_id, Some(plan.id));
    assert_eq!(user.period.id, next.id, "what was announced stands");
    assert_eq!(user.period.used.floor_bytes(), 400);
    assert_eq!(user.period.limit, Limit::Bytes(9_000));
    assert_eq!(
        user.expires_at_ms,
        Some(end + 10 * DAY),
        "from its beginning"
    );
    assert_eq!(user.next_plan, None);
    assert_eq!(follow(&member.store).await, 0);

    // Another strategy begins with periods of its own.
    let monthly = PlanTerms {
        reset_strategy: ResetStrategy::Monthly,
        ..bytes(9_000)
    };
    let monthly = new_plan(&member.world, "monthly", monthly).await;
    wait_for(&member, &monthly, NextPlanStart::FirstEnd).await;
    let (before, end) = (user.period.id, user.period.ends_at_ms.unwrap());
    member.roll_at(end).await;
    assert_eq!(follow(&member.store).await, 1);
    let user = member.user().await;
    assert_ne!(user.period.id, before);
    assert!(user.period.starts_at_ms > end);
    assert_eq!(user.period.reset_strategy, ResetStrategy::Monthly);
}

async fn a_plan_follows_once_bytes_or_time_are_used_up(test: TestStore) {
    let member = Member::new(test, Limit::Bytes(1_000), ResetStrategy::None).await;
    let terms = PlanTerms {
        duration_ms: Some(DAY),
        ..bytes(2_000)
    };
    let plan = new_plan(&member.world, "pack", terms).await;
    wait_for(&member, &plan, NextPlanStart::FirstEnd).await;
    member.use_now(999).await;
    assert_eq!(follow(&member.store).await, 0);
    member.use_now(1).await;
    assert_eq!(member.user().await.status, UserStatus::Limited);
    assert!(!member.told().await.may_connect() || member.told().await.period.spent);
    assert_eq!(follow(&member.store).await, 1);
    let user = member.user().await;
    assert_eq!(
        (user.status, user.plan_id),
        (UserStatus::Active, Some(plan.id))
    );
    assert_eq!(user.period.used.floor_bytes(), 0);

    let second = new_plan(&member.world, "second", bytes(3_000)).await;
    wait_for(&member, &second, NextPlanStart::PlanEnd).await;
    // Three weeks after the end nobody has been there.
    member.test.clock.advance(22 * DAY);
    let user = member.user().await;
    assert_eq!(user.status, UserStatus::Expired);
    crate::statuses::expire(&member.store).await;
    assert_eq!(follow(&member.store).await, 1);
    let user = member.user().await;
    assert_eq!(
        (user.status, user.plan_id),
        (UserStatus::Active, Some(second.id))
    );
    assert!(
        user.period.starts_at_ms >= member.store.now_ms() - 60_000,
        "nobody loses days of a plan to a scheduler that was away"
    );
}

async fn a_plan_that_follows_at_its_own_end_waits_for_it(test: TestStore) {
    let member = Member::daily(test, Limit::Bytes(1_000)).await;
    let plan = new_plan(&member.world, "next", bytes(5_000)).await;
    wait_for(&member, &plan, NextPlanStart::PlanEnd).await;
    member.use_now(1_000).await;
    assert_eq!(follow(&member.store).await, 0, "bytes come back tomorrow");
    let end = member.user().await.period.ends_at_ms.unwrap();
    member.roll_at(end).await;
    assert_eq!(follow(&member.store).await, 0);
    assert_eq!(member.user().await.status, UserStatus::Active);
    let now = member.store.now_ms();
    member
        .update(UserPatch {
            expires_at_ms: Some(Some(now + 1)),
            ..UserPatch::default()
        })
        .await;
    member.test.clock.advance(2);
    crate::statuses::expire(&member.store).await;
    assert_eq!(follow(&member.store).await, 1);
    assert_eq!(member.user().await.plan_id, Some(plan.id));
}

async fn a_plan_that_names_itself_renews_also_after_three_weeks(test: TestStore) {
    let member = Member::daily(test, Limit::None).await;
    let terms = PlanTerms {
        reset_strategy: ResetStrategy::Daily,
        duration_ms: Some(7 * DAY),
        ..bytes(1_000)
    };
    let plan = new_plan(&member.world, "week", terms).await;
    let patch = PlanPatch {
        next: Some(Some(then(plan.id, NextPlanStart::PlanEnd))),
        ..PlanPatch::default()
    };
    let (store, tenant) = (&member.store, member.tenant);
    store
        .update_plan(tenant, plan.id, patch, None)
        .await
        .unwrap();
    let first = given(&member.world, member.id, &plan).await;
    assert_eq!(first.next_plan.unwrap().plan_id, plan.id);
    member.test.clock.advance(21 * DAY + 3_600_000);
    // In whichever order the jobs come back.
    assert_eq!(roll(store, 10).await, 1);
    crate::statuses::expire(store).await;
    let now = store.now_ms();
    assert_eq!(follow(store).await, 1);
    assert_eq!(follow(store).await, 0, "once for all that was missed");
    let user = member.user().await;
    assert_eq!(user.status, UserStatus::Active);
    let left = user.expires_at_ms.unwrap() - now;
    assert!((7 * DAY..7 * DAY + 60_000).contains(&left), "{left}");
    assert_eq!(user.next_plan, first.next_plan);
}

async fn a_disabled_user_moves_on_when_it_is_enabled(test: TestStore) {
    let member = Member::new(test, Limit::Bytes(1_000), ResetStrategy::None).await;
    let plan = new_plan(&member.world, "next", bytes(5_000)).await;
    wait_for(&member, &plan, NextPlanStart::FirstEnd).await;
    member.use_now(1_000).await;
    let (store, tenant) = (&member.store, member.tenant);
    let set = async |disabled| {
        let set = store.set_user_disabled(tenant, member.id, disabled);
        set.await.unwrap()
    };
    set(true).await;
    assert_eq!(follow(store).await, 0);
    assert_eq!(set(false).await.status, UserStatus::Limited);
    assert_eq!(follow(store).await, 1);
    assert_eq!(member.user().await.status, UserStatus::Active);
    // By hand it may change while it is disabled, and stays so.
    set(true).await;
    let user = given(&member.world, member.id, &plan).await;
    assert_eq!(user.status, UserStatus::Disabled);
}

async fn a_next_plan_is_given_once_by_two_runs(test: TestStore) {
    let member = Member::new(test, Limit::Bytes(1_000), ResetStrategy::None).await;
    let plan = new_plan(&member.world, "next", bytes(5_000)).await;
    wait_for(&member, &plan, NextPlanStart::FirstEnd).await;
    member.use_now(1_000).await;
    let store = &member.store;
    let old = lease(store).await;
    let mut cursor = PlanCursor::default();
    let found = store.users_with_plan_over(&mut cursor, 10);
    let over = found.await.unwrap()[0];
    member.test.clock.advance(LEASE.as_millis() as i64 + 1);
    let new = lease(store).await;
    let (one, two) = tokio::join!(
        store.give_next_plan(&new, over),
        store.give_next_plan(&new, over)
    );
    assert!(one.unwrap() ^ two.unwrap());
    let late = store.give_next_plan(&old, over).await;
    assert!(matches!(late, Err(StoreError::LeaseLost)));
    let job = store.job(JOB).await.unwrap();
    assert_eq!(job.last_run.unwrap().changed, 1);
}
