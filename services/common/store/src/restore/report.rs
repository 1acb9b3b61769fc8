//! What nodes say that they hold, and what becomes of the rest: a lease that a node which has named
//! all of its leases did not name, and those of a node that a person has given up.

use vpnpanel_domain::{MicroBytes, NodeId, PeriodId, TenantId};
use vpnpanel_link::collector::{LeaseFacts, Standing, lease};
use vpnpanel_link::{Generation, StateEpoch};

use super::{Lock, release, standing};
use crate::audit::Event;
use crate::changes::{ChangeKind, Entry};
use crate::connect::Store;
use crate::error::{Result, StoreError};
use crate::ledger::{self, fenced, load, reserve};
use crate::transaction::Write;
use crate::{nodes, sql};

/// Most leases that one transaction frees.
const CHUNK: i64 = 4_096;

/// What a node that was given up held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WrittenOff {
    /// Leases of which something was reserved.
    pub leases: u64,
    /// What was.
    pub freed: MicroBytes,
}

impl Store {
    /// A node has reported all that it holds on its newest stream, in `leases` reports of leases: what is
    /// on record and was not named there is not the node's any more, and is freed. Says whether the
    /// barrier came down with it.
    ///
    /// # Errors
    /// [`StoreError::StreamSuperseded`]; [`StoreError::ReportLost`] where some of the reports are not on
    /// record any more. What was freed by then stays freed.
    pub async fn node_reported(
        &self,
        node: NodeId,
        generation: Generation,
        epoch: StateEpoch,
        leases: u64,
    ) -> Result<bool> {
        loop {
            let tx = self.begin().await?;
            let standing = standing(&tx, Lock::Exclusive).await?;
            if standing.epoch != epoch {
                return Ok(false);
            }
            let Some(facts) = fenced(&tx, node, generation).await? else {
                return Ok(false);
            };
            if !facts.must_report(epoch) {
                return Ok(false);
            }
            if !facts.holds_reports(epoch, leases) {
                return Err(StoreError::ReportLost);
            }
            let text = format!(
                "SELECT {} FROM leases l WHERE l.node_id = $1 AND l.state = 'current'
                    AND l.named_generation < $2 ORDER BY l.period_id LIMIT $3",
                load::LEASE
            );
            let values = vec![
                node.uuid().into(),
                sql::signed(generation.get()).into(),
                CHUNK.into(),
            ];
            let unnamed = read(&tx, text, values).await?;
            let more = unnamed.len() == CHUNK as usize;
            free(&tx, standing, unnamed).await?;
            if more {
                tx.commit().await?;
                continue;
            }
            sql::run(
                &*tx,
                "UPDATE node_links SET reported_epoch = $2, reported_itself = $3, suspicion = NULL
                 WHERE node_id = $1",
                vec![
                    node.uuid().into(),
                    sql::signed(epoch.get()).into(),
                    true.into(),
                ],
            )
            .await?;
            let closed = release(&tx, standing).await?;
            tx.commit().await?;
            return Ok(closed);
        }
    }

    /// Gives a node up: what its leases reserve is free for others, and the restore barrier does not
    /// wait for it. What it reports later is billed, and shows as overrun.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]; an error in between leaves a part of it done.
    pub async fn write_off_node(
        &self,
        tenant: Option<TenantId>,
        node: NodeId,
    ) -> Result<WrittenOff> {
        let mut done = WrittenOff::default();
        loop {
            // Nodes of all tenants hold the barrier up.
            let mut tx = self.begin().await?;
            let standing = standing(&tx, Lock::Exclusive).await?;
            nodes::lock(&tx, tenant, node).await?;
            let text = format!(
                "SELECT {} FROM leases l WHERE l.node_id = $1 AND l.state <> 'written_off'
                    AND (l.allowance_bytes > l.billed_bytes
                        OR (l.allowance_bytes = l.billed_bytes
                            AND l.allowance_micro > l.billed_micro))
                 ORDER BY l.period_id LIMIT $2",
                load::LEASE
            );
            let held = read(&tx, text, vec![node.uuid().into(), CHUNK.into()]).await?;
            let more = held.len() == CHUNK as usize;
            done.leases += held.len() as u64;
            done.freed += held
                .iter()
                .map(|(_, lease)| lease.reserved())
                .sum::<MicroBytes>();
            shrink(&tx, standing, held).await?;
            tx.audit(Event::on("node", tenant, node));
            if more {
                tx.commit().await?;
                continue;
            }
            sql::run(
                &*tx,
                "UPDATE node_links SET written_off_epoch = $2 WHERE node_id = $1",
                vec![node.uuid().into(), sql::signed(standing.epoch.get()).into()],
            )
            .await?;
            release(&tx, standing).await?;
            tx.changed(Entry::new(ChangeKind::Node, tenant, node).on_node(node));
            tx.commit().await?;
            return Ok(done);
        }
    }
}

type Held = Vec<((NodeId, PeriodId), LeaseFacts)>;

async fn read(tx: &Write, text: String, values: Vec<sea_orm::Value>) -> Result<Held> {
    let rows = sql::all(&**tx, text, values).await?;
    rows.iter().map(load::lease).collect()
}

/// Frees what leases reserve; their nodes do not hold them.
async fn free(tx: &Write, standing: Standing, leases: Held) -> Result<()> {
    let (leases, periods) = written_off(tx, standing, leases).await?;
    let gone: Vec<_> = leases
        .into_iter()
        .map(|((node, period), facts)| ((node, period, facts.lease), facts))
        .collect();
    ledger::write::replaced(tx, &gone).await?;
    reserve(tx, &periods).await
}

/// Frees what leases reserve; their nodes may come back with them.
async fn shrink(tx: &Write, standing: Standing, leases: Held) -> Result<()> {
    let (leases, periods) = written_off(tx, standing, leases).await?;
    ledger::write::leases(tx, &leases).await?;
    reserve(tx, &periods).await
}

type Periods = Vec<(PeriodId, vpnpanel_link::collector::PeriodFacts)>;

async fn written_off(tx: &Write, standing: Standing, mut leases: Held) -> Result<(Held, Periods)> {
    let mut ids: Vec<_> = leases.iter().map(|((_, period), _)| *period).collect();
    ids.sort_unstable();
    ids.dedup();
    let mut periods = load::periods(tx, &ids).await?;
    for ((_, period), facts) in &mut leases {
        if let Some(period) = periods.get_mut(period) {
            lease::write_off(period, facts, standing.epoch);
        }
    }
    Ok((leases, periods.into_iter().collect()))
}
