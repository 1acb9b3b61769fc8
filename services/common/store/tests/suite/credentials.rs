//! What accounts prove themselves by: refresh tokens, second factors, API tokens, presented twice
//! and by many at once.

use std::collections::BTreeSet;

use vpnpanel_domain::{AccountId, SessionId, TenantId};
use vpnpanel_store::testing::TestStore;
use vpnpanel_store::{
    Account, ApiTokenOwner, CodeUse, NewApiToken, NewRole, NewSession, Page, Proof, Rotation,
    SecondFactor, Store, StoreError, TenantPatch, fresh_id, on_each_database,
};

use crate::fixture::new_tenant;
use crate::identity::new_account;

on_each_database!(
    of_two_refreshes_at_once_one_works_and_the_session_ends,
    a_session_is_listed_until_it_is_over,
    a_code_works_once_however_many_present_it_at_once,
    wrong_codes_make_the_next_ones_wait_but_not_a_recovery_code,
    a_recovery_code_works_once,
    a_second_factor_is_confirmed_by_the_secret_that_was_read,
    a_tenant_is_owed_a_second_factor_until_there_is_one,
    an_api_token_is_made_of_what_its_account_holds_there,
    an_account_has_a_bounded_number_of_api_tokens,
    no_session_is_opened_by_what_holds_no_more,
    an_api_token_is_revoked_by_its_account_or_its_tenant_and_by_nobody_else,
);

async fn account(store: &Store) -> Account {
    let email = format!("{}@example.com", fresh_id::<AccountId>());
    store.create_account(new_account(&email)).await.unwrap()
}

async fn open(
    test: &TestStore,
    account: AccountId,
    token: &[u8],
    proof: Proof,
) -> Option<SessionId> {
    let new = NewSession {
        id: fresh_id(),
        account_id: account,
        user_agent: "curl".to_owned(),
        address: "192.0.2.7".to_owned(),
        expires_at_ms: test.clock.now_ms() + 1_000_000,
        proof,
    };
    let opened = test.store.create_session(new, token).await.unwrap();
    opened.map(|session| session.id)
}

async fn session(test: &TestStore, account: AccountId, token: &[u8]) -> SessionId {
    let proof = Proof {
        second_factor: true,
        ..Proof::default()
    };
    open(test, account, token, proof).await.unwrap()
}

async fn no_session_is_opened_by_what_holds_no_more(test: TestStore) {
    let store = &test.store;
    let account = account(store).await;
    let hash = account.password_hash.clone().unwrap();
    let shown = |password_hash: &str, second_factor| Proof {
        password_hash: Some(password_hash.to_owned()),
        second_factor,
    };
    let first = open(&test, account.id, b"1", shown(&hash, false)).await;
    assert!(first.is_some());
    // The password is changed while somebody signs in by the old one.
    store
        .change_password(account.id, &hash, "new")
        .await
        .unwrap();
    let late = open(&test, account.id, b"2", shown(&hash, false)).await;
    assert_eq!(late, None);
    let kept = open(&test, account.id, b"3", shown("new", false))
        .await
        .unwrap();
    // A second factor comes into force while somebody signs in without one.
    store
        .enroll_second_factor(account.id, b"sealed")
        .await
        .unwrap();
    let read = store.second_factor(account.id).await.unwrap().unwrap();
    let confirmed = store.confirm_second_factor(&read, 7, &[], kept).await;
    confirmed.unwrap();
    let late = open(&test, account.id, b"4", shown("new", false)).await;
    assert_eq!(late, None);
    assert!(
        open(&test, account.id, b"5", shown("new", true))
            .await
            .is_some()
    );
    // The account is gone.
    let nobody = open(&test, fresh_id(), b"6", Proof::default()).await;
    assert_eq!(nobody, None);
}

async fn role(store: &Store, name: &str, permissions: &[&str]) {
    let role = NewRole {
        name: name.to_owned(),
        description: String::new(),
        permissions: permissions.iter().map(|&p| p.to_owned()).collect(),
    };
    store.seed_roles(&[role]).await.unwrap();
}

