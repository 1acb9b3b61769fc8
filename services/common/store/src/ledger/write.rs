//! Writes the effects of an ingest transaction: one statement for each table, whatever the
//! number of rows.

use std::collections::{BTreeMap, BTreeSet};

use sea_orm::Value;
use uuid::Uuid;
use vpnpanel_domain::{LeaseId, MicroBytes, NodeId, PeriodId, TenantId, UserId};
use vpnpanel_link::collector::LeaseFacts;
use vpnpanel_link::collector::ingest::{BucketCredit, Crossing, Effects, OrphanReason};
use vpnpanel_link::{Bucket, Row};

use super::first_use::{self, Clocks};
use super::{months, rollup};
use crate::changes::Entry;
use crate::error::{Result, StoreError};
use crate::row_set::{Cell, Column, RowSet};
use crate::transaction::Write;
use crate::{amount, sql};

/// Adds amounts in two columns, with the carry.
macro_rules! add_billed {
    ($table:literal, $from:literal) => {
        concat!(
            "billed_bytes = ",
            $table,
            ".billed_bytes + ",
            $from,
            ".billed_bytes + (",
            $table,
            ".billed_micro + ",
            $from,
            ".billed_micro) / 1000000, ",
            "billed_micro = (",
            $table,
            ".billed_micro + ",
            $from,
            ".billed_micro) % 1000000"
        )
    };
}
pub(super) use add_billed;

/// Writes, in the order of locks.
pub(crate) async fn write(tx: &mut Write, effects: &Effects, clocks: &Clocks) -> Result<()> {
    cursors(tx, effects).await?;
    marks(tx, effects).await?;
    buckets(tx, &effects.buckets).await?;
    node_buckets(tx, &effects.buckets).await?;
    touched(tx, &effects.buckets).await?;
    periods(tx, effects).await?;
    replaced(tx, &effects.replaced).await?;
    leases(tx, &effects.leases).await?;
    let former: Vec<_> = effects.former.iter().map(current_key).collect();
    leases(tx, &former).await?;
    unbilled(tx, effects).await?;
    first_use::start(tx, clocks, &effects.buckets).await?;
    limited(tx, &effects.limited).await?;
    months::count(tx, &effects.buckets).await
}

/// Runs a statement on the rows, if there are any; returns how many it changed.
pub(super) async fn run(
    tx: &Write,
    rows: RowSet,
    first: Vec<Value>,
    text: impl FnOnce(&str) -> String,
) -> Result<u64> {
    if rows.is_empty() {
        return Ok(0);
    }
    let text = text(&rows.source(first.len() + 1));
    let mut values = first;
    values.extend(rows.into_values());
    Ok(sql::run(&**tx, text, values).await?)
}

