//! Messages of a stream. A frame without a known message comes from a newer peer: it converts to
//! `None`, and is ignored.

use bytes::Bytes;
use vpnpanel_domain::{LeaseId, MicroBytes, Multiplier};

use super::command::{command_from_wire, command_to_wire, result_from_wire, result_to_wire};
use super::usage::{
    batch_from_wire, batch_to_wire, counter_from_wire, counter_to_wire, reference_from_wire,
    reference_to_wire, segments_from_wire, segments_to_wire,
};
use super::{at_most, pb};
use crate::{
    AppliedState, Attribution, BootId, ConfigAck, ConfigChunk, ConfigError, CounterMark, Digest,
    Down, EngineStatus, Epoch, EpochSummary, Error, Generation, Grant, Health, Hello, Incarnation,
    IssuedCertificate, LeaseState, Pace, RemovalBound, RenewalRefusal, Revision, Seq, SpoolId,
    StateEpoch, Totals, Up, UpdateKind, UsageAck, Welcome,
};

/// Most counters, leases or marks in a message.
pub(super) const MAX_COUNTERS: usize = 16_384;
const MAX_EPOCHS: usize = 4_096;
const MAX_ENGINES: usize = 64;
const MAX_ERRORS: usize = 1_000;
const MAX_CSR_BYTES: usize = 8_192;
/// Most certificates in a chain or a trust bundle.
const MAX_CERTIFICATES: usize = 64;

/// To the frame that carries it.
pub fn up_to_wire(message: Up) -> pb::ConnectRequest {
    use pb::connect_request::Message;
    let message = match message {
        Up::Hello(hello) => Message::Hello(hello_to_wire(*hello)),
        Up::ConfigAck(ack) => Message::ConfigAck(pb::ConfigAck {
            revision: ack.state.revision.0,
            digest: ack.state.digest.0.to_vec(),
            errors: ack
                .errors
                .into_iter()
                .take(MAX_ERRORS)
                .map(error_to_wire)
                .collect(),
            resync: ack.resync,
            held_removals: ack.held_removals,
            earlier: ack.earlier,
        }),
        Up::Batch(batch) => Message::UsageBatch(batch_to_wire(batch)),
        Up::LeaseReport(leases) => Message::LeaseReport(pb::LeaseReport {
            leases: leases.into_iter().map(lease_to_wire).collect(),
        }),
        Up::Health(health) => Message::Health(pb::Health {
            engines: health.engines.into_iter().map(engine_to_wire).collect(),
            unacked_batches: health.unacked_batches,
            unacked_bytes: health.unacked_bytes,
            applied_revision: health.applied_revision.0,
        }),
        Up::Segments(segments) => Message::Segments(segments_to_wire(&segments)),
        Up::Goodbye(reason) => Message::Goodbye(pb::Goodbye { reason }),
        Up::RenewalRequest(csr) => Message::RenewalRequest(pb::RenewalRequest {
            csr_der: csr.to_vec(),
        }),
        Up::CommandResult(result) => Message::CommandResult(result_to_wire(result)),
        Up::Lost(batches) => Message::LostBatches(pb::LostBatches {
            through: batches.into_iter().map(reference_to_wire).collect(),
        }),
        Up::Reported(epoch) => Message::Reported(pb::Reported {
            state_epoch: epoch.0,
        }),
    };
    pb::ConnectRequest {
        message: Some(message),
    }
}

