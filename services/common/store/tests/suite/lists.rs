//! Lists give every item once, page by page, and say nothing of other tenants.

use std::collections::BTreeSet;

use vpnpanel_domain::{Limit, UserId};
use vpnpanel_store::testing::TestStore;
use vpnpanel_store::{Page, UserFilter, on_each_database};

use crate::fixture::{World, new_group, new_inbound, new_node, new_tenant, new_user};

on_each_database!(
    pages_hold_every_user_once,
    filters_narrow_a_list,
    a_tenant_sees_its_own_inbounds_and_those_offered,
);

async fn pages_hold_every_user_once(test: TestStore) {
    let world = World::new(test).await;
    let new: Vec<_> = (0..57)
        .map(|number| new_user(&format!("user{number:02}"), [world.group]))
        .collect();
    let ids: Vec<UserId> = new.iter().map(|user| user.id).collect();
    world.store.create_users(world.tenant, new).await.unwrap();
    let mut seen = Vec::new();
    let mut page = Page::first(10);
    loop {
        let users = world
            .store
            .users(world.tenant, &UserFilter::default(), page)
            .await
            .unwrap();
        seen.extend(users.iter().map(|user| user.id));
        assert!(
            users
                .iter()
                .all(|user| user.group_ids.contains(&world.group))
        );
        match users.last() {
            Some(last) if users.len() == 10 => page = Page::after(10, last.id),
            _ => break,
        }
    }
    assert_eq!(seen, ids);
}

async fn filters_narrow_a_list(test: TestStore) {
    let world = World::new(test).await;
    let few = new_group(&world.store, world.tenant, "few", []).await;
    for name in ["Anna", "anne", "bob"] {
        world.user(name, Limit::None).await;
    }
    world
        .store
        .create_user(world.tenant, new_user("annika", [few]), None)
        .await
        .unwrap();
    let names = async |filter: UserFilter| -> BTreeSet<String> {
        let users = world.store.users(world.tenant, &filter, Page::first(10));
        users
            .await
            .unwrap()
            .into_iter()
            .map(|user| user.username)
            .collect()
    };
    let prefix = UserFilter {
        username_prefix: Some("ANN".to_owned()),
        ..UserFilter::default()
    };
    assert_eq!(names(prefix.clone()).await.len(), 3);
    let both = UserFilter {
        group_id: Some(few),
        ..prefix
    };
    assert_eq!(names(both).await, ["annika".to_owned()].into());
}

async fn a_tenant_sees_its_own_inbounds_and_those_offered(test: TestStore) {
    let world = World::new(test).await;
    let other = new_tenant(&world.store, "other").await;
    new_node(&world.store, Some(other), "dedicated").await;
    let own = new_inbound(&world.store, Some(other), "own", 51820, "10.30.0.0/16").await;
    let ids = async |tenant| -> Vec<_> {
        let inbounds = world.store.inbounds(tenant, Page::first(10));
        inbounds
            .await
            .unwrap()
            .into_iter()
            .map(|it| it.id)
            .collect()
    };
    assert_eq!(ids(Some(other)).await, [world.inbound, own]);
    assert_eq!(ids(Some(world.tenant)).await, [world.inbound]);
    assert_eq!(ids(None).await, [world.inbound]);
    let foreign = world
        .store
        .create_group(
            vpnpanel_store::NewGroup {
                id: vpnpanel_store::fresh_id(),
                tenant_id: world.tenant,
                name: "stolen".to_owned(),
                inbound_ids: [own].into(),
            },
            None,
        )
        .await;
    assert!(foreign.is_err());
    let bound = world.store.bindings_of_inbound(own).await.unwrap();
    assert_eq!(bound.len(), 1);
    assert_ne!(
        bound[0].node_id, world.node,
        "a tenant's inbound stays on its own nodes"
    );
}
