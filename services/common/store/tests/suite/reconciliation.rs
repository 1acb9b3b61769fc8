//! What a log of certificates knows and a restored database does not.

use vpnpanel_domain::NodeId;
use vpnpanel_store::testing::TestStore;
use vpnpanel_store::{
    CertificateState, LoggedCertificate, NewJoinToken, NewNodeCertificate, RetiredShown,
    RevokedCertificate, TakenIn, fresh_id, on_each_database,
};

use crate::fixture::World;
use crate::identity::enrol;
use crate::renewal::{WEEK_MS, enrolled, first_use, good, renew, shown, state};

on_each_database!(
    renewals_since_the_backup_are_known_again,
    a_use_since_the_backup_is_known_again_by_the_next_one,
    an_enrolment_since_the_backup_ends_what_was_before,
    what_was_revoked_since_the_backup_stays_out,
    a_node_with_something_newer_is_left_alone,
    what_is_not_the_nodes_own_stays_out,
);

fn issued(world: &World, serial: &[u8], shown: Option<&[u8]>, at_ms: i64) -> LoggedCertificate {
    LoggedCertificate::Issued {
        certificate: NewNodeCertificate {
            serial: serial.to_vec(),
            node_id: world.node,
            authority_id: fresh_id(),
            spki_sha256: [serial, b" key"].concat(),
            certificate_der: [serial, b" certificate"].concat(),
            not_before_ms: at_ms,
            not_after_ms: at_ms + WEEK_MS,
        },
        tenant_id: None,
        shown: shown.map(<[u8]>::to_vec),
        at_ms,
    }
}

fn revoked(serials: &[&[u8]], at_ms: i64) -> LoggedCertificate {
    let ended = |serial: &&[u8]| RevokedCertificate {
        serial: serial.to_vec(),
        not_before_ms: at_ms - 1,
        not_after_ms: at_ms + WEEK_MS,
    };
    LoggedCertificate::Revoked {
        certificates: serials.iter().map(ended).collect(),
        at_ms,
    }
}

/// Takes entries in, as often as anybody likes.
async fn take_in(world: &World, log: &[LoggedCertificate]) -> TakenIn {
    let authority = world
        .store
        .ensure_authority(crate::identity::new_authority(1));
    let authority = authority.await.unwrap().id;
    let mut log = log.to_vec();
    for entry in &mut log {
        if let LoggedCertificate::Issued { certificate, .. } = entry {
            certificate.authority_id = authority;
        }
    }
    let take = || {
        world
            .store
            .take_in_certificates(world.node, authority, log.clone())
    };
    let taken = take().await.unwrap();
    if let TakenIn::Node { .. } = taken {
        let again = take().await.unwrap();
        assert!(
            matches!(
                again,
                TakenIn::Node {
                    issued: 0,
                    revoked: 0,
                    ..
                }
            ),
            "{again:?}"
        );
    }
    taken
}

fn taken(issued: u32, revoked: u32, passed_over: u32) -> TakenIn {
    TakenIn::Node {
        issued,
        revoked,
        passed_over,
    }
}

async fn renewals_since_the_backup_are_known_again(test: TestStore) {
    let mut world = enrolled(test).await;
    let backup = world.test.copy().await;
    let began = world.store.now_ms();
    renew(&world, shown(b"first"), b"second key", b"second").await;
    assert!(first_use(&world, b"second").await);
    world.store = backup.store.clone();
    assert!(good(&world, b"first").await && !good(&world, b"second").await);

    // The second was in use when the third was asked for.
    let log = [
        issued(&world, b"second", Some(b"first"), began + 1),
        issued(&world, b"third", Some(b"second"), began + 20_000),
    ];
    assert_eq!(take_in(&world, &log).await, taken(2, 0, 0));
    assert!(!good(&world, b"first").await);
    assert!(good(&world, b"second").await && good(&world, b"third").await);
    assert!(first_use(&world, b"third").await);
}

