//! Subscriptions: found by their token's hash alone, with everything that a fetch answers.

use vpnpanel_domain::{Limit, UserId, UserStatus, XrayProtocol};
use vpnpanel_store::testing::TestStore;
use vpnpanel_store::{
    Fetched, Page, StoreError, SubscriptionFetch, SubscriptionToken, UserFilter, on_each_database,
};

use crate::fixture::{Keys, World, new_user, new_xray, random, reality, subscription_token};

on_each_database!(
    a_token_finds_its_user_with_period_tenant_and_connections,
    a_token_that_is_none_was_replaced_or_is_of_a_deleted_user_is_not_found,
    users_of_before_get_a_link_once,
    the_latest_fetch_of_each_user_is_kept,
    a_fetch_is_two_statements_by_keys,
);

async fn with_token(world: &World, name: &str) -> (UserId, SubscriptionToken) {
    let token = subscription_token();
    let mut new = new_user(name, [world.group]);
    new.limit = Limit::Bytes(1_000);
    new.subscription = Some(token.clone());
    let user = world.store.create_user(world.tenant, new, None).await;
    (user.unwrap().id, token)
}

async fn a_token_finds_its_user_with_period_tenant_and_connections(test: TestStore) {
    let world = World::new(test).await;
    let vless = XrayProtocol::Vless { vision: true };
    new_xray(&world.store, None, "vless", reality(443, vless))
        .await
        .unwrap();
    let (user, token) = with_token(&world, "ada").await;
    let found = world.store.subscription(&token.hash).await.unwrap();
    let shown = world.store.user(world.tenant, user).await.unwrap();
    assert_eq!(found.user.id, user);
    assert_eq!(found.user.tenant_id, world.tenant);
    assert_eq!(found.user.period, shown.period);
    assert_eq!(found.user.sealed_subscription, Some(token.sealed));
    assert_eq!(found.tenant_name, "acme");
    let connections = world.store.connections(world.tenant, user).await.unwrap();
    assert_eq!(found.connections, connections);
    assert_eq!(connections.len(), 1);

    // Nobody is refused a fetch for what the nodes refuse.
    world
        .store
        .set_user_disabled(world.tenant, user, true)
        .await
        .unwrap();
    let found = world.store.subscription(&token.hash).await.unwrap();
    assert_eq!(found.user.status, UserStatus::Disabled);
    assert_eq!(found.connections, connections);
}

async fn a_token_that_is_none_was_replaced_or_is_of_a_deleted_user_is_not_found(test: TestStore) {
    let world = World::new(test).await;
    let (store, tenant) = (&world.store, world.tenant);
    let (user, first) = with_token(&world, "ada").await;
    let (second, third) = (subscription_token(), subscription_token());
    let missing = async |token: &SubscriptionToken| {
        let found = store.subscription(&token.hash).await;
        matches!(found, Err(StoreError::NotFound("subscription")))
    };
    let nobodys = SubscriptionToken {
        hash: random(),
        ..first.clone()
    };
    assert!(missing(&nobodys).await);

    let rotated = store.rotate_subscription(tenant, user, second.clone(), None);
    let rotated = rotated.await.unwrap();
    assert_eq!(rotated.sealed_subscription, Some(second.sealed.clone()));
    assert!(missing(&first).await);
    assert_eq!(
        store.subscription(&second.hash).await.unwrap().user.id,
        user
    );

    store
        .revoke_user_credentials(tenant, user, &Keys, third.clone(), None)
        .await
        .unwrap();
    assert!(missing(&second).await);
    assert_eq!(store.subscription(&third.hash).await.unwrap().user.id, user);

    store.delete_user(tenant, user, None).await.unwrap();
    assert!(missing(&third).await);
}

async fn users_of_before_get_a_link_once(test: TestStore) {
    let world = World::new(test).await;
    let mut users = Vec::new();
    for name in ["ada", "bob"] {
        let mut new = new_user(name, [world.group]);
        new.subscription = None;
        let user = world.store.create_user(world.tenant, new, None).await;
        users.push(user.unwrap());
    }
    let (eve, hers) = with_token(&world, "eve").await;
    let hash = |user: UserId| {
        let mut hash = [0; 32];
        hash[..16].copy_from_slice(user.as_bytes());
        hash
    };
    let make = |user: UserId| {
        Ok(SubscriptionToken {
            hash: hash(user),
            sealed: user.as_bytes().to_vec(),
        })
    };
    assert!(!world.store.link_subscriptions(&make).await.unwrap());
    for user in &users {
        let found = world.store.subscription(&hash(user.id)).await.unwrap();
        assert_eq!(found.user.id, user.id);
        let sealed = user.id.as_bytes().to_vec();
        assert_eq!(found.user.sealed_subscription, Some(sealed));
    }
    let found = world.store.subscription(&hers.hash).await.unwrap();
    assert_eq!(found.user.id, eve);
    let never = |_| -> Result<SubscriptionToken, Box<dyn std::error::Error + Send + Sync>> {
        Err("every user has one".into())
    };
    assert!(!world.store.link_subscriptions(&never).await.unwrap());
}

async fn the_latest_fetch_of_each_user_is_kept(test: TestStore) {
    let world = World::new(test).await;
    let (ada, token) = with_token(&world, "ada").await;
    let (bob, _) = with_token(&world, "bob").await;
    let fetch = |user_id, at_ms, client: &str| SubscriptionFetch {
        tenant_id: world.tenant,
        user_id,
        fetched: Fetched {
            at_ms,
            client: client.to_owned(),
        },
    };
    let store = &world.store;
    let nobody: UserId = vpnpanel_store::fresh_id();
    let first = [
        fetch(bob, 5, "v2rayN/7"),
        fetch(ada, 5, "sing-box 1.12 \"quoted\""),
        fetch(nobody, 5, "gone"),
    ];
    store.note_subscription_fetches(&first).await.unwrap();
    let second = [fetch(ada, 4, "an earlier one"), fetch(bob, 6, "Happ/3")];
    store.note_subscription_fetches(&second).await.unwrap();
    store.note_subscription_fetches(&[]).await.unwrap();

    let page = Page::first(10);
    let users = store
        .users(world.tenant, &UserFilter::default(), page)
        .await;
    let fetched: Vec<_> = users.unwrap().into_iter().map(|it| it.fetched).collect();
    let known = |it: &SubscriptionFetch| Some(it.fetched.clone());
    assert_eq!(fetched, [known(&first[1]), known(&second[1])]);
    let found = store.subscription(&token.hash).await.unwrap();
    assert_eq!(found.user.fetched, known(&first[1]));
}

async fn a_fetch_is_two_statements_by_keys(test: TestStore) {
    for plan in test.subscription_plans().await {
        let whole = plan.lines().find(|line| {
            let line = line.trim_start_matches([' ', '-', '>']);
            // An index that holds nothing else is walked from its beginning.
            (line.starts_with("Seq Scan") || line.starts_with("SCAN"))
                && !line.contains("USING INDEX users_without_subscription")
        });
        assert_eq!(whole, None, "of\n{plan}");
    }
}
