//! The same change often concerns many nodes, which all had the same before: what they are told is
//! read once, and shared.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use sea_orm::DatabaseTransaction;
use uuid::Uuid;
use vpnpanel_domain::{InboundId, NodeId, UserId};
use vpnpanel_link::{Generation, Revision};

use super::{Changed, DesiredChanges};
use crate::changes::{self, ChangeKind, LogPosition};
use crate::connect::Store;
use crate::desired::{self, NodeUser};
use crate::error::{Result, StoreError};
use crate::ledger;
use crate::removals::{self, Removals};
use crate::sql;

/// Changes that are looked through for many nodes together; behind more than these each node looks
/// for itself.
const SCANNED: usize = 1_000;

/// A stream whose node has something of its desired state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChangesWanted {
    /// The node.
    pub node: NodeId,
    /// The stream.
    pub generation: Generation,
    /// Where what it has was right.
    pub since: Revision,
}

/// A change of the log.
struct Row {
    kind: String,
    user: Option<UserId>,
    inbound: Option<InboundId>,
    node: Option<NodeId>,
}

/// What was read of the database so far.
struct Reading<'a> {
    db: &'a DatabaseTransaction,
    now: i64,
    position: LogPosition,
    inbounds: HashMap<NodeId, BTreeSet<InboundId>>,
    removals: HashMap<NodeId, Removals>,
    /// By where they begin; `None` where there are too many.
    rows: BTreeMap<Revision, Option<Vec<Row>>>,
    users: HashMap<(BTreeSet<InboundId>, BTreeSet<UserId>), Vec<NodeUser>>,
    told: HashMap<Told, Arc<DesiredChanges>>,
}

/// Nodes of which this is equal are told the same.
#[derive(PartialEq, Eq, Hash)]
struct Told {
    users: (BTreeSet<InboundId>, BTreeSet<UserId>),
    lost_peers: BTreeSet<UserId>,
    removals: Removals,
}

impl Store {
    /// As [`Store::desired_changes`], for many nodes, in the order of the streams; nodes that are told
    /// the same share it. A node that is better looked at by itself gets [`DesiredChanges::Apart`].
    ///
    /// # Errors
    /// Those of the database, for all of them; [`StoreError::StreamSuperseded`] for a stream that is not
    /// its node's newest in this database.
    pub async fn desired_changes_together(
        &self,
        wanted: &[ChangesWanted],
    ) -> Result<Vec<Result<Arc<DesiredChanges>>>> {
        let db = self.snapshot().await?;
        let nodes: Vec<_> = wanted.iter().map(|one| one.node).collect();
        let mut reading = Reading {
            now: self.now_ms(),
            position: changes::tail(&db).await?,
            inbounds: inbounds(&db, &nodes).await?,
            removals: removals::of_nodes(&db, &nodes, self.now_ms()).await?,
            rows: BTreeMap::new(),
            users: HashMap::new(),
            told: HashMap::new(),
            db: &db,
        };
        let mut read = Vec::with_capacity(wanted.len());
        for one in wanted {
            read.push(reading.of(one).await?);
        }
        db.commit().await?;
        // What was read is of the database that the stream was opened in, or this shows that an older
        // one has taken its place.
        let newest = ledger::generations(self.read(), &nodes).await?;
        let answers = wanted.iter().zip(read).map(|(one, read)| {
            if newest.get(&one.node) == Some(&one.generation) {
                Ok(read)
            } else {
                Err(StoreError::StreamSuperseded)
            }
        });
        Ok(answers.collect())
    }
}

