//! What an agent does with several engines that serve the same user.

use vpnpanel_domain::{InboundId, LeaseId, MicroBytes, PeerId, PeriodId, SpeedLimit, UserId};

use super::testing::Host;
use super::{Change, Effect, Event, Gate, Reading, Sample, Ticket};
use crate::wire::{Update, encode_state, pieces, state_digest};
use crate::{
    ConfigAck, DesiredInbound, DesiredPeer, DesiredPeriod, DesiredState, DesiredUser, Down,
    EngineKind, Grant, InboundSettings, Incarnation, PeerAccess, Revision, Secret, SecretText,
    Totals, Up, UpdateKind, UsageAck, WireGuardInbound, XrayInbound, XrayProtocol, XraySecurity,
    XrayTransport,
};

use EngineKind::{WireGuard, Xray};

const USER: UserId = UserId::from_bytes([1; 16]);
const PERIOD: PeriodId = PeriodId::from_bytes([2; 16]);
const MB: u64 = 1_000_000;

fn peer(kind: EngineKind) -> PeerId {
    PeerId::from_bytes([10 + kind as u8; 16])
}

fn inbound(kind: EngineKind) -> InboundId {
    InboundId::from_bytes([20 + kind as u8; 16])
}

fn life(kind: EngineKind, n: u8) -> Incarnation {
    Incarnation([n + kind as u8; 16])
}

fn access(kind: EngineKind) -> PeerAccess {
    match kind {
        WireGuard => PeerAccess::WireGuard {
            public_key: [4; 32],
            preshared_key: None,
            ipv4: None,
            ipv6: None,
        },
        Xray => PeerAccess::Xray {
            credential: SecretText::new("6ba7b810-9dad-41d1-80b4-00c04fd430c8"),
        },
    }
}

/// A user with limited traffic and a peer on an inbound of each kind.
fn state(accesses: [PeerAccess; 2]) -> DesiredState {
    let peers = EngineKind::ALL.into_iter().zip(accesses);
    DesiredState {
        inbounds: vec![
            DesiredInbound {
                id: inbound(WireGuard),
                settings: InboundSettings::WireGuard(WireGuardInbound {
                    private_key: Secret([5; 32]),
                    port: 51_820,
                    addresses: Vec::new(),
                    mtu: 1_420,
                }),
            },
            DesiredInbound {
                id: inbound(Xray),
                settings: InboundSettings::Xray(XrayInbound {
                    port: 443,
                    protocol: XrayProtocol::Vmess,
                    transport: XrayTransport::Tcp,
                    security: XraySecurity::None,
                }),
            },
        ],
        users: vec![DesiredUser {
            id: USER,
            period: DesiredPeriod {
                id: PERIOD,
                ends_ms: None,
                spent: false,
            },
            next_period: None,
            blocked: false,
            limited: true,
            not_after_ms: None,
            speed: SpeedLimit::NONE,
            devices: 0,
            peers: peers
                .map(|(kind, access)| DesiredPeer {
                    id: peer(kind),
                    inbound: inbound(kind),
                    access,
                })
                .collect(),
        }],
        ..DesiredState::default()
    }
}

fn tell(host: &mut Host, revision: u64, state: &DesiredState) -> Vec<Effect> {
    let data = encode_state(state);
    let update = Update {
        revision: Revision(revision),
        kind: UpdateKind::Whole(state_digest(&data).unwrap()),
        removals: None,
        data,
    };
    let told = pieces(&update).collect::<Vec<_>>().into_iter();
    told.flat_map(|piece| host.hear(Down::ConfigUpdate(piece)))
        .collect()
}

fn up(host: &mut Host, kind: EngineKind, n: u8, peers: &[PeerId]) -> Vec<Effect> {
    host.step(Event::EngineUp {
        kind,
        incarnation: life(kind, n),
        peers: peers.to_vec(),
    })
}

/// Answers the read that is under way, or asks for one.
fn read(host: &mut Host, counted: &[(EngineKind, u8, Option<u64>)]) -> Vec<Effect> {
    let (ticket, mut effects) = asked(host);
    effects.extend(answer(host, ticket, counted));
    effects
}

fn asked(host: &mut Host) -> (Ticket, Vec<Effect>) {
    let mut effects = Vec::new();
    if host.agent.reading.is_none() {
        host.boottime_ms += 2_000;
        effects = host.step(Event::Tick);
    }
    (host.agent.reading.expect("a read").0, effects)
}

fn answer(
    host: &mut Host,
    ticket: Ticket,
    counted: &[(EngineKind, u8, Option<u64>)],
) -> Vec<Effect> {
    let samples = counted.iter().map(|(kind, n, counted)| Sample {
        kind: *kind,
        before: life(*kind, *n),
        after: life(*kind, *n),
        readings: counted
            .iter()
            .map(|down| Reading {
                peer: peer(*kind),
                totals: Totals { up: 0, down: *down },
            })
            .collect(),
        is_last: false,
    });
    let samples = samples.collect();
    host.step(Event::Sampled { ticket, samples })
}