/// From a frame of an agent.
///
/// # Errors
/// For anything that no correct agent sends; the stream ends then.
pub fn up_from_wire(frame: pb::ConnectRequest) -> Result<Option<Up>, Error> {
    use pb::connect_request::Message;
    let Some(message) = frame.message else {
        return Ok(None);
    };
    Ok(Some(match message {
        Message::Hello(hello) => Up::Hello(Box::new(hello_from_wire(hello)?)),
        Message::ConfigAck(ack) => {
            at_most("errors", ack.errors.len(), MAX_ERRORS)?;
            Up::ConfigAck(ConfigAck {
                state: AppliedState {
                    revision: Revision(ack.revision),
                    digest: Digest::try_from(ack.digest.as_slice())?,
                },
                errors: ack.errors.into_iter().map(error_from_wire).collect(),
                resync: ack.resync,
                held_removals: ack.held_removals,
                earlier: ack.earlier,
            })
        }
        Message::UsageBatch(batch) => Up::Batch(batch_from_wire(batch)?),
        Message::LeaseReport(report) => Up::LeaseReport(leases_from_wire(report.leases)?),
        Message::Health(health) => Up::Health(Health {
            engines: engines_from_wire(health.engines)?,
            unacked_batches: health.unacked_batches,
            unacked_bytes: health.unacked_bytes,
            applied_revision: Revision(health.applied_revision),
        }),
        Message::Segments(segments) => Up::Segments(segments_from_wire(segments)?),
        Message::Goodbye(goodbye) => Up::Goodbye(goodbye.reason),
        Message::RenewalRequest(request) => {
            at_most("bytes of a CSR", request.csr_der.len(), MAX_CSR_BYTES)?;
            Up::RenewalRequest(request.csr_der.into())
        }
        Message::CommandResult(result) => Up::CommandResult(result_from_wire(result)?),
        Message::LostBatches(lost) => {
            at_most("lost batches", lost.through.len(), MAX_EPOCHS)?;
            let through = lost.through.into_iter().map(reference_from_wire);
            Up::Lost(through.collect::<Result<_, _>>()?)
        }
        Message::Reported(reported) => Up::Reported(StateEpoch(reported.state_epoch)),
    }))
}

/// To the frame that carries it.
pub fn down_to_wire(message: Down) -> pb::ConnectResponse {
    use pb::connect_response::Message;
    let message = match message {
        Down::Welcome(welcome) => Message::Welcome(welcome_to_wire(*welcome)),
        Down::ConfigUpdate(piece) => Message::ConfigUpdate(pb::ConfigUpdate {
            revision: piece.revision.0,
            chunk: piece.chunk,
            chunks: piece.chunks,
            digest: piece.digest.0.to_vec(),
            data: piece.data,
            base_digest: digest_to_wire(piece.kind.base()),
            state_digest: digest_to_wire(piece.kind.state()),
            removals: piece.removals.map(|bound| pb::RemovalBound {
                users: bound.users,
                percent: bound.percent,
            }),
        }),
        Down::UsageAck(ack) => Message::UsageAck(ack_to_wire(ack)),
        Down::Drain { spread_ms } => Message::Drain(pb::Drain {
            spread: Some(duration_to_wire(spread_ms)),
        }),
        Down::RenewalAnswer(result) => Message::RenewalAnswer(renewal_to_wire(result)),
        Down::Command(command) => Message::Command(command_to_wire(command)),
    };
    pb::ConnectResponse {
        message: Some(message),
    }
}

/// From a frame of a collector.
///
/// # Errors
/// For anything that no correct collector sends; the agent reconnects then.
pub fn down_from_wire(frame: pb::ConnectResponse) -> Result<Option<Down>, Error> {
    use pb::connect_response::Message;
    let Some(message) = frame.message else {
        return Ok(None);
    };
    Ok(Some(match message {
        Message::Welcome(welcome) => Down::Welcome(Box::new(welcome_from_wire(welcome)?)),
        Message::ConfigUpdate(piece) => Down::ConfigUpdate(ConfigChunk {
            revision: Revision(piece.revision),
            kind: if piece.base_digest.is_empty() {
                UpdateKind::Whole(Digest::try_from(piece.state_digest.as_slice())?)
            } else {
                UpdateKind::Delta(Digest::try_from(piece.base_digest.as_slice())?)
            },
            removals: piece.removals.map(|bound| RemovalBound {
                users: bound.users,
                percent: bound.percent,
            }),
            chunk: piece.chunk,
            chunks: piece.chunks,
            digest: Digest::try_from(piece.digest.as_slice())?,
            data: piece.data,
        }),
        Message::UsageAck(ack) => Down::UsageAck(ack_from_wire(ack)?),
        Message::Drain(drain) => Down::Drain {
            spread_ms: duration_from_wire(drain.spread),
        },
        Message::RenewalAnswer(answer) => Down::RenewalAnswer(renewal_from_wire(answer)?),
        Message::Command(command) => Down::Command(command_from_wire(command)?),
    }))
}

