//! Nodes that may lose any number of their users at once, because somebody has said that it is meant.
//! Otherwise a change that takes away most of them is held by the node: a mistake looks the same.

use std::time::Duration;

use sea_orm::ConnectionTrait;
use vpnpanel_domain::{NodeId, TenantId};

use crate::audit::Event;
use crate::changes::{ChangeKind, Entry};
use crate::connect::Store;
use crate::error::Result;
use crate::transaction::Write;
use crate::{nodes, sql};

/// For how long a word holds.
const CONFIRMED: Duration = Duration::from_secs(15 * 60);

impl Store {
    /// Confirms that users of a node go, whatever their number; answers until when, in milliseconds of
    /// the Unix epoch.
    ///
    /// # Errors
    /// [`crate::StoreError::NotFound`].
    pub async fn confirm_removals(&self, tenant: Option<TenantId>, node: NodeId) -> Result<i64> {
        let mut tx = self.begin_in(tenant).await?;
        nodes::lock(&tx, tenant, node).await?;
        let until = confirm(&tx, node).await?;
        tx.audit(Event::on("node", tenant, node));
        tx.changed(Entry::new(ChangeKind::Node, tenant, node).on_node(node));
        tx.commit().await?;
        Ok(until)
    }
}

/// What an administrator changes about a node's inbounds is meant.
pub(crate) async fn confirm(tx: &Write, node: NodeId) -> Result<i64> {
    let until = tx.now.saturating_add(CONFIRMED.as_millis() as i64);
    sql::run(
        &**tx,
        "UPDATE nodes SET removals_confirmed_until = $2 WHERE id = $1",
        vec![node.uuid().into(), until.into()],
    )
    .await?;
    Ok(until)
}

/// Whether somebody's word holds now.
pub(crate) async fn are_confirmed(
    db: &impl ConnectionTrait,
    node: NodeId,
    now_ms: i64,
) -> Result<bool> {
    let row = sql::one(
        db,
        "SELECT removals_confirmed_until FROM nodes WHERE id = $1",
        vec![node.uuid().into()],
    )
    .await?;
    let until: Option<i64> = row.map(|row| sql::get(&row, 0)).transpose()?.flatten();
    Ok(until.is_some_and(|until| now_ms < until))
}
