//! Accounts, sessions, keys and certificates.

use vpnpanel_domain::{NodeId, SessionId};
use vpnpanel_store::testing::TestStore;
use vpnpanel_store::{
    CertificateState, NewAccount, NewAuthority, NewJoinToken, NewNodeCertificate, NewRole,
    NewSession, NewSigningKey, Page, Proof, Rotation, Store, fresh_id, on_each_database,
};

use crate::fixture::{World, new_tenant};

on_each_database!(
    processes_that_start_at_once_make_one_of_everything,
    a_spent_refresh_token_ends_its_session,
    sessions_that_were_ended_are_told_from_a_time_on,
    a_join_token_is_for_one_host,
    an_enrolment_retires_the_certificate_before,
    memberships_say_what_may_be_done_where,
);

/// Notes a certificate of an enrolment.
pub(crate) async fn enrol(store: &Store, node: NodeId, serial: &[u8]) {
    let authority = store.ensure_authority(new_authority(1)).await.unwrap();
    let new = NewNodeCertificate {
        serial: serial.to_vec(),
        node_id: node,
        authority_id: authority.id,
        spki_sha256: vec![7; 32],
        certificate_der: serial.to_vec(),
        not_before_ms: 0,
        not_after_ms: i64::MAX,
    };
    store.enrol_certificate(new).await.unwrap();
}

pub(crate) fn new_authority(number: u8) -> NewAuthority {
    NewAuthority {
        kind: "internal".to_owned(),
        certificate_der: vec![number; 8],
        sealed_private_key: vec![number; 8],
        not_after_ms: i64::MAX,
    }
}

pub(crate) fn new_account(email: &str) -> NewAccount {
    NewAccount {
        id: fresh_id(),
        email: email.to_owned(),
        display_name: "Admin".to_owned(),
        password_hash: Some("$argon2id$…".to_owned()),
        password_change_required: true,
    }
}

async fn admin_role(store: &Store) {
    let role = NewRole {
        name: "admin".to_owned(),
        description: String::new(),
        permissions: ["tenant.read".to_owned()].into(),
    };
    store.seed_roles(&[role]).await.unwrap();
}

async fn processes_that_start_at_once_make_one_of_everything(test: TestStore) {
    let stores = [
        test.another().await,
        test.another().await,
        test.another().await,
    ];
    admin_role(&test.store).await;
    let firsts = stores
        .iter()
        .map(|store| store.create_first_account(new_account("a@b"), "admin"));
    let firsts = futures::future::join_all(firsts).await;
    let made = firsts
        .into_iter()
        .filter(|it| it.as_ref().unwrap().is_some());
    assert_eq!(made.count(), 1);
    let keys = stores.iter().enumerate().map(|(number, store)| {
        store.ensure_signing_key(NewSigningKey {
            kid: format!("kid{number}"),
            public_key: vec![1],
            sealed_private_key: vec![2],
        })
    });
    let kids: Vec<_> = futures::future::join_all(keys)
        .await
        .into_iter()
        .map(|key| key.unwrap().kid)
        .collect();
    assert!(kids.iter().all(|kid| *kid == kids[0]), "{kids:?}");
    let authorities = stores
        .iter()
        .zip(1..)
        .map(|(store, number)| store.ensure_authority(new_authority(number)));
    let ids: Vec<_> = futures::future::join_all(authorities)
        .await
        .into_iter()
        .map(|one| one.unwrap().id)
        .collect();
    assert!(ids.iter().all(|id| *id == ids[0]));
    assert_eq!(
        test.store
            .trusted_authorities("internal")
            .await
            .unwrap()
            .len(),
        1
    );
}

async fn a_spent_refresh_token_ends_its_session(test: TestStore) {
    let account = test.store.create_account(new_account("a@b")).await.unwrap();
    let id: SessionId = fresh_id();
    let new = NewSession {
        id,
        account_id: account.id,
        user_agent: "curl".to_owned(),
        address: "192.0.2.7".to_owned(),
        expires_at_ms: test.clock.now_ms() + 1_000_000,
        proof: Proof::default(),
    };
    test.store.create_session(new, b"one").await.unwrap();
    let seen_at = async |email: &str| test.store.addresses_by_email(email).await.unwrap();
    assert_eq!(seen_at(&account.email.to_uppercase()).await, ["192.0.2.7"]);
    assert!(seen_at("nobody@example.com").await.is_empty());
    let rotated = test
        .store
        .rotate_refresh_token(b"one", b"two")
        .await
        .unwrap();
    assert!(matches!(rotated, Rotation::Rotated(session) if session.id == id));
    let reused = test
        .store
        .rotate_refresh_token(b"one", b"three")
        .await
        .unwrap();
    assert!(matches!(reused, Rotation::Reused(_)));
    let over = test
        .store
        .rotate_refresh_token(b"two", b"four")
        .await
        .unwrap();
    assert_eq!(over, Rotation::Refused, "the whole family is over");
    let page = Page::first(10);
    let left = test.store.sessions(account.id, page).await.unwrap();
    assert!(left.is_empty());
    let unknown = test
        .store
        .rotate_refresh_token(b"never", b"five")
        .await
        .unwrap();
    assert_eq!(unknown, Rotation::Refused);
}

