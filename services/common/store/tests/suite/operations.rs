//! Operations: batches that are committed once, whoever works on them and whenever somebody is killed.

use std::collections::BTreeSet;
use std::time::Duration;

use vpnpanel_domain::{OperationId, UserId};
use vpnpanel_store::testing::TestStore;
use vpnpanel_store::{
    Attribution, AuditFilter, Described, ItemFailure, ItemState, JobEnd, MAX_OPERATIONS,
    NewOperation, NewUser, Operation, OperationItem, OperationLease, OperationState, Page, Plan,
    PlanTerms, Store, StoreError, UserFilter, fresh_id, on_each_database,
};

use crate::audit::support::somebody;
use crate::fixture::{World, new_user};
use crate::plans::new_plan;

on_each_database!(
    items_are_done_once_whoever_has_the_lease,
    an_operation_ends_with_its_last_item,
    a_cancelled_operation_goes_no_further,
    operations_take_turns,
    a_tenant_has_so_many_operations_at_a_time,
    users_are_made_in_the_name_of_who_called,
    operations_are_forgotten_some_time_after_their_end,
);

const LEASE: Duration = Duration::from_secs(30);

async fn begin(world: &World, store: &Store, plan: &Plan, users: usize) -> Operation {
    let id: OperationId = fresh_id();
    let new = NewOperation {
        id,
        plan_id: plan.id,
        users: (0..users)
            .map(|number| (format!("{id}-{number}"), String::new()))
            .collect(),
    };
    let made = store.create_operation(world.tenant, new, None).await;
    made.unwrap()
}

async fn setting(test: TestStore) -> (World, Plan) {
    let world = World::new(test).await;
    let terms = PlanTerms {
        group_ids: [world.group].into(),
        ..PlanTerms::default()
    };
    let plan = new_plan(&world, "plan", terms).await;
    (world, plan)
}

async fn claim(store: &Store) -> Option<OperationLease> {
    let claimed = store.claim_operation(LEASE, |_, _| Described::default());
    claimed.await.unwrap()
}

/// The users of items, as whoever works on them makes them.
fn users(items: &[OperationItem], world: &World) -> Vec<(u32, NewUser)> {
    let user = |item: &OperationItem| {
        let new = NewUser {
            id: UserId::new(item.resource_id),
            ..new_user(&item.name, [world.group])
        };
        (item.number, new)
    };
    items.iter().map(user).collect()
}

async fn look(world: &World, id: OperationId) -> Operation {
    world.store.operation(world.tenant, id).await.unwrap()
}

async fn items_are_done_once_whoever_has_the_lease(test: TestStore) {
    let (world, plan) = setting(test).await;
    let store = &world.store;
    let operation = begin(&world, store, &plan, 25).await;
    let mut claims = 0;
    loop {
        let Some(first) = claim(store).await else {
            break;
        };
        claims += 1;
        assert!(claim(store).await.is_none(), "it is taken");
        let items = store.waiting_items(&first, 10).await.unwrap();
        // Whoever has it is thought to be dead, and is not.
        world.test.clock.advance(LEASE.as_millis() as i64 + 1);
        let second = claim(store).await.unwrap();
        let again = store.waiting_items(&second, 10).await.unwrap();
        assert_eq!(items, again);
        let (late, now) = tokio::join!(
            store.make_operation_users(&first, users(&items, &world)),
            store.make_operation_users(&second, users(&again, &world))
        );
        assert!(matches!(late, Err(StoreError::LeaseLost)));
        now.unwrap();
        // Its process dies right after the commit: nothing is given back.
        world.test.clock.advance(LEASE.as_millis() as i64 + 1);
    }
    assert_eq!(claims, 3);
    let ended = look(&world, operation.id).await;
    assert_eq!((ended.done, ended.failed), (25, 0));
    assert_eq!(ended.state, OperationState::Ended);
    let all = UserFilter::default();
    let made = store.users(world.tenant, &all, Page::first(100));
    let made: BTreeSet<_> = made.await.unwrap().iter().map(|it| it.id.uuid()).collect();
    let items = store.operation_items(world.tenant, operation.id, None, Page::first(100));
    let items: BTreeSet<_> = items
        .await
        .unwrap()
        .iter()
        .map(|it| it.resource_id)
        .collect();
    assert_eq!(made, items);
}

