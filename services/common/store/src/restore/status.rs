//! How far a restore has come, for people and for collectors.

use uuid::Uuid;
use vpnpanel_domain::{NodeId, TenantId};
use vpnpanel_link::{Generation, StateEpoch};

use super::{AWAITED, Lock, release, standing};
use crate::connect::Store;
use crate::error::{Result, StoreError};
use crate::page::Page;
use crate::sql;

/// The newest restore that was found or declared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restore {
    /// The epoch that all numbers are drawn under.
    pub state_epoch: StateEpoch,
    /// When the barrier went up; `None` for a database that was never restored.
    pub opened_at_ms: Option<i64>,
    /// When it came down; `None` while it is up.
    pub closed_at_ms: Option<i64>,
    /// The node that proved it; `None` where somebody declared it.
    pub node_id: Option<NodeId>,
    /// What proved it.
    pub evidence: String,
    /// The barrier is up.
    pub held: bool,
    /// How many nodes it waits for.
    pub awaited: u64,
    /// Those of a page, by id.
    pub nodes: Vec<AwaitedNode>,
}

/// A node that the barrier waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AwaitedNode {
    /// Its id.
    pub id: NodeId,
    /// The tenant it is dedicated to; `None` is shared.
    pub tenant_id: Option<TenantId>,
    /// Its name.
    pub name: String,
    /// Its agent has a stream.
    pub connected: bool,
    /// When it was last heard of.
    pub seen_at_ms: Option<i64>,
}

/// What a collector looks at now and then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestoreLook {
    /// Streams below its floor are of an earlier life of the database.
    pub state_epoch: StateEpoch,
    /// Since when the barrier is up; `None` when it is not.
    pub held_since_ms: Option<i64>,
    /// How many nodes it waits for.
    pub awaited: u64,
    /// Of the nodes asked for: the newest stream, and whether the node is to report.
    pub streams: Vec<(NodeId, Generation, bool)>,
}

impl Store {
    /// The newest restore, and a page of the nodes that it waits for.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn restore(&self, page: Page<NodeId>) -> Result<Restore> {
        let db = self.snapshot().await?;
        let row = sql::one(
            &db,
            "SELECT i.state_epoch, i.restore_held, r.opened_at, r.closed_at, r.node_id,
                    COALESCE(r.evidence, '')
             FROM installation i LEFT JOIN restores r ON r.state_epoch = i.state_epoch",
            vec![],
        )
        .await?
        .ok_or(StoreError::NotFound("installation"))?;
        let epoch: i64 = sql::get(&row, 0)?;
        let count = sql::one(
            &db,
            format!("SELECT COUNT(*) FROM {AWAITED}"),
            vec![epoch.into()],
        )
        .await?;
        let awaited: i64 = count.map_or(Ok(0), |row| sql::get(&row, 0))?;
        let after = page.after.map_or(Uuid::nil(), NodeId::uuid);
        let text = format!(
            "SELECT a.id, a.tenant_id, a.name, s.connected, s.seen_at
             FROM (SELECT n.id, n.tenant_id, n.name FROM {AWAITED}) a
             JOIN node_states s ON s.node_id = a.id
             WHERE a.id > $2 ORDER BY a.id LIMIT $3"
        );
        let rows = sql::all(
            &db,
            text,
            vec![epoch.into(), after.into(), i64::from(page.size).into()],
        )
        .await?;
        let nodes = rows
            .iter()
            .map(|row| {
                Ok(AwaitedNode {
                    id: NodeId::new(sql::get(row, 0)?),
                    tenant_id: sql::get::<Option<Uuid>>(row, 1)?.map(TenantId::new),
                    name: sql::get(row, 2)?,
                    connected: sql::get(row, 3)?,
                    seen_at_ms: sql::get(row, 4)?,
                })
            })
            .collect::<Result<_>>()?;
        Ok(Restore {
            state_epoch: StateEpoch(sql::unsigned(epoch)),
            held: sql::get(&row, 1)?,
            opened_at_ms: sql::get(&row, 2)?,
            closed_at_ms: sql::get(&row, 3)?,
            node_id: sql::get::<Option<Uuid>>(&row, 4)?.map(NodeId::new),
            evidence: sql::get(&row, 5)?,
            awaited: sql::unsigned(awaited),
            nodes,
        })
    }

    /// What a collector has to know of restores, and of the nodes that have streams there. Takes the
    /// barrier down where nobody is awaited any more: nodes may have been disabled or deleted.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn look_at_restore(&self, nodes: &[NodeId]) -> Result<RestoreLook> {
        let mut look = self.read_restore(nodes).await?;
        if look.held_since_ms.is_some() && look.awaited == 0 {
            let tx = self.begin().await?;
            let standing = standing(&tx, Lock::Exclusive).await?;
            if release(&tx, standing).await? {
                look.held_since_ms = None;
            }
            tx.commit().await?;
        }
        Ok(look)
    }

    async fn read_restore(&self, nodes: &[NodeId]) -> Result<RestoreLook> {
        let db = self.read();
        let row = sql::one(
            db,
            "SELECT i.state_epoch, i.restore_held, r.opened_at
             FROM installation i LEFT JOIN restores r ON r.state_epoch = i.state_epoch",
            vec![],
        )
        .await?
        .ok_or(StoreError::NotFound("installation"))?;
        let epoch: i64 = sql::get(&row, 0)?;
        let held: bool = sql::get(&row, 1)?;
        let mut awaited = 0;
        if held {
            let text = format!("SELECT COUNT(*) FROM {AWAITED}");
            let count = sql::one(db, text, vec![epoch.into()]).await?;
            awaited = count.map_or(Ok(0), |row| sql::get::<i64>(&row, 0))?;
        }
        let text = format!(
            "SELECT node_id, generation, reported_epoch < $2 OR suspicion IS NOT NULL
             FROM node_links WHERE node_id {}",
            sql::in_ids(db, 1)
        );
        let ids = sql::ids(db, nodes.iter().copied());
        let streams = sql::all(db, text, vec![ids, epoch.into()])
            .await?
            .iter()
            .map(|row| {
                Ok((
                    NodeId::new(sql::get(row, 0)?),
                    Generation(sql::unsigned(sql::get(row, 1)?)),
                    sql::get(row, 2)?,
                ))
            })
            .collect::<Result<_>>()?;
        Ok(RestoreLook {
            state_epoch: StateEpoch(sql::unsigned(epoch)),
            held_since_ms: if held { sql::get(&row, 2)? } else { None },
            awaited: sql::unsigned(awaited),
            streams,
        })
    }
}
