//! Allowances: a user with a limit gets one with the state that shows it, and more when it is raised.

use vpnpanel_domain::{Limit, MicroBytes, ResetStrategy};
use vpnpanel_link::{Grant, LeaseState, Up};
use vpnpanel_store::{UserPatch, on_each_database, testing::TestStore};

use crate::{
    agent::{Disk, Link, counter, row},
    fleet::{Fleet, attribution},
};

const MIB: u64 = 1 << 20;

on_each_database! {
    a_limited_user_is_granted_no_more_than_the_limit_and_more_when_it_is_raised,
    the_next_period_is_told_and_leased_before_it_begins,
}

/// Waits for a grant of this much in all.
async fn granted(link: &mut Link, bytes: u64) -> Grant {
    loop {
        for grant in link.ack().await.grants {
            assert!(
                grant.allowance <= MicroBytes::from_bytes(bytes),
                "more than the limit"
            );
            if grant.allowance == MicroBytes::from_bytes(bytes) {
                return grant;
            }
            link.send(Up::LeaseReport(vec![answer(&grant, 0)])).await;
        }
    }
}

fn answer(grant: &Grant, consumed: u64) -> LeaseState {
    LeaseState {
        user: grant.user,
        period: grant.period,
        lease: grant.lease,
        version: grant.version,
        allowance: grant.allowance,
        consumed: MicroBytes::from_bytes(consumed),
    }
}

async fn a_limited_user_is_granted_no_more_than_the_limit_and_more_when_it_is_raised(
    test: TestStore,
) {
    let fleet = Fleet::new(test).await;
    let (node, user) = (fleet.node().await, fleet.user(4 * MIB).await);
    let mut disk = Disk::new();
    let (mut link, _) = Link::greet(fleet.channel(Some(node.credentials.clone())), &disk).await;
    let (name, state) = link.desired().await;
    assert!(state.users[0].limited && !state.users[0].blocked);
    link.apply(name, Vec::new()).await;
    let grant = granted(&mut link, 4 * MIB).await;
    assert_eq!((grant.user, grant.period), (user.id, user.period.id));
    link.send(Up::LeaseReport(vec![answer(&grant, 0)])).await;

    // all of it is used: the user is limited, and blocked everywhere in this period
    let batch = disk.write(vec![row(attribution(&user), counter(), 0, 2 * MIB)]);
    link.send(Up::Batch(batch)).await;
    let (name, state) = loop {
        let (name, state) = link.desired().await;
        link.apply(name, Vec::new()).await;
        if state.users[0].period.spent {
            break (name, state);
        }
    };
    assert!(state.users[0].limited && !state.users[0].blocked);
    assert!(name.revision.get() > 0);
    let limited = fleet.reload(&user).await;
    assert_eq!(limited.status, vpnpanel_domain::UserStatus::Limited);

    // a higher limit lets the user on again
    let patch = UserPatch {
        limit: Some(Limit::Bytes(8 * MIB)),
        ..UserPatch::default()
    };
    fleet
        .store
        .update_user(fleet.tenant, user.id, patch, None)
        .await
        .unwrap();
    granted(&mut link, 8 * MIB).await;
    fleet.stop().await;
}

async fn the_next_period_is_told_and_leased_before_it_begins(test: TestStore) {
    let fleet = Fleet::new(test).await;
    let node = fleet.node().await;
    let user = fleet
        .user_with(64 * MIB, ResetStrategy::Rolling { days: 2 })
        .await;
    let disk = Disk::new();
    let (mut link, _) = Link::greet(fleet.channel(Some(node.credentials.clone())), &disk).await;
    let (name, state) = link.desired().await;
    let (current, next) = (state.users[0].period, state.users[0].next_period);
    let next = next.expect("the next period");
    assert_eq!(current.id, user.period.id);
    assert_eq!(current.ends_ms, user.period.ends_at_ms);
    let length = next.ends_ms.unwrap() - current.ends_ms.unwrap();
    assert_eq!(length, 2 * 86_400_000);
    link.apply(name, Vec::new()).await;
    let mut leased = Vec::new();
    while leased.len() < 2 {
        leased.extend(link.ack().await.grants.into_iter().map(|it| it.period));
    }
    assert!(leased.contains(&current.id) && leased.contains(&next.id));
    fleet.stop().await;
}