fn renewal_to_wire(result: Result<Box<IssuedCertificate>, RenewalRefusal>) -> pb::RenewalAnswer {
    use pb::renewal_answer::Result as Answer;
    let bytes = |all: Vec<Bytes>| all.into_iter().map(Into::into).collect();
    let result = match result {
        Ok(issued) => Answer::Issued(pb::IssuedCertificate {
            certificate_chain_der: bytes(issued.chain),
            trust_bundle_der: bytes(issued.trust_bundle),
            trust_bundle_sequence: issued.trust_bundle_sequence,
            expire_time: Some(timestamp_to_wire(issued.expires_at_ms)),
        }),
        Err(refusal) => Answer::Refusal(pb::RenewalRefusal {
            reason: refusal.reason,
            message: refusal.message,
        }),
    };
    pb::RenewalAnswer {
        result: Some(result),
    }
}

fn renewal_from_wire(
    answer: pb::RenewalAnswer,
) -> Result<Result<Box<IssuedCertificate>, RenewalRefusal>, Error> {
    use pb::renewal_answer::Result as Answer;
    let issued = match answer.result {
        Some(Answer::Issued(issued)) => issued,
        Some(Answer::Refusal(refusal)) => {
            return Ok(Err(RenewalRefusal {
                reason: refusal.reason,
                message: refusal.message,
            }));
        }
        None => return Err(Error::Missing("renewal_answer.result")),
    };
    let certificates = |all: Vec<Vec<u8>>| {
        at_most("certificates", all.len(), MAX_CERTIFICATES)?;
        Ok::<_, Error>(all.into_iter().map(Bytes::from).collect())
    };
    Ok(Ok(Box::new(IssuedCertificate {
        chain: certificates(issued.certificate_chain_der)?,
        trust_bundle: certificates(issued.trust_bundle_der)?,
        trust_bundle_sequence: issued.trust_bundle_sequence,
        expires_at_ms: timestamp_from_wire(issued.expire_time.unwrap_or_default()),
    })))
}

fn hello_to_wire(hello: Hello) -> pb::Hello {
    pb::Hello {
        protocol_min: hello.protocol_min,
        protocol_max: hello.protocol_max,
        capabilities: hello.capabilities,
        agent_version: hello.agent_version,
        boot_id: hello.boot.0.to_vec(),
        applied_revision: hello.applied.map_or(0, |state| state.revision.0),
        applied_digest: hello
            .applied
            .map(|state| state.digest.0.to_vec())
            .unwrap_or_default(),
        epochs: hello.epochs.into_iter().map(epoch_to_wire).collect(),
        spool_id: hello.spool.0.to_vec(),
        engines: hello.engines.into_iter().map(engine_to_wire).collect(),
        unknown_baselines: hello
            .unknown_baselines
            .into_iter()
            .map(counter_to_wire)
            .collect(),
        leases: hello.leases.into_iter().map(lease_to_wire).collect(),
        generation: hello.generation.0,
        state_epoch: hello.state_epoch.0,
    }
}

