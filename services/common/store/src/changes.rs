//! The change log: what collectors tail to learn which nodes have to be told something.
//!
//! A position is (transaction, sequence). On Postgres the rows of a transaction appear when it
//! commits, possibly after those of a later one, so a reader takes only transactions below every
//! one still running (`pg_snapshot_xmin`), in (transaction, sequence) order: whatever commits late
//! still lies ahead of it. The revision of a change is its transaction. On SQLite, which has one
//! writer, transaction and sequence are both the row's number. A desired state that was read
//! at revision R holds every change up to R, and may hold newer ones, which come again.

use std::collections::BTreeSet;

use sea_orm::{ConnectionTrait, QueryResult, Value};
use uuid::Uuid;
use vpnpanel_domain::{InboundId, NodeId, TenantId, UserId};

use crate::connect::{Backend, Store};
use crate::error::{Result, StoreError};
use crate::sql;

/// What kind of thing changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeKind {
    /// A tenant's own settings.
    Tenant,
    /// A tenant was suspended or resumed. Concerns the nodes that its users may use.
    Suspension,
    /// A user: status, limit, period or end. Concerns the nodes that its peers are on.
    User,
    /// Peers of an inbound came or went.
    Peers,
    /// A group's name or inbounds.
    Group,
    /// An inbound's settings. Concerns the nodes that open it.
    Inbound,
    /// A node opens or closes an inbound.
    Binding,
    /// A node's own settings.
    Node,
    /// A node was given a command: nothing of its desired state.
    Command,
}

impl ChangeKind {
    const ALL: [Self; 9] = [
        Self::Tenant,
        Self::Suspension,
        Self::User,
        Self::Peers,
        Self::Group,
        Self::Inbound,
        Self::Binding,
        Self::Node,
        Self::Command,
    ];

    /// The name in the database and in logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tenant => "tenant",
            Self::Suspension => "suspension",
            Self::User => "user",
            Self::Peers => "peers",
            Self::Group => "group",
            Self::Inbound => "inbound",
            Self::Binding => "binding",
            Self::Node => "node",
            Self::Command => "command",
        }
    }
}

/// Up to where the log has been read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct LogPosition {
    txn: i64,
    seq: i64,
}

impl LogPosition {
    /// The revision: grows with every change that follows.
    pub fn revision(self) -> u64 {
        sql::unsigned(self.txn)
    }

    /// Behind every change of a revision.
    pub(crate) fn behind(db: &impl ConnectionTrait, revision: u64) -> Self {
        let txn = sql::signed(revision);
        let postgres = db.get_database_backend() == sea_orm::DatabaseBackend::Postgres;
        Self {
            txn,
            seq: if postgres { i64::MAX } else { txn },
        }
    }
}

/// A committed change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Where it stands in the log.
    pub position: LogPosition,
    /// What kind of thing changed.
    pub kind: ChangeKind,
    /// The tenant whose thing it is; `None` is the platform.
    pub tenant_id: Option<TenantId>,
    /// Id of what changed.
    pub resource_id: Uuid,
    /// Of a user, concerns the nodes that its peers are on; of peers, it is whose they are.
    pub user_id: Option<UserId>,
    /// Concerns the nodes that open this inbound.
    pub inbound_id: Option<InboundId>,
    /// Concerns this node.
    pub node_id: Option<NodeId>,
}

/// A piece of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changes {
    /// The changes, in order.
    pub changes: Vec<Change>,
    /// Read on from here.
    pub position: LogPosition,
    /// The log no longer reaches back to the position asked for: changes may be missing, and
    /// every node has to be looked at.
    pub truncated: bool,
    /// There may be more right now.
    pub more: bool,
}

/// A change on its way into the log.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    kind: ChangeKind,
    tenant_id: Option<Uuid>,
    resource_id: Uuid,
    user_id: Option<Uuid>,
    inbound_id: Option<Uuid>,
    node_id: Option<Uuid>,
}

impl Entry {
    pub(crate) fn new(kind: ChangeKind, tenant: Option<TenantId>, id: impl Into<Uuid>) -> Self {
        Self {
            kind,
            tenant_id: tenant.map(Into::into),
            resource_id: id.into(),
            user_id: None,
            inbound_id: None,
            node_id: None,
        }
    }

    pub(crate) fn user(tenant: TenantId, user: UserId) -> Self {
        Self {
            user_id: Some(user.uuid()),
            ..Self::new(ChangeKind::User, Some(tenant), user)
        }
    }