async fn cursors(tx: &Write, effects: &Effects) -> Result<()> {
    let mut rows = RowSet::new(
        &**tx,
        &[
            ("node_id", Column::Id),
            ("epoch", Column::Key),
            ("seq", Column::Big),
            ("digest", Column::Bytes),
        ],
    );
    for cursor in &effects.cursors {
        rows.push([
            Cell::Id(cursor.node.uuid()),
            Cell::Key(cursor.epoch.as_bytes()),
            Cell::Big(sql::signed(cursor.seq.get())),
            Cell::Bytes(cursor.digest.as_bytes()),
        ]);
    }
    let advanced = run(tx, rows, vec![], |source| {
        format!(
            "INSERT INTO node_cursors (node_id, epoch, seq, digest)
             SELECT node_id, epoch, seq, digest FROM {source} WHERE TRUE
             ON CONFLICT (node_id, epoch) DO UPDATE
             SET seq = excluded.seq, digest = excluded.digest
             WHERE node_cursors.seq < excluded.seq"
        )
    })
    .await?;
    // The lock on the node's link excludes it; were it ever lost, nothing may be billed.
    if advanced != effects.cursors.len() as u64 {
        return Err(StoreError::StreamSuperseded);
    }

    let mut rows = RowSet::new(
        &**tx,
        &[
            ("node_id", Column::Id),
            ("epoch", Column::Key),
            ("seq", Column::Big),
            ("digest", Column::Bytes),
        ],
    );
    for digest in &effects.digests {
        rows.push([
            Cell::Id(digest.node.uuid()),
            Cell::Key(digest.epoch.as_bytes()),
            Cell::Big(sql::signed(digest.seq.get())),
            Cell::Bytes(digest.digest.as_bytes()),
        ]);
    }
    run(tx, rows, vec![tx.now.into()], |source| {
        format!(
            "INSERT INTO batch_digests (node_id, epoch, seq, digest, committed_at)
             SELECT node_id, epoch, seq, digest, $1 FROM {source} WHERE TRUE
             ON CONFLICT (node_id, epoch, seq) DO NOTHING"
        )
    })
    .await?;

    let mut rows = RowSet::new(
        &**tx,
        &[
            ("node_id", Column::Id),
            ("epoch", Column::Key),
            ("successor", Column::Key),
        ],
    );
    for one in &effects.successors {
        rows.push([
            Cell::Id(one.node.uuid()),
            Cell::Key(one.epoch.as_bytes()),
            Cell::Key(one.successor.as_bytes()),
        ]);
    }
    run(tx, rows, vec![], |source| {
        format!(
            "UPDATE node_cursors SET successor = s.successor FROM {source}
             WHERE node_cursors.node_id = s.node_id AND node_cursors.epoch = s.epoch"
        )
    })
    .await?;

    let mut rows = RowSet::new(&**tx, &[("node_id", Column::Id), ("at", Column::Big)]);
    for (node, at) in &effects.written {
        rows.push([Cell::Id(node.uuid()), Cell::Big(*at)]);
    }
    run(tx, rows, vec![], |source| {
        format!(
            "UPDATE node_links SET last_written_at =
                CASE WHEN node_links.last_written_at > s.at THEN node_links.last_written_at
                     ELSE s.at END
             FROM {source} WHERE node_links.node_id = s.node_id"
        )
    })
    .await?;

    let mut rows = RowSet::new(&**tx, &[("node_id", Column::Id), ("reports", Column::Big)]);
    for (node, reports) in &effects.lease_reports {
        rows.push([Cell::Id(node.uuid()), Cell::Big(sql::stored(*reports)?)]);
    }
    run(tx, rows, vec![], |source| {
        format!(
            "UPDATE node_links SET lease_reports = s.reports FROM {source}
             WHERE node_links.node_id = s.node_id"
        )
    })
    .await?;

    for (node, reason) in &effects.quarantined {
        quarantine(tx, *node, reason).await?;
    }
    Ok(())
}

/// Quarantines a node, unless it is.
pub(crate) async fn quarantine(tx: &Write, node: NodeId, reason: &str) -> Result<()> {
    sql::run(
        &**tx,
        "UPDATE node_links SET quarantined_at = $2, quarantine_reason = $3
         WHERE node_id = $1 AND quarantine_reason IS NULL",
        vec![node.uuid().into(), tx.now.into(), reason.into()],
    )
    .await?;
    Ok(())
}