async fn of_two_refreshes_at_once_one_works_and_the_session_ends(test: TestStore) {
    let account = account(&test.store).await;
    session(&test, account.id, b"first").await;
    let replicas = [
        test.another().await,
        test.another().await,
        test.another().await,
    ];
    let nexts: [&[u8]; 3] = [b"a", b"b", b"c"];
    let all = replicas
        .iter()
        .zip(nexts)
        .map(|(store, next)| store.rotate_refresh_token(b"first", next));
    let all = futures::future::join_all(all).await;
    let rotated = |it: &Rotation| matches!(it, Rotation::Rotated(_));
    let all: Vec<Rotation> = all.into_iter().map(Result::unwrap).collect();
    assert_eq!(all.iter().filter(|it| rotated(it)).count(), 1, "{all:?}");
    let reused = |it: &&Rotation| matches!(it, Rotation::Reused(_));
    assert!(all.iter().any(|it| reused(&it)), "{all:?}");
    for next in nexts {
        let after = test.store.rotate_refresh_token(next, b"d").await.unwrap();
        assert_eq!(after, Rotation::Refused, "the whole family is over");
    }
}

async fn a_session_is_listed_until_it_is_over(test: TestStore) {
    let (one, other) = (account(&test.store).await, account(&test.store).await);
    let first = session(&test, one.id, b"1").await;
    let second = session(&test, one.id, b"2").await;
    let third = session(&test, one.id, b"3").await;
    session(&test, other.id, b"4").await;
    let listed = async |page| {
        let sessions = test.store.sessions(one.id, page).await.unwrap();
        sessions.iter().map(|it| it.id).collect::<Vec<_>>()
    };
    assert_eq!(listed(Page::first(2)).await, [first, second]);
    assert_eq!(listed(Page::after(2, second)).await, [third]);
    let foreign = test.store.revoke_session(other.id, first, "test").await;
    assert!(matches!(foreign, Err(StoreError::NotFound("session"))));
    test.store
        .revoke_session(one.id, first, "test")
        .await
        .unwrap();
    let others = test
        .store
        .revoke_other_sessions(one.id, Some(second), "test")
        .await;
    assert_eq!(others.unwrap(), [third]);
    assert_eq!(listed(Page::first(9)).await, [second]);
    test.clock.advance(1_000_001);
    assert!(listed(Page::first(9)).await.is_empty());
}

const CODES: [[u8; 32]; 2] = [[1; 32], [2; 32]];

/// An account with a second factor of which the code of step 100 was seen.
async fn with_second_factor(test: &TestStore) -> (Account, SecondFactor) {
    let account = account(&test.store).await;
    let keep = session(test, account.id, account.id.as_bytes()).await;
    let store = &test.store;
    store
        .enroll_second_factor(account.id, b"sealed")
        .await
        .unwrap();
    let read = store.second_factor(account.id).await.unwrap().unwrap();
    assert_eq!(read.confirmed_at_ms, None);
    let early = store.use_totp(&read, Some(100)).await.unwrap();
    assert_eq!(early, CodeUse::Refused, "not in force yet");
    store
        .confirm_second_factor(&read, 100, &CODES, keep)
        .await
        .unwrap();
    let read = store.second_factor(account.id).await.unwrap().unwrap();
    assert!(read.confirmed_at_ms.is_some());
    assert_eq!(read.recovery_codes_left, 2);
    (account, read)
}

async fn a_code_works_once_however_many_present_it_at_once(test: TestStore) {
    let (_, read) = with_second_factor(&test).await;
    let stores = [test.another().await, test.another().await];
    let spent = test.store.use_totp(&read, Some(100)).await.unwrap();
    assert_eq!(spent, CodeUse::Refused, "confirmed with it");
    let both = stores.iter().map(|store| store.use_totp(&read, Some(101)));
    let both = futures::future::join_all(both).await;
    let accepted = both
        .into_iter()
        .filter(|it| *it.as_ref().unwrap() == CodeUse::Accepted);
    assert_eq!(accepted.count(), 1);
    let earlier = test.store.use_totp(&read, Some(100)).await.unwrap();
    assert_eq!(earlier, CodeUse::Refused, "an older step too");
    let next = test.store.use_totp(&read, Some(102)).await.unwrap();
    assert_eq!(next, CodeUse::Accepted);
}

async fn wrong_codes_make_the_next_ones_wait_but_not_a_recovery_code(test: TestStore) {
    let (account, read) = with_second_factor(&test).await;
    let guess = async |step| test.store.use_totp(&read, step).await.unwrap();
    let blocked = async || match guess(Some(200)).await {
        CodeUse::Blocked { until_ms } => until_ms,
        other => panic!("{other:?}"),
    };
    for _ in 0..4 {
        assert_eq!(guess(None).await, CodeUse::Refused);
    }
    for pause in [5_000, 10_000, 20_000] {
        let before = test.clock.now_ms();
        assert_eq!(guess(None).await, CodeUse::Refused);
        let until = blocked().await;
        assert!(until >= before + pause, "{}", until - before);
        if pause < 20_000 {
            test.clock.advance(pause);
        }
    }
    let recovered = test.store.use_recovery_code(account.id, &CODES[0]).await;
    assert_eq!(recovered.unwrap(), CodeUse::Accepted);
    assert_eq!(guess(Some(200)).await, CodeUse::Accepted, "and starts anew");
}

