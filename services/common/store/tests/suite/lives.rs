//! What is done to users in the course of their life: extended, taken back, given devices, changed by
//! many at once.

use vpnpanel_domain::{Limit, ResetStrategy, Speed, UserStatus};
use vpnpanel_store::testing::TestStore;
use vpnpanel_store::{
    Extension, NewUser, Page, StoreError, TenantLimits, TenantPatch, User, UserFilter, UserPatch,
    on_each_database,
};

use crate::fixture::{World, new_user};
use crate::periods::support::{DAY, Member};

on_each_database!(
    time_and_bytes_are_added,
    what_is_said_of_a_user_as_it_was_undoes_nothing,
    bytes_are_added_to_the_period_that_holds_also_when_nobody_rolled_over,
    what_has_no_end_is_not_extended,
    a_deleted_user_comes_back_as_it_was,
    a_user_comes_back_only_where_there_is_room,
    a_user_has_no_more_devices_than_it_may,
    of_a_hundred_changes_at_once_none_is_lost,
);

async fn extend(member: &Member, days: i64, bytes: u64) -> Result<User, StoreError> {
    let by = Extension {
        time_ms: days * DAY,
        bytes,
    };
    member
        .store
        .extend_user(member.tenant, member.id, by, None)
        .await
}

async fn time_and_bytes_are_added(test: TestStore) {
    let member = Member::daily(test, Limit::Bytes(1_000)).await;
    let now = member.store.now_ms();
    let ends = UserPatch {
        expires_at_ms: Some(Some(now + DAY)),
        ..UserPatch::default()
    };
    member.update(ends).await;
    let user = extend(&member, 2, 0).await.unwrap();
    assert_eq!(user.expires_at_ms, Some(now + 3 * DAY));
    member.use_now(1_000).await;
    let user = extend(&member, 0, 500).await.unwrap();
    assert_eq!(user.status, UserStatus::Active);
    assert_eq!(user.period.limit, Limit::Bytes(1_500));
    assert_eq!(user.limit, Limit::Bytes(1_000), "once");
    let end = user.period.ends_at_ms.unwrap();
    member.roll_at(end).await;
    let mut periods = member.periods().await;
    periods.truncate(2);
    for period in periods {
        assert_eq!(period.limit, Limit::Bytes(1_000), "not in the next ones");
    }
    // Whose end has passed has the days from now on.
    member.test.clock.advance(10 * DAY);
    let now = member.store.now_ms();
    let user = extend(&member, 1, 0).await.unwrap();
    let left = user.expires_at_ms.unwrap() - now;
    assert!((DAY..DAY + 60_000).contains(&left));
    assert_eq!(user.status, UserStatus::Active);
}

async fn what_is_said_of_a_user_as_it_was_undoes_nothing(test: TestStore) {
    let member = Member::daily(test, Limit::Bytes(1_000)).await;
    extend(&member, 0, 500).await.unwrap();
    let was = member.store.user(member.tenant, member.id).await.unwrap();
    let all_of_it = UserPatch {
        note: Some("called".to_owned()),
        limit: Some(was.limit),
        expires_at_ms: Some(was.expires_at_ms),
        on_hold_ms: Some(was.on_hold_ms),
        next_plan: Some(was.next_plan),
        ..UserPatch::default()
    };
    member.update(all_of_it).await;
    let user = member.store.user(member.tenant, member.id).await.unwrap();
    assert_eq!(user.note, "called");
    assert_eq!(user.period.limit, Limit::Bytes(1_500));
}

async fn bytes_are_added_to_the_period_that_holds_also_when_nobody_rolled_over(test: TestStore) {
    let member = Member::daily(test, Limit::Bytes(1_000)).await;
    member.test.clock.advance(10 * DAY);
    let now = member.store.now_ms();
    let user = extend(&member, 0, 500).await.unwrap();
    assert_eq!(user.period.limit, Limit::Bytes(1_500));
    assert!(user.period.starts_at_ms <= now && user.period.ends_at_ms > Some(now));
    // Nor does it when somebody does.
    member.roll_at(now).await;
    let user = member.store.user(member.tenant, member.id).await.unwrap();
    assert_eq!(user.period.limit, Limit::Bytes(1_500));
}

