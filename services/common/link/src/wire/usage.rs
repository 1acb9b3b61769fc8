//! Rows and batches on the wire. Incarnations, which repeat in every row, are listed once for a
//! message and named by their index.

use bytes::Bytes;
use prost::Message;
use vpnpanel_domain::Multiplier;

use super::{at_most, decode, pb};
use crate::{
    Attribution, Batch, BatchRef, Bucket, CounterKey, Digest, Epoch, Error, Incarnation,
    MAX_BATCH_ROWS, MAX_PAYLOAD_BYTES, Payload, Range, Row, Segments, Seq,
};

/// Most incarnations that a message may name.
const MAX_INCARNATIONS: usize = 64;

/// Encodes what a batch says. Call it once for a batch: what is stored is what is sent.
pub fn encode_payload(payload: &Payload) -> Bytes {
    let (rows, incarnations) = rows_to_wire(&payload.rows);
    pb::UsagePayload {
        predecessor: payload.predecessor.map(reference_to_wire),
        written_at_ms: payload.written_at_ms,
        rows,
        incarnations,
    }
    .encode_to_vec()
    .into()
}

/// Decodes what a batch says.
///
/// # Errors
/// For anything that no correct agent writes; the batch is a dead letter then.
pub fn decode_payload(bytes: &[u8]) -> Result<Payload, Error> {
    at_most("payload", bytes.len(), MAX_PAYLOAD_BYTES)?;
    let payload: pb::UsagePayload = decode("payload", bytes)?;
    Ok(Payload {
        predecessor: payload.predecessor.map(reference_from_wire).transpose()?,
        written_at_ms: payload.written_at_ms,
        rows: rows_from_wire(&payload.rows, &payload.incarnations)?,
    })
}

/// Encodes a payload into a batch with its digest.
pub fn seal(epoch: Epoch, seq: Seq, payload: &Payload) -> Batch {
    let payload = encode_payload(payload);
    Batch {
        epoch,
        seq,
        digest: Digest::of(&payload),
        payload,
    }
}

pub(super) fn batch_to_wire(batch: Batch) -> pb::UsageBatch {
    pb::UsageBatch {
        epoch: batch.epoch.0.to_vec(),
        seq: batch.seq.0,
        payload: batch.payload,
        digest: batch.digest.0.to_vec(),
    }
}

/// The digest is checked here, so that nothing behind can meet a batch that lies about itself.
pub(super) fn batch_from_wire(batch: pb::UsageBatch) -> Result<Batch, Error> {
    at_most("payload", batch.payload.len(), MAX_PAYLOAD_BYTES)?;
    let name = Batch {
        epoch: Epoch::try_from(batch.epoch.as_slice())?,
        seq: seq(batch.seq)?,
        digest: Digest::try_from(batch.digest.as_slice())?,
        payload: batch.payload,
    };
    if Digest::of(&name.payload) == name.digest {
        Ok(name)
    } else {
        Err(Error::DigestMismatch("batch"))
    }
}

pub(super) fn reference_to_wire(reference: BatchRef) -> pb::BatchRef {
    pb::BatchRef {
        epoch: reference.epoch.0.to_vec(),
        seq: reference.seq.0,
        digest: reference.digest.0.to_vec(),
    }
}

pub(super) fn reference_from_wire(reference: pb::BatchRef) -> Result<BatchRef, Error> {
    Ok(BatchRef {
        epoch: Epoch::try_from(reference.epoch.as_slice())?,
        seq: seq(reference.seq)?,
        digest: Digest::try_from(reference.digest.as_slice())?,
    })
}

/// Numbers start at 1.
pub(super) fn seq(number: u64) -> Result<Seq, Error> {
    if number == 0 {
        return Err(Error::Invalid {
            what: "seq",
            reason: "batches are numbered from 1",
        });
    }
    Ok(Seq(number))
}

pub(super) fn segments_to_wire(segments: &Segments) -> pb::Segments {
    let (rows, incarnations) = rows_to_wire(&segments.rows);
    let unknown = segments
        .unknown
        .iter()
        .copied()
        .map(counter_to_wire)
        .collect();
    pb::Segments {
        rows,
        incarnations,
        unknown,
    }
}

