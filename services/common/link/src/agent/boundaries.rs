//! What an agent does at the end of a period, with nobody to ask.

use vpnpanel_domain::{InboundId, LeaseId, MicroBytes, PeerId, PeriodId, UserId};

use super::testing::{Host, SERVER_MS};
use super::{Effect, Event, Gate, Reading, Sample, Ticket};
use crate::wire::{encode_state, pieces, state_digest};
use crate::{
    DesiredPeer, DesiredPeriod, DesiredState, DesiredUser, Down, EngineKind, Grant, Incarnation,
    PeerAccess, Revision, Totals, UpdateKind, UsageAck, wire,
};

const ENGINE: Incarnation = Incarnation([7; 16]);
const BOUNDARY_MS: i64 = SERVER_MS + 10_000;

fn user() -> UserId {
    UserId::from_bytes([1; 16])
}

fn peer() -> PeerId {
    PeerId::from_bytes([2; 16])
}

fn period(n: u8) -> PeriodId {
    PeriodId::from_bytes([n; 16])
}

fn limited(spent: bool) -> DesiredUser {
    DesiredUser {
        id: user(),
        period: DesiredPeriod {
            id: period(10),
            ends_ms: Some(BOUNDARY_MS),
            spent,
        },
        next_period: Some(DesiredPeriod {
            id: period(11),
            ends_ms: Some(BOUNDARY_MS + 10_000),
            spent: false,
        }),
        blocked: false,
        limited: true,
        not_after_ms: None,
        speed: vpnpanel_domain::SpeedLimit::NONE,
        devices: 0,
        peers: vec![DesiredPeer {
            id: peer(),
            inbound: InboundId::from_bytes([3; 16]),
            access: PeerAccess::WireGuard {
                public_key: [4; 32],
                preshared_key: None,
                ipv4: None,
                ipv6: None,
            },
        }],
    }
}

/// A host whose engine runs, with the user on it and these allowances in its periods.
fn host(user_on_it: DesiredUser, allowances: [u64; 2]) -> Host {
    let mut host = Host::connected();
    let up = Event::EngineUp {
        kind: EngineKind::WireGuard,
        incarnation: ENGINE,
        peers: Vec::new(),
    };
    host.step(up);
    sample(&mut host, None);
    tell(&mut host, 1, user_on_it);
    let grants = [10, 11].into_iter().zip(allowances);
    let grants = grants.map(|(n, allowance)| Grant {
        user: user(),
        period: period(n),
        lease: LeaseId::from_bytes([n; 16]),
        version: 1,
        allowance: MicroBytes::from_bytes(allowance),
    });
    host.hear(Down::UsageAck(UsageAck {
        grants: grants.collect(),
        ..UsageAck::default()
    }));
    host
}

fn tell(host: &mut Host, revision: u64, user: DesiredUser) -> Vec<Effect> {
    let data = encode_state(&DesiredState {
        users: vec![user],
        ..DesiredState::default()
    });
    let update = wire::Update {
        revision: Revision(revision),
        kind: UpdateKind::Whole(state_digest(&data).unwrap()),
        removals: None,
        data,
    };
    let mut effects = Vec::new();
    for piece in pieces(&update) {
        effects.extend(host.hear(Down::ConfigUpdate(piece)));
    }
    let changes = effects.iter().filter_map(|effect| match effect {
        Effect::Apply(change) => Some(change.ticket),
        _ => None,
    });
    for ticket in changes.collect::<Vec<_>>() {
        let applied = Event::Applied {
            ticket,
            errors: Vec::new(),
        };
        effects.extend(host.step(applied));
    }
    effects
}

/// Answers the read that is under way, or asks for one: the peer's counter, if it has one.
fn sample(host: &mut Host, counted: Option<u64>) -> Vec<Effect> {
    if host.agent.reading.is_none() {
        host.boottime_ms += 2_000;
        host.step(Event::Tick);
    }
    let (ticket, _) = host.agent.reading.expect("a read");
    answer(host, ticket, counted)
}

