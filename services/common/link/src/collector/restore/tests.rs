use super::*;
use crate::collector::open::{Opening, open};
use crate::collector::{Cursor, NodeFacts};
use crate::{AppliedState, BootId, Digest, EpochSummary, LeaseState, PROTOCOL, Pace, SpoolId};
use vpnpanel_domain::{MicroBytes, PeriodId, UserId};

const NOW_MS: i64 = 1_795_000_000_000;
const MINE: TenantId = TenantId::from_bytes([1; 16]);
const THEIRS: TenantId = TenantId::from_bytes([2; 16]);

/// A database that was restored before, and a node that has reported to it.
fn facts(tenant: Option<TenantId>) -> StreamFacts {
    let epoch = StateEpoch(1_000);
    StreamFacts {
        node: NodeFacts {
            tenant,
            generation: Generation(epoch.floor() + 5),
            reported: epoch,
            reported_itself: true,
            ..NodeFacts::default()
        },
        standing: Standing { epoch, held: false },
        head: Some(Revision(7)),
        ..StreamFacts::default()
    }
}

/// The same of one that came to be after the restore.
fn young(tenant: Option<TenantId>) -> StreamFacts {
    let mut facts = facts(tenant);
    facts.node.reported_itself = false;
    facts
}

/// Of an agent that knows nothing that the database does not.
fn hello(facts: &StreamFacts) -> Hello {
    Hello {
        protocol_min: PROTOCOL,
        protocol_max: PROTOCOL,
        capabilities: Vec::new(),
        agent_version: String::new(),
        boot: BootId([1; 16]),
        spool: SpoolId([1; 16]),
        applied: None,
        epochs: Vec::new(),
        engines: Vec::new(),
        unknown_baselines: Vec::new(),
        leases: Vec::new(),
        generation: facts.node.generation,
        state_epoch: facts.standing.epoch,
    }
}

/// One that was welcomed on a stream the database does not know.
fn knowing(facts: &StreamFacts) -> Hello {
    Hello {
        generation: facts.node.generation.next(),
        ..hello(facts)
    }
}

fn opened(facts: StreamFacts, hello: &Hello) -> Opening {
    open(facts, hello, Pace::default(), NOW_MS).expect("a protocol that both speak")
}

#[test]
fn whatever_an_agent_cannot_know_proves_an_older_database() {
    let known = young(None);
    assert_eq!(evidence(&known, &hello(&known)), None);

    let of_stream = knowing(&known);
    let of_epoch = Hello {
        state_epoch: StateEpoch(1_001),
        ..hello(&known)
    };
    let epoch = Epoch([3; 16]);
    let of_batch = Hello {
        epochs: vec![EpochSummary {
            epoch,
            first: Seq(1),
            last: Seq(9),
            tail: Digest([0; 32]),
            acked: Seq(8),
        }],
        ..hello(&known)
    };
    let lease = LeaseId::from_bytes([4; 16]);
    let of_lease = Hello {
        leases: vec![LeaseState {
            user: UserId::from_bytes([5; 16]),
            period: PeriodId::from_bytes([6; 16]),
            lease,
            version: 3,
            allowance: MicroBytes::ZERO,
            consumed: MicroBytes::ZERO,
        }],
        ..hello(&known)
    };
    let of_state = Hello {
        applied: Some(AppliedState {
            revision: Revision(8),
            digest: Digest([0; 32]),
        }),
        ..hello(&known)
    };
    for hello in [&of_stream, &of_epoch, &of_batch, &of_lease, &of_state] {
        assert!(evidence(&known, hello).is_some(), "{hello:?}");
        assert!(opened(known.clone(), hello).restored.is_some());
    }

    let mut rolled_over = known.clone();
    rolled_over
        .periods
        .insert(PeriodId::from_bytes([6; 16]), true);
    let forgotten = evidence(&rolled_over, &of_lease);
    assert_eq!(
        forgotten, None,
        "leases of a period that is over are not kept"
    );
    rolled_over.versions.insert(lease, 2);
    assert!(evidence(&rolled_over, &of_lease).is_some());
    let mut reported = facts(None);
    let again = evidence(&reported, &of_lease);
    assert_eq!(again, None, "of a period that is gone it was reported");
    reported
        .periods
        .insert(PeriodId::from_bytes([6; 16]), false);
    assert!(evidence(&reported, &of_lease).is_some());

    let mut newer = known;
    newer.cursors.insert(
        epoch,
        Cursor {
            seq: Seq(8),
            digest: Digest([0; 32]),
            successor: None,
        },
    );
    newer.versions.insert(lease, 3);
    newer.head = Some(Revision(8));
    for hello in [&of_batch, &of_lease, &of_state] {
        assert_eq!(evidence(&newer, hello), None, "{hello:?}");
    }
}

