//! Plans that follow others, given by two replicas that are killed at any moment: each user has its own
//! once.

use std::{collections::BTreeSet, time::Duration};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio_util::sync::CancellationToken;
use vpnpanel_domain::{Limit, NextPlanStart, PlanId, ResetStrategy, TenantId, UserStatus};
use vpnpanel_store::{
    AuditFilter, NewPlan, NextPlan, Page, PlanTerms, Store, User, UserFilter, UserPatch, fresh_id,
    on_each_database, testing::TestStore,
};

use crate::fixture::{changed_by_runs_of, quick, replica, until, users_with};

const USERS: usize = 60;
const DAY: i64 = 24 * 3_600_000;
const JOB: &str = "give-next-plans";

on_each_database! {
    next_plans_are_given_once_with_two_replicas_that_are_killed_at_any_moment,
    after_three_weeks_everybody_has_a_plan_that_has_just_begun,
}

/// Lets all users wait for a plan of a week.
async fn wait(store: &Store, tenant: TenantId, start: NextPlanStart) -> PlanId {
    let id = fresh_id();
    let new = NewPlan {
        id,
        tenant_id: tenant,
        name: "week".to_owned(),
        note: String::new(),
        terms: PlanTerms {
            limit: Limit::Bytes(1_000),
            reset_strategy: ResetStrategy::Rolling { days: 1 },
            duration_ms: Some(7 * DAY),
            ..PlanTerms::default()
        },
    };
    store.create_plan(new, None).await.unwrap();
    for user in all(store, tenant).await {
        let patch = UserPatch {
            next_plan: Some(Some(NextPlan { plan_id: id, start })),
            ..UserPatch::default()
        };
        store
            .update_user(tenant, user.id, patch, None)
            .await
            .unwrap();
    }
    id
}

async fn all(store: &Store, tenant: TenantId) -> Vec<User> {
    let filter = UserFilter::default();
    store
        .users(tenant, &filter, Page::first(1_000))
        .await
        .unwrap()
}

async fn given(store: &Store) -> usize {
    usize::try_from(changed_by_runs_of(store, JOB).await).unwrap()
}

async fn next_plans_are_given_once_with_two_replicas_that_are_killed_at_any_moment(
    test: TestStore,
) {
    let seed = rand::rng().random();
    eprintln!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let daily = ResetStrategy::Rolling { days: 1 };
    let tenant = users_with(&test.store, USERS, None, daily).await;
    let plan = wait(&test.store, tenant, NextPlanStart::FirstEnd).await;
    test.clock.advance(DAY);
    let stop = CancellationToken::new();
    for _ in 0..6 {
        let (one, two) = (test.another().await, test.another().await);
        let replicas = [replica(one, quick(), &stop), replica(two, quick(), &stop)];
        // not a wait for something to happen: the moment of the kill is what is drawn
        tokio::time::sleep(Duration::from_millis(random.random_range(5..60))).await;
        for killed in replicas {
            killed.abort();
            let _aborted = killed.await;
        }
        // the dead hold their lease until it ends
        test.clock.advance(1_000);
    }
    let survivor = replica(test.another().await, quick(), &stop);
    until(async || given(&test.store).await == USERS).await;
    stop.cancel();
    survivor.await.unwrap();
    for user in all(&test.store, tenant).await {
        assert_eq!((user.plan_id, user.next_plan), (Some(plan), None));
        assert_eq!(user.limit, Limit::Bytes(1_000));
        let begun = user.period.starts_at_ms;
        assert_eq!(user.expires_at_ms, Some(begun + 7 * DAY), "with its period");
        assert_eq!(user.version, 3, "made, put in the queue, and moved on");
    }
    let filter = AuditFilter::default();
    let events = test
        .store
        .audit_events(Some(tenant), &filter, Page::first(1_000));
    let events = events.await.unwrap();
    let about: BTreeSet<_> = events.iter().map(|it| it.resource_id.clone()).collect();
    assert_eq!((events.len(), about.len()), (USERS, USERS));
    for event in events {
        assert_eq!(event.actor, "system:scheduler/next-plans");
        assert!(event.after.contains(&plan.to_string()), "{}", event.after);
    }
}

async fn after_three_weeks_everybody_has_a_plan_that_has_just_begun(test: TestStore) {
    let ends = test.clock.now_ms() + 3 * DAY;
    let daily = ResetStrategy::Rolling { days: 1 };
    let tenant = users_with(&test.store, 20, Some(ends), daily).await;
    let plan = wait(&test.store, tenant, NextPlanStart::PlanEnd).await;
    test.clock.advance(21 * DAY);
    let before = test.clock.now_ms();
    let stop = CancellationToken::new();
    let running = replica(test.store.clone(), quick(), &stop);
    until(async || given(&test.store).await == 20).await;
    // Nobody is due any more.
    let runs = async || test.store.job(JOB).await.unwrap().last_run.unwrap().number;
    let seen = runs().await;
    until(async || runs().await > seen + 2).await;
    assert_eq!(given(&test.store).await, 20);
    for user in all(&test.store, tenant).await {
        assert_eq!(
            (user.plan_id, user.status),
            (Some(plan), UserStatus::Active)
        );
        assert!(user.expires_at_ms.unwrap() >= before + 7 * DAY);
    }
    stop.cancel();
    running.await.unwrap();
}