async fn marks(tx: &Write, effects: &Effects) -> Result<()> {
    let mut rows = RowSet::new(
        &**tx,
        &[
            ("node_id", Column::Id),
            ("incarnation", Column::Key),
            ("peer_id", Column::Id),
            ("up", Column::Big),
            ("down", Column::Big),
            ("awaited_up", Column::Big),
            ("awaited_down", Column::Big),
            ("user_id", Column::Id),
            ("period_id", Column::Id),
            ("ppm", Column::Big),
        ],
    );
    for ((node, counter), mark) in &effects.marks {
        // No column of a set is null: −1 stands for it.
        let (awaited_up, awaited_down) = match mark.awaited {
            Some(awaited) => (sql::stored(awaited.up)?, sql::stored(awaited.down)?),
            None => (-1, -1),
        };
        rows.push([
            Cell::Id(node.uuid()),
            Cell::Key(counter.incarnation.as_bytes()),
            Cell::Id(counter.peer.uuid()),
            Cell::Big(sql::stored(mark.totals.up)?),
            Cell::Big(sql::stored(mark.totals.down)?),
            Cell::Big(awaited_up),
            Cell::Big(awaited_down),
            Cell::Id(mark.attribution.user.uuid()),
            Cell::Id(mark.attribution.period.uuid()),
            Cell::Big(i64::from(mark.attribution.multiplier.ppm())),
        ]);
    }
    run(tx, rows, vec![], |source| {
        format!(
            "INSERT INTO marks (node_id, incarnation, peer_id, up, down, awaited_up,
                awaited_down, user_id, period_id, multiplier_ppm)
             SELECT node_id, incarnation, peer_id, up, down, NULLIF(awaited_up, -1),
                NULLIF(awaited_down, -1), user_id, period_id, ppm FROM {source} WHERE TRUE
             ON CONFLICT (node_id, incarnation, peer_id) DO UPDATE
             SET up = excluded.up, down = excluded.down, awaited_up = excluded.awaited_up,
                awaited_down = excluded.awaited_down, user_id = excluded.user_id,
                period_id = excluded.period_id, multiplier_ppm = excluded.multiplier_ppm"
        )
    })
    .await?;
    Ok(())
}

async fn buckets(tx: &Write, credits: &[BucketCredit]) -> Result<()> {
    let mut rows = RowSet::new(
        &**tx,
        &[
            ("tenant_id", Column::Id),
            ("user_id", Column::Id),
            ("bucket_at", Column::Big),
            ("node_id", Column::Id),
            ("period_id", Column::Id),
            ("up", Column::Big),
            ("down", Column::Big),
            ("billed_bytes", Column::Big),
            ("billed_micro", Column::Big),
        ],
    );
    for credit in credits {
        let (bytes, micro) = amount::split(credit.billed)?;
        rows.push([
            Cell::Id(credit.tenant.uuid()),
            Cell::Id(credit.user.uuid()),
            Cell::Big(credit.bucket.starts_ms()),
            Cell::Id(credit.node.uuid()),
            Cell::Id(credit.period.uuid()),
            Cell::Big(sql::stored(credit.up)?),
            Cell::Big(sql::stored(credit.down)?),
            Cell::Big(bytes),
            Cell::Big(micro),
        ]);
    }
    run(tx, rows, vec![], |source| {
        format!(
            "INSERT INTO usage_buckets (tenant_id, user_id, bucket_at, node_id, period_id, up,
                down, billed_bytes, billed_micro)
             SELECT tenant_id, user_id, bucket_at, node_id, period_id, up, down, billed_bytes,
                billed_micro FROM {source} WHERE TRUE
             ON CONFLICT (tenant_id, user_id, bucket_at, node_id, period_id) DO UPDATE
             SET up = usage_buckets.up + excluded.up, down = usage_buckets.down + excluded.down,
                {}",
            add_billed!("usage_buckets", "excluded")
        )
    })
    .await?;
    Ok(())
}