#[test]
fn a_restore_opens_an_epoch_above_every_number_drawn_before() {
    let facts = young(None);
    let seen = StateEpoch(NOW_MS.unsigned_abs() + 77);
    let hello = Hello {
        state_epoch: seen,
        ..hello(&facts)
    };
    let opening = opened(facts, &hello);
    let epoch = opening.welcome.state_epoch;
    assert_eq!(epoch, seen.next(), "also where the clock is behind");
    assert_eq!(opening.welcome.generation.get(), epoch.floor());
    assert!(opening.welcome.report && opening.ack.grants.is_empty());
}

#[test]
fn an_epoch_that_nobody_can_have_seen_is_not_believed() {
    let facts = young(None);
    let hello = Hello {
        state_epoch: StateEpoch(u64::MAX),
        ..hello(&facts)
    };
    assert_eq!(judge(&facts, &hello), Verdict::Nothing);
    let epoch = facts.standing.epoch.restored(StateEpoch(u64::MAX), 0);
    assert_eq!(epoch, StateEpoch(1_001));
}

#[test]
fn a_lone_tenants_node_speaks_for_itself_alone() {
    let facts = young(Some(MINE));
    let opening = opened(facts.clone(), &knowing(&facts));
    assert!(opening.restored.is_none());
    assert!(opening.node.suspicion.is_some() && opening.welcome.report);
    assert_eq!(opening.welcome.state_epoch, facts.standing.epoch);
    assert!(opening.welcome.generation > facts.node.generation.next());

    let mut sole = facts.clone();
    sole.witnesses.sole_tenant = true;
    assert!(opened(sole, &knowing(&facts)).restored.is_some());

    let mut seconded = facts.clone();
    seconded.witnesses.others = vec![Some(MINE)];
    assert!(opened(seconded, &knowing(&facts)).restored.is_none());

    let mut by_two = facts.clone();
    by_two.witnesses.others = vec![Some(THEIRS)];
    assert!(opened(by_two, &knowing(&facts)).restored.is_some());
}

#[test]
fn a_node_that_has_reported_does_not_restore_the_database_again_alone() {
    let reported = facts(None);
    let opening = opened(reported.clone(), &knowing(&reported));
    assert!(opening.restored.is_none() && opening.node.suspicion.is_some());

    let mut several = reported.clone();
    several.witnesses.others = vec![None];
    assert!(opened(several, &knowing(&reported)).restored.is_some());
}

#[test]
fn a_node_that_is_awaited_is_believed_once() {
    let mut awaited = facts(None);
    awaited.node.reported = StateEpoch(900);
    awaited.standing.held = true;
    assert_eq!(judge(&awaited, &knowing(&awaited)), Verdict::Nothing);
    assert!(opened(awaited.clone(), &knowing(&awaited)).welcome.report);

    let later = Hello {
        state_epoch: StateEpoch(2_000),
        ..hello(&awaited)
    };
    assert_eq!(judge(&awaited, &later), Verdict::Nothing, "it was welcomed");
    awaited.node.generation = Generation(12);
    assert!(opened(awaited, &later).restored.is_some());
}

#[test]
fn a_generation_that_the_database_lost_while_it_awaits_a_node_is_not_drawn_again() {
    let mut awaited = facts(None);
    awaited.node.reported = StateEpoch(999);
    let welcomed = knowing(&awaited);
    let opening = opened(awaited.clone(), &welcomed);
    assert_eq!(opening.restored, None);
    assert_eq!(opening.node.generation, welcomed.generation.next());
    // No name of a generation takes the numbers of the epochs to come.
    let inventing = Hello {
        generation: Generation(StateEpoch(1_001).floor() - 1),
        ..welcomed
    };
    let expected = awaited.node.generation.next();
    assert_eq!(opened(awaited, &inventing).node.generation, expected);
}

#[test]
fn nobody_believes_a_quarantined_node() {
    let mut facts = young(None);
    facts.node.quarantined = Some("a fork".to_owned());
    let opening = opened(facts.clone(), &knowing(&facts));
    assert!(opening.restored.is_none() && opening.node.suspicion.is_none());
    assert!(!opening.welcome.report);
}
