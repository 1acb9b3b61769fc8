//! Certificates of a node, one after the other.

use vpnpanel_domain::NodeId;
use vpnpanel_store::testing::TestStore;
use vpnpanel_store::{
    CertificateState, NewJoinToken, NewNodeCertificate, NodePatch, Renewal, RenewalRefusal,
    ShownCertificate, StoreError, on_each_database,
};

use crate::fixture::{Keys, World, new_node};
use crate::identity::enrol;

on_each_database!(
    the_next_certificate_takes_over_at_its_first_use,
    the_same_key_gets_the_same_certificate,
    another_key_takes_the_place_of_what_was_not_used,
    a_next_certificate_that_was_proven_is_not_replaced_before_it_is_used,
    what_is_not_good_is_not_renewed,
    each_proof_is_later_than_the_one_before,
    requests_at_the_same_time_make_one_certificate,
    a_revoked_node_has_to_enrol_again,
);

pub(crate) const WEEK_MS: i64 = 7 * 86_400_000;
const GRACE_MS: i64 = 2 * WEEK_MS;

/// A node with the certificate "first", whose last issue is long enough ago.
pub(crate) async fn enrolled(test: TestStore) -> World {
    let world = World::new(test).await;
    let authority = world
        .store
        .ensure_authority(crate::identity::new_authority(1));
    let authority_id = authority.await.unwrap().id;
    let now = world.store.now_ms();
    let new = NewNodeCertificate {
        serial: b"first".to_vec(),
        node_id: world.node,
        authority_id,
        spki_sha256: b"first key".to_vec(),
        certificate_der: b"first certificate".to_vec(),
        not_before_ms: now,
        not_after_ms: now + WEEK_MS,
    };
    world.store.enrol_certificate(new).await.unwrap();
    world.test.clock.advance(60_000);
    world
}

pub(crate) fn shown(serial: &[u8]) -> ShownCertificate<'_> {
    ShownCertificate {
        serial,
        proof_at_ms: None,
        grace_ms: GRACE_MS,
    }
}

/// Asks for the certificate `serial` for a key.
pub(crate) async fn renew(
    world: &World,
    by: ShownCertificate<'_>,
    key: &[u8],
    serial: &[u8],
) -> Renewal {
    try_renew(world, by, key, serial).await.unwrap()
}

async fn try_renew(
    world: &World,
    by: ShownCertificate<'_>,
    key: &[u8],
    serial: &[u8],
) -> Result<Renewal, StoreError> {
    let authority = world
        .store
        .ensure_authority(crate::identity::new_authority(1));
    let authority_id = authority.await.unwrap().id;
    let now = world.store.now_ms();
    let new = NewNodeCertificate {
        serial: serial.to_vec(),
        node_id: world.node,
        authority_id,
        spki_sha256: key.to_vec(),
        certificate_der: [serial, b" certificate"].concat(),
        not_before_ms: now,
        not_after_ms: now + WEEK_MS,
    };
    world.store.renew_certificate(by, new).await
}

pub(crate) async fn state(world: &World, serial: &[u8]) -> Option<CertificateState> {
    let identity = world.store.identity_of(serial).await.unwrap();
    identity.map(|identity| identity.state)
}

pub(crate) async fn good(world: &World, serial: &[u8]) -> bool {
    let good = world.store.good_serials([serial]).await.unwrap();
    good.contains(serial)
}

pub(crate) async fn first_use(world: &World, serial: &[u8]) -> bool {
    let used = world.store.use_next_certificate(world.node, serial).await;
    used.unwrap()
}

