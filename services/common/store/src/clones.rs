//! Certificates that were replaced, shown again. An agent has its new key on disk before it uses it,
//! and never goes back: who shows the old one after the new one was used is a second agent, from a
//! copy of the disk, or the same one from an older state of it.

use vpnpanel_domain::{NodeId, TenantId};

use crate::audit::Event;
use crate::connect::Store;
use crate::error::Result;
use crate::jobs::{self, JobLease};
use crate::transaction::Write;
use crate::{ledger, sql};

/// How long after its successor was used a certificate may still be shown: connections that were
/// under way, of a process that is gone.
const RACE_MS: i64 = 120_000;

/// How long rows of certificates are kept after their end: renewal takes them for 14 days, and the log
/// that is kept apart knows them as long.
const KEPT_MS: i64 = 30 * 86_400_000;

/// How long the row of a certificate is kept that was replaced and is no sign of anything.
const REPLACED_KEPT_MS: i64 = 2 * 86_400_000;

/// Why such a node is quarantined, for people.
const REASON: &str = "an agent showed a certificate that had been replaced and its successor used: \
                      two agents hold this node's identity, or one was set back to an older disk";

/// What a retired certificate means that somebody shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetiredShown {
    /// Nothing: it was never in use, or the host enrolled again, or it was replaced just now.
    Nothing,
    /// Two agents hold one identity. The node is quarantined now.
    Quarantined,
    /// So they do, and the node has been quarantined before.
    QuarantinedBefore,
}

impl Store {
    /// Judges a certificate of a node that is retired and was shown, and quarantines the node where
    /// that means a second agent.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn retired_certificate_shown(
        &self,
        node: NodeId,
        serial: &[u8],
    ) -> Result<RetiredShown> {
        let mut tx = self.begin().await?;
        let shown = judge(&mut tx, node, serial).await?;
        if shown == RetiredShown::Quarantined {
            tx.commit().await?;
        }
        Ok(shown)
    }

    /// Removes certificates that nobody can use or renew any more, and those that were replaced before
    /// they were used; at most `limit`, under a job's lease. Returns how many.
    ///
    /// # Errors
    /// [`crate::StoreError::LeaseLost`], and those of the database.
    pub async fn prune_certificates(&self, lease: &JobLease, limit: u32) -> Result<u64> {
        let mut tx = self.begin().await?;
        tx.needs_no_event();
        jobs::hold(&*tx, lease).await?;
        let pruned = sql::run(
            &*tx,
            "DELETE FROM node_certificates WHERE serial IN (
                 SELECT serial FROM node_certificates
                 WHERE state IN ('retired', 'revoked')
                   AND (not_after < $1
                        OR (state = 'retired' AND superseded_at IS NULL AND created_at < $2))
                 LIMIT $3)",
            vec![
                tx.now.saturating_sub(KEPT_MS).into(),
                tx.now.saturating_sub(REPLACED_KEPT_MS).into(),
                i64::from(limit).into(),
            ],
        )
        .await?;
        jobs::count(&tx, lease, pruned).await?;
        tx.commit().await?;
        Ok(pruned)
    }
}

/// The node is locked, and quarantined where it has to be.
pub(crate) async fn judge(tx: &mut Write, node: NodeId, serial: &[u8]) -> Result<RetiredShown> {
    let row = sql::one(
        &**tx,
        "SELECT tenant_id FROM nodes WHERE id = $1 AND deleted_at IS NULL {for_update}",
        vec![node.uuid().into()],
    )
    .await?;
    let Some(row) = row else {
        return Ok(RetiredShown::Nothing);
    };
    let owner = sql::get::<Option<uuid::Uuid>>(&row, 0)?.map(TenantId::new);
    let superseded = sql::one(
        &**tx,
        "SELECT l.quarantine_reason IS NOT NULL FROM node_certificates c
         JOIN node_links l ON l.node_id = c.node_id
         WHERE c.serial = $1 AND c.node_id = $2 AND c.state = 'retired' AND c.superseded_at <= $3",
        vec![
            serial.into(),
            node.uuid().into(),
            tx.now.saturating_sub(RACE_MS).into(),
        ],
    )
    .await?;
    let Some(superseded) = superseded else {
        return Ok(RetiredShown::Nothing);
    };
    if sql::get(&superseded, 0)? {
        return Ok(RetiredShown::QuarantinedBefore);
    }
    ledger::quarantine(tx, node, REASON).await?;
    tx.audit(Event::on("node", owner, node).refused("RETIRED_CERTIFICATE"));
    Ok(RetiredShown::Quarantined)
}
