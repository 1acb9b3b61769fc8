//! The life of a user: names, versions, repeated requests, status.

use vpnpanel_domain::{AccountId, Limit, Speed, SpeedLimit, UserStatus};
use vpnpanel_store::testing::TestStore;
use vpnpanel_store::{
    Change, DesiredChanges, LogPosition, NewUser, Page, RequestKey, StoreError, TenantLimits,
    TenantPatch, UserFilter, UserPatch, fresh_id, on_each_database,
};

use crate::changes::read_until;
use crate::fixture::{World, new_tenant, new_user};

on_each_database!(
    names_are_unique_in_a_tenant_whatever_their_case,
    another_tenants_user_is_not_found,
    a_stale_change_is_refused,
    a_repeated_request_answers_with_the_first_ones_user,
    a_request_made_twice_at_once_makes_one_user,
    lifting_one_reason_activates_only_when_no_other_holds,
    filters_follow_the_clock,
    a_list_of_users_of_a_status_reads_no_others,
    a_groups_of_another_tenant_cannot_be_used,
    a_tenants_limit_of_users_holds,
    a_changed_speed_or_limit_of_devices_reaches_the_nodes_with_that_user_alone,
);

async fn names_are_unique_in_a_tenant_whatever_their_case(test: TestStore) {
    let world = World::new(test).await;
    let first = world.user("Ada", Limit::None).await;
    let again = world
        .store
        .create_user(world.tenant, new_user("aDA", []), None)
        .await;
    assert!(matches!(
        again,
        Err(StoreError::AlreadyExists { what: "username" })
    ));
    let other = new_tenant(&world.store, "other").await;
    world
        .store
        .create_user(other, new_user("ada", []), None)
        .await
        .unwrap();
    let bob = world.user("bob", Limit::None).await;
    let rename = UserPatch {
        username: Some("ADA".to_owned()),
        ..UserPatch::default()
    };
    let taken = world
        .store
        .update_user(world.tenant, bob.id, rename.clone(), None)
        .await;
    assert!(matches!(
        taken,
        Err(StoreError::AlreadyExists { what: "username" })
    ));
    world
        .store
        .delete_user(world.tenant, first.id, None)
        .await
        .unwrap();
    let renamed = world
        .store
        .update_user(world.tenant, bob.id, rename, None)
        .await
        .unwrap();
    assert_eq!(renamed.username, "ADA");
}

async fn another_tenants_user_is_not_found(test: TestStore) {
    let world = World::new(test).await;
    let user = world.user("ada", Limit::None).await;
    let other = new_tenant(&world.store, "other").await;
    let store = &world.store;
    let not_found = |result: Result<(), StoreError>| {
        assert!(matches!(result, Err(StoreError::NotFound(_))), "{result:?}");
    };
    not_found(store.user(other, user.id).await.map(drop));
    not_found(
        store
            .update_user(other, user.id, UserPatch::default(), None)
            .await
            .map(drop),
    );
    not_found(
        store
            .set_user_disabled(other, user.id, true)
            .await
            .map(drop),
    );
    not_found(store.reset_user_usage(other, user.id, None).await.map(drop));
    not_found(store.delete_user(other, user.id, None).await);
    not_found(store.connections(other, user.id).await.map(drop));
    let query = vpnpanel_store::UsageQuery {
        from_ms: 0,
        to_ms: 1,
        step_ms: 900_000,
    };
    not_found(store.user_usage(other, user.id, query).await.map(drop));
    not_found(store.group(other, world.group).await.map(drop));
    let listed = store
        .users(other, &UserFilter::default(), Page::first(10))
        .await
        .unwrap();
    assert!(listed.is_empty());
}

async fn a_stale_change_is_refused(test: TestStore) {
    let world = World::new(test).await;
    let user = world.user("ada", Limit::None).await;
    let note = |text: &str| UserPatch {
        note: Some(text.to_owned()),
        ..UserPatch::default()
    };
    let changed = world
        .store
        .update_user(world.tenant, user.id, note("one"), Some(user.version))
        .await
        .unwrap();
    assert!(changed.version > user.version);
    let stale = world
        .store
        .update_user(world.tenant, user.id, note("two"), Some(user.version))
        .await;
    assert!(matches!(stale, Err(StoreError::StaleVersion)));
    let stale = world
        .store
        .delete_user(world.tenant, user.id, Some(user.version))
        .await;
    assert!(matches!(stale, Err(StoreError::StaleVersion)));
    let now = world.store.user(world.tenant, user.id).await.unwrap();
    assert_eq!(now.note, "one");
}