async fn an_operation_ends_with_its_last_item(test: TestStore) {
    let (world, plan) = setting(test).await;
    let (store, tenant) = (&world.store, world.tenant);
    let operation = begin(&world, store, &plan, 3).await;
    let lease = claim(store).await.unwrap();
    let items = store.waiting_items(&lease, 10).await.unwrap();
    // All or none: the second has the first one's name.
    let mut same = users(&items[..2], &world);
    same[1].1.username = same[0].1.username.clone();
    let refused = store.make_operation_users(&lease, same).await;
    assert!(matches!(refused, Err(StoreError::AlreadyExists { .. })));
    assert_eq!(look(&world, operation.id).await.done, 0);

    let one = users(&items[..1], &world);
    store
        .make_operation_users(&lease, one.clone())
        .await
        .unwrap();
    let failure = |number| ItemFailure {
        number,
        reason: "ALREADY_EXISTS".to_owned(),
        message: "username already exists".to_owned(),
    };
    store
        .fail_operation_items(&lease, &[failure(1)])
        .await
        .unwrap();
    // Said twice it counts once.
    store
        .fail_operation_items(&lease, &[failure(0), failure(1)])
        .await
        .unwrap();
    let so_far = look(&world, operation.id).await;
    assert_eq!((so_far.done, so_far.failed), (1, 1));
    assert_eq!(so_far.state, OperationState::Running);
    let why = Some(("the database is unavailable", Duration::from_secs(5)));
    store.release_operation(&lease, why).await.unwrap();
    let waits = look(&world, operation.id).await.waiting;
    assert_eq!(waits, "the database is unavailable");
    assert!(claim(store).await.is_none(), "not before its time");
    world.test.clock.advance(6_000);
    let lease = claim(store).await.unwrap();
    store
        .fail_operation_items(&lease, &[failure(2)])
        .await
        .unwrap();
    let ended = look(&world, operation.id).await;
    assert_eq!((ended.done, ended.failed), (1, 2));
    assert_eq!(
        (ended.state, ended.waiting.as_str()),
        (OperationState::Ended, "")
    );
    assert!(ended.ended_at_ms.is_some());
    let failed = Some(ItemState::Failed);
    let failed = store.operation_items(tenant, operation.id, failed, Page::after(5, 1));
    let failed = failed.await.unwrap();
    assert_eq!((failed.len(), failed[0].number), (1, 2));
    assert_eq!(failed[0].error_reason, "ALREADY_EXISTS");
}

async fn a_cancelled_operation_goes_no_further(test: TestStore) {
    let (world, plan) = setting(test).await;
    let (store, tenant) = (&world.store, world.tenant);
    let operation = begin(&world, store, &plan, 3).await;
    let lease = claim(store).await.unwrap();
    let items = store.waiting_items(&lease, 1).await.unwrap();
    let first = users(&items, &world);
    store.make_operation_users(&lease, first).await.unwrap();
    let ended = store.cancel_operation(tenant, operation.id).await.unwrap();
    assert_eq!((ended.state, ended.done), (OperationState::Cancelled, 1));
    let items = store.waiting_items(&lease, 1).await.unwrap();
    let late = store.make_operation_users(&lease, users(&items, &world));
    assert!(matches!(late.await, Err(StoreError::LeaseLost)));
    store.release_operation(&lease, None).await.unwrap();
    assert!(claim(store).await.is_none());
    let same = store.cancel_operation(tenant, operation.id).await.unwrap();
    assert_eq!(same, ended);
}

