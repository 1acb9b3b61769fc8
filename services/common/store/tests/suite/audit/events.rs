//! With every change its event, in the same commit.

use vpnpanel_domain::{Limit, TenantId};
use vpnpanel_store::testing::TestStore;
use vpnpanel_store::{
    Attribution, AuditFilter, Event, GroupPatch, Page, StoreError, UserPatch, fresh_id,
    on_each_database,
};

use super::support::{chain, describe, events, lease, record, somebody};
use crate::fixture::{World, new_user};

on_each_database! {
    a_change_leaves_an_event_with_its_author_and_one_that_fails_leaves_none,
    a_change_on_somebody_s_behalf_without_an_event_is_refused,
    a_batch_of_users_leaves_an_event_of_each,
    expiry_leaves_an_event_of_each_user,
    events_are_paged_newest_first_and_filtered,
    refused_sign_ins_are_counted_and_bounded,
}

async fn a_change_leaves_an_event_with_its_author_and_one_that_fails_leaves_none(test: TestStore) {
    let world = World::new(test).await;
    let who = somebody();
    let acting = world.store.acting(who.clone());
    let user = acting
        .create_user(world.tenant, new_user("ada", [world.group]), None)
        .await
        .unwrap();
    let again = acting
        .create_user(world.tenant, new_user("ADA", []), None)
        .await;
    assert!(matches!(again, Err(StoreError::AlreadyExists { .. })));
    let patch = UserPatch {
        note: Some("vip".to_owned()),
        ..UserPatch::default()
    };
    acting
        .update_user(world.tenant, user.id, patch, None)
        .await
        .unwrap();
    acting
        .update_group(world.tenant, world.group, GroupPatch::default(), None)
        .await
        .unwrap();
    acting
        .delete_user(world.tenant, user.id, None)
        .await
        .unwrap();

    let mut events = events(&world.store, Some(world.tenant)).await;
    events.reverse();
    let kinds: Vec<_> = events
        .iter()
        .map(|event| {
            let states = (!event.before.is_empty(), !event.after.is_empty());
            (event.resource_type.as_str(), states)
        })
        .collect();
    assert_eq!(
        kinds,
        [
            ("user", (false, true)),
            ("user", (true, true)),
            ("group", (true, true)),
            ("user", (true, false)),
        ]
    );
    let first = &events[0];
    assert_eq!(first.actor, who.actor);
    assert_eq!(first.resource_id, user.id.to_string());
    assert_eq!(first.request_id, "request-1");
    assert_eq!(first.address, "203.0.113.7");
    assert_eq!(first.method, "/test.v1.Service/Do");
    assert_eq!((first.outcome.as_str(), first.times), ("done", 1));
    assert!(first.link.is_none());
    // What nobody acts in is no event: the fixture made a tenant, a node and more.
    assert!(super::support::events(&world.store, None).await.is_empty());
}

async fn a_change_on_somebody_s_behalf_without_an_event_is_refused(test: TestStore) {
    let acting = test.store.acting(somebody());
    // Making rows of jobs is nobody's doing: it notes no event.
    let refused = acting
        .register_job("any", "any", std::time::Duration::from_secs(1))
        .await;
    assert!(
        matches!(&refused, Err(StoreError::Unaudited { method }) if method == "/test.v1.Service/Do"),
        "{refused:?}"
    );
    assert!(test.store.jobs().await.unwrap().is_empty());
}

async fn a_batch_of_users_leaves_an_event_of_each(test: TestStore) {
    let world = World::new(test).await;
    let new = (0..25).map(|n| new_user(&format!("user-{n}"), [world.group]));
    world
        .store
        .acting(somebody())
        .create_users(world.tenant, new.collect())
        .await
        .unwrap();
    let events = events(&world.store, Some(world.tenant)).await;
    assert_eq!(events.len(), 25);
    let ids: std::collections::BTreeSet<_> = events.iter().map(|it| &it.resource_id).collect();
    assert_eq!(ids.len(), 25);
}

async fn expiry_leaves_an_event_of_each_user(test: TestStore) {
    let world = World::new(test).await;
    let ends = world.test.clock.now_ms() + 60_000;
    for name in ["ada", "bob"] {
        let user = world.user(name, Limit::None).await;
        let patch = UserPatch {
            expires_at_ms: Some(Some(ends)),
            ..UserPatch::default()
        };
        world
            .store
            .update_user(world.tenant, user.id, patch, None)
            .await
            .unwrap();
    }
    let lease = lease(&world.store).await;
    world.test.clock.advance(60_001);
    let acting = world
        .store
        .acting(Attribution::system("scheduler/expiry", describe));
    assert_eq!(acting.expire_users(&lease, 10).await.unwrap(), 2);
    let events = events(&world.store, Some(world.tenant)).await;
    assert_eq!(events.len(), 2);
    assert!(events.iter().all(|it| it.actor == "system:scheduler/expiry"
        && it.resource_type == "user"
        && !it.before.is_empty()
        && !it.after.is_empty()));
}