/// The second certificate was used after the backup, which the log does not say: it need not.
async fn a_use_since_the_backup_is_known_again_by_the_next_one(test: TestStore) {
    let mut world = enrolled(test).await;
    let backup = world.test.copy().await;
    let began = world.store.now_ms();
    renew(&world, shown(b"first"), b"second key", b"second").await;
    assert!(first_use(&world, b"second").await);
    world.store = backup.store.clone();
    let log = [issued(&world, b"second", Some(b"first"), began + 1)];
    assert_eq!(take_in(&world, &log).await, taken(1, 0, 0));

    // The rightful agent is let in, and so is a copy that still shows the first, until then alone.
    assert!(good(&world, b"first").await && good(&world, b"second").await);
    assert!(first_use(&world, b"second").await);
    assert!(!good(&world, b"first").await && good(&world, b"second").await);
    backup.clock.advance(120_000);
    let copy = world.store.retired_certificate_shown(world.node, b"first");
    assert_eq!(copy.await.unwrap(), RetiredShown::Quarantined);
}

async fn an_enrolment_since_the_backup_ends_what_was_before(test: TestStore) {
    let world = enrolled(test).await;
    renew(&world, shown(b"first"), b"second key", b"second").await;
    let now = world.store.now_ms();
    world
        .store
        .quarantine_node(world.node, "two of them")
        .await
        .unwrap();
    let log = [
        issued(&world, b"anew", None, now + 1),
        issued(&world, b"next", Some(b"anew"), now + 2),
    ];
    assert_eq!(take_in(&world, &log).await, taken(2, 0, 0));
    for old in [&b"first"[..], b"second"] {
        assert_eq!(state(&world, old).await, Some(CertificateState::Retired));
    }
    assert!(good(&world, b"anew").await && good(&world, b"next").await);
    let states = world.store.node_states(&[world.node]).await.unwrap();
    assert_eq!(states[&world.node].quarantined, None);
}

async fn what_was_revoked_since_the_backup_stays_out(test: TestStore) {
    let world = enrolled(test).await;
    let token = NewJoinToken {
        hash: b"token".to_vec(),
        node_id: world.node,
        expires_at_ms: world.store.now_ms() + 900_000,
    };
    world.store.create_join_token(None, token).await.unwrap();
    let now = world.store.now_ms();
    let log = [
        issued(&world, b"second", Some(b"first"), now + 1),
        revoked(&[b"first", b"second", b"of another log"], now + 2),
    ];
    assert_eq!(take_in(&world, &log).await, taken(1, 3, 0));
    assert!(!good(&world, b"first").await && !good(&world, b"second").await);
    let spent = world.store.spend_join_token(b"token", b"host").await;
    assert!(spent.unwrap().is_none());
    // The log of another replica comes later, and changes nothing.
    let log = [issued(&world, b"of another log", Some(b"first"), now + 1)];
    assert_eq!(take_in(&world, &log).await, taken(0, 0, 0));
    assert!(!good(&world, b"of another log").await);
    // Who enrols afterwards is in.
    let log = [issued(&world, b"anew", None, now + 3)];
    assert_eq!(take_in(&world, &log).await, taken(1, 0, 0));
    assert!(good(&world, b"anew").await);
}

async fn a_node_with_something_newer_is_left_alone(test: TestStore) {
    let world = enrolled(test).await;
    let before = world.store.now_ms();
    world.test.clock.advance(60_000);
    enrol(&world.store, world.node, b"newer").await;
    let log = [
        issued(&world, b"a", Some(b"first"), before),
        issued(&world, b"b", None, before + 1),
    ];
    assert_eq!(take_in(&world, &log).await, taken(0, 0, 2));
    assert!(good(&world, b"newer").await);
    assert_eq!(state(&world, b"a").await, None);
}

async fn what_is_not_the_nodes_own_stays_out(test: TestStore) {
    let mut world = enrolled(test).await;
    let now = world.store.now_ms();
    let mut foreign = issued(&world, b"foreign", None, now + 1);
    if let LoggedCertificate::Issued { tenant_id, .. } = &mut foreign {
        *tenant_id = Some(world.tenant);
    }
    assert_eq!(take_in(&world, &[foreign]).await, taken(0, 0, 1));
    assert!(good(&world, b"first").await);

    let known = world.node;
    let unknown: NodeId = fresh_id();
    world.node = unknown;
    let log = [issued(&world, b"unknown", None, now + 1)];
    assert_eq!(take_in(&world, &log).await, TakenIn::UnknownNode);
    assert_eq!(state(&world, b"unknown").await, None);

    world.node = known;
    world.store.delete_node(None, known, None).await.unwrap();
    let log = [issued(&world, b"late", None, now + 1)];
    assert_eq!(take_in(&world, &log).await, TakenIn::DeletedNode);
}
