//! Nodes that are connected and have left what they were told unanswered for long. Their stream was cut
//! for it and opened again, and what had changed was told again; that did not help. Each is asked for
//! the whole state, by a command like any other.

use vpnpanel_domain::{NodeId, TenantId};
use vpnpanel_link::{CommandKind, MAX_OPEN_COMMANDS};

use crate::audit::Event;
use crate::changes::{ChangeKind, Entry};
use crate::commands::{self, CommandState, NewNodeCommand, NodeCommand};
use crate::connect::Store;
use crate::error::{Result, StoreError};
use crate::fresh_id;
use crate::jobs::{self, JobLease};
use crate::node_states::ResourceError;
use crate::node_watch::BEHIND_MS;
use crate::sql;

/// A node is not asked again sooner.
const AGAIN_MS: i64 = 30 * 60_000;
/// How long the command may wait for the node's next stream.
const TTL_MS: i64 = 10 * 60_000;

/// What was done about nodes that are behind.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SyncRepair {
    /// Those that are asked for the whole state, and since when they are behind.
    pub asked: Vec<(NodeId, i64)>,
    /// How many were looked at.
    pub looked_at: u64,
}

impl Store {
    /// Asks connected nodes for the whole state that have answered nothing for five minutes; looks at
    /// `limit` of them at most, and at each once in half an hour. A node that holds removals is left
    /// alone: it waits for a person, and is asked every half minute as it is.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`], and those of the database.
    pub async fn repair_sync(&self, lease: &JobLease, limit: u32) -> Result<SyncRepair> {
        let mut tx = self.begin().await?;
        jobs::hold(&*tx, lease).await?;
        let rows = sql::all(
            &*tx,
            "SELECT n.id, n.tenant_id, s.desired_at, s.refused_errors
             FROM nodes n
             JOIN node_states s ON s.node_id = n.id
             JOIN node_links l ON l.node_id = n.id
             WHERE s.connected AND s.desired_revision > s.applied_revision AND s.desired_at <= $1
               AND COALESCE(s.repair_after, 0) <= $2
               AND n.deleted_at IS NULL AND NOT n.disabled AND l.quarantine_reason IS NULL
               AND (SELECT COUNT(*) FROM node_commands c WHERE c.node_id = n.id
                    AND c.state IN ('pending', 'sent') AND c.expires_at > $2) < $4
             ORDER BY n.id LIMIT $3 {for_update_n_free}",
            vec![
                tx.now.saturating_sub(BEHIND_MS).into(),
                tx.now.into(),
                i64::from(limit).into(),
                (MAX_OPEN_COMMANDS as i64).into(),
            ],
        )
        .await?;
        let mut nodes = Vec::with_capacity(rows.len());
        let mut repair = SyncRepair::default();
        for row in &rows {
            let node = NodeId::new(sql::get(row, 0)?);
            let owner = sql::get::<Option<uuid::Uuid>>(row, 1)?.map(TenantId::new);
            let refused: Vec<ResourceError> = serde_json::from_value(sql::get(row, 3)?)
                .map_err(|error| StoreError::corrupt("node_states.refused_errors", error))?;
            nodes.push(node);
            if refused.iter().any(|error| error.kind == "state") {
                continue;
            }
            let new = NewNodeCommand {
                id: fresh_id(),
                node_id: node,
                request_id: fresh_id(),
                kind: CommandKind::Resync,
                ttl_ms: TTL_MS,
            };
            let made = NodeCommand {
                id: new.id,
                node_id: node,
                tenant_id: owner,
                kind: new.kind,
                state: CommandState::Pending,
                created_at_ms: tx.now,
                expires_at_ms: tx.now.saturating_add(TTL_MS),
                sent_at_ms: None,
                ended_at_ms: None,
                message: String::new(),
                output: String::new(),
            };
            commands::insert(&tx, &made, &new).await?;
            tx.changed(Entry::new(ChangeKind::Command, owner, new.id).on_node(node));
            tx.audit(Event::created(&made));
            repair.asked.push((node, sql::get(row, 2)?));
        }
        if nodes.is_empty() {
            return Ok(repair);
        }
        repair.looked_at = nodes.len() as u64;
        if repair.asked.is_empty() {
            tx.needs_no_event();
        }
        sql::run(
            &*tx,
            format!(
                "UPDATE node_states SET repair_after = $1 WHERE node_id {}",
                sql::in_ids(&*tx, 2)
            ),
            vec![
                tx.now.saturating_add(AGAIN_MS).into(),
                sql::ids(&*tx, nodes),
            ],
        )
        .await?;
        jobs::count(&tx, lease, repair.asked.len() as u64).await?;
        tx.commit().await?;
        Ok(repair)
    }
}