async fn sessions_that_were_ended_are_told_from_a_time_on(test: TestStore) {
    let account = test.store.create_account(new_account("a@b")).await.unwrap();
    let mut sessions = Vec::new();
    for n in 0..3_u8 {
        let new = NewSession {
            id: fresh_id(),
            account_id: account.id,
            user_agent: String::new(),
            address: String::new(),
            expires_at_ms: test.store.now_ms() + 900_000,
            proof: Proof::default(),
        };
        let made = test.store.create_session(new, &[n]).await.unwrap();
        sessions.push(made.unwrap().id);
    }
    let end = async |id| test.store.revoke_session(account.id, id, "logout").await;
    end(sessions[0]).await.unwrap();
    test.clock.advance(60_000);
    let since = test.store.now_ms();
    end(sessions[1]).await.unwrap();
    let told = test.store.sessions_ended_since(since).await.unwrap();
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].0, sessions[1]);
    assert!(told[0].1 >= since);
    let told = test.store.sessions_ended_since(0).await.unwrap();
    let ids: Vec<_> = told.iter().map(|(id, _)| *id).collect();
    assert_eq!(ids, [sessions[1], sessions[0]]);
}

async fn a_join_token_is_for_one_host(test: TestStore) {
    let world = World::new(test).await;
    let token = |hash: &[u8]| NewJoinToken {
        hash: hash.to_vec(),
        node_id: world.node,
        expires_at_ms: world.store.now_ms() + 900_000,
    };
    let spend = async |hash: &[u8], key: &[u8]| {
        world
            .store
            .spend_join_token(hash, key)
            .await
            .unwrap()
            .is_some()
    };
    world
        .store
        .create_join_token(None, token(b"old"))
        .await
        .unwrap();
    world
        .store
        .create_join_token(None, token(b"new"))
        .await
        .unwrap();
    assert!(!spend(b"old", b"host").await, "superseded");
    assert!(spend(b"new", b"host").await);
    assert!(spend(b"new", b"host").await, "the same host may ask again");
    assert!(!spend(b"new", b"thief").await);
    world.test.clock.advance(900_001);
    assert!(!spend(b"new", b"host").await, "expired");
    let foreign = world
        .store
        .create_join_token(Some(world.tenant), token(b"x"))
        .await;
    assert!(foreign.is_err(), "a shared node is not the tenant's");
}

async fn an_enrolment_retires_the_certificate_before(test: TestStore) {
    let world = World::new(test).await;
    enrol(&world.store, world.node, b"one").await;
    enrol(&world.store, world.node, b"two").await;
    let of = async |serial: &[u8]| {
        let identity = world.store.identity_of(serial).await.unwrap().unwrap();
        assert_eq!(identity.node_id, world.node);
        identity.state
    };
    assert_eq!(of(b"one").await, CertificateState::Retired);
    assert_eq!(of(b"two").await, CertificateState::Current);
    world
        .store
        .revoke_node_certificates(None, world.node)
        .await
        .unwrap();
    assert_eq!(of(b"two").await, CertificateState::Revoked);
    assert_eq!(world.store.identity_of(b"three").await.unwrap(), None);
}

async fn memberships_say_what_may_be_done_where(test: TestStore) {
    admin_role(&test.store).await;
    let tenant = new_tenant(&test.store, "acme").await;
    let account = test
        .store
        .create_account(new_account("Ada@Example"))
        .await
        .unwrap();
    let found = test.store.account_by_email("ada@example").await.unwrap();
    assert_eq!(found.unwrap().id, account.id);
    test.store
        .set_membership(account.id, Some(tenant), "admin")
        .await
        .unwrap();
    test.store
        .set_membership(account.id, Some(tenant), "admin")
        .await
        .unwrap();
    test.store
        .set_membership(account.id, None, "admin")
        .await
        .unwrap();
    let memberships = test.store.memberships(account.id).await.unwrap();
    assert_eq!(memberships.len(), 2);
    assert_eq!(memberships[0].tenant_id, None);
    assert_eq!(memberships[1].tenant_name, "acme");
    let permitted = test.store.role_permissions(&memberships[1].role).await;
    assert!(permitted.unwrap().unwrap().contains("tenant.read"));
}