async fn the_next_certificate_takes_over_at_its_first_use(test: TestStore) {
    let world = enrolled(test).await;
    let noted = renew(&world, shown(b"first"), b"second key", b"second").await;
    assert_eq!(noted, Renewal::Noted);
    assert_eq!(state(&world, b"second").await, Some(CertificateState::Next));
    assert!(good(&world, b"first").await && good(&world, b"second").await);

    assert!(first_use(&world, b"second").await);
    assert_eq!(
        state(&world, b"first").await,
        Some(CertificateState::Retired)
    );
    assert_eq!(
        state(&world, b"second").await,
        Some(CertificateState::Current)
    );
    assert!(!good(&world, b"first").await && good(&world, b"second").await);
    assert!(!first_use(&world, b"second").await, "it is the current one");
    assert!(!first_use(&world, b"first").await);

    world.test.clock.advance(60_000);
    let by_the_old = renew(&world, shown(b"first"), b"thief's key", b"third").await;
    assert_eq!(by_the_old, Renewal::Refused(RenewalRefusal::Unknown));
    let by_the_new = renew(&world, shown(b"second"), b"third key", b"third").await;
    assert_eq!(by_the_new, Renewal::Noted);
}

async fn the_same_key_gets_the_same_certificate(test: TestStore) {
    let world = enrolled(test).await;
    let ask = |serial: &'static [u8]| renew(&world, shown(b"first"), b"second key", serial);
    assert_eq!(ask(b"second").await, Renewal::Noted);
    let all = world.store.node_certificates(world.node).await.unwrap();
    let before = ask(b"third").await;
    let Renewal::Before {
        certificate_der,
        not_after_ms,
        serial,
        issued_at_ms,
    } = &before
    else {
        panic!("{before:?}");
    };
    assert_eq!(&**certificate_der, b"second certificate");
    assert_eq!(
        (&**serial, *not_after_ms),
        (&b"second"[..], all[0].not_after_ms)
    );
    // It is noted a moment after it was made.
    assert!(*issued_at_ms >= all[0].not_before_ms);
    world.test.clock.advance(WEEK_MS / 2 - 60_000);
    assert_eq!(ask(b"third").await, before);
    assert_eq!(state(&world, b"third").await, None);
    world.test.clock.advance(120_000);
    assert_eq!(ask(b"third").await, Renewal::Noted, "it was due itself");
    assert_eq!(
        state(&world, b"second").await,
        Some(CertificateState::Retired)
    );
}

async fn another_key_takes_the_place_of_what_was_not_used(test: TestStore) {
    let world = enrolled(test).await;
    renew(&world, shown(b"first"), b"second key", b"second").await;
    let at_once = renew(&world, shown(b"first"), b"third key", b"third").await;
    assert_eq!(at_once, Renewal::Refused(RenewalRefusal::TooSoon));
    world.test.clock.advance(10_000);
    let noted = renew(&world, shown(b"first"), b"third key", b"third").await;
    assert_eq!(noted, Renewal::Noted);
    assert!(good(&world, b"first").await && good(&world, b"third").await);
    assert!(!good(&world, b"second").await);
    assert!(!first_use(&world, b"second").await);
    assert!(good(&world, b"first").await, "the old one was left alone");
}

async fn a_next_certificate_that_was_proven_is_not_replaced_before_it_is_used(test: TestStore) {
    let world = enrolled(test).await;
    renew(&world, shown(b"first"), b"second key", b"second").await;
    // It ended before the node could connect with it.
    world.test.clock.advance(WEEK_MS + 60_000);
    let noted = renew(&world, shown(b"second"), b"third key", b"third").await;
    assert_eq!(noted, Renewal::Noted);
    assert_eq!(
        state(&world, b"first").await,
        Some(CertificateState::Retired)
    );
    // The answer is lost, and the key with it.
    assert!(good(&world, b"second").await && good(&world, b"third").await);
}