async fn what_has_no_end_is_not_extended(test: TestStore) {
    let member = Member::daily(test, Limit::None).await;
    let refused = extend(&member, 1, 0).await;
    assert!(matches!(refused, Err(StoreError::NoExpireTime)));
    let refused = extend(&member, 0, 1).await;
    assert!(matches!(refused, Err(StoreError::NoDataLimit)));
    let far = UserPatch {
        expires_at_ms: Some(Some(253_402_300_799_000)),
        limit: Some(Limit::Bytes(1 << 50)),
        ..UserPatch::default()
    };
    member.update(far).await;
    for (days, bytes) in [(1, 0), (0, 1)] {
        let refused = extend(&member, days, bytes).await;
        assert!(matches!(refused, Err(StoreError::InvalidArgument { .. })));
    }
}

async fn a_deleted_user_comes_back_as_it_was(test: TestStore) {
    let member = Member::daily(test, Limit::Bytes(1_000)).await;
    member.use_now(300).await;
    let (store, tenant) = (&member.store, member.tenant);
    let before = member.user().await;
    let keys = store.connections(tenant, member.id).await.unwrap();
    store.delete_user(tenant, member.id, None).await.unwrap();
    let deleted = UserFilter {
        status: Some(UserStatus::Deleted),
        ..UserFilter::default()
    };
    let listed = async || {
        let users = store.users(tenant, &deleted, Page::first(10)).await;
        let users = users.unwrap().into_iter();
        users.map(|user| user.id).collect::<Vec<_>>()
    };
    assert_eq!(listed().await, [member.id]);
    let state = store.desired_state(member.node).await.unwrap();
    assert!(state.users.is_empty());

    let back = store.undelete_user(tenant, member.id).await.unwrap();
    assert_eq!(back.status, UserStatus::Active);
    assert_eq!(back.period, before.period);
    assert_eq!(back.group_ids, before.group_ids);
    assert!(listed().await.is_empty());
    let again = store.connections(tenant, member.id).await.unwrap();
    assert_eq!(again.len(), keys.len());
    assert_ne!(again[0].peer_id, keys[0].peer_id, "counters begin anew");
    assert_eq!(again[0].device_id, keys[0].device_id);
    let same = store.undelete_user(tenant, member.id).await.unwrap();
    assert_eq!(same.version, back.version);

    store.delete_user(tenant, member.id, None).await.unwrap();
    member.test.clock.advance(30 * DAY + 1);
    let late = store.undelete_user(tenant, member.id).await;
    assert!(matches!(late, Err(StoreError::NotFound("user"))));
    assert!(listed().await.is_empty());
}

async fn a_user_comes_back_only_where_there_is_room(test: TestStore) {
    let world = World::new(test).await;
    let (store, tenant) = (&world.store, world.tenant);
    let ada = world.user("ada", Limit::None).await;
    store.delete_user(tenant, ada.id, None).await.unwrap();
    let second = world.user("Ada", Limit::None).await;
    let taken = store.undelete_user(tenant, ada.id).await;
    assert!(matches!(
        taken,
        Err(StoreError::AlreadyExists { what: "username" })
    ));
    let bob = world.user("bob", Limit::None).await;
    store.delete_user(tenant, bob.id, None).await.unwrap();
    let limits = TenantPatch {
        limits: Some(TenantLimits {
            users: Some(1),
            ..TenantLimits::default()
        }),
        ..TenantPatch::default()
    };
    store.update_tenant(tenant, limits, None).await.unwrap();
    let full = store.undelete_user(tenant, bob.id).await;
    assert!(matches!(
        full,
        Err(StoreError::LimitReached { what: "users" })
    ));
    store.delete_user(tenant, second.id, None).await.unwrap();
    // Of two who want the one place one has it.
    let (one, two) = tokio::join!(
        store.undelete_user(tenant, ada.id),
        store.undelete_user(tenant, bob.id)
    );
    assert!(one.is_ok() ^ two.is_ok(), "{one:?} {two:?}");
}