fn key(world: &World, account: AccountId, digest: u8) -> RequestKey {
    RequestKey {
        account_id: account,
        tenant_id: Some(world.tenant),
        method: "CreateUser",
        request_id: "6c1b7e2e".to_owned(),
        digest: [digest; 32],
    }
}

async fn a_repeated_request_answers_with_the_first_ones_user(test: TestStore) {
    let world = World::new(test).await;
    let account = fresh_id();
    let mine = key(&world, account, 1);
    let first = world
        .store
        .create_user(world.tenant, new_user("ada", [world.group]), Some(&mine))
        .await
        .unwrap();
    let again = world
        .store
        .create_user(world.tenant, new_user("ada", [world.group]), Some(&mine))
        .await
        .unwrap();
    assert_eq!(first, again);
    let other = key(&world, account, 2);
    let reused = world
        .store
        .create_user(world.tenant, new_user("bob", []), Some(&other))
        .await;
    assert!(matches!(reused, Err(StoreError::RequestIdReused)));
    world.test.clock.advance(24 * 3_600_000 + 1);
    world
        .store
        .create_user(world.tenant, new_user("bob", []), Some(&other))
        .await
        .unwrap();

    let reset = RequestKey {
        method: "ResetUserUsage",
        ..key(&world, account, 3)
    };
    let once = world
        .store
        .reset_user_usage(world.tenant, first.id, Some(&reset))
        .await
        .unwrap();
    let twice = world
        .store
        .reset_user_usage(world.tenant, first.id, Some(&reset))
        .await
        .unwrap();
    assert_eq!(once.period.id, twice.period.id);
    assert_ne!(once.period.id, first.period.id);
}

async fn a_request_made_twice_at_once_makes_one_user(test: TestStore) {
    let world = World::new(test).await;
    let mine = key(&world, fresh_id(), 1);
    let make = || {
        world
            .store
            .create_user(world.tenant, new_user("ada", [world.group]), Some(&mine))
    };
    let (one, two, three) = tokio::join!(make(), make(), make());
    let (one, two, three) = (one.unwrap(), two.unwrap(), three.unwrap());
    assert_eq!(one.id, two.id);
    assert_eq!(one.id, three.id);
}

async fn lifting_one_reason_activates_only_when_no_other_holds(test: TestStore) {
    let world = World::new(test).await;
    let now = world.store.now_ms();
    let mut new = new_user("ada", [world.group]);
    new.expires_at_ms = Some(now - 1);
    new.disabled = true;
    let user = world
        .store
        .create_user(world.tenant, new, None)
        .await
        .unwrap();
    assert_eq!(user.status, UserStatus::Disabled);
    let reset = world
        .store
        .reset_user_usage(world.tenant, user.id, None)
        .await
        .unwrap();
    assert_eq!(
        reset.status,
        UserStatus::Disabled,
        "a reset activates nobody disabled"
    );
    let enabled = world
        .store
        .set_user_disabled(world.tenant, user.id, false)
        .await
        .unwrap();
    assert_eq!(enabled.status, UserStatus::Expired);
    let unchanged = world
        .store
        .set_user_disabled(world.tenant, user.id, false)
        .await
        .unwrap();
    assert_eq!(
        unchanged.version, enabled.version,
        "no change when it is so already"
    );
    let extend = UserPatch {
        expires_at_ms: Some(Some(now + 3_600_000)),
        ..UserPatch::default()
    };
    let extended = world
        .store
        .update_user(world.tenant, user.id, extend, None)
        .await
        .unwrap();
    assert_eq!(extended.status, UserStatus::Active);
}

async fn filters_follow_the_clock(test: TestStore) {
    let world = World::new(test).await;
    let mut new = new_user("ada", []);
    new.expires_at_ms = Some(world.store.now_ms() + 60_000);
    world
        .store
        .create_user(world.tenant, new, None)
        .await
        .unwrap();
    let of = async |status| {
        let filter = UserFilter {
            status: Some(status),
            ..UserFilter::default()
        };
        world
            .store
            .users(world.tenant, &filter, Page::first(10))
            .await
            .unwrap()
            .len()
    };
    assert_eq!(
        (of(UserStatus::Active).await, of(UserStatus::Expired).await),
        (1, 0)
    );
    world.test.clock.advance(60_001);
    assert_eq!(
        (of(UserStatus::Active).await, of(UserStatus::Expired).await),
        (0, 1)
    );
}