/// The same, added up for each tenant and node: what tenants' and nodes' series are read from.
async fn node_buckets(tx: &Write, credits: &[BucketCredit]) -> Result<()> {
    let mut sums: BTreeMap<(TenantId, Bucket, NodeId), (u64, u64, MicroBytes)> = BTreeMap::new();
    for credit in credits {
        let sum = sums
            .entry((credit.tenant, credit.bucket, credit.node))
            .or_default();
        sum.0 = sum.0.saturating_add(credit.up);
        sum.1 = sum.1.saturating_add(credit.down);
        sum.2 += credit.billed;
    }
    let mut rows = RowSet::new(
        &**tx,
        &[
            ("tenant_id", Column::Id),
            ("node_id", Column::Id),
            ("bucket_at", Column::Big),
            ("up", Column::Big),
            ("down", Column::Big),
            ("billed_bytes", Column::Big),
            ("billed_micro", Column::Big),
        ],
    );
    for ((tenant, bucket, node), (up, down, billed)) in sums {
        let (bytes, micro) = amount::split(billed)?;
        rows.push([
            Cell::Id(tenant.uuid()),
            Cell::Id(node.uuid()),
            Cell::Big(bucket.starts_ms()),
            Cell::Big(sql::stored(up)?),
            Cell::Big(sql::stored(down)?),
            Cell::Big(bytes),
            Cell::Big(micro),
        ]);
    }
    run(tx, rows, vec![], |source| {
        format!(
            "INSERT INTO node_buckets (tenant_id, node_id, bucket_at, up, down, billed_bytes,
                billed_micro)
             SELECT tenant_id, node_id, bucket_at, up, down, billed_bytes, billed_micro
             FROM {source} WHERE TRUE
             ON CONFLICT (tenant_id, bucket_at, node_id) DO UPDATE
             SET up = node_buckets.up + excluded.up, down = node_buckets.down + excluded.down,
                {}",
            add_billed!("node_buckets", "excluded")
        )
    })
    .await?;
    Ok(())
}

/// Notes the hours whose sums are behind their buckets from here on: a row for each tenant and
/// hour, however many users there are.
async fn touched(tx: &Write, credits: &[BucketCredit]) -> Result<()> {
    let hours: BTreeSet<(i64, Uuid)> = credits
        .iter()
        .map(|credit| {
            let hour = rollup::hour_of(credit.bucket.starts_ms());
            (hour, credit.tenant.uuid())
        })
        .collect();
    rollup::note(tx, Uuid::now_v7(), hours).await
}

async fn periods(tx: &Write, effects: &Effects) -> Result<()> {
    let mut rows = RowSet::new(
        &**tx,
        &[
            ("id", Column::Id),
            ("up", Column::Big),
            ("down", Column::Big),
            ("billed_bytes", Column::Big),
            ("billed_micro", Column::Big),
            ("reserved_bytes", Column::Big),
            ("reserved_micro", Column::Big),
            ("seen_at", Column::Big),
        ],
    );
    for credit in &effects.periods {
        let (bytes, micro) = amount::split(credit.billed)?;
        let (reserved_bytes, reserved_micro) = amount::split(credit.reserved)?;
        rows.push([
            Cell::Id(credit.period.uuid()),
            Cell::Big(sql::stored(credit.up)?),
            Cell::Big(sql::stored(credit.down)?),
            Cell::Big(bytes),
            Cell::Big(micro),
            Cell::Big(reserved_bytes),
            Cell::Big(reserved_micro),
            Cell::Big(credit.seen_at_ms),
        ]);
    }
    run(tx, rows, vec![], |source| {
        format!(
            "UPDATE periods SET up = periods.up + s.up, down = periods.down + s.down,
                reserved_bytes = s.reserved_bytes, reserved_micro = s.reserved_micro,
                last_used_at = CASE
                    WHEN s.seen_at > COALESCE(periods.last_used_at, 0) THEN s.seen_at
                    ELSE periods.last_used_at END,
                {}
             FROM {source} WHERE periods.id = s.id",
            add_billed!("periods", "s")
        )
    })
    .await?;
    Ok(())
}

/// Leases that nobody holds any more.
pub(crate) async fn replaced(
    tx: &Write,
    gone: &[((NodeId, PeriodId, LeaseId), LeaseFacts)],
) -> Result<()> {
    let mut rows = RowSet::new(
        &**tx,
        &[
            ("node_id", Column::Id),
            ("period_id", Column::Id),
            ("id", Column::Id),
        ],
    );
    for ((node, period, lease), _) in gone {
        rows.push([
            Cell::Id(node.uuid()),
            Cell::Id(period.uuid()),
            Cell::Id(lease.uuid()),
        ]);
    }
    run(tx, rows, vec![], |source| {
        format!(
            "UPDATE leases SET state = 'written_off' FROM {source}
             WHERE leases.node_id = s.node_id AND leases.period_id = s.period_id
                AND leases.id = s.id"
        )
    })
    .await?;
    let gone: Vec<_> = gone.iter().map(current_key).collect();
    leases(tx, &gone).await
}

