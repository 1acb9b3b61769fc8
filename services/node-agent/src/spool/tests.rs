//! What is committed is there after a new start, whatever it is; what is not, is not.

use vpnpanel_domain::{LeaseId, MicroBytes, Multiplier, PeerId};
use vpnpanel_link::agent::{CommandRecord, CounterRecord, EpochRecord, TimeAnchor, Welcomed};
use vpnpanel_link::{
    AppliedState, Attribution, CommandAnswer, Epoch, Generation, LeaseState, Revision, StateEpoch,
    Totals,
};

use super::*;

const SPOOL: SpoolId = SpoolId([1; 16]);

fn user(n: u8) -> UserId {
    UserId::from_bytes([n; 16])
}

fn period(n: u8) -> PeriodId {
    PeriodId::from_bytes([n; 16])
}

fn every_write() -> Vec<Write> {
    let counter = CounterKey {
        incarnation: Incarnation([3; 16]),
        peer: PeerId::from_bytes([4; 16]),
    };
    let attribution = Attribution {
        user: user(1),
        period: period(2),
        multiplier: Multiplier::ONE,
        leased: true,
    };
    let totals = Totals {
        up: 7,
        down: u64::MAX,
    };
    let state = AppliedState {
        revision: Revision(9),
        digest: Digest::of(b"state"),
    };
    vec![
        Write::Incarnation(EngineKind::WireGuard, Incarnation([3; 16])),
        Write::Incarnation(EngineKind::Xray, Incarnation([4; 16])),
        Write::Unread(EngineKind::Xray, Some(1_790_000_000_000)),
        Write::Welcomed(Welcomed {
            generation: Generation(5),
            state_epoch: StateEpoch(1),
        }),
        Write::Counter(counter, CounterRecord::open(attribution, totals, 5)),
        Write::Epoch(
            1,
            EpochRecord {
                epoch: Epoch([5; 16]),
                last: Seq(1),
                tail: Digest::of(b"payload"),
                acked: Seq(0),
                acked_at: vec![(Seq(0), 1)],
            },
        ),
        Write::Batch {
            epoch: 1,
            seq: Seq(1),
            digest: Digest::of(b"payload"),
            payload: Bytes::from_static(b"payload"),
        },
        Write::Lease(LeaseState {
            user: user(1),
            period: period(2),
            lease: LeaseId::from_bytes([6; 16]),
            version: 3,
            allowance: MicroBytes::from_bytes(1 << 50),
            consumed: MicroBytes::from_bytes(12),
        }),
        Write::Command(
            CommandId::from_bytes([8; 16]),
            CommandRecord {
                expires_at_ms: 9,
                answer: Some(CommandAnswer::done("lines".to_owned())),
            },
        ),
        Write::Anchor(TimeAnchor {
            server_ms: 1,
            boottime_ms: 2,
            host_boot: [7; 16],
        }),
        Write::Target {
            state,
            head: Bytes::from_static(b"head"),
            users: vec![
                (user(1), Bytes::from_static(b"one")),
                (user(2), Bytes::from_static(b"two")),
            ],
        },
        Write::TargetUsers {
            state,
            users: vec![(user(3), Bytes::from_static(b"three"))],
            removed: vec![user(1), user(4)],
        },
        Write::Applied(state),
    ]
}

#[test]
fn every_kind_of_record_is_there_after_a_new_start() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("spool.redb");
    let transaction = Transaction {
        writes: every_write(),
    };
    let mut expected = Durable::new(SPOOL);
    expected.apply(&transaction);
    let users: Vec<_> = expected.target_users.keys().copied().collect();
    assert_eq!(users, [user(2), user(3)]);
    {
        let spool = Spool::open(&path, SPOOL).unwrap();
        assert_eq!(spool.load().unwrap(), Durable::new(SPOOL));
        spool.commit(&transaction).unwrap();
        assert_eq!(spool.load().unwrap(), expected);
    }
    let spool = Spool::open(&path, SpoolId([9; 16])).unwrap();
    assert_eq!(spool.load().unwrap(), expected);
    assert_eq!(
        spool.payload(1, Seq(1)).unwrap().unwrap().as_ref(),
        b"payload"
    );
    assert!(spool.payload(1, Seq(2)).unwrap().is_none());
}

