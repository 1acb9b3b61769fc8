//! Nodes that may lose any number of their users at once, because somebody has said that it is meant.
//! Otherwise a change that takes away most of them is held by the node: a mistake looks the same. After
//! a restore of an older database none goes from a node before it has once had what it should have.

use std::collections::HashMap;
use std::time::Duration;

use sea_orm::ConnectionTrait;
use vpnpanel_domain::{NodeId, TenantId};

use crate::audit::Event;
use crate::changes::{ChangeKind, Entry};
use crate::connect::Store;
use crate::error::Result;
use crate::transaction::Write;
use crate::{nodes, sql};

/// How many of a node's users a change may take away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Removals {
    /// Any number: somebody has confirmed it.
    Any,
    /// Not most of them.
    Few,
    /// None: the database is an older one than what the node has, and nobody has confirmed it.
    None,
}

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

/// What an administrator changes about a node's inbounds is meant; of a node that an older database has
/// not caught up with it says nothing.
pub(crate) async fn confirm_implied(tx: &Write, node: NodeId) -> Result<()> {
    if allowed(&**tx, node, tx.now).await? != Removals::None {
        confirm(tx, node).await?;
    }
    Ok(())
}

async fn confirm(tx: &Write, node: NodeId) -> Result<i64> {
    let until = tx.now.saturating_add(CONFIRMED.as_millis() as i64);
    sql::run(
        &**tx,
        "UPDATE nodes SET removals_confirmed_until = $2 WHERE id = $1",
        vec![node.uuid().into(), until.into()],
    )
    .await?;
    Ok(until)
}

/// How many users may go from a node now.
pub(crate) async fn allowed(
    db: &impl ConnectionTrait,
    node: NodeId,
    now_ms: i64,
) -> Result<Removals> {
    let allowed = of_nodes(db, &[node], now_ms).await?;
    Ok(allowed.get(&node).copied().unwrap_or(Removals::Few))
}

/// How many users may go now from each of some nodes.
pub(crate) async fn of_nodes(
    db: &impl ConnectionTrait,
    nodes: &[NodeId],
    now_ms: i64,
) -> Result<HashMap<NodeId, Removals>> {
    let text = format!(
        "SELECT n.id, n.removals_confirmed_until,
                COALESCE(l.settled_epoch, i.state_epoch) < i.state_epoch
         FROM nodes n JOIN installation i ON TRUE LEFT JOIN node_links l ON l.node_id = n.id
         WHERE n.id {}",
        sql::in_ids(db, 1)
    );
    sql::all(db, text, vec![sql::ids(db, nodes.iter().copied())])
        .await?
        .iter()
        .map(|row| {
            let until: Option<i64> = sql::get(row, 1)?;
            let unsettled: bool = sql::get(row, 2)?;
            let removals = if until.is_some_and(|until| now_ms < until) {
                Removals::Any
            } else if unsettled {
                Removals::None
            } else {
                Removals::Few
            };
            Ok((NodeId::new(sql::get(row, 0)?), removals))
        })
        .collect()
}