fn answer(host: &mut Host, ticket: Ticket, counted: Option<u64>) -> Vec<Effect> {
    let readings = counted.map(|up| Reading {
        peer: peer(),
        totals: Totals { up, down: 0 },
    });
    host.step(Event::Sampled {
        ticket,
        samples: vec![Sample {
            kind: EngineKind::WireGuard,
            before: ENGINE,
            after: ENGINE,
            readings: readings.into_iter().collect(),
            is_last: false,
        }],
    })
}

fn gates(effects: &[Effect]) -> Vec<Gate> {
    let gates = effects.iter().filter_map(|effect| match effect {
        Effect::Gates(_, gates) => Some(gates.iter().map(|(_, gate)| *gate)),
        _ => None,
    });
    gates.flatten().collect()
}

fn used(host: &Host, n: u8) -> u64 {
    let lease = host.disk.leases.get(&(user(), period(n)));
    lease.map_or(0, |lease| lease.consumed.floor_bytes())
}

/// The clock comes to the boundary, and nobody can be reached.
fn cut_off_to_the_boundary(host: &mut Host) -> Vec<Effect> {
    host.step(Event::Disconnected);
    host.boottime_ms = 200_000 + (BOUNDARY_MS - SERVER_MS);
    host.step(Event::Tick)
}

#[test]
fn who_was_cut_passes_again_at_the_boundary_and_each_byte_is_in_its_period() {
    let mut host = host(limited(false), [100, 50]);
    let effects = sample(&mut host, Some(100));
    assert_eq!(gates(&effects), [Gate::Blocked]);
    let effects = cut_off_to_the_boundary(&mut host);
    assert_eq!(gates(&effects), [], "not before the books are closed");
    let reads = |effect: &Effect| matches!(effect, Effect::ReadCounters(_));
    assert!(effects.iter().any(reads), "at once");
    let effects = sample(&mut host, Some(100));
    let rest = |remaining, counted| Gate::Quota { remaining, counted };
    assert_eq!(gates(&effects), [rest(50, 100)]);
    sample(&mut host, Some(130));
    assert_eq!((used(&host, 10), used(&host, 11)), (100, 30));
    let effects = sample(&mut host, Some(150));
    assert_eq!(gates(&effects), [Gate::Blocked], "that one has a limit too");
}

#[test]
fn what_passes_until_the_books_are_closed_is_the_old_periods() {
    let mut host = host(limited(false), [100, 50]);
    sample(&mut host, Some(40));
    cut_off_to_the_boundary(&mut host);
    let effects = sample(&mut host, Some(60));
    assert_eq!((used(&host, 10), used(&host, 11)), (60, 0));
    let rest = Gate::Quota {
        remaining: 50,
        counted: 60,
    };
    assert_eq!(gates(&effects), [rest]);
}

#[test]
fn a_spent_period_blocks_itself_and_not_the_next() {
    let mut host = host(limited(true), [100, 50]);
    let effects = sample(&mut host, Some(0));
    assert_eq!(gates(&effects), [], "blocked from the start");
    cut_off_to_the_boundary(&mut host);
    let effects = sample(&mut host, Some(0));
    let rest = Gate::Quota {
        remaining: 50,
        counted: 0,
    };
    assert_eq!(gates(&effects), [rest]);
}

#[test]
fn without_anything_after_it_the_last_announced_period_goes_on() {
    let mut host = host(limited(false), [100, 50]);
    sample(&mut host, Some(10));
    cut_off_to_the_boundary(&mut host);
    sample(&mut host, Some(10));
    host.boottime_ms += 3 * 24 * 3_600_000;
    host.step(Event::Tick);
    sample(&mut host, Some(30));
    sample(&mut host, Some(45));
    assert_eq!((used(&host, 10), used(&host, 11)), (10, 35));
}
