//! Chaining: right after their commits, events get their places in the chain of their tenant, a
//! batch per transaction, by whoever has the job's lease. A transaction that locked a head would
//! make all writers of a tenant wait for each other; this way none waits.
//!
//! An event has no place until its row says so, so that the chain is in the order in which commits
//! became visible, whatever order they began in: one that was committed late comes behind the head.
//! No position in the log is remembered that a late commit could fall behind, and none has to wait
//! for transactions that are still running.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;
use vpnpanel_domain::TenantId;

use super::hash::GENESIS;
use super::refusals;
use super::stored::{AuditEvent, SELECT, chain_of, event};
use crate::connect::Store;
use crate::error::{Result, StoreError};
use crate::jobs::{self, JobLease};
use crate::row_set::{Cell, Column, RowSet};
use crate::sql;
use crate::transaction::Write;

/// What events call the end of what retention removed.
pub(super) const CHECKPOINT: &str = "auditCheckpoint";

/// Names a checkpoint in the event that tells of it.
pub(super) fn checkpoint_name(seq: u64, hash: &[u8]) -> String {
    format!("{seq}:{}", hex::encode(hash))
}

/// What waits to be chained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AuditTail {
    /// Events.
    pub count: u64,
    /// When the oldest of them happened.
    pub oldest_at_ms: Option<i64>,
}

/// The last link of a chain.
struct Head {
    seq: u64,
    hash: Vec<u8>,
    /// It is in the database already.
    is_kept: bool,
}

impl Store {
    /// Chains events that wait for it, at most `limit`, under a job's lease; returns how many.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`], and those of the database.
    pub async fn chain_audit(&self, lease: &JobLease, limit: u32) -> Result<u64> {
        let tx = self.begin().await?;
        jobs::hold(&*tx, lease).await?;
        let text = format!("{SELECT} WHERE seq IS NULL ORDER BY id LIMIT $1");
        let events = sql::all(&*tx, text, vec![i64::from(limit).into()])
            .await?
            .iter()
            .map(event)
            .collect::<Result<Vec<_>>>()?;
        if events.is_empty() {
            return Ok(0);
        }
        let mut heads = heads(&tx, &events).await?;
        link(&tx, &events, &mut heads).await?;
        keep(&tx, heads).await?;
        let count = events.len() as u64;
        jobs::count(&tx, lease, count).await?;
        tx.commit().await?;
        Ok(count)
    }

    /// Whether the chainer has something to do: an event without a place, or refused sign-ins of
    /// a minute that is over.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn has_audit_work(&self) -> Result<bool> {
        let text = "SELECT 1 WHERE EXISTS (SELECT 1 FROM audit_events WHERE seq IS NULL)
             OR EXISTS (SELECT 1 FROM audit_refusals WHERE minute < $1)";
        let minute = refusals::minute(self.now_ms());
        Ok(sql::one(self.read(), text, vec![minute.into()])
            .await?
            .is_some())
    }

    /// What waits to be chained, of all chains.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn audit_tail(&self) -> Result<AuditTail> {
        tail(self.read(), None).await
    }
}

/// What waits to be chained, of one chain where it is named.
pub(super) async fn tail(
    db: &impl sea_orm::ConnectionTrait,
    of: Option<Option<TenantId>>,
) -> Result<AuditTail> {
    let (and, values) = match of {
        Some(tenant) => (" AND tenant_id = $1", vec![chain_of(tenant).into()]),
        None => ("", vec![]),
    };
    let row = sql::one(
        db,
        format!("SELECT COUNT(*), MIN(recorded_at) FROM audit_events WHERE seq IS NULL{and}"),
        values,
    )
    .await?
    .ok_or_else(|| StoreError::corrupt("audit_events", "no count"))?;
    Ok(AuditTail {
        count: sql::unsigned(sql::get(&row, 0)?),
        oldest_at_ms: sql::get(&row, 1)?,
    })
}