async fn events_are_paged_newest_first_and_filtered(test: TestStore) {
    let tenant: TenantId = fresh_id();
    let store = &test.store;
    record(store, Some(tenant), 5).await;
    let middle = test.clock.now_ms() + 5_000;
    test.clock.advance(10_000);
    let late = Attribution {
        method: "/test.v1.Service/Late".into(),
        ..somebody()
    };
    let event = Event::on("other", Some(tenant), 9);
    store.acting(late.clone()).record(event).await.unwrap();
    record(store, None, 1).await;

    let list = async |filter: AuditFilter, page| {
        let found = store.audit_events(Some(tenant), &filter, page).await;
        found.unwrap()
    };
    let mut ids = Vec::new();
    let mut page = Page::first(2);
    loop {
        let found = list(AuditFilter::default(), page).await;
        let Some(last) = found.last() else { break };
        page = Page::after(2, last.id);
        ids.extend(found.iter().map(|it| it.resource_id.clone()));
    }
    assert_eq!(ids.first().map(String::as_str), Some("9"));
    ids.sort();
    assert_eq!(ids, ["0", "1", "2", "3", "4", "9"]);

    let all = Page::first(100);
    for (filter, expected) in [
        (
            AuditFilter {
                actor: Some(late.actor.clone()),
                ..AuditFilter::default()
            },
            1,
        ),
        (
            AuditFilter {
                method: Some("/test.v1.Service/Do".to_owned()),
                ..AuditFilter::default()
            },
            5,
        ),
        (
            AuditFilter {
                resource_type: Some("thing".to_owned()),
                resource_id: Some("3".to_owned()),
                ..AuditFilter::default()
            },
            1,
        ),
        (
            AuditFilter {
                from_ms: Some(middle),
                ..AuditFilter::default()
            },
            1,
        ),
        (
            AuditFilter {
                to_ms: Some(middle),
                ..AuditFilter::default()
            },
            5,
        ),
    ] {
        assert_eq!(
            list(filter.clone(), all).await.len(),
            expected,
            "{filter:?}"
        );
    }
    let one = list(AuditFilter::default(), all).await.remove(0);
    assert_eq!(store.audit_event(Some(tenant), one.id).await.unwrap(), one);
    let elsewhere = store.audit_event(None, one.id).await;
    assert!(matches!(elsewhere, Err(StoreError::NotFound(_))));
}

async fn refused_sign_ins_are_counted_and_bounded(test: TestStore) {
    let store = &test.store;
    // So that the minute does not end in the middle of the test.
    let into_minute = test.clock.now_ms() % 60_000;
    test.clock.advance(60_000 - into_minute);
    let acting = store.acting(Attribution {
        method: "/login".into(),
        ..Attribution::anonymous()
    });
    let refuse = async |email: &str, network: &str| {
        acting
            .refuse_sign_in(email, network, "SIGN_IN_REFUSED")
            .await
            .unwrap();
    };
    for _ in 0..40 {
        refuse("Nobody@Example.com", "203.0.113.0/24").await;
    }
    for number in 0..200 {
        refuse(&format!("{number}@example.com"), "198.51.100.0/24").await;
    }
    let at_once = events(store, None).await;
    assert_eq!(at_once.len(), 61, "the first of each, and of all others");
    assert!(at_once.iter().all(|it| it.outcome == "refused"
        && it.reason == "SIGN_IN_REFUSED"
        && it.actor == "anonymous"
        && it.resource_type == "account"));
    assert!(at_once.iter().all(|it| !it.resource_id.contains('@')));

    let lease = lease(store).await;
    assert_eq!(store.record_refusals(&lease).await.unwrap(), 0);
    test.clock.advance(60_000);
    assert_eq!(store.record_refusals(&lease).await.unwrap(), 2);
    assert_eq!(store.record_refusals(&lease).await.unwrap(), 0);
    let events = events(store, None).await;
    assert_eq!(events.iter().map(|it| it.times).sum::<u64>(), 240);
    let more = events.iter().find(|it| it.times == 39).expect("the rest");
    assert_eq!(more.address, "203.0.113.0/24");
    assert_eq!(more.method, "/login");
    assert_eq!(chain(store, &lease).await, 63);
}