async fn what_is_not_good_is_not_renewed(test: TestStore) {
    let world = enrolled(test).await;
    let refused = async |by, key: &[u8], why| {
        let renewal = renew(&world, by, key, b"second").await;
        assert_eq!(renewal, Renewal::Refused(why));
        assert_eq!(state(&world, b"second").await, None);
    };
    refused(shown(b"junk"), b"key", RenewalRefusal::Unknown).await;
    refused(shown(b"first"), b"first key", RenewalRefusal::SameKey).await;
    let other = new_node(&world.store, None, "other").await;
    enrol(&world.store, other, b"other's").await;
    refused(shown(b"other's"), b"key", RenewalRefusal::Unknown).await;

    let disable = async |disabled| {
        let patch = NodePatch {
            disabled: Some(disabled),
            ..NodePatch::default()
        };
        let node: NodeId = world.node;
        let done = world.store.update_node(None, node, patch, None, &Keys);
        done.await.unwrap();
    };
    disable(true).await;
    refused(shown(b"first"), b"key", RenewalRefusal::Disabled).await;
    disable(false).await;

    world.test.clock.advance(WEEK_MS + GRACE_MS);
    refused(shown(b"first"), b"key", RenewalRefusal::TooOld).await;
    world.test.clock.advance(-120_000);
    let noted = renew(&world, shown(b"first"), b"key", b"second").await;
    assert_eq!(noted, Renewal::Noted, "to the last minutes");

    world
        .store
        .delete_node(None, world.node, None)
        .await
        .unwrap();
    let gone = renew(&world, shown(b"first"), b"key", b"third").await;
    assert_eq!(gone, Renewal::Refused(RenewalRefusal::Unknown));
}

async fn each_proof_is_later_than_the_one_before(test: TestStore) {
    let world = enrolled(test).await;
    let proven = |at| ShownCertificate {
        proof_at_ms: Some(at),
        ..shown(b"first")
    };
    assert_eq!(
        renew(&world, proven(5), b"key", b"second").await,
        Renewal::Noted
    );
    let replayed = Renewal::Refused(RenewalRefusal::Replayed);
    for at in [4, 5] {
        assert_eq!(renew(&world, proven(at), b"key", b"x").await, replayed);
        assert_eq!(renew(&world, proven(at), b"another", b"x").await, replayed);
    }
    let again = renew(&world, proven(6), b"key", b"x").await;
    assert!(matches!(again, Renewal::Before { .. }), "{again:?}");
    assert_eq!(renew(&world, proven(6), b"key", b"x").await, replayed);
}

async fn requests_at_the_same_time_make_one_certificate(test: TestStore) {
    let world = enrolled(test).await;
    let serials = [b"a", b"b", b"c", b"d"];
    let asked = serials.map(|serial| try_renew(&world, shown(b"first"), b"key", serial));
    let mut noted = 0;
    for renewal in futures::future::join_all(asked).await {
        match renewal {
            Ok(Renewal::Noted) => noted += 1,
            Ok(Renewal::Before { .. }) => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(noted, 1);
    let all = world.store.node_certificates(world.node).await.unwrap();
    let good = all.iter().filter(|one| one.state.is_good());
    assert_eq!(good.count(), 2);
}

async fn a_revoked_node_has_to_enrol_again(test: TestStore) {
    let world = enrolled(test).await;
    let token = NewJoinToken {
        hash: b"token".to_vec(),
        node_id: world.node,
        expires_at_ms: world.store.now_ms() + 900_000,
    };
    world.store.create_join_token(None, token).await.unwrap();
    let spend = async || {
        let spent = world.store.spend_join_token(b"token", b"host").await;
        spent.unwrap().is_some()
    };
    assert!(spend().await);
    renew(&world, shown(b"first"), b"second key", b"second").await;
    let foreign = world
        .store
        .revoke_node_certificates(Some(world.tenant), world.node);
    assert!(matches!(foreign.await, Err(StoreError::NotFound("node"))));
    assert!(good(&world, b"first").await);

    let revoked = world.store.revoke_node_certificates(None, world.node);
    revoked.await.unwrap();
    assert!(!good(&world, b"first").await && !good(&world, b"second").await);
    assert!(!first_use(&world, b"second").await);
    world.test.clock.advance(60_000);
    let renewal = renew(&world, shown(b"first"), b"key", b"third").await;
    assert_eq!(renewal, Renewal::Refused(RenewalRefusal::Unknown));
    assert!(!spend().await, "a token that was spent gives no other one");
}