async fn a_recovery_code_works_once(test: TestStore) {
    let (one, _) = with_second_factor(&test).await;
    let (other, _) = with_second_factor(&test).await;
    let stores = [test.another().await, test.another().await];
    let both = stores
        .iter()
        .map(|store| store.use_recovery_code(one.id, &CODES[0]));
    let both = futures::future::join_all(both).await;
    let accepted = both
        .into_iter()
        .filter(|it| *it.as_ref().unwrap() == CodeUse::Accepted);
    assert_eq!(accepted.count(), 1);
    let left = test.store.second_factor(one.id).await.unwrap().unwrap();
    assert_eq!(left.recovery_codes_left, 1);
    let of_other = test.store.use_recovery_code(other.id, &CODES[0]).await;
    assert_eq!(of_other.unwrap(), CodeUse::Accepted, "each has its own");
    let replaced = test.store.replace_recovery_codes(one.id, &[[3; 32]]).await;
    replaced.unwrap();
    let old = test.store.use_recovery_code(one.id, &CODES[1]).await;
    assert_eq!(old.unwrap(), CodeUse::Refused);
    test.store.remove_second_factor(one.id).await.unwrap();
    let gone = test.store.use_recovery_code(one.id, &[3; 32]).await;
    assert_eq!(gone.unwrap(), CodeUse::Refused);
    assert_eq!(test.store.second_factor(one.id).await.unwrap(), None);
}

async fn a_second_factor_is_confirmed_by_the_secret_that_was_read(test: TestStore) {
    let account = account(&test.store).await;
    let keep = session(&test, account.id, b"keep").await;
    session(&test, account.id, b"other").await;
    let store = &test.store;
    store
        .enroll_second_factor(account.id, b"one")
        .await
        .unwrap();
    let first = store.second_factor(account.id).await.unwrap().unwrap();
    store
        .enroll_second_factor(account.id, b"two")
        .await
        .unwrap();
    let stale = store.confirm_second_factor(&first, 1, &CODES, keep).await;
    assert!(matches!(stale, Err(StoreError::StaleVersion)));
    let second = store.second_factor(account.id).await.unwrap().unwrap();
    store
        .confirm_second_factor(&second, 1, &CODES, keep)
        .await
        .unwrap();
    let again = store.enroll_second_factor(account.id, b"three").await;
    assert!(matches!(again, Err(StoreError::SecondFactorExists)));
    let left = store.sessions(account.id, Page::first(9)).await.unwrap();
    let left: Vec<SessionId> = left.iter().map(|it| it.id).collect();
    assert_eq!(left, [keep], "the others were opened without it");
}

async fn a_tenant_is_owed_a_second_factor_until_there_is_one(test: TestStore) {
    role(&test.store, "operator", &["user.read"]).await;
    let (strict, lax) = (
        new_tenant(&test.store, "strict").await,
        new_tenant(&test.store, "lax").await,
    );
    let patch = TenantPatch {
        require_second_factor: Some(true),
        ..TenantPatch::default()
    };
    let changed = test.store.update_tenant(strict, patch, None).await.unwrap();
    assert!(changed.require_second_factor);
    let (without, with) = (
        account(&test.store).await,
        with_second_factor(&test).await.0,
    );
    for id in [without.id, with.id] {
        for tenant in [strict, lax] {
            let set = test
                .store
                .set_membership(id, Some(tenant), "operator")
                .await;
            set.unwrap();
        }
    }
    let owed = test.store.second_factor_owed(without.id).await.unwrap();
    assert_eq!(owed, [strict]);
    assert!(
        test.store
            .second_factor_owed(with.id)
            .await
            .unwrap()
            .is_empty()
    );
}

fn new_token(account: AccountId, tenant: Option<TenantId>, permissions: &[&str]) -> NewApiToken {
    let id = fresh_id();
    NewApiToken {
        id,
        account_id: account,
        tenant_id: tenant,
        name: "backup".to_owned(),
        hint: "vpt_abcdef".to_owned(),
        hash: {
            let mut hash = [0; 32];
            hash[..16].copy_from_slice(id.as_bytes());
            hash
        },
        permissions: permissions.iter().map(|&p| p.to_owned()).collect(),
        expires_at_ms: i64::MAX,
    }
}