impl Reading<'_> {
    async fn of(&mut self, wanted: &ChangesWanted) -> Result<Arc<DesiredChanges>> {
        let apart = || Ok(Arc::new(DesiredChanges::Apart));
        let node = wanted.node;
        let (Some(inbounds), Some(removals)) =
            (self.inbounds.get(&node).cloned(), self.removals.get(&node))
        else {
            return apart();
        };
        let removals = *removals;
        if !self.rows.contains_key(&wanted.since) {
            let rows = self.rows_since(wanted.since).await?;
            self.rows.insert(wanted.since, rows);
        }
        let Some(Some(rows)) = self.rows.get(&wanted.since) else {
            return apart();
        };
        let Some(changed) = concerning(rows, node, &inbounds) else {
            return apart();
        };
        let told = Told {
            users: (inbounds, changed.all),
            lost_peers: changed.lost_peers,
            removals,
        };
        if let Some(known) = self.told.get(&told) {
            return Ok(Arc::clone(known));
        }
        let users = self.users_of(node, &told.users).await?;
        let mut removed = told.lost_peers.clone();
        for user in &users {
            removed.remove(&user.id);
        }
        let changes = Arc::new(DesiredChanges::Users {
            position: self.position,
            users,
            removed: removed.into_iter().collect(),
            removals,
        });
        self.told.insert(told, Arc::clone(&changes));
        Ok(changes)
    }

    async fn users_of(
        &mut self,
        node: NodeId,
        wanted: &(BTreeSet<InboundId>, BTreeSet<UserId>),
    ) -> Result<Vec<NodeUser>> {
        let (inbounds, users) = wanted;
        if inbounds.is_empty() || users.is_empty() {
            return Ok(Vec::new());
        }
        if let Some(known) = self.users.get(wanted) {
            return Ok(known.clone());
        }
        // Nothing of a user hangs on the node, but for its inbounds.
        let opened = desired::opened(self.db, node).await?;
        let read = desired::users(self.db, &opened, Some(users), self.now).await?;
        self.users.insert(wanted.clone(), read.clone());
        Ok(read)
    }

    /// Every change since a revision, where there are few and all of them are known.
    async fn rows_since(&self, since: Revision) -> Result<Option<Vec<Row>>> {
        let from = LogPosition::behind(self.db, since.get());
        if from > self.position || !changes::reaches_back(self.db, from).await? {
            return Ok(None);
        }
        let (range, order) = super::range(self.db);
        let text = format!(
            "SELECT kind, user_id, inbound_id, node_id FROM change_log
             WHERE {range} ORDER BY {order} LIMIT $3"
        );
        let most = i64::try_from(SCANNED + 1).unwrap_or(i64::MAX);
        let values = vec![
            super::bound(self.db, from),
            super::bound(self.db, self.position),
            most.into(),
        ];
        let rows = sql::all(self.db, text, values).await?;
        if rows.len() > SCANNED {
            return Ok(None);
        }
        rows.iter()
            .map(|row| {
                Ok(Some(Row {
                    kind: sql::get(row, 0)?,
                    user: sql::get::<Option<Uuid>>(row, 1)?.map(UserId::new),
                    inbound: sql::get::<Option<Uuid>>(row, 2)?.map(InboundId::new),
                    node: sql::get::<Option<Uuid>>(row, 3)?.map(NodeId::new),
                }))
            })
            .collect()
    }
}

/// The users that changes concern; `None` where not users alone have changed, as far as can be told
/// without another look.
fn concerning(rows: &[Row], node: NodeId, inbounds: &BTreeSet<InboundId>) -> Option<Changed> {
    let mut changed = Changed::default();
    for row in rows {
        if row.kind == ChangeKind::Command.as_str() {
            continue;
        }
        let of_user = row.kind == ChangeKind::User.as_str();
        let of_node = row.node == Some(node)
            || row
                .inbound
                .is_some_and(|inbound| inbounds.contains(&inbound));
        if row.kind == ChangeKind::Suspension.as_str() {
            return None;
        }
        if of_user || of_node {
            changed.take(&row.kind, row.user)?;
        }
    }
    Some(changed)
}

/// The inbounds of nodes that exist and are not disabled.
async fn inbounds(
    db: &DatabaseTransaction,
    nodes: &[NodeId],
) -> Result<HashMap<NodeId, BTreeSet<InboundId>>> {
    let text = format!(
        "SELECT n.id, b.inbound_id FROM nodes n LEFT JOIN inbound_nodes b ON b.node_id = n.id
         WHERE n.id {} AND n.deleted_at IS NULL AND NOT n.disabled",
        sql::in_ids(db, 1)
    );
    let ids = sql::ids(db, nodes.iter().copied());
    let mut inbounds: HashMap<_, BTreeSet<_>> = HashMap::new();
    for row in &sql::all(db, text, vec![ids]).await? {
        let opened = inbounds.entry(NodeId::new(sql::get(row, 0)?)).or_default();
        opened.extend(sql::get::<Option<Uuid>>(row, 1)?.map(InboundId::new));
    }
    Ok(inbounds)
}
