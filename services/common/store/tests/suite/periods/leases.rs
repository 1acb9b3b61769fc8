//! Leases of a period that has not begun.

use vpnpanel_domain::{Limit, MicroBytes, ResetStrategy};
use vpnpanel_link::collector::Policy;
use vpnpanel_link::{Hello, LeaseState, Pace};
use vpnpanel_store::testing::TestStore;
use vpnpanel_store::{AheadCursor, LEASES_AHEAD_MS, UserPatch, on_each_database};

use super::support::{DAY, Member, set_clock};
use crate::fixture::{new_node, new_user};

on_each_database!(
    a_node_holds_a_share_of_the_next_period_before_it_begins,
    long_periods_hold_no_second_lease_before_their_end_is_near,
    a_raised_limit_grows_the_next_periods_leases_too,
    nodes_are_found_once_when_a_users_period_comes_near,
);

const MIB: u64 = 1 << 20;

async fn open(member: &Member) -> Vec<vpnpanel_link::Grant> {
    let (node, generation) = (member.node, member.agent.generation);
    let policy = Policy::default();
    let opened = member.store.open_leases(node, generation, &policy);
    opened.await.unwrap()
}

async fn a_node_holds_a_share_of_the_next_period_before_it_begins(test: TestStore) {
    let member = Member::daily(test, Limit::Bytes(64 * MIB)).await;
    let periods = member.periods().await;
    let mut grants = open(&member).await;
    grants.sort_by_key(|grant| grant.period == periods[0].id);
    let of: Vec<_> = grants.iter().map(|grant| grant.period).collect();
    assert_eq!(of, [periods[1].id, periods[0].id]);
    assert_eq!(grants[1].allowance, MicroBytes::from_bytes(16 * MIB));
    assert!(open(&member).await.is_empty());

    // What is used up of the one leaves the other as it is, on the node and after the rollover.
    member.use_in(periods[1].id, 100 * MIB).await;
    member.roll_at(periods[1].ends_at_ms.unwrap()).await;
    let held = member.store.unanswered_grants(member.node).await.unwrap();
    let of: Vec<_> = held.iter().map(|grant| grant.period).collect();
    assert_eq!(of, [periods[0].id], "those of the old one are forgotten");
    let late = LeaseState {
        user: member.id,
        period: periods[1].id,
        lease: grants[0].lease,
        version: 1,
        allowance: grants[0].allowance,
        consumed: MicroBytes::ZERO,
    };
    let mut submission = member.agent.submission(Vec::new());
    submission.leases = vec![late];
    let policy = Policy::default();
    let done = member
        .store
        .ingest(vec![submission], &policy)
        .await
        .unwrap();
    assert_eq!(done.replies[0].grants, [], "nothing is granted of it");
    assert!(!done.replies[0].superseded, "it is no news");
    let held = member.store.unanswered_grants(member.node).await.unwrap();
    assert_eq!(held.len(), 1);
    let more = open(&member).await;
    assert_eq!(more.len(), 1, "of the period after it");
    assert_eq!(more[0].period, member.periods().await[0].id);

    // A node that was away over the end of a period still names what it held of it.
    let hello = Hello {
        leases: vec![late],
        ..member.agent.hello()
    };
    let opened = member
        .store
        .open_stream(member.node, &hello, Pace::default(), "test");
    assert_eq!(opened.await.unwrap().restored, None);
}

async fn long_periods_hold_no_second_lease_before_their_end_is_near(test: TestStore) {
    let strategy = ResetStrategy::Rolling { days: 30 };
    let member = Member::new(test, Limit::Bytes(MIB), strategy).await;
    let periods = member.periods().await;
    let first = open(&member).await;
    assert_eq!(first.len(), 1);
    assert_eq!(first[0].period, periods[1].id);
    let end = periods[1].ends_at_ms.unwrap();
    set_clock(&member.test, end - LEASES_AHEAD_MS - 60_000);
    assert!(open(&member).await.is_empty());
    set_clock(&member.test, end - LEASES_AHEAD_MS + 1_000);
    let second = open(&member).await;
    assert_eq!(second.len(), 1);
    assert_eq!(second[0].period, periods[0].id);
}

async fn a_raised_limit_grows_the_next_periods_leases_too(test: TestStore) {
    let member = Member::daily(test, Limit::Bytes(MIB)).await;
    assert_eq!(open(&member).await.len(), 2);
    let patch = UserPatch {
        limit: Some(Limit::Bytes(100 * MIB)),
        ..UserPatch::default()
    };
    member.update(patch).await;
    let users = [(member.tenant, member.id)];
    let grants = member
        .store
        .rebalance_users(&users, &Policy::default())
        .await
        .unwrap();
    let mut of: Vec<_> = grants.iter().map(|(_, grant)| grant.period).collect();
    of.sort_unstable();
    let mut both: Vec<_> = member.periods().await.iter().map(|it| it.id).collect();
    both.sort_unstable();
    assert_eq!(of, both);
}

async fn nodes_are_found_once_when_a_users_period_comes_near(test: TestStore) {
    let member = Member::daily(test, Limit::Bytes(MIB)).await;
    let elsewhere = new_node(&member.store, Some(member.tenant), "unused").await;
    let mut unlimited = new_user("free", [member.group]);
    unlimited.reset_strategy = ResetStrategy::Rolling { days: 1 };
    let made = member.store.create_user(member.tenant, unlimited, None);
    made.await.unwrap();
    let end = member.user().await.period.ends_at_ms.unwrap();
    let start = AheadCursor::behind(end - 1);
    let none = member.store.nodes_ahead(start, end - 1).await.unwrap();
    assert_eq!((none.nodes.len(), none.cursor), (0, start));
    let found = member.store.nodes_ahead(start, end).await.unwrap();
    assert!(found.nodes.contains(&member.node) && !found.nodes.contains(&elsewhere));
    assert!(!found.more);
    let again = member.store.nodes_ahead(found.cursor, end).await.unwrap();
    assert_eq!(again.nodes, []);
    // Users without a limit hold no lease.
    let later = member
        .store
        .nodes_ahead(AheadCursor::behind(end), end + 2 * DAY);
    assert_eq!(later.await.unwrap().nodes, []);
}