pub(super) fn segments_from_wire(segments: pb::Segments) -> Result<Segments, Error> {
    at_most(
        "segments.unknown",
        segments.unknown.len(),
        super::stream::MAX_COUNTERS,
    )?;
    Ok(Segments {
        rows: rows_from_wire(&segments.rows, &segments.incarnations)?,
        unknown: segments
            .unknown
            .into_iter()
            .map(counter_from_wire)
            .collect::<Result<_, _>>()?,
    })
}

pub(super) fn counter_to_wire(counter: CounterKey) -> pb::CounterRef {
    pb::CounterRef {
        incarnation: counter.incarnation.0.to_vec(),
        peer_id: counter.peer.into_bytes().to_vec(),
    }
}

pub(super) fn counter_from_wire(counter: pb::CounterRef) -> Result<CounterKey, Error> {
    Ok(CounterKey {
        incarnation: Incarnation::try_from(counter.incarnation.as_slice())?,
        peer: counter.peer_id.as_slice().try_into()?,
    })
}

fn rows_to_wire(rows: &[Row]) -> (Vec<pb::UsageRow>, Vec<Vec<u8>>) {
    let mut incarnations: Vec<Incarnation> = Vec::new();
    let rows = rows
        .iter()
        .map(|row| {
            let incarnation = row.counter.incarnation;
            let index = incarnations.iter().position(|known| *known == incarnation);
            let index = index.unwrap_or_else(|| {
                incarnations.push(incarnation);
                incarnations.len() - 1
            });
            pb::UsageRow {
                // Bounded by the rows of a batch.
                incarnation: index as u32,
                peer_id: row.counter.peer.into_bytes().to_vec(),
                user_id: row.attribution.user.into_bytes().to_vec(),
                period_id: row.attribution.period.into_bytes().to_vec(),
                multiplier_ppm: row.attribution.multiplier.ppm(),
                bucket: row.bucket.0,
                up_from: row.up.from,
                up_len: row.up.len(),
                down_from: row.down.from,
                down_len: row.down.len(),
                leased: row.attribution.leased,
            }
        })
        .collect();
    (
        rows,
        incarnations
            .into_iter()
            .map(|name| name.0.to_vec())
            .collect(),
    )
}

fn rows_from_wire(rows: &[pb::UsageRow], incarnations: &[Vec<u8>]) -> Result<Vec<Row>, Error> {
    at_most("rows", rows.len(), MAX_BATCH_ROWS)?;
    at_most("incarnations", incarnations.len(), MAX_INCARNATIONS)?;
    let incarnations = incarnations
        .iter()
        .map(|name| Incarnation::try_from(name.as_slice()))
        .collect::<Result<Vec<_>, _>>()?;
    rows.iter()
        .map(|row| row_from_wire(row, &incarnations))
        .collect()
}

fn row_from_wire(row: &pb::UsageRow, incarnations: &[Incarnation]) -> Result<Row, Error> {
    let incarnation = *incarnations
        .get(row.incarnation as usize)
        .ok_or(Error::Invalid {
            what: "row.incarnation",
            reason: "names none of the message",
        })?;
    Ok(Row {
        counter: CounterKey {
            incarnation,
            peer: row.peer_id.as_slice().try_into()?,
        },
        attribution: Attribution {
            user: row.user_id.as_slice().try_into()?,
            period: row.period_id.as_slice().try_into()?,
            multiplier: Multiplier::from_ppm(row.multiplier_ppm)?,
            leased: row.leased,
        },
        bucket: Bucket(row.bucket),
        up: range("row.up", row.up_from, row.up_len)?,
        down: range("row.down", row.down_from, row.down_len)?,
    })
}

/// Counters stay below 2⁶³, so that they fit the database's integers.
fn range(what: &'static str, from: u64, len: u64) -> Result<Range, Error> {
    from.checked_add(len)
        .filter(|to| *to <= i64::MAX as u64)
        .and_then(|to| Range::new(from, to))
        .ok_or(Error::Invalid {
            what,
            reason: "ends beyond 2^63 bytes",
        })
}