#[test]
fn dropped_records_are_gone() {
    let folder = tempfile::tempdir().unwrap();
    let spool = Spool::open(&folder.path().join("spool.redb"), SPOOL).unwrap();
    let counter = CounterKey {
        incarnation: Incarnation([3; 16]),
        peer: PeerId::from_bytes([4; 16]),
    };
    spool
        .commit(&Transaction {
            writes: every_write(),
        })
        .unwrap();
    let drops = vec![
        Write::DropCounter(counter),
        Write::DropLease(user(1), period(2)),
        Write::DropBatch(1, Seq(1)),
        Write::DropEpoch(1),
        Write::Unread(EngineKind::Xray, None),
        Write::DropCommand(CommandId::from_bytes([8; 16])),
    ];
    spool.commit(&Transaction { writes: drops }).unwrap();
    let left = spool.load().unwrap();
    assert!(left.counters.is_empty() && left.leases.is_empty());
    assert!(left.batches.is_empty() && left.epochs.is_empty());
    assert!(left.commands.is_empty() && left.unread.is_empty());
}

#[test]
fn a_disk_that_knows_of_one_engine_is_wireguards() {
    let folder = tempfile::tempdir().unwrap();
    let spool = Spool::open(&folder.path().join("spool.redb"), SPOOL).unwrap();
    let life = Incarnation([3; 16]);
    let write = spool.database.begin_write().unwrap();
    put_meta(&write, "incarnation", &encode(&life, "meta").unwrap()).unwrap();
    write.commit().unwrap();
    let lives = spool.load().unwrap().incarnations;
    assert_eq!(
        lives.into_iter().collect::<Vec<_>>(),
        [(EngineKind::WireGuard, life)]
    );
}

#[test]
fn a_spool_has_one_owner() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("spool.redb");
    let _first = Spool::open(&path, SPOOL).unwrap();
    assert!(matches!(
        Spool::open(&path, SPOOL),
        Err(SpoolError::InUse { .. })
    ));
}

#[test]
fn a_file_that_is_no_spool_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("spool.redb");
    std::fs::write(&path, vec![0xab; 8192]).unwrap();
    assert!(Spool::open(&path, SPOOL).is_err());
}

#[test]
fn a_whole_state_takes_the_place_of_every_user_before() {
    let folder = tempfile::tempdir().unwrap();
    let spool = Spool::open(&folder.path().join("spool.redb"), SPOOL).unwrap();
    let target = |id: u8| Write::Target {
        state: AppliedState {
            revision: Revision(id.into()),
            digest: Digest([id; 32]),
        },
        head: Bytes::new(),
        users: vec![(user(id), Bytes::from_static(b"one"))],
    };
    for id in [1, 2] {
        let writes = vec![target(id)];
        spool.commit(&Transaction { writes }).unwrap();
    }
    let left = spool.load().unwrap().target_users.into_keys();
    assert_eq!(left.collect::<Vec<_>>(), [user(2)]);
}

#[test]
fn a_host_that_becomes_another_node_begins_another_spool_and_keeps_the_old_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("spool.redb");
    let (first, second) = (NodeId::from_bytes([1; 16]), NodeId::from_bytes([2; 16]));
    let open = |node, name| Spool::of_node(&path, node, SpoolId([name; 16])).unwrap();
    let named = |spool: &Spool| spool.load().unwrap().spool;

    assert_eq!(named(&open(first, 1)), SpoolId([1; 16]));
    assert_eq!(named(&open(first, 2)), SpoolId([1; 16]), "the same node");
    let other = open(second, 3);
    assert_eq!(named(&other), SpoolId([3; 16]));
    assert_eq!(other.load().unwrap().welcomed, None);
    let aside = path.with_extension(format!("{first}.redb"));
    let kept = Spool::open(&aside, SpoolId([4; 16])).unwrap();
    assert_eq!(named(&kept), SpoolId([1; 16]), "what it has not sent");
}