fn current_key(
    ((node, period, _), facts): &((NodeId, PeriodId, LeaseId), LeaseFacts),
) -> ((NodeId, PeriodId), LeaseFacts) {
    ((*node, *period), *facts)
}

/// Writes whole rows of leases; one that is new is current, any other stays what it is.
pub(crate) async fn leases(tx: &Write, leases: &[((NodeId, PeriodId), LeaseFacts)]) -> Result<()> {
    let mut rows = RowSet::new(
        &**tx,
        &[
            ("node_id", Column::Id),
            ("period_id", Column::Id),
            ("id", Column::Id),
            ("user_id", Column::Id),
            ("version", Column::Big),
            ("answered", Column::Big),
            ("allowance_bytes", Column::Big),
            ("allowance_micro", Column::Big),
            ("asked_bytes", Column::Big),
            ("asked_micro", Column::Big),
            ("billed_bytes", Column::Big),
            ("billed_micro", Column::Big),
            ("consumed_bytes", Column::Big),
            ("consumed_micro", Column::Big),
            ("moved_at", Column::Big),
            ("named", Column::Big),
        ],
    );
    for ((node, period), lease) in leases {
        let allowance = amount::split(lease.allowance)?;
        let asked = lease.asked.map_or(Ok((-1, -1)), amount::split)?;
        let billed = amount::split(lease.billed)?;
        let consumed = amount::split(lease.consumed)?;
        rows.push([
            Cell::Id(node.uuid()),
            Cell::Id(period.uuid()),
            Cell::Id(lease.lease.uuid()),
            Cell::Id(lease.user.uuid()),
            Cell::Big(sql::signed(lease.version)),
            Cell::Big(sql::signed(lease.answered)),
            Cell::Big(allowance.0),
            Cell::Big(allowance.1),
            Cell::Big(asked.0),
            Cell::Big(asked.1),
            Cell::Big(billed.0),
            Cell::Big(billed.1),
            Cell::Big(consumed.0),
            Cell::Big(consumed.1),
            Cell::Big(lease.moved_at_ms),
            Cell::Big(sql::signed(lease.named.get())),
        ]);
    }
    run(tx, rows, vec![], |source| {
        format!(
            "INSERT INTO leases (node_id, period_id, id, user_id, state, version,
                answered_version, allowance_bytes, allowance_micro, asked_bytes, asked_micro,
                billed_bytes, billed_micro, consumed_bytes, consumed_micro, moved_at,
                named_generation)
             SELECT node_id, period_id, id, user_id, 'current', version, answered,
                allowance_bytes, allowance_micro, NULLIF(asked_bytes, -1),
                NULLIF(asked_micro, -1), billed_bytes, billed_micro, consumed_bytes,
                consumed_micro, moved_at, named FROM {source} WHERE TRUE
             ON CONFLICT (node_id, period_id, id) DO UPDATE
             SET version = excluded.version, answered_version = excluded.answered_version,
                allowance_bytes = excluded.allowance_bytes,
                allowance_micro = excluded.allowance_micro, asked_bytes = excluded.asked_bytes,
                asked_micro = excluded.asked_micro, billed_bytes = excluded.billed_bytes,
                billed_micro = excluded.billed_micro, consumed_bytes = excluded.consumed_bytes,
                consumed_micro = excluded.consumed_micro, moved_at = excluded.moved_at,
                named_generation = excluded.named_generation"
        )
    })
    .await?;
    Ok(())
}