/// Does what is asked of the engines.
fn settle(host: &mut Host, effects: &[Effect]) -> Vec<Effect> {
    let tickets: Vec<_> = changes(effects).map(|change| change.ticket).collect();
    let mut answers = Vec::new();
    for ticket in tickets {
        answers.extend(host.step(Event::Applied {
            ticket,
            errors: Vec::new(),
        }));
    }
    answers
}

fn changes(effects: &[Effect]) -> impl Iterator<Item = &Change> {
    effects.iter().filter_map(|effect| match effect {
        Effect::Apply(change) => Some(change),
        _ => None,
    })
}

fn acks(effects: &[Effect]) -> Vec<&ConfigAck> {
    let acks = effects.iter().filter_map(|effect| match effect {
        Effect::Send(Up::ConfigAck(ack)) => Some(ack),
        _ => None,
    });
    acks.collect()
}

fn gates(effects: &[Effect], of: EngineKind) -> Vec<Gate> {
    let gates = effects.iter().filter_map(|effect| match effect {
        Effect::Gates(kind, gates) if *kind == of => Some(gates.iter().map(|(_, gate)| *gate)),
        _ => None,
    });
    gates.flatten().collect()
}

fn grant(host: &mut Host, version: u64, allowance: u64) -> Vec<Effect> {
    host.hear(Down::UsageAck(UsageAck {
        grants: vec![Grant {
            user: USER,
            period: PERIOD,
            lease: LeaseId::from_bytes([3; 16]),
            version,
            allowance: MicroBytes::from_bytes(allowance),
        }],
        ..UsageAck::default()
    }))
}

fn consumed(host: &Host) -> u64 {
    host.disk.leases[&(USER, PERIOD)].consumed.floor_bytes()
}

/// Both engines run, have their peer and what it counted, and the user may pass 100 MB.
fn both() -> Host {
    let mut host = Host::connected();
    up(&mut host, WireGuard, 50, &[]);
    up(&mut host, Xray, 60, &[]);
    read(&mut host, &[(WireGuard, 50, None), (Xray, 60, None)]);
    let effects = tell(&mut host, 1, &state([access(WireGuard), access(Xray)]));
    assert_eq!(changes(&effects).count(), 2);
    let acked = settle(&mut host, &effects);
    assert!(acks(&acked).last().expect("an answer").errors.is_empty());
    grant(&mut host, 1, 100 * MB);
    host
}

#[test]
fn what_passes_one_engine_lowers_the_gate_of_the_other() {
    let mut host = both();
    let effects = read(
        &mut host,
        &[(WireGuard, 50, Some(0)), (Xray, 60, Some(30 * MB))],
    );
    let left = |counted| Gate::Quota {
        remaining: 70 * MB,
        counted,
    };
    assert_eq!(gates(&effects, WireGuard), [left(0)]);
    assert_eq!(gates(&effects, Xray), [], "it stops where it did");
    let both_pass = [(WireGuard, 50, Some(20 * MB)), (Xray, 60, Some(80 * MB))];
    let effects = read(&mut host, &both_pass);
    assert_eq!(gates(&effects, WireGuard), [Gate::Blocked]);
    assert_eq!(gates(&effects, Xray), [Gate::Blocked]);
    assert_eq!(consumed(&host), 100 * MB);
}

#[test]
fn an_engine_that_could_not_be_read_takes_nothing_from_the_others_reading() {
    let mut host = both();
    let effects = read(&mut host, &[(Xray, 60, Some(10 * MB))]);
    assert_eq!(consumed(&host), 10 * MB);
    // WireGuard goes on within the 100 MB that it was told.
    assert_eq!(gates(&effects, Xray), [Gate::Blocked]);
    assert!(host.disk.unread.contains_key(&WireGuard));
    let counted = [(WireGuard, 50, Some(40 * MB)), (Xray, 60, Some(10 * MB))];
    let effects = read(&mut host, &counted);
    assert_eq!(consumed(&host), 50 * MB);
    let left = Gate::Quota {
        remaining: 50 * MB,
        counted: 10 * MB,
    };
    assert_eq!(gates(&effects, Xray), [left]);
    assert!(host.disk.unread.is_empty());
}

#[test]
fn what_is_asked_back_is_answered_when_every_engine_that_counts_was_read() {
    let mut host = both();
    grant(&mut host, 2, 20 * MB);
    let answered = |host: &Host| host.disk.leases[&(USER, PERIOD)].version;
    read(&mut host, &[(WireGuard, 50, Some(5 * MB))]);
    assert_eq!(answered(&host), 1);
    let counted = [(WireGuard, 50, Some(5 * MB)), (Xray, 60, Some(30 * MB))];
    read(&mut host, &counted);
    assert_eq!(answered(&host), 2);
    let lease = host.disk.leases[&(USER, PERIOD)];
    assert_eq!(lease.allowance, MicroBytes::from_bytes(35 * MB));
}