/// Heads of the chains that events belong to.
async fn heads(tx: &Write, events: &[AuditEvent]) -> Result<BTreeMap<Uuid, Head>> {
    let chains: BTreeSet<Uuid> = events.iter().map(|one| chain_of(one.tenant_id)).collect();
    let text = format!(
        "SELECT tenant_id, seq, hash FROM audit_heads WHERE tenant_id {}",
        sql::in_ids(&**tx, 1)
    );
    let mut heads = BTreeMap::new();
    for row in sql::all(&**tx, text, vec![sql::ids(&**tx, chains)]).await? {
        let head = Head {
            seq: sql::unsigned(sql::get(&row, 1)?),
            hash: sql::get(&row, 2)?,
            is_kept: true,
        };
        heads.insert(sql::get(&row, 0)?, head);
    }
    Ok(heads)
}

/// Gives each event its place.
async fn link(tx: &Write, events: &[AuditEvent], heads: &mut BTreeMap<Uuid, Head>) -> Result<()> {
    let mut links = RowSet::new(
        &**tx,
        &[
            ("tenant_id", Column::Id),
            ("id", Column::Id),
            ("seq", Column::Big),
            ("prev_hash", Column::Bytes),
            ("hash", Column::Bytes),
        ],
    );
    for event in events {
        let chain = chain_of(event.tenant_id);
        let head = heads.entry(chain).or_insert_with(|| Head {
            seq: 0,
            hash: GENESIS.to_vec(),
            is_kept: false,
        });
        let seq = head.seq + 1;
        let hash = event.hash_at(seq, &head.hash);
        links.push([
            Cell::Id(chain),
            Cell::Id(event.id),
            Cell::Big(sql::signed(seq)),
            Cell::Bytes(&head.hash),
            Cell::Bytes(&hash),
        ]);
        head.seq = seq;
        head.hash = hash.to_vec();
    }
    let text = format!(
        "UPDATE audit_events SET seq = s.seq, prev_hash = s.prev_hash, hash = s.hash FROM {}
         WHERE audit_events.tenant_id = s.tenant_id AND audit_events.id = s.id",
        links.source(1)
    );
    let linked = sql::run(&**tx, text, links.into_values()).await?;
    if linked != events.len() as u64 {
        return Err(StoreError::corrupt("audit_events", "an event went away"));
    }
    Ok(())
}

/// Keeps the heads. New ones and others are told apart here, and not by ON CONFLICT, which would
/// run into the trigger that refuses to replace one.
async fn keep(tx: &Write, heads: BTreeMap<Uuid, Head>) -> Result<()> {
    let rows = |is_kept: bool| {
        let mut rows = RowSet::new(
            &**tx,
            &[
                ("tenant_id", Column::Id),
                ("seq", Column::Big),
                ("hash", Column::Bytes),
            ],
        );
        for (chain, head) in heads.iter().filter(|(_, head)| head.is_kept == is_kept) {
            rows.push([
                Cell::Id(*chain),
                Cell::Big(sql::signed(head.seq)),
                Cell::Bytes(&head.hash),
            ]);
        }
        rows
    };
    let (known, new) = (rows(true), rows(false));
    if !known.is_empty() {
        let text = format!(
            "UPDATE audit_heads SET seq = s.seq, hash = s.hash, chained_at = $1 FROM {}
             WHERE audit_heads.tenant_id = s.tenant_id",
            known.source(2)
        );
        run(tx, text, known).await?;
    }
    if !new.is_empty() {
        let text = format!(
            "INSERT INTO audit_heads (tenant_id, seq, hash, chained_at)
             SELECT tenant_id, seq, hash, $1 FROM {} WHERE TRUE",
            new.source(2)
        );
        run(tx, text, new).await?;
    }
    Ok(())
}

async fn run(tx: &Write, text: String, rows: RowSet) -> Result<()> {
    let mut values = vec![tx.now.into()];
    values.extend(rows.into_values());
    sql::run(&**tx, text, values).await?;
    Ok(())
}