/// What was counted and is not billed: kept, each row for itself, for a person to see.
async fn unbilled(tx: &Write, effects: &Effects) -> Result<()> {
    for orphan in &effects.orphans {
        let mut values = counted(orphan.node, &orphan.row, tx.now)?;
        values.push(reason(orphan.reason).into());
        sql::run(
            &**tx,
            "INSERT INTO orphan_usage (node_id, incarnation, peer_id, user_id, period_id,
                multiplier_ppm, bucket_at, up_from, up_to, down_from, down_to, recorded_at, reason)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)",
            values,
        )
        .await?;
    }
    for held in &effects.held {
        let mut values = counted(held.node, &held.row, tx.now)?;
        values.push(held.tenant.uuid().into());
        sql::run(
            &**tx,
            "INSERT INTO quarantine_usage (node_id, incarnation, peer_id, user_id, period_id,
                multiplier_ppm, bucket_at, up_from, up_to, down_from, down_to, recorded_at,
                tenant_id, state)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, 'waiting')",
            values,
        )
        .await?;
    }
    for skipped in &effects.skipped {
        tracing::error!(
            event = "ingest.batches_lost",
            node_id = %skipped.node,
            epoch = %skipped.epoch,
            from = %skipped.from,
            to = %skipped.to,
            "batches were never committed and are past retention on their node: what its books still \
             know of them is billed, the rest is among the orphans"
        );
    }
    for letter in &effects.dead_letters {
        tracing::error!(
            event = "ingest.dead_letter",
            node_id = %letter.node,
            epoch = %letter.batch.epoch,
            seq = %letter.batch.seq,
            reason = letter.reason,
            "a batch was taken out of the stream"
        );
        sql::run(
            &**tx,
            "INSERT INTO dead_letters (node_id, epoch, seq, digest, payload, error, recorded_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7)",
            vec![
                letter.node.uuid().into(),
                letter.batch.epoch.as_bytes().to_vec().into(),
                sql::signed(letter.batch.seq.get()).into(),
                letter.batch.digest.as_bytes().to_vec().into(),
                letter.batch.payload.to_vec().into(),
                letter.reason.as_str().into(),
                tx.now.into(),
            ],
        )
        .await?;
    }
    Ok(())
}

fn counted(node: NodeId, row: &Row, now: i64) -> Result<Vec<Value>> {
    Ok(vec![
        node.uuid().into(),
        row.counter.incarnation.as_bytes().to_vec().into(),
        row.counter.peer.uuid().into(),
        row.attribution.user.uuid().into(),
        row.attribution.period.uuid().into(),
        i64::from(row.attribution.multiplier.ppm()).into(),
        row.bucket.starts_ms().into(),
        sql::stored(row.up.from)?.into(),
        sql::stored(row.up.to)?.into(),
        sql::stored(row.down.from)?.into(),
        sql::stored(row.down.to)?.into(),
        now.into(),
    ])
}

fn reason(reason: OrphanReason) -> &'static str {
    match reason {
        OrphanReason::UnknownPeriod => "unknown_period",
        OrphanReason::OtherUser => "other_user",
        OrphanReason::OtherTenant => "other_tenant",
        OrphanReason::SegmentsLost => "segments_lost",
    }
}

/// Users that crossed their limit: the stored status follows, unless something stronger holds or
/// the period is no longer the user's current one; the nodes are told either way.
async fn limited(tx: &mut Write, crossings: &[Crossing]) -> Result<()> {
    if crossings.is_empty() {
        return Ok(());
    }
    let text = format!(
        "UPDATE users SET status = 'limited'
         WHERE period_id {} AND deleted_at IS NULL AND status IN ('active', 'on_hold')",
        sql::in_ids(&**tx, 1)
    );
    let periods = sql::ids(&**tx, crossings.iter().map(|one| one.period));
    sql::run(&**tx, text, vec![periods]).await?;
    for Crossing { tenant, user, .. } in crossings {
        let (tenant, user): (TenantId, UserId) = (*tenant, *user);
        tx.changed(Entry::user(tenant, user));
    }
    Ok(())
}