async fn an_api_token_is_made_of_what_its_account_holds_there(test: TestStore) {
    let store = &test.store;
    role(store, "operator", &["user.read", "user.write"]).await;
    role(store, "auditor", &["user.read"]).await;
    let (ours, theirs) = (
        new_tenant(store, "ours").await,
        new_tenant(store, "theirs").await,
    );
    let operator = account(store).await.id;
    let set = store.set_membership(operator, Some(ours), "operator").await;
    set.unwrap();
    let auditor = account(store).await.id;
    store
        .set_membership(auditor, None, "auditor")
        .await
        .unwrap();

    let new = new_token(operator, Some(ours), &["user.read", "user.write"]);
    let hash = new.hash;
    let made = store.create_api_token(new).await.unwrap();
    let found = store.api_token_by_hash(&hash).await.unwrap().unwrap();
    assert_eq!(found, made);
    assert!(store.api_token_by_hash(&[9; 32]).await.unwrap().is_none());
    for (who, tenant, permission) in [
        (operator, Some(theirs), "user.read"),
        (operator, None, "user.read"),
        (operator, Some(ours), "tenant.write"),
        (auditor, None, "user.write"),
        (auditor, Some(ours), "user.write"),
    ] {
        let new = new_token(who, tenant, &["user.read", permission]);
        let refused = store.create_api_token(new).await;
        assert!(
            matches!(&refused, Err(StoreError::GrantExceedsOwn { permission: it }) if *it == permission),
            "{refused:?}"
        );
    }
    for tenant in [None, Some(theirs)] {
        let made = store
            .create_api_token(new_token(auditor, tenant, &["user.read"]))
            .await;
        assert_eq!(made.unwrap().tenant_id, tenant);
    }
    let nowhere = new_token(auditor, Some(fresh_id()), &["user.read"]);
    let nowhere = store.create_api_token(nowhere).await;
    assert!(matches!(nowhere, Err(StoreError::NotFound("tenant"))));
}

async fn an_account_has_a_bounded_number_of_api_tokens(test: TestStore) {
    let store = &test.store;
    let account = account(store).await.id;
    for _ in 0..100 {
        store
            .create_api_token(new_token(account, None, &[]))
            .await
            .unwrap();
    }
    let refused = store.create_api_token(new_token(account, None, &[])).await;
    assert!(matches!(refused, Err(StoreError::LimitReached { .. })));
    let page = Page::first(101);
    let all = store
        .api_tokens(ApiTokenOwner::Account(account), page)
        .await
        .unwrap();
    let ids: BTreeSet<_> = all.iter().map(|it| it.id).collect();
    assert_eq!((all.len(), ids.len()), (100, 100));
    store
        .revoke_api_token(ApiTokenOwner::Account(account), all[7].id)
        .await
        .unwrap();
    let again = store.create_api_token(new_token(account, None, &[])).await;
    again.unwrap();
}

async fn an_api_token_is_revoked_by_its_account_or_its_tenant_and_by_nobody_else(test: TestStore) {
    let store = &test.store;
    let (ours, theirs) = (
        new_tenant(store, "ours").await,
        new_tenant(store, "theirs").await,
    );
    let (one, other) = (account(store).await.id, account(store).await.id);
    let make = async |tenant| {
        let new = new_token(one, tenant, &[]);
        store.create_api_token(new).await.unwrap().id
    };
    let (first, second) = (make(Some(ours)).await, make(Some(ours)).await);
    let platform = make(None).await;
    for owner in [
        ApiTokenOwner::Account(other),
        ApiTokenOwner::Tenant(theirs),
        ApiTokenOwner::Platform,
    ] {
        let refused = store.revoke_api_token(owner, first).await;
        assert!(matches!(refused, Err(StoreError::NotFound("API token"))));
    }
    let used = [first, platform];
    store.note_api_token_uses(&used, 5).await.unwrap();
    store.note_api_token_uses(&used, 4).await.unwrap();
    for (owner, id) in [
        (ApiTokenOwner::Account(one), first),
        (ApiTokenOwner::Tenant(ours), second),
        (ApiTokenOwner::Platform, platform),
    ] {
        let listed = store.api_tokens(owner, Page::first(9)).await.unwrap();
        let listed = listed.iter().find(|it| it.id == id).unwrap();
        assert_eq!(listed.used_at_ms, used.contains(&id).then_some(5));
        assert!(store.api_token_in_force(one, id).await.unwrap());
        assert!(!store.api_token_in_force(other, id).await.unwrap());
        assert_eq!(store.revoke_api_token(owner, id).await.unwrap(), one);
        assert!(!store.api_token_in_force(one, id).await.unwrap());
        assert!(store.revoke_api_token(owner, id).await.is_err());
    }
}