async fn a_list_of_users_of_a_status_reads_no_others(test: TestStore) {
    for (status, plan) in test.user_plans().await {
        let line = |line: &&str| {
            let line = line.trim_start_matches([' ', '-', '>']);
            ["Seq Scan", "SCAN u", "SCAN p"]
                .iter()
                .any(|it| line.starts_with(it))
        };
        assert_eq!(plan.lines().find(line), None, "{status:?} of\n{plan}");
        // Which of its indexes PostgreSQL takes depends on what is in the table.
        if plan.contains("cost=") {
            continue;
        }
        let reads = |index: &str| plan.contains(&format!("INDEX {index} "));
        match status {
            None => assert!(reads("users_live"), "{plan}"),
            Some(status) => {
                assert!(
                    reads("users_status") && !reads("users_live"),
                    "{status:?} of\n{plan}"
                );
                let over = reads("users_period_over") || reads("users_time_over");
                assert_eq!(
                    over,
                    status != UserStatus::Disabled,
                    "{status:?} of\n{plan}"
                );
            }
        }
    }
}

async fn a_groups_of_another_tenant_cannot_be_used(test: TestStore) {
    let world = World::new(test).await;
    let other = new_tenant(&world.store, "other").await;
    let refused = world
        .store
        .create_user(other, new_user("ada", [world.group]), None)
        .await;
    assert!(
        matches!(
            refused,
            Err(StoreError::InvalidReference {
                what: "group_ids",
                ..
            })
        ),
        "{refused:?}"
    );
}

async fn a_tenants_limit_of_users_holds(test: TestStore) {
    let world = World::new(test).await;
    let patch = TenantPatch {
        limits: Some(TenantLimits {
            users: Some(3),
            ..TenantLimits::default()
        }),
        ..TenantPatch::default()
    };
    world
        .store
        .update_tenant(world.tenant, patch, None)
        .await
        .unwrap();
    let mut tasks = Vec::new();
    for number in 0..8 {
        let (store, tenant) = (world.store.clone(), world.tenant);
        let new = new_user(&format!("user{number}"), [world.group]);
        tasks.push(tokio::spawn(async move {
            store.create_user(tenant, new, None).await
        }));
    }
    let mut made = 0;
    for task in tasks {
        match task.await.unwrap() {
            Ok(_) => made += 1,
            Err(StoreError::LimitReached { what: "users" }) => {}
            Err(error) => panic!("{error:?}"),
        }
    }
    assert_eq!(made, 3);
}

async fn a_changed_speed_or_limit_of_devices_reaches_the_nodes_with_that_user_alone(
    test: TestStore,
) {
    let world = World::new(test).await;
    let (store, tenant) = (&world.store, world.tenant);
    let fast = SpeedLimit {
        up: Speed::nearest(64_000),
        down: Speed::nearest(10_000_000_000),
    };
    let new = NewUser {
        speed: fast,
        device_limit: 2,
        ..new_user("ada", [world.group])
    };
    let ada = store.create_user(tenant, new, None).await.unwrap();
    let bob = world.user("bob", Limit::None).await;
    assert_eq!((ada.speed, bob.speed), (fast, SpeedLimit::NONE));

    let state = store.desired_state(world.node).await.unwrap();
    let users = state.users.iter();
    let limits: Vec<_> = users.map(|it| (it.id, it.speed, it.devices)).collect();
    assert_eq!(limits, [(ada.id, fast, 2), (bob.id, SpeedLimit::NONE, 0)]);

    let slower = UserPatch {
        speed_down: Some(Speed::nearest(5_000_000)),
        device_limit: Some(3),
        ..UserPatch::default()
    };
    // What made the world lies behind the log's end from here on.
    let made = |it: &Change| it.user_id == Some(bob.id);
    read_until(store, LogPosition::default(), made).await;
    let before = store.log_tail().await.unwrap();
    let changed = store
        .update_user(tenant, bob.id, slower, None)
        .await
        .unwrap();
    assert_eq!(changed.speed.up, Speed::UNLIMITED);
    read_until(store, before, made).await;
    let told = store.desired_changes(world.node, before.revision()).await;
    let Ok(DesiredChanges::Users { users, removed, .. }) = told else {
        panic!("{told:?}")
    };
    let told = users.iter().find(|it| it.id == bob.id).unwrap();
    assert_eq!((told.speed, told.devices), (changed.speed, 3));
    assert_eq!(removed, []);
    assert_eq!(store.user(tenant, ada.id).await.unwrap().speed, fast);
}