    pub(crate) fn of_user(self, user: UserId) -> Self {
        Self {
            user_id: Some(user.uuid()),
            ..self
        }
    }

    pub(crate) fn on_inbound(self, inbound: InboundId) -> Self {
        Self {
            inbound_id: Some(inbound.uuid()),
            ..self
        }
    }

    pub(crate) fn on_node(self, node: NodeId) -> Self {
        Self {
            node_id: Some(node.uuid()),
            ..self
        }
    }
}

/// Appends entries, a bounded number per statement.
pub(crate) async fn append(db: &impl ConnectionTrait, entries: &[Entry], now: i64) -> Result<()> {
    for chunk in entries.chunks(1_000) {
        let mut text = String::from(
            "INSERT INTO change_log (kind, tenant_id, resource_id, user_id, inbound_id, node_id, recorded_at) VALUES ",
        );
        let mut values: Vec<Value> = Vec::with_capacity(chunk.len() * 7);
        for (index, entry) in chunk.iter().enumerate() {
            let first = index * 7;
            if index > 0 {
                text.push(',');
            }
            text.push_str(&format!(
                "(${}, ${}, ${}, ${}, ${}, ${}, ${})",
                first + 1,
                first + 2,
                first + 3,
                first + 4,
                first + 5,
                first + 6,
                first + 7
            ));
            values.extend([
                entry.kind.as_str().into(),
                entry.tenant_id.into(),
                entry.resource_id.into(),
                entry.user_id.into(),
                entry.inbound_id.into(),
                entry.node_id.into(),
                now.into(),
            ]);
        }
        sql::run(db, text, values).await?;
    }
    Ok(())
}

impl Store {
    /// The end of the log: everything committed before this call lies at or before it, unless
    /// an older transaction is still running.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn log_tail(&self) -> Result<LogPosition> {
        tail(self.read()).await
    }

    /// Changes after a position, in order, at most `limit`.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn changes_since(&self, position: LogPosition, limit: u32) -> Result<Changes> {
        let db = self.read();
        let truncated = !reaches_back(db, position).await?;
        let rows = match self.backend() {
            Backend::Postgres => {
                sql::all(
                    db,
                    SINCE_POSTGRES,
                    vec![
                        position.txn.to_string().into(),
                        position.seq.into(),
                        i64::from(limit).into(),
                    ],
                )
                .await?
            }
            Backend::Sqlite => {
                sql::all(
                    db,
                    SINCE_SQLITE,
                    vec![position.seq.into(), i64::from(limit).into()],
                )
                .await?
            }
        };
        let mut changes = Vec::with_capacity(rows.len());
        let mut end = position;
        for row in &rows {
            // Of Postgres: every transaction below `bound` has ended, and was read.
            let bound: i64 = sql::get(row, 0)?;
            end = end.max(LogPosition {
                txn: bound - 1,
                seq: i64::MAX,
            });
            if sql::get::<Option<i64>>(row, 1)?.is_some() {
                changes.push(change(row)?);
            }
        }
        let more = changes.len() >= usize::try_from(limit).unwrap_or(usize::MAX);
        let position = match (self.backend(), changes.last()) {
            (Backend::Postgres, _) if !more => end,
            (_, Some(last)) => last.position,
            (_, None) => position,
        };
        Ok(Changes {
            changes,
            position,
            truncated,
            more,
        })
    }

    /// The nodes that changes concern, as things stand now. (What changes took away they name
    /// themselves, so that "now" is late enough.)
    ///
    /// # Errors
    /// Those of the database.
    pub async fn nodes_concerned(&self, changes: &[Change]) -> Result<BTreeSet<NodeId>> {
        let mut nodes: BTreeSet<NodeId> = changes.iter().filter_map(|one| one.node_id).collect();
        let inbounds: BTreeSet<InboundId> =
            changes.iter().filter_map(|one| one.inbound_id).collect();
        let users: BTreeSet<UserId> = changes
            .iter()
            .filter(|one| one.kind == ChangeKind::User)
            .filter_map(|one| one.user_id)
            .collect();
        let tenants: BTreeSet<TenantId> = changes
            .iter()
            .filter(|one| one.kind == ChangeKind::Suspension)
            .filter_map(|one| one.tenant_id)
            .collect();
        let db = self.read();
        let mut parts = Vec::new();
        let mut values = Vec::new();
        if !inbounds.is_empty() {
            values.push(sql::ids(db, inbounds));
            parts.push(format!(
                "SELECT node_id FROM inbound_nodes WHERE inbound_id {}",
                sql::in_ids(db, values.len())
            ));
        }
        if !users.is_empty() {
            values.push(sql::ids(db, users));
            parts.push(format!(
                "SELECT b.node_id FROM peers p JOIN inbound_nodes b ON b.inbound_id = p.inbound_id
                 WHERE p.user_id {}",
                sql::in_ids(db, values.len())
            ));
        }
        if !tenants.is_empty() {
            values.push(sql::ids(db, tenants));
            // A tenant's peers are on the inbounds of its groups, and on no others.
            parts.push(format!(
                "SELECT b.node_id FROM group_inbounds g
                 JOIN inbound_nodes b ON b.inbound_id = g.inbound_id WHERE g.tenant_id {}",
                sql::in_ids(db, values.len())
            ));
        }
        if !parts.is_empty() {
            for row in sql::all(db, parts.join(" UNION "), values).await? {
                nodes.insert(NodeId::new(sql::get(&row, 0)?));
            }
        }
        Ok(nodes)
    }
}