async fn operations_take_turns(test: TestStore) {
    let (world, plan) = setting(test).await;
    let store = &world.store;
    let one = begin(&world, store, &plan, 5).await;
    world.test.clock.advance(10);
    let two = begin(&world, store, &plan, 5).await;
    let mut turns = Vec::new();
    for _ in 0..4 {
        world.test.clock.advance(10);
        let lease = claim(store).await.unwrap();
        turns.push(lease.id);
        store.release_operation(&lease, None).await.unwrap();
    }
    assert_eq!(turns, [one.id, two.id, one.id, two.id]);
}

async fn a_tenant_has_so_many_operations_at_a_time(test: TestStore) {
    let (world, plan) = setting(test).await;
    let (store, tenant) = (&world.store, world.tenant);
    let mut tasks = Vec::new();
    for number in 0..MAX_OPERATIONS + 3 {
        let (store, plan_id) = (store.clone(), plan.id);
        tasks.push(tokio::spawn(async move {
            let new = NewOperation {
                id: fresh_id(),
                plan_id,
                users: vec![(format!("user{number}"), String::new())],
            };
            store.create_operation(tenant, new, None).await
        }));
    }
    let mut begun = 0;
    for task in tasks {
        match task.await.unwrap() {
            Ok(_) => begun += 1,
            Err(StoreError::LimitReached { what: "operations" }) => {}
            Err(error) => panic!("{error:?}"),
        }
    }
    assert_eq!(begun, MAX_OPERATIONS);
    let listed = store.operations(tenant, Page::first(100)).await.unwrap();
    assert!(
        listed.is_sorted_by(|one, two| one.id > two.id),
        "newest first"
    );
    let page = store.operations(tenant, Page::after(100, listed[3].id));
    assert_eq!(page.await.unwrap(), listed[4..]);
    // Its plan is in use meanwhile.
    let kept = store.delete_plan(tenant, plan.id, None).await.unwrap();
    assert!(kept.is_some());
}

async fn users_are_made_in_the_name_of_who_called(test: TestStore) {
    let (world, plan) = setting(test).await;
    let caller = Attribution {
        request_id: "asked".to_owned(),
        method: "/vpnpanel.user.v1.UserService/BatchCreateUsers".into(),
        ..somebody()
    };
    let acting = world.store.acting(caller.clone());
    let operation = begin(&world, &acting, &plan, 2).await;
    assert_eq!(operation.actor, caller.actor);
    let store = &world.store;
    let lease = claim(store).await.unwrap();
    let items = store.waiting_items(&lease, 10).await.unwrap();
    let made = users(&items, &world);
    store.make_operation_users(&lease, made).await.unwrap();
    let events = store
        .audit_events(Some(world.tenant), &AuditFilter::default(), Page::first(10))
        .await
        .unwrap();
    assert_eq!(events.len(), 3, "the call, and each user");
    for event in events {
        assert_eq!(event.actor, caller.actor);
        assert_eq!(event.request_id, "asked");
        assert_eq!(event.method, caller.method);
    }
}

async fn operations_are_forgotten_some_time_after_their_end(test: TestStore) {
    let (world, plan) = setting(test).await;
    let (store, tenant) = (&world.store, world.tenant);
    let running = begin(&world, store, &plan, 1).await;
    let ended = begin(&world, store, &plan, 1).await;
    store.cancel_operation(tenant, ended.id).await.unwrap();
    let job = "forget-operations";
    store.register_job(job, "forgets", LEASE).await.unwrap();
    let lease = store.claim_job(&[job], "me", LEASE).await.unwrap();
    let lease = lease.unwrap();
    let now = store.now_ms();
    let forget = async |before| store.forget_operations(&lease, before, 10).await.unwrap();
    assert_eq!(forget(now - 60_000).await, 0);
    // Of other tenants there is nothing that ended so early.
    assert_eq!(forget(now + 60_000).await, 2, "its item, and itself");
    assert_eq!(forget(now + 60_000).await, 0);
    let end = JobEnd {
        error: None,
        due_in: LEASE,
    };
    store.finish_job(&lease, end).await.unwrap();
    let gone = store.operation(tenant, ended.id).await;
    assert!(matches!(gone, Err(StoreError::NotFound("operation"))));
    look(&world, running.id).await;
}