#[test]
fn an_engine_that_ends_is_charged_and_the_other_goes_on() {
    let mut host = both();
    read(
        &mut host,
        &[(WireGuard, 50, Some(MB)), (Xray, 60, Some(2 * MB))],
    );
    assert_eq!(consumed(&host), 3 * MB);
    let effects = up(&mut host, Xray, 70, &[]);
    // At line rate everything may have passed.
    assert_eq!(consumed(&host), 100 * MB);
    assert_eq!(gates(&effects, WireGuard), [Gate::Blocked]);
    assert_eq!(host.disk.incarnations[&WireGuard], life(WireGuard, 50));
    let effects = read(&mut host, &[(WireGuard, 50, Some(MB)), (Xray, 70, None)]);
    let changed: Vec<_> = changes(&effects).map(|change| change.kind).collect();
    assert_eq!(
        changed,
        [Xray],
        "its peers are set again, and nobody else's"
    );
}

#[test]
fn a_lease_is_not_given_back_before_the_last_engine_was_heard() {
    let mut host = both();
    host.step(Event::EngineDown { kind: Xray });
    let nobody = DesiredState {
        users: Vec::new(),
        ..state([access(WireGuard), access(Xray)])
    };
    tell(&mut host, 2, &nobody);
    host.step(Event::EngineDown { kind: Xray });
    let left = read(&mut host, &[(WireGuard, 50, Some(MB))]);
    settle(&mut host, &left);
    read(&mut host, &[(WireGuard, 50, Some(MB))]);
    let lease = host.disk.leases[&(USER, PERIOD)];
    assert!(!lease.remaining().is_zero(), "{lease:?}");
    up(&mut host, Xray, 70, &[]);
    read(&mut host, &[(WireGuard, 50, Some(MB)), (Xray, 70, None)]);
    let lease = host.disk.leases[&(USER, PERIOD)];
    assert!(lease.remaining().is_zero(), "{lease:?}");
    assert_eq!(
        consumed(&host),
        100 * MB,
        "what was not read counts as passed"
    );
}

#[test]
fn a_peer_of_another_kind_than_its_inbound_is_refused_alone() {
    let mut host = Host::connected();
    up(&mut host, WireGuard, 50, &[]);
    up(&mut host, Xray, 60, &[]);
    read(&mut host, &[(WireGuard, 50, None), (Xray, 60, None)]);
    let effects = tell(&mut host, 1, &state([access(WireGuard), access(WireGuard)]));
    let set: Vec<_> = changes(&effects)
        .flat_map(|change| &change.upsert)
        .map(|upsert| upsert.peer.id)
        .collect();
    assert_eq!(set, [peer(WireGuard)]);
    let answers = settle(&mut host, &effects);
    let ack = *acks(&answers).last().expect("an answer");
    let refused: Vec<_> = ack.errors.iter().map(|error| error.id.as_str()).collect();
    assert_eq!(refused, [peer(Xray).to_string()]);
    assert_eq!(host.disk.applied, Some(ack.state));
}

#[test]
fn an_engine_that_is_not_there_is_named_and_the_rest_is_in_force() {
    let mut host = Host::connected();
    up(&mut host, WireGuard, 50, &[]);
    read(&mut host, &[(WireGuard, 50, None)]);
    let mut effects = tell(&mut host, 1, &state([access(WireGuard), access(Xray)]));
    let looks = Effect::Inspect {
        kind: Xray,
        wanted: true,
    };
    assert!(effects.contains(&looks), "{effects:?}");
    assert_eq!(acks(&effects).len(), 0, "before it is known");
    effects = settle(&mut host, &effects);
    effects.extend(host.step(Event::EngineDown { kind: Xray }));
    let ack = *acks(&effects).last().expect("an answer");
    assert_eq!(ack.errors[0].id, inbound(Xray).to_string());
    assert_eq!(host.disk.applied, None);
    up(&mut host, Xray, 60, &[]);
    let effects = read(&mut host, &[(WireGuard, 50, None), (Xray, 60, None)]);
    let effects = settle(&mut host, &effects);
    let ack = *acks(&effects).last().expect("an answer");
    assert!(ack.errors.is_empty());
    assert_eq!(host.disk.applied, Some(ack.state));
}

#[test]
fn an_engine_that_was_ended_after_its_last_reading_costs_nobody_anything() {
    let mut host = both();
    let (ticket, _) = asked(&mut host);
    let last = |kind, n, down, is_last| Sample {
        kind,
        before: life(kind, n),
        after: life(kind, n),
        readings: vec![Reading {
            peer: peer(kind),
            totals: Totals { up: 0, down },
        }],
        is_last,
    };
    let samples = vec![last(WireGuard, 50, MB, false), last(Xray, 60, 2 * MB, true)];
    host.step(Event::Sampled { ticket, samples });
    up(&mut host, Xray, 70, &[]);
    assert_eq!(consumed(&host), 3 * MB);
    let effects = read(&mut host, &[(WireGuard, 50, Some(MB)), (Xray, 70, None)]);
    settle(&mut host, &effects);
    up(&mut host, Xray, 80, &[]);
    assert_eq!(consumed(&host), 100 * MB, "the next one just died");
}
