//! What has changed of what a node should do since a revision: where users alone have, they are told
//! by themselves, and nobody reads the other hundred thousand.

mod together;

use std::collections::BTreeSet;

use sea_orm::{ConnectionTrait as _, DatabaseBackend, DatabaseTransaction, Value};
use uuid::Uuid;
use vpnpanel_domain::{InboundId, NodeId, UserId};

use crate::changes::{self, ChangeKind, LogPosition};
use crate::connect::Store;
use crate::desired::{self, NodeInbound, NodeUser};
use crate::error::Result;
use crate::removals::{self, Removals};
use crate::{nodes, sql};

pub use together::ChangesWanted;

/// Changes that are looked through; behind more than these the whole is read.
const SCANNED: i64 = 20_000;
/// Changes that may concern the node; with more the whole is read.
const CONCERNING: i64 = 4_000;

/// What has changed for a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DesiredChanges {
    /// Nothing but users.
    Users {
        /// Where in the change log this was read.
        position: LogPosition,
        /// Users with peers on the node that may have changed, by id, as they are now.
        users: Vec<NodeUser>,
        /// Users that no longer have any.
        removed: Vec<UserId>,
        /// Any number of them may go.
        removals: Removals,
    },
    /// More than users, more than is worth telling one by one, or it cannot be known any more: all
    /// of it has to be read.
    Whole,
    /// Looked at together with others, it cannot be told: the node is to be looked at by itself.
    Apart,
}

impl Store {
    /// What has changed of what a node should do since it was read at a revision.
    ///
    /// # Errors
    /// [`crate::StoreError::NotFound`].
    pub async fn desired_changes(&self, node: NodeId, since: u64) -> Result<DesiredChanges> {
        let now = self.now_ms();
        let db = self.snapshot().await?;
        let position = changes::tail(&db).await?;
        let since = LogPosition::behind(&db, since);
        let node = nodes::load(&db, node).await?;
        let inbounds = desired::opened(&db, node.id).await?;
        if node.disabled || since > position || !changes::reaches_back(&db, since).await? {
            return Ok(DesiredChanges::Whole);
        }
        let Some(changed) = changed_users(&db, node.id, &inbounds, since, position).await? else {
            return Ok(DesiredChanges::Whole);
        };
        let users = if changed.all.is_empty() || inbounds.is_empty() {
            Vec::new()
        } else {
            desired::users(&db, &inbounds, Some(&changed.all), now).await?
        };
        let removals = removals::allowed(&db, node.id, now).await?;
        db.commit().await?;
        let mut removed = changed.lost_peers;
        for user in &users {
            removed.remove(&user.id);
        }
        Ok(DesiredChanges::Users {
            position,
            users,
            removed: removed.into_iter().collect(),
            removals,
        })
    }
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Changed {
    all: BTreeSet<UserId>,
    /// Those of whom peers on the node came or went.
    lost_peers: BTreeSet<UserId>,
}

/// The users that changes concern; `None` where not users alone have changed.
async fn changed_users(
    db: &DatabaseTransaction,
    node: NodeId,
    inbounds: &[NodeInbound],
    since: LogPosition,
    until: LogPosition,
) -> Result<Option<Changed>> {
    let rows = sql::all(db, text(db), values(db, node, inbounds, since, until)).await?;
    if rows.len() > usize::try_from(CONCERNING).unwrap_or(usize::MAX) {
        return Ok(None);
    }
    let mut changed = Changed::default();
    for row in &rows {
        let place: i64 = sql::get(row, 0)?;
        let kind: String = sql::get(row, 1)?;
        let user = sql::get::<Option<Uuid>>(row, 2)?.map(UserId::new);
        if place > SCANNED || changed.take(&kind, user).is_none() {
            return Ok(None);
        }
    }
    Ok(Some(changed))
}

impl Changed {
    /// Takes a change that concerns the node; `None` where it is not one of a user alone.
    fn take(&mut self, kind: &str, user: Option<UserId>) -> Option<()> {
        let user = user?;
        if kind == ChangeKind::Peers.as_str() {
            self.lost_peers.insert(user);
        } else if kind != ChangeKind::User.as_str() {
            return None;
        }
        self.all.insert(user);
        Some(())
    }
}

/// Changes that concern the node, and the one with which looking ends. A suspension concerns the nodes
/// of the tenant's groups.
fn text(db: &DatabaseTransaction) -> String {
    let (range, order) = range(db);
    format!(
        "SELECT place, kind, user_id FROM (
             SELECT c.*, ROW_NUMBER() OVER (ORDER BY {order}) AS place FROM (
                 SELECT * FROM change_log WHERE {range} ORDER BY {order} LIMIT {scanned}
             ) c
         ) c
         WHERE place > {SCANNED} OR kind <> 'command' AND (
            kind = 'user' OR node_id = $3 OR inbound_id {inbounds}
            OR (kind = 'suspension' AND EXISTS (
                SELECT 1 FROM group_inbounds g
                WHERE g.tenant_id = c.tenant_id AND g.inbound_id {inbounds})))
         ORDER BY place LIMIT {concerning}",
        scanned = SCANNED + 1,
        concerning = CONCERNING + 1,
        inbounds = sql::in_ids(db, 4),
    )
}

/// What lies between the positions in parameters 1 and 2, and its order.
fn range(db: &DatabaseTransaction) -> (&'static str, &'static str) {
    if is_postgres(db) {
        ("txn > $1::text::xid8 AND txn <= $2::text::xid8", "txn, seq")
    } else {
        ("seq > $1 AND seq <= $2", "seq")
    }
}

/// A position as a parameter of [`range`].
fn bound(db: &DatabaseTransaction, position: LogPosition) -> Value {
    let revision = sql::signed(position.revision());
    if is_postgres(db) {
        revision.to_string().into()
    } else {
        revision.into()
    }
}

fn is_postgres(db: &DatabaseTransaction) -> bool {
    db.get_database_backend() == DatabaseBackend::Postgres
}

fn values(
    db: &DatabaseTransaction,
    node: NodeId,
    inbounds: &[NodeInbound],
    since: LogPosition,
    until: LogPosition,
) -> Vec<Value> {
    let opened: BTreeSet<InboundId> = inbounds.iter().map(|inbound| inbound.id).collect();
    vec![
        bound(db, since),
        bound(db, until),
        node.uuid().into(),
        sql::ids(db, opened),
    ]
}