fn hello_from_wire(hello: pb::Hello) -> Result<Hello, Error> {
    at_most("epochs", hello.epochs.len(), MAX_EPOCHS)?;
    at_most(
        "unknown_baselines",
        hello.unknown_baselines.len(),
        MAX_COUNTERS,
    )?;
    let applied = if hello.applied_digest.is_empty() {
        None
    } else {
        Some(AppliedState {
            revision: Revision(hello.applied_revision),
            digest: Digest::try_from(hello.applied_digest.as_slice())?,
        })
    };
    Ok(Hello {
        protocol_min: hello.protocol_min,
        protocol_max: hello.protocol_max,
        capabilities: hello.capabilities,
        agent_version: hello.agent_version,
        boot: BootId::try_from(hello.boot_id.as_slice())?,
        spool: SpoolId::try_from(hello.spool_id.as_slice())?,
        applied,
        epochs: hello
            .epochs
            .into_iter()
            .map(epoch_from_wire)
            .collect::<Result<_, _>>()?,
        engines: engines_from_wire(hello.engines)?,
        unknown_baselines: hello
            .unknown_baselines
            .into_iter()
            .map(counter_from_wire)
            .collect::<Result<_, _>>()?,
        leases: leases_from_wire(hello.leases)?,
        generation: Generation(hello.generation),
        state_epoch: StateEpoch(hello.state_epoch),
    })
}

fn epoch_to_wire(epoch: EpochSummary) -> pb::SpoolEpoch {
    pb::SpoolEpoch {
        epoch: epoch.epoch.0.to_vec(),
        first_seq: epoch.first.0,
        last_seq: epoch.last.0,
        tail_digest: epoch.tail.0.to_vec(),
        acked_seq: epoch.acked.0,
    }
}

fn epoch_from_wire(epoch: pb::SpoolEpoch) -> Result<EpochSummary, Error> {
    Ok(EpochSummary {
        epoch: Epoch::try_from(epoch.epoch.as_slice())?,
        first: Seq(epoch.first_seq),
        last: Seq(epoch.last_seq),
        tail: Digest::try_from(epoch.tail_digest.as_slice())?,
        acked: Seq(epoch.acked_seq),
    })
}

fn engine_to_wire(engine: EngineStatus) -> pb::EngineStatus {
    pb::EngineStatus {
        kind: engine.kind,
        version: engine.version,
        healthy: engine.healthy,
        problem: engine.problem,
        peers: engine.peers,
        incarnation: engine
            .incarnation
            .map(|name| name.0.to_vec())
            .unwrap_or_default(),
    }
}

fn engines_from_wire(engines: Vec<pb::EngineStatus>) -> Result<Vec<EngineStatus>, Error> {
    at_most("engines", engines.len(), MAX_ENGINES)?;
    engines.into_iter().map(engine_from_wire).collect()
}

fn engine_from_wire(engine: pb::EngineStatus) -> Result<EngineStatus, Error> {
    let incarnation = if engine.incarnation.is_empty() {
        None
    } else {
        Some(Incarnation::try_from(engine.incarnation.as_slice())?)
    };
    Ok(EngineStatus {
        kind: engine.kind,
        version: engine.version,
        healthy: engine.healthy,
        problem: engine.problem,
        peers: engine.peers,
        incarnation,
    })
}

/// Empty where there is none.
fn digest_to_wire(digest: Option<Digest>) -> Vec<u8> {
    digest.map_or_else(Vec::new, |digest| digest.0.to_vec())
}

fn lease_to_wire(lease: LeaseState) -> pb::LeaseState {
    let (allowance_hi, allowance_lo) = lease.allowance.to_halves();
    let (consumed_hi, consumed_lo) = lease.consumed.to_halves();
    pb::LeaseState {
        user_id: lease.user.into_bytes().to_vec(),
        period_id: lease.period.into_bytes().to_vec(),
        lease_id: lease.lease.into_bytes().to_vec(),
        version: lease.version,
        allowance_hi,
        allowance_lo,
        consumed_hi,
        consumed_lo,
    }
}

fn leases_from_wire(leases: Vec<pb::LeaseState>) -> Result<Vec<LeaseState>, Error> {
    at_most("leases", leases.len(), MAX_COUNTERS)?;
    leases.into_iter().map(lease_from_wire).collect()
}