async fn a_user_has_no_more_devices_than_it_may(test: TestStore) {
    let world = World::new(test).await;
    let (store, tenant) = (world.store.clone(), world.tenant);
    let new = NewUser {
        device_limit: 3,
        ..new_user("ada", [world.group])
    };
    let user = store.create_user(tenant, new, None).await.unwrap().id;
    let device = || new_user("x", []).devices.remove(0);
    let mut tasks = Vec::new();
    for _ in 0..6 {
        let (store, new) = (store.clone(), device());
        tasks.push(tokio::spawn(async move {
            store.create_user_device(tenant, user, new, None).await
        }));
    }
    let mut made = Vec::new();
    for task in tasks {
        match task.await.unwrap() {
            Ok(device) => made.push(device),
            Err(StoreError::LimitReached { what: "devices" }) => {}
            Err(error) => panic!("{error:?}"),
        }
    }
    assert_eq!(made.len(), 2, "beside the one that it was made with");
    assert_eq!(store.user_devices(tenant, user).await.unwrap().len(), 3);
    let state = store.desired_state(world.node).await.unwrap();
    assert_eq!(state.users[0].peers.len(), 3);

    // What the user keeps is not known here, and no key is two devices'.
    let gone = made.pop().unwrap();
    store
        .delete_user_device(tenant, user, gone.id)
        .await
        .unwrap();
    let state = store.desired_state(world.node).await.unwrap();
    assert_eq!(state.users[0].peers.len(), 2);
    let mut own = device();
    own.keys.sealed_private_key = None;
    let key = own.keys.public_key;
    let own = store.create_user_device(tenant, user, own, None).await;
    assert!(own.unwrap().key_is_users);
    store
        .delete_user_device(tenant, user, made[0].id)
        .await
        .unwrap();
    let mut same = device();
    same.keys.public_key = key;
    let same = store.create_user_device(tenant, user, same, None).await;
    assert!(matches!(
        same,
        Err(StoreError::AlreadyExists { what: "public_key" })
    ));
}

async fn of_a_hundred_changes_at_once_none_is_lost(test: TestStore) {
    let member = Member::new(test, Limit::Bytes(1_000), ResetStrategy::None).await;
    let (tenant, id) = (member.tenant, member.id);
    let now = member.store.now_ms();
    let ends = UserPatch {
        expires_at_ms: Some(Some(now + DAY)),
        ..UserPatch::default()
    };
    let before = member.update(ends).await;
    let mut tasks = Vec::new();
    for number in 0..100_u32 {
        let store = member.store.clone();
        tasks.push(tokio::spawn(async move {
            // Who finds somebody in the way tries again, as clients do.
            loop {
                let done = match number % 4 {
                    0 => {
                        let by = Extension {
                            time_ms: DAY,
                            bytes: 10,
                        };
                        store.extend_user(tenant, id, by, None).await
                    }
                    1 => {
                        let patch = UserPatch {
                            note: Some(format!("{number}")),
                            ..UserPatch::default()
                        };
                        store.update_user(tenant, id, patch, None).await
                    }
                    2 => {
                        let patch = UserPatch {
                            device_limit: Some(number),
                            ..UserPatch::default()
                        };
                        store.update_user(tenant, id, patch, None).await
                    }
                    // Read, add one, write: by the version that was read.
                    _ => match store.user(tenant, id).await {
                        Ok(user) => {
                            let down = user.speed.down.bps().max(64_000) + 1;
                            let patch = UserPatch {
                                speed_down: Some(Speed::nearest(down)),
                                ..UserPatch::default()
                            };
                            store
                                .update_user(tenant, id, patch, Some(user.version))
                                .await
                        }
                        Err(error) => Err(error),
                    },
                };
                match done {
                    Ok(_) => return,
                    Err(StoreError::StaleVersion) => tokio::task::yield_now().await,
                    Err(error) if error.is_transient() => tokio::task::yield_now().await,
                    Err(error) => panic!("{error:?}"),
                }
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    let user = member.user().await;
    assert_eq!(user.version, before.version + 100);
    assert_eq!(user.expires_at_ms, Some(now + 26 * DAY));
    assert_eq!(user.period.limit, Limit::Bytes(1_250));
    assert_eq!(user.speed.down.bps(), 64_025);
    assert_eq!(user.note.parse::<u32>().unwrap() % 4, 1);
    assert_eq!(user.device_limit % 4, 2);
}