/// Whether the log still holds every change after a position.
pub(crate) async fn reaches_back(db: &impl ConnectionTrait, position: LogPosition) -> Result<bool> {
    let horizon = "SELECT log_horizon_txn, log_horizon_seq FROM installation";
    let Some(row) = sql::one(db, horizon, vec![]).await? else {
        return Ok(true);
    };
    let horizon = LogPosition {
        txn: sql::get(&row, 0)?,
        seq: sql::get(&row, 1)?,
    };
    Ok(position >= horizon)
}

/// The end of the log as the connection's snapshot sees it.
pub(crate) async fn tail(db: &impl ConnectionTrait) -> Result<LogPosition> {
    let postgres = db.get_database_backend() == sea_orm::DatabaseBackend::Postgres;
    let text = if postgres {
        "SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint - 1"
    } else {
        "SELECT COALESCE((SELECT seq FROM sqlite_sequence WHERE name = 'change_log'), 0)"
    };
    let row = sql::one(db, text, vec![])
        .await?
        .ok_or_else(|| StoreError::corrupt("the end of the change log", "no row"))?;
    let txn: i64 = sql::get(&row, 0)?;
    Ok(LogPosition::behind(db, sql::unsigned(txn)))
}

/// No revision that was ever told lies beyond this one.
pub(crate) async fn head(db: &impl ConnectionTrait) -> Result<u64> {
    if db.get_database_backend() != sea_orm::DatabaseBackend::Postgres {
        return Ok(tail(db).await?.revision());
    }
    let text = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint";
    let row = sql::one(db, text, vec![])
        .await?
        .ok_or_else(|| StoreError::corrupt("the end of the change log", "no row"))?;
    Ok(sql::unsigned(sql::get(&row, 0)?))
}

const SINCE_POSTGRES: &str = "
    SELECT b.bound::text::bigint, c.seq, c.txn::text::bigint, c.kind, c.tenant_id, c.resource_id,
           c.user_id, c.inbound_id, c.node_id
    FROM (SELECT pg_snapshot_xmin(pg_current_snapshot()) AS bound) b
    LEFT JOIN LATERAL (
        SELECT * FROM change_log
        WHERE (txn, seq) > ($1::text::xid8, $2) AND txn < b.bound
        ORDER BY txn, seq LIMIT $3
    ) c ON TRUE";

const SINCE_SQLITE: &str = "
    SELECT seq, seq, seq, kind, tenant_id, resource_id, user_id, inbound_id, node_id
    FROM change_log WHERE seq > $1 ORDER BY seq LIMIT $2";

fn change(row: &QueryResult) -> Result<Change> {
    let kind: String = sql::get(row, 3)?;
    Ok(Change {
        position: LogPosition {
            seq: sql::get(row, 1)?,
            txn: sql::get(row, 2)?,
        },
        kind: ChangeKind::ALL
            .into_iter()
            .find(|one| one.as_str() == kind)
            .ok_or_else(|| StoreError::corrupt("change_log.kind", &kind))?,
        tenant_id: sql::get::<Option<Uuid>>(row, 4)?.map(TenantId::new),
        resource_id: sql::get(row, 5)?,
        user_id: sql::get::<Option<Uuid>>(row, 6)?.map(UserId::new),
        inbound_id: sql::get::<Option<Uuid>>(row, 7)?.map(InboundId::new),
        node_id: sql::get::<Option<Uuid>>(row, 8)?.map(NodeId::new),
    })
}