fn lease_from_wire(lease: pb::LeaseState) -> Result<LeaseState, Error> {
    Ok(LeaseState {
        user: lease.user_id.as_slice().try_into()?,
        period: lease.period_id.as_slice().try_into()?,
        lease: LeaseId::try_from(lease.lease_id.as_slice())?,
        version: version(lease.version)?,
        allowance: MicroBytes::from_halves(lease.allowance_hi, lease.allowance_lo),
        consumed: MicroBytes::from_halves(lease.consumed_hi, lease.consumed_lo),
    })
}

/// Versions stay below 2⁶³, so that they fit the database's integers and can grow.
fn version(version: u64) -> Result<u64, Error> {
    if version > i64::MAX as u64 / 2 {
        return Err(Error::Invalid {
            what: "lease.version",
            reason: "is out of range",
        });
    }
    Ok(version)
}

fn welcome_to_wire(welcome: Welcome) -> pb::Welcome {
    pb::Welcome {
        protocol: welcome.protocol,
        generation: welcome.generation.0,
        state_epoch: welcome.state_epoch.0,
        server_time: Some(timestamp_to_wire(welcome.server_time_ms)),
        poll_interval: Some(duration_to_wire(welcome.pace.poll_ms)),
        report_interval: Some(duration_to_wire(welcome.pace.report_ms)),
        health_interval: Some(duration_to_wire(welcome.pace.health_ms)),
        window: welcome.pace.window,
        cursors: welcome.cursors.into_iter().map(reference_to_wire).collect(),
        marks: welcome.marks.into_iter().map(mark_to_wire).collect(),
        quarantined: welcome.quarantined.unwrap_or_default(),
        report: welcome.report,
    }
}

fn welcome_from_wire(welcome: pb::Welcome) -> Result<Welcome, Error> {
    let time = welcome
        .server_time
        .ok_or(Error::Missing("welcome.server_time"))?;
    let default = Pace::default();
    let interval = |given: Option<_>, default| match duration_from_wire(given) {
        0 => default,
        given => given,
    };
    Ok(Welcome {
        protocol: welcome.protocol,
        generation: Generation(welcome.generation),
        state_epoch: StateEpoch(welcome.state_epoch),
        server_time_ms: timestamp_from_wire(time),
        pace: Pace {
            poll_ms: interval(welcome.poll_interval, default.poll_ms),
            report_ms: interval(welcome.report_interval, default.report_ms),
            health_ms: interval(welcome.health_interval, default.health_ms),
            window: welcome.window.clamp(1, 1_024),
        },
        cursors: welcome
            .cursors
            .into_iter()
            .map(reference_from_wire)
            .collect::<Result<_, _>>()?,
        marks: welcome
            .marks
            .into_iter()
            .map(mark_from_wire)
            .collect::<Result<_, _>>()?,
        quarantined: text(welcome.quarantined),
        report: welcome.report,
    })
}

fn mark_to_wire(mark: CounterMark) -> pb::Mark {
    let attribution = mark.attribution;
    pb::Mark {
        counter: Some(counter_to_wire(mark.counter)),
        up: mark.totals.up,
        down: mark.totals.down,
        user_id: attribution
            .map(|to| to.user.into_bytes().to_vec())
            .unwrap_or_default(),
        period_id: attribution
            .map(|to| to.period.into_bytes().to_vec())
            .unwrap_or_default(),
        multiplier_ppm: attribution.map_or(0, |to| to.multiplier.ppm()),
    }
}

fn mark_from_wire(mark: pb::Mark) -> Result<CounterMark, Error> {
    let attribution = if mark.user_id.is_empty() || mark.period_id.is_empty() {
        None
    } else {
        Some(Attribution {
            user: mark.user_id.as_slice().try_into()?,
            period: mark.period_id.as_slice().try_into()?,
            multiplier: Multiplier::from_ppm(mark.multiplier_ppm)?,
            // The leases of a lost disk are lost with it.
            leased: false,
        })
    };
    Ok(CounterMark {
        counter: counter_from_wire(mark.counter.ok_or(Error::Missing("mark.counter"))?)?,
        totals: Totals {
            up: mark.up,
            down: mark.down,
        },
        attribution,
    })
}

