use vpnpanel_domain::{Limit, TenantId, UserId};

use super::*;
use crate::collector::{Cursor, LeaseFacts, NodeFacts, PeriodFacts};
use crate::{Digest, wire};

const NOW_MS: i64 = 1_795_000_000_000;

fn node() -> NodeId {
    NodeId::from_bytes([1; 16])
}

fn submission() -> Submission {
    Submission {
        node: node(),
        generation: Generation(1),
        batches: Vec::new(),
        segments: Vec::new(),
        leases: Vec::new(),
        leases_before: 0,
        lost: Vec::new(),
        reported: None,
    }
}

/// A node with a stream, under an epoch that it was made in.
fn loaded() -> Loaded {
    let mut loaded = Loaded::default();
    let facts = NodeFacts {
        generation: Generation(1),
        reported: loaded.standing.epoch,
        ..NodeFacts::default()
    };
    loaded.nodes.insert(node(), facts);
    loaded
}

fn decided(loaded: Loaded, submission: Submission) -> Effects {
    struct Zeros;
    impl Entropy for Zeros {
        fn fill(&mut self, bytes: &mut [u8]) {
            bytes.fill(0);
        }
    }
    decide(
        loaded,
        vec![submission],
        &Policy::default(),
        NOW_MS,
        &mut Zeros,
    )
}

fn named() -> LeaseState {
    LeaseState {
        user: UserId::from_bytes([4; 16]),
        period: PeriodId::from_bytes([5; 16]),
        lease: LeaseId::from_bytes([6; 16]),
        version: 1,
        allowance: MicroBytes::ZERO,
        consumed: MicroBytes::ZERO,
    }
}

/// What becomes of one lease report where so many are on record, and the stream has handed in so many
/// before; `None` where the stream ends.
fn counted(has_to_report: bool, on_record: u64, leases_before: u64) -> Option<Vec<(NodeId, u64)>> {
    let mut loaded = loaded();
    for facts in loaded.nodes.values_mut() {
        facts.lease_reports = on_record;
        if has_to_report {
            facts.reported = StateEpoch(0);
        }
    }
    let report = Submission {
        leases: vec![named()],
        leases_before,
        ..submission()
    };
    let effects = decided(loaded, report);
    (!effects.replies[0].superseded).then_some(effects.lease_reports)
}

#[test]
fn a_lease_report_is_counted_once_and_where_one_before_it_is_lost_the_stream_ends() {
    assert_eq!(counted(true, 0, 0), Some(vec![(node(), 1)]));
    assert_eq!(counted(true, 3, 3), Some(vec![(node(), 4)]));
    assert_eq!(counted(true, 4, 3), Some(Vec::new()), "it came again");
    assert_eq!(counted(true, 2, 3), None);
    assert_eq!(counted(false, 0, 3), Some(Vec::new()), "nobody asked");
}

#[test]
fn an_epoch_that_another_has_followed_grows_no_more() {
    let (first, second) = (Epoch([2; 16]), Epoch([3; 16]));
    let payload = Payload {
        predecessor: None,
        written_at_ms: NOW_MS,
        rows: Vec::new(),
    };
    let follows = |successor| {
        let mut loaded = loaded();
        let cursor = Cursor {
            seq: Seq(4),
            digest: Digest([4; 32]),
            successor,
        };
        loaded.cursors.insert((node(), first), cursor);
        let batch = wire::seal(first, Seq(5), &payload);
        let payload = Ok(payload.clone());
        let batches = vec![Decoded { batch, payload }];
        decided(
            loaded,
            Submission {
                batches,
                ..submission()
            },
        )
    };
    assert_eq!(follows(None).cursors.len(), 1);
    let fork = follows(Some(second));
    assert!(fork.cursors.is_empty());
    let why = fork.replies[0].quarantined.as_deref().unwrap_or_default();
    assert!(
        why.contains("batch 5") && why.contains("at batch 4"),
        "{why}"
    );
}

#[test]
fn a_lease_of_a_period_that_is_over_is_no_news_and_takes_no_place() {
    let period = PeriodId::from_bytes([5; 16]);
    let user = UserId::from_bytes([6; 16]);
    let named = LeaseState {
        user,
        period,
        lease: LeaseId::from_bytes([7; 16]),
        version: 3,
        allowance: MicroBytes::from_bytes(9),
        consumed: MicroBytes::ZERO,
    };
    let on_record = LeaseFacts {
        lease: LeaseId::from_bytes([8; 16]),
        user,
        version: 1,
        answered: 0,
        allowance: MicroBytes::from_bytes(9),
        asked: None,
        billed: MicroBytes::ZERO,
        consumed: MicroBytes::ZERO,
        moved_at_ms: NOW_MS,
        named: Generation(0),
    };
    let names = |over: bool, known: bool| {
        let mut loaded = loaded();
        let facts = PeriodFacts {
            user,
            tenant: TenantId::from_bytes([9; 16]),
            limit: Limit::from_wire(100),
            used: MicroBytes::ZERO,
            reserved: MicroBytes::from_bytes(if known { 9 } else { 0 }),
            open: !over,
            over,
        };
        loaded.periods.insert(period, facts);
        if known {
            loaded.leases.insert((node(), period), on_record);
        }
        let leases = vec![named];
        decided(
            loaded,
            Submission {
                leases,
                ..submission()
            },
        )
    };
    for known in [false, true] {
        let over = names(true, known);
        assert!(!over.replies[0].superseded);
        assert_eq!((over.replaced.len(), over.leases.len()), (0, 0));
    }
    let unknown = names(false, false);
    assert!(unknown.replies[0].superseded, "an older database");
}
