//! What jobs find about nodes that say nothing themselves: their collector is gone, or their
//! certificate comes to its end.

use vpnpanel_domain::NodeId;

use crate::connect::Store;
use crate::error::Result;
use crate::jobs::{self, JobLease};
use crate::sql;

/// A node that counted as connected, though nothing vouches for it any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SilentNode {
    /// The node.
    pub node_id: NodeId,
    /// Which collector had its stream.
    pub collector: String,
    /// When it was last heard of.
    pub seen_at_ms: Option<i64>,
}

/// A certificate that should have been renewed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OverdueCertificate {
    /// The node.
    pub node_id: NodeId,
    /// When it ends, or has ended.
    pub not_after_ms: i64,
}

/// How many nodes there are of each kind; those that are disabled count nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FleetFigures {
    /// Their agents are connected.
    pub online: u64,
    /// Enrolled, and not connected.
    pub offline: u64,
    /// Their certificates live, and should have been renewed.
    pub certificates_overdue: u64,
    /// Their certificates have ended.
    pub certificates_ended: u64,
    /// Connected, and for five minutes without an answer to what they were told.
    pub behind: u64,
}

/// For how long a node may leave a desired state unanswered before it counts as behind: collectors
/// cut a stream much sooner, and tell it again on the next.
pub(crate) const BEHIND_MS: i64 = 5 * 60_000;

impl Store {
    /// Notes of nodes, at most `limit`, that they are not connected: the collector that had their stream
    /// has said nothing of them for longer than the last sign of life was good for. One of which
    /// somebody is writing right now is left alone.
    ///
    /// # Errors
    /// [`crate::StoreError::LeaseLost`], and those of the database.
    pub async fn mark_silent_nodes(&self, lease: &JobLease, limit: u32) -> Result<Vec<SilentNode>> {
        let mut tx = self.begin().await?;
        tx.needs_no_event();
        jobs::hold(&*tx, lease).await?;
        let rows = sql::all(
            &*tx,
            "UPDATE node_states SET connected = $1, offline_at = COALESCE(seen_at, $2)
             WHERE node_id IN (
                SELECT node_id FROM node_states
                WHERE connected AND COALESCE(connected_until, 0) <= $2
                ORDER BY node_id LIMIT $3 {for_update_free})
             RETURNING node_id, collector, seen_at",
            vec![false.into(), tx.now.into(), i64::from(limit).into()],
        )
        .await?;
        let mut silent = Vec::with_capacity(rows.len());
        for row in &rows {
            silent.push(SilentNode {
                node_id: NodeId::new(sql::get(row, 0)?),
                collector: sql::get(row, 1)?,
                seen_at_ms: sql::get(row, 2)?,
            });
        }
        jobs::count(&tx, lease, silent.len() as u64).await?;
        tx.commit().await?;
        Ok(silent)
    }

    /// Certificates in use, at most `limit`, that should have been renewed, each once.
    ///
    /// # Errors
    /// [`crate::StoreError::LeaseLost`], and those of the database.
    pub async fn overdue_certificates(
        &self,
        lease: &JobLease,
        limit: u32,
    ) -> Result<Vec<OverdueCertificate>> {
        let mut tx = self.begin().await?;
        tx.needs_no_event();
        jobs::hold(&*tx, lease).await?;
        // The time is as in `certificates::renewal_overdue`.
        let rows = sql::all(
            &*tx,
            "UPDATE node_certificates SET warned_at = $1
             WHERE state = 'current' AND serial IN (
                SELECT c.serial FROM node_certificates c JOIN nodes n ON n.id = c.node_id
                WHERE c.state = 'current' AND c.warned_at IS NULL
                  AND c.not_after - (c.not_after - c.not_before) / 4 <= $1
                  AND n.deleted_at IS NULL AND NOT n.disabled
                ORDER BY c.not_after, c.serial LIMIT $2)
             RETURNING node_id, not_after",
            vec![tx.now.into(), i64::from(limit).into()],
        )
        .await?;
        let mut overdue = Vec::with_capacity(rows.len());
        for row in &rows {
            overdue.push(OverdueCertificate {
                node_id: NodeId::new(sql::get(row, 0)?),
                not_after_ms: sql::get(row, 1)?,
            });
        }
        jobs::count(&tx, lease, overdue.len() as u64).await?;
        tx.commit().await?;
        Ok(overdue)
    }

    /// How many nodes there are of each kind.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn fleet_figures(&self) -> Result<FleetFigures> {
        let now = self.now_ms();
        let row = sql::one(
            self.read(),
            "SELECT
                COUNT(CASE WHEN s.connected THEN 1 END),
                COUNT(CASE WHEN NOT s.connected AND c.serial IS NOT NULL THEN 1 END),
                COUNT(CASE WHEN c.not_after > $1
                    AND c.not_after - (c.not_after - c.not_before) / 4 <= $1 THEN 1 END),
                COUNT(CASE WHEN c.not_after <= $1 THEN 1 END),
                COUNT(CASE WHEN s.connected AND s.desired_revision > s.applied_revision
                    AND s.desired_at <= $2 THEN 1 END)
             FROM node_states s JOIN nodes n ON n.id = s.node_id
             LEFT JOIN node_certificates c ON c.node_id = s.node_id AND c.state = 'current'
             WHERE n.deleted_at IS NULL AND NOT n.disabled",
            vec![now.into(), now.saturating_sub(BEHIND_MS).into()],
        )
        .await?;
        let Some(row) = row else {
            return Ok(FleetFigures::default());
        };
        let figure = |place| sql::get(&row, place).map(sql::unsigned);
        Ok(FleetFigures {
            online: figure(0)?,
            offline: figure(1)?,
            certificates_overdue: figure(2)?,
            certificates_ended: figure(3)?,
            behind: figure(4)?,
        })
    }
}
