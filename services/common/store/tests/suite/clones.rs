//! Certificates that were replaced, shown again: what that means, and how long they are remembered.

use std::time::Duration;

use vpnpanel_store::testing::TestStore;
use vpnpanel_store::{CertificateState, Renewal, RenewalRefusal, RetiredShown, on_each_database};

use crate::fixture::World;
use crate::identity::enrol;
use crate::renewal::{WEEK_MS, enrolled, first_use, renew, shown, state};

on_each_database!(
    a_certificate_whose_successor_was_used_quarantines_the_node_when_it_is_shown,
    what_was_replaced_unused_or_just_now_means_nothing,
    a_host_that_enrolled_again_is_no_copy_of_its_predecessor,
    a_copy_that_asks_for_renewal_is_found_as_well,
    certificates_go_when_nobody_can_use_them_any_more,
);

/// A node whose certificate "first" was replaced by "second", which is in use.
async fn renewed(test: TestStore) -> World {
    let world = enrolled(test).await;
    renew(&world, shown(b"first"), b"second key", b"second").await;
    assert!(first_use(&world, b"second").await);
    world
}

async fn show(world: &World, serial: &[u8]) -> RetiredShown {
    let shown = world
        .store
        .retired_certificate_shown(world.node, serial)
        .await;
    shown.unwrap()
}

async fn quarantined(world: &World) -> Option<String> {
    let mut states = world.store.node_states(&[world.node]).await.unwrap();
    states.remove(&world.node).unwrap().quarantined
}

async fn a_certificate_whose_successor_was_used_quarantines_the_node_when_it_is_shown(
    test: TestStore,
) {
    let world = renewed(test).await;
    world.test.clock.advance(120_000);
    assert_eq!(show(&world, b"first").await, RetiredShown::Quarantined);
    let why = quarantined(&world).await.unwrap();
    assert!(why.contains("replaced"), "{why}");
    let again = show(&world, b"first").await;
    assert_eq!(again, RetiredShown::QuarantinedBefore);
    // Enrolment ends it, for good.
    enrol(&world.store, world.node, b"anew").await;
    assert_eq!(quarantined(&world).await, None);
    assert_eq!(show(&world, b"first").await, RetiredShown::Nothing);
}

async fn what_was_replaced_unused_or_just_now_means_nothing(test: TestStore) {
    let world = enrolled(test).await;
    renew(&world, shown(b"first"), b"lost key", b"lost").await;
    world.test.clock.advance(60_000);
    renew(&world, shown(b"first"), b"second key", b"second").await;
    assert!(first_use(&world, b"second").await);
    // A connection of a process that is gone was under way.
    world.test.clock.advance(110_000);
    assert_eq!(show(&world, b"first").await, RetiredShown::Nothing);
    // Its key is lost, and nobody has used it.
    world.test.clock.advance(WEEK_MS);
    assert_eq!(show(&world, b"lost").await, RetiredShown::Nothing);
    for other in [&b"second"[..], b"junk"] {
        assert_eq!(show(&world, other).await, RetiredShown::Nothing);
    }
    assert_eq!(quarantined(&world).await, None);
}

async fn a_host_that_enrolled_again_is_no_copy_of_its_predecessor(test: TestStore) {
    let world = renewed(test).await;
    enrol(&world.store, world.node, b"another host").await;
    world.test.clock.advance(WEEK_MS);
    for old in [&b"first"[..], b"second"] {
        assert_eq!(show(&world, old).await, RetiredShown::Nothing);
    }
    assert_eq!(quarantined(&world).await, None);
}

async fn a_copy_that_asks_for_renewal_is_found_as_well(test: TestStore) {
    let world = renewed(test).await;
    let soon = renew(&world, shown(b"first"), b"copy's key", b"copy's").await;
    assert_eq!(soon, Renewal::Refused(RenewalRefusal::Unknown));
    world.test.clock.advance(120_000);
    for _ in 0..2 {
        let refused = renew(&world, shown(b"first"), b"copy's key", b"copy's").await;
        assert_eq!(refused, Renewal::Refused(RenewalRefusal::Superseded));
    }
    assert!(quarantined(&world).await.is_some());
    assert_eq!(state(&world, b"copy's").await, None);
    // The rightful one is renewed on, and both wait for a person.
    let noted = renew(&world, shown(b"second"), b"third key", b"third").await;
    assert_eq!(noted, Renewal::Noted);
}

async fn certificates_go_when_nobody_can_use_them_any_more(test: TestStore) {
    let world = enrolled(test).await;
    renew(&world, shown(b"first"), b"lost key", b"lost").await;
    world.test.clock.advance(60_000);
    renew(&world, shown(b"first"), b"second key", b"second").await;
    assert!(first_use(&world, b"second").await);
    let store = &world.store;
    let hour = Duration::from_secs(3_600);
    store.register_job("prune", "", hour).await.unwrap();
    let lease = store.claim_job(&["prune"], "me", 1_000 * hour).await;
    let lease = lease.unwrap().unwrap();
    let prune = async |limit| store.prune_certificates(&lease, limit).await.unwrap();
    assert_eq!(prune(10).await, 0);
    world.test.clock.advance(3 * 86_400_000);
    assert_eq!(prune(10).await, 1, "what was never used");
    assert_eq!(state(&world, b"lost").await, None);
    world.test.clock.advance(WEEK_MS + 20 * 86_400_000);
    assert_eq!(prune(10).await, 0, "it may still be a sign");
    assert_eq!(
        state(&world, b"first").await,
        Some(CertificateState::Retired)
    );
    world.test.clock.advance(WEEK_MS + 7 * 86_400_000);
    assert_eq!(prune(0).await, 0);
    assert_eq!(prune(10).await, 1);
    assert_eq!(state(&world, b"first").await, None);
    // What is in use stays, ended or not: the node is known by it.
    assert_eq!(
        state(&world, b"second").await,
        Some(CertificateState::Current)
    );
}