fn ack_to_wire(ack: UsageAck) -> pb::UsageAck {
    pb::UsageAck {
        committed: ack.committed.into_iter().map(reference_to_wire).collect(),
        resend_from: ack.resend_from.map(|(epoch, seq)| pb::BatchRef {
            epoch: epoch.0.to_vec(),
            seq: seq.0,
            digest: Vec::new(),
        }),
        quarantined: ack.quarantined.unwrap_or_default(),
        missing_segments: ack.missing_segments.into_iter().map(mark_to_wire).collect(),
        grants: ack.grants.into_iter().map(grant_to_wire).collect(),
    }
}

fn ack_from_wire(ack: pb::UsageAck) -> Result<UsageAck, Error> {
    let resend_from = match ack.resend_from {
        None => None,
        Some(from) => Some((
            Epoch::try_from(from.epoch.as_slice())?,
            super::usage::seq(from.seq)?,
        )),
    };
    Ok(UsageAck {
        committed: ack
            .committed
            .into_iter()
            .map(reference_from_wire)
            .collect::<Result<_, _>>()?,
        resend_from,
        quarantined: text(ack.quarantined),
        missing_segments: ack
            .missing_segments
            .into_iter()
            .map(mark_from_wire)
            .collect::<Result<_, _>>()?,
        grants: ack
            .grants
            .into_iter()
            .map(grant_from_wire)
            .collect::<Result<_, _>>()?,
    })
}

fn grant_to_wire(grant: Grant) -> pb::Grant {
    let (allowance_hi, allowance_lo) = grant.allowance.to_halves();
    pb::Grant {
        user_id: grant.user.into_bytes().to_vec(),
        period_id: grant.period.into_bytes().to_vec(),
        lease_id: grant.lease.into_bytes().to_vec(),
        version: grant.version,
        allowance_hi,
        allowance_lo,
    }
}

fn grant_from_wire(grant: pb::Grant) -> Result<Grant, Error> {
    Ok(Grant {
        user: grant.user_id.as_slice().try_into()?,
        period: grant.period_id.as_slice().try_into()?,
        lease: LeaseId::try_from(grant.lease_id.as_slice())?,
        version: version(grant.version)?,
        allowance: MicroBytes::from_halves(grant.allowance_hi, grant.allowance_lo),
    })
}

fn error_to_wire(error: ConfigError) -> pb::ConfigError {
    pb::ConfigError {
        kind: error.kind,
        id: error.id,
        message: error.message,
    }
}

fn error_from_wire(error: pb::ConfigError) -> ConfigError {
    ConfigError {
        kind: error.kind,
        id: error.id,
        message: error.message,
    }
}

/// Empty on the wire is nothing.
fn text(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

pub(super) fn timestamp_to_wire(unix_ms: i64) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: unix_ms.div_euclid(1_000),
        // Below 1,000,000,000 by construction.
        nanos: (unix_ms.rem_euclid(1_000) * 1_000_000) as i32,
    }
}

pub(super) fn timestamp_from_wire(time: prost_types::Timestamp) -> i64 {
    time.seconds
        .saturating_mul(1_000)
        .saturating_add(i64::from(time.nanos / 1_000_000))
}

fn duration_to_wire(ms: u64) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(ms / 1_000).unwrap_or(i64::MAX),
        // Below 1,000,000,000 by construction.
        nanos: (ms % 1_000 * 1_000_000) as i32,
    }
}

/// In milliseconds; negative ones count as 0.
fn duration_from_wire(duration: Option<prost_types::Duration>) -> u64 {
    let Some(duration) = duration else { return 0 };
    let seconds = u64::try_from(duration.seconds).unwrap_or(0);
    let nanos = u64::try_from(duration.nanos).unwrap_or(0);
    seconds
        .saturating_mul(1_000)
        .saturating_add(nanos / 1_000_000)
}
