//! Where leases are to be opened before their periods begin. Users are found by the end of their
//! current period, each once as it comes near: nobody looks through all of them.

use sea_orm::Value;
use uuid::Uuid;
use vpnpanel_domain::NodeId;

use crate::connect::Store;
use crate::error::Result;
use crate::sql;

/// Users that one query finds.
const USERS: i64 = 2_000;

/// How far somebody has come among the users whose periods end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AheadCursor {
    ends_at: i64,
    user: Uuid,
}

impl AheadCursor {
    /// Behind every period that ends up to an instant.
    pub const fn behind(ends_at_ms: i64) -> Self {
        Self {
            ends_at: ends_at_ms,
            user: Uuid::max(),
        }
    }
}

/// Nodes of users whose periods end soon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodesAhead {
    /// The nodes, in order.
    pub nodes: Vec<NodeId>,
    /// Look on from here.
    pub cursor: AheadCursor,
    /// There may be more right now.
    pub more: bool,
}

impl Store {
    /// Nodes that take no new sessions: what lies idle there is looked for again and again.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn draining_nodes(&self) -> Result<Vec<NodeId>> {
        sql::all(
            self.read(),
            "SELECT id FROM nodes WHERE draining AND deleted_at IS NULL ORDER BY id",
            vec![],
        )
        .await?
        .iter()
        .map(|row| Ok(NodeId::new(sql::get(row, 0)?)))
        .collect()
    }

    /// Nodes on which users have peers that have a limit and whose current period ends behind the
    /// cursor and up to an instant: leases of the next one are to be opened there.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn nodes_ahead(&self, cursor: AheadCursor, until_ms: i64) -> Result<NodesAhead> {
        let db = self.read();
        let (text, values) = ending(cursor, until_ms);
        let rows = sql::all(db, text, values).await?;
        let Some(last) = rows.last() else {
            return Ok(NodesAhead {
                nodes: Vec::new(),
                cursor,
                more: false,
            });
        };
        let cursor = AheadCursor {
            ends_at: sql::get(last, 0)?,
            user: sql::get(last, 1)?,
        };
        let more = i64::try_from(rows.len()).unwrap_or(i64::MAX) == USERS;
        let mut users = Vec::with_capacity(rows.len());
        for row in &rows {
            let limit: i64 = sql::get(row, 2)?;
            users.extend((limit > 0).then_some(sql::get::<Uuid>(row, 1)?));
        }
        let text = format!(
            "SELECT DISTINCT b.node_id FROM peers p
             JOIN inbound_nodes b ON b.inbound_id = p.inbound_id
             WHERE p.user_id {} ORDER BY b.node_id",
            sql::in_ids(db, 1)
        );
        let nodes = sql::all(db, text, vec![sql::ids(db, users)])
            .await?
            .iter()
            .map(|row| sql::get(row, 0).map(NodeId::new))
            .collect::<Result<_, _>>()?;
        Ok(NodesAhead {
            nodes,
            cursor,
            more,
        })
    }
}

/// Finds users by the end of their current period.
pub(crate) fn ending(cursor: AheadCursor, until_ms: i64) -> (String, Vec<Value>) {
    let text = "SELECT period_ends_at, id, limit_bytes FROM users
        WHERE deleted_at IS NULL AND period_ends_at <= $1 AND (period_ends_at, id) > ($2, $3)
        ORDER BY period_ends_at, id LIMIT $4";
    let values = vec![
        until_ms.into(),
        cursor.ends_at.into(),
        cursor.user.into(),
        USERS.into(),
    ];
    (text.to_owned(), values)
}
