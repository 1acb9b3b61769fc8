//! What a user's usage is made of.

use vpnpanel_api::usage::v1::{
    BilledBatch, ExplainUserUsageRequest, ExplainUserUsageResponse, UnbilledPiece, UnbilledReason,
    UsagePiece,
};
use vpnpanel_store as store;

use super::user::named;
use crate::{
    Error,
    caller::Caller,
    context::Context,
    wire::{range, time},
};

/// Most pieces of an answer.
const MOST: u32 = 5_000;
/// Most that were not billed.
const MOST_UNBILLED: usize = 1_000;
/// Days that are explained where nothing is said.
const DEFAULT_DAYS: i64 = 1;
/// Most days: so long 15-minute steps are kept.
const MOST_DAYS: i64 = 35;

pub(crate) async fn user_usage(
    context: &Context,
    _caller: &Caller,
    message: ExplainUserUsageRequest,
) -> Result<ExplainUserUsageResponse, Error> {
    let (tenant_id, id) = named(&message.tenant_id, &message.user_id)?;
    let span = range::span(
        message.start_time.as_ref(),
        message.end_time.as_ref(),
        DEFAULT_DAYS,
        MOST_DAYS,
        context.store.now_ms(),
    )?;
    let store = &context.store;
    let found = store
        .explain_usage(tenant_id, id, range::in_quarters(span), MOST + 1)
        .await?;
    if found.pieces.len() > MOST as usize {
        let why = format!("there are more than {MOST} pieces from here on: ask for a shorter span");
        return Err(Error::field("start_time", why));
    }
    let unbilled = found.unbilled.iter().take(MOST_UNBILLED);
    Ok(ExplainUserUsageResponse {
        pieces: found.pieces.iter().map(piece).collect(),
        unbilled: unbilled.map(unbilled_piece).collect(),
        batches: found.batches.iter().map(batch).collect(),
    })
}

fn piece(piece: &store::UsagePiece) -> UsagePiece {
    let raw = u128::from(piece.usage.up) + u128::from(piece.usage.down);
    // Micro-bytes over bytes are parts per million.
    let ppm = piece.usage.billed.get().checked_div(raw);
    UsagePiece {
        start_time: Some(time::timestamp(piece.at_ms)),
        node_id: piece.node.to_string(),
        period_id: piece.period.to_string(),
        up_bytes: piece.usage.up,
        down_bytes: piece.usage.down,
        billed_bytes: piece.usage.billed.floor_bytes(),
        multiplier_ppm: u64::try_from(ppm.unwrap_or_default()).unwrap_or(u64::MAX),
    }
}

fn unbilled_piece(piece: &store::UnbilledPiece) -> UnbilledPiece {
    let reason = match piece.reason {
        store::UnbilledReason::Quarantined => UnbilledReason::Quarantined,
        store::UnbilledReason::UnknownPeriod => UnbilledReason::UnknownPeriod,
        store::UnbilledReason::OtherUser => UnbilledReason::OtherUser,
        store::UnbilledReason::OtherTenant => UnbilledReason::OtherTenant,
        store::UnbilledReason::SegmentsLost => UnbilledReason::SegmentsLost,
    };
    UnbilledPiece {
        start_time: Some(time::timestamp(piece.at_ms)),
        record_time: Some(time::timestamp(piece.recorded_at_ms)),
        node_id: piece.node.to_string(),
        up_bytes: piece.up,
        down_bytes: piece.down,
        multiplier_ppm: piece.multiplier_ppm,
        reason: reason.into(),
    }
}

fn batch(batch: &store::BilledBatch) -> BilledBatch {
    BilledBatch {
        node_id: batch.node.to_string(),
        epoch: hex::encode(batch.epoch.as_bytes()),
        seq: batch.seq.get(),
        commit_time: batch.committed_at_ms.map(time::timestamp),
    }
}
