//! What a dashboard shows of a tenant, or of all tenants together: counted when somebody asks, from
//! indexes and sums (docs/adr/0024). Everything is read at one moment.

use sea_orm::{ConnectionTrait, Value};
use uuid::Uuid;
use vpnpanel_domain::{NodeId, TenantId, UserId, UserStatus};

use crate::connect::Store;
use crate::error::{Result, StoreError};
use crate::ledger::{DAY_MS, HOUR_MS};
use crate::node_watch::BEHIND_MS;
use crate::usage::{
    self, BY_USER, BY_USER_OF_ALL, OF_ALL_NODES, OF_NODES, Source, Usage, UsageQuery,
};
use crate::{periods, sql, users};

/// Within how long of now a user whose traffic was counted is online: nodes report every few seconds.
pub const ONLINE_MS: i64 = 3 * 60_000;
/// Steps in which usage is kept.
const QUARTER_MS: i64 = HOUR_MS / 4;

/// A stretch of time, milliseconds of the Unix epoch; the end is not in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stretch {
    /// Its first millisecond, rounded down to 15 minutes.
    pub from_ms: i64,
    /// The first after it, rounded up to 15 minutes.
    pub to_ms: i64,
}

/// Users that are not deleted, by the status that they have at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct UserCounts {
    /// May connect.
    pub active: u64,
    /// Wait for their first traffic.
    pub on_hold: u64,
    /// Have used up their period.
    pub limited: u64,
    /// Their time is over.
    pub expired: u64,
    /// Switched off by hand.
    pub disabled: u64,
}

/// Users by when traffic of theirs was counted last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OnlineCounts {
    /// Within [`ONLINE_MS`].
    pub now: u64,
    /// Since the first moment that was asked for.
    pub today: u64,
    /// Since the second.
    pub week: u64,
}

/// Nodes by state, and what is the matter with them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NodeCounts {
    /// Connected.
    pub online: u64,
    /// Enrolled, and not connected.
    pub offline: u64,
    /// Not enrolled.
    pub pending: u64,
    /// Switched off by hand.
    pub disabled: u64,
    /// Kept apart until a person has decided.
    pub quarantined: u64,
    /// Being emptied, in whichever state.
    pub draining: u64,
    /// Connected, and for five minutes without an answer to what they were told.
    pub behind: u64,
    /// Their certificates live, and should have been renewed.
    pub certificates_overdue: u64,
    /// Their certificates have ended.
    pub certificates_ended: u64,
}

/// A user who was billed much.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopUser {
    /// Whose it is.
    pub tenant: TenantId,
    /// The user.
    pub id: UserId,
    /// Its name.
    pub username: String,
    /// How much.
    pub usage: Usage,
}

/// A node that much went through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopNode {
    /// The node.
    pub id: NodeId,
    /// Its name.
    pub name: String,
    /// How much.
    pub usage: Usage,
}

impl UserCounts {
    /// All of them.
    pub const fn total(&self) -> u64 {
        self.active + self.on_hold + self.limited + self.expired + self.disabled
    }

    fn of(&mut self, status: UserStatus) -> Option<&mut u64> {
        match status {
            UserStatus::Active => Some(&mut self.active),
            UserStatus::OnHold => Some(&mut self.on_hold),
            UserStatus::Limited => Some(&mut self.limited),
            UserStatus::Expired => Some(&mut self.expired),
            UserStatus::Disabled => Some(&mut self.disabled),
            UserStatus::Deleted => None,
        }
    }
}

impl Store {
    /// Users of a tenant, or of all, by the status that they have now.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn user_counts(&self, tenant: Option<TenantId>) -> Result<UserCounts> {
        let db = self.snapshot_in(tenant).await?;
        let (of, values) = of_tenant("u", tenant, 1);
        // By what is noted, out of an index; and those of whom the clock has made something else since,
        // who are few, and found by what has ended.
        let noted = format!(
            "SELECT u.status, u.status, COUNT(*) FROM users u
             WHERE u.deleted_at IS NULL AND {of} GROUP BY u.status"
        );
        let mut counts = UserCounts::default();
        for row in &sql::all(&db, noted, values).await? {
            add(&mut counts, &sql::get::<String>(row, 0)?, sql::get(row, 2)?)?;
        }
        let (of, values) = of_tenant("u", tenant, 2);
        let passed = format!(
            "SELECT u.status, {}, COUNT(*) FROM users u {} WHERE u.deleted_at IS NULL AND {of}
               AND u.status IN ('active', 'on_hold', 'limited')
               AND (u.expires_at <= $1 OR u.period_ends_at <= $1)
             GROUP BY 1, 2",
            users::derived(1),
            periods::join_in_force(1)
        );
        let at = std::iter::once(self.now_ms().into());
        for row in &sql::all(&db, passed, at.chain(values).collect()).await? {
            let number: i64 = sql::get(row, 2)?;
            add(&mut counts, &sql::get::<String>(row, 0)?, -number)?;
            add(&mut counts, &sql::get::<String>(row, 1)?, number)?;
        }
        Ok(counts)
    }

    /// Users whose traffic was counted now, since `today_ms` and since `week_ms`, which is earlier.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn online_counts(
        &self,
        tenant: Option<TenantId>,
        today_ms: i64,
        week_ms: i64,
    ) -> Result<OnlineCounts> {
        let (text, values) = online(tenant, self.now_ms(), today_ms, week_ms);
        let row = sql::one(&self.read_in(tenant).await?, text, values)
            .await?
            .ok_or_else(|| StoreError::corrupt("a count", "no row"))?;
        Ok(OnlineCounts {
            now: sql::unsigned(sql::get(&row, 0)?),
            today: sql::unsigned(sql::get(&row, 1)?),
            week: sql::unsigned(sql::get(&row, 2)?),
        })
    }

    /// Traffic of a tenant, or of all, in each stretch of time.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn traffic(
        &self,
        tenant: Option<TenantId>,
        stretches: &[Stretch],
    ) -> Result<Vec<Usage>> {
        let db = self.snapshot_in(tenant).await?;
        let mut sums = Vec::with_capacity(stretches.len());
        for stretch in stretches {
            let mut sum = Usage::default();
            for (_, usage) in through_nodes(&db, tenant, *stretch).await? {
                sum.add(usage);
            }
            sums.push(sum);
        }
        Ok(sums)
    }

    /// The nodes that most was billed through, the most first.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn top_nodes(
        &self,
        tenant: Option<TenantId>,
        stretch: Stretch,
        most: usize,
    ) -> Result<Vec<TopNode>> {
        let db = self.snapshot_in(tenant).await?;
        let mut nodes = through_nodes(&db, tenant, stretch).await?;
        nodes.sort_by(|(one, a), (two, b)| b.billed.cmp(&a.billed).then(one.cmp(two)));
        nodes.truncate(most);
        let ids = sql::ids(self.read(), nodes.iter().map(|(id, _)| *id));
        // Names of shared nodes, too, which are behind a tenant's walls; it used these.
        let text = format!(
            "SELECT id, name FROM nodes WHERE id {}",
            sql::in_ids(self.read(), 1)
        );
        let names = sql::all(self.read(), text, vec![ids]).await?;
        let mut top = Vec::with_capacity(nodes.len());
        for (id, usage) in nodes {
            for row in &names {
                if sql::get::<Uuid>(row, 0)? == id.uuid() {
                    let name = sql::get(row, 1)?;
                    top.push(TopNode { id, name, usage });
                }
            }
        }
        Ok(top)
    }

    /// The users who were billed most in days of UTC, that of `from_ms` and those after, the most first.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn top_users(
        &self,
        tenant: Option<TenantId>,
        from_ms: i64,
        most: u32,
    ) -> Result<Vec<TopUser>> {
        let db = self.snapshot_in(tenant).await?;
        let (source, keys) = match tenant {
            Some(tenant) => (&BY_USER, vec![tenant.uuid().into()]),
            None => (&BY_USER_OF_ALL, Vec::new()),
        };
        let query = UsageQuery {
            from_ms: from_ms - from_ms.rem_euclid(DAY_MS),
            to_ms: self.now_ms() + DAY_MS,
            step_ms: DAY_MS,
        };
        let top = usage::largest(&db, source, keys, query, most).await?;
        let ids = sql::ids(&db, top.iter().map(|(id, _)| UserId::new(*id)));
        let text = format!(
            "SELECT id, tenant_id, username FROM users WHERE id {}",
            sql::in_ids(&db, 1)
        );
        let names = sql::all(&db, text, vec![ids]).await?;
        let mut users = Vec::with_capacity(top.len());
        for (id, usage) in top {
            for row in &names {
                if sql::get::<Uuid>(row, 0)? == id {
                    users.push(TopUser {
                        tenant: TenantId::new(sql::get(row, 1)?),
                        id: UserId::new(id),
                        username: sql::get(row, 2)?,
                        usage,
                    });
                }
            }
        }
        Ok(users)
    }

    /// Nodes of a tenant's own, or of all owners, by state.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn node_counts(&self, tenant: Option<TenantId>) -> Result<NodeCounts> {
        let (of, values) = of_tenant("n", tenant, 3);
        let now = self.now_ms();
        let text = format!(
            "SELECT
                COUNT(CASE WHEN NOT n.disabled AND l.quarantine_reason IS NULL AND s.connected
                    THEN 1 END),
                COUNT(CASE WHEN NOT n.disabled AND l.quarantine_reason IS NULL
                    AND s.connected IS NOT TRUE AND c.serial IS NOT NULL THEN 1 END),
                COUNT(CASE WHEN NOT n.disabled AND l.quarantine_reason IS NULL
                    AND s.connected IS NOT TRUE AND c.serial IS NULL THEN 1 END),
                COUNT(CASE WHEN n.disabled THEN 1 END),
                COUNT(CASE WHEN NOT n.disabled AND l.quarantine_reason IS NOT NULL THEN 1 END),
                COUNT(CASE WHEN n.draining THEN 1 END),
                COUNT(CASE WHEN NOT n.disabled AND s.connected
                    AND s.desired_revision > s.applied_revision AND s.desired_at <= $2 THEN 1 END),
                COUNT(CASE WHEN NOT n.disabled AND c.not_after > $1
                    AND c.not_after - (c.not_after - c.not_before) / 4 <= $1 THEN 1 END),
                COUNT(CASE WHEN NOT n.disabled AND c.not_after <= $1 THEN 1 END)
             FROM nodes n LEFT JOIN node_states s ON s.node_id = n.id
             LEFT JOIN node_links l ON l.node_id = n.id
             LEFT JOIN node_certificates c ON c.node_id = n.id AND c.state = 'current'
             WHERE n.deleted_at IS NULL AND {of}"
        );
        let at: Vec<Value> = vec![now.into(), now.saturating_sub(BEHIND_MS).into()];
        let db = self.read_in(tenant).await?;
        let row = sql::one(&db, text, at.into_iter().chain(values).collect())
            .await?
            .ok_or_else(|| StoreError::corrupt("a count", "no row"))?;
        let figure = |place| sql::get(&row, place).map(sql::unsigned);
        Ok(NodeCounts {
            online: figure(0)?,
            offline: figure(1)?,
            pending: figure(2)?,
            disabled: figure(3)?,
            quarantined: figure(4)?,
            draining: figure(5)?,
            behind: figure(6)?,
            certificates_overdue: figure(7)?,
            certificates_ended: figure(8)?,
        })
    }
}

/// Counts users by when traffic of theirs was counted last.
pub(crate) fn online(
    tenant: Option<TenantId>,
    now_ms: i64,
    today_ms: i64,
    week_ms: i64,
) -> (String, Vec<Value>) {
    // Of periods that go on, or ended since: others are found by no key.
    let (of, values) = match tenant {
        Some(_) => of_tenant("p", tenant, 4),
        None => (
            "p.tenant_id IN (SELECT id FROM tenants)".to_owned(),
            Vec::new(),
        ),
    };
    let used = |which: &str| {
        format!(
            "SELECT p.user_id, p.last_used_at FROM periods p
             WHERE p.last_used_at >= $3 AND {which} AND {of}"
        )
    };
    let text = format!(
        "SELECT COUNT(CASE WHEN seen_at >= $1 THEN 1 END),
                COUNT(CASE WHEN seen_at >= $2 THEN 1 END), COUNT(*)
         FROM (SELECT user_id, MAX(last_used_at) AS seen_at
               FROM ({} UNION ALL {}) used GROUP BY user_id) seen",
        used("p.ends_at IS NULL"),
        used("p.ends_at >= $3")
    );
    let now = now_ms.saturating_sub(ONLINE_MS);
    let since: [Value; 3] = [now.into(), today_ms.into(), week_ms.into()];
    (text, since.into_iter().chain(values).collect())
}

/// The condition that a row is a tenant's, and its value, which is parameter `number`.
fn of_tenant(table: &str, tenant: Option<TenantId>, number: usize) -> (String, Vec<Value>) {
    match tenant {
        Some(tenant) => (
            format!("{table}.tenant_id = ${number}"),
            vec![tenant.uuid().into()],
        ),
        None => ("TRUE".to_owned(), Vec::new()),
    }
}

fn add(counts: &mut UserCounts, status: &str, number: i64) -> Result<()> {
    let status: UserStatus = status
        .parse()
        .map_err(|error| StoreError::corrupt("users.status", error))?;
    if let Some(count) = counts.of(status) {
        *count = count.saturating_add_signed(number);
    }
    Ok(())
}

/// What went through each node in a stretch of time.
async fn through_nodes(
    db: &impl ConnectionTrait,
    tenant: Option<TenantId>,
    stretch: Stretch,
) -> Result<Vec<(NodeId, Usage)>> {
    let (source, key): (&Source, _) = match tenant {
        Some(tenant) => (&OF_NODES, Some(tenant.uuid())),
        None => (&OF_ALL_NODES, None),
    };
    let mut nodes: Vec<(NodeId, Usage)> = Vec::new();
    for query in pieces(stretch) {
        let keys = key.into_iter().map(Value::from).collect();
        for (id, usage) in usage::largest(db, source, keys, query, u32::MAX).await? {
            let id = NodeId::new(id);
            match nodes.iter_mut().find(|(node, _)| *node == id) {
                Some((_, sum)) => sum.add(usage),
                None => nodes.push((id, usage)),
            }
        }
    }
    Ok(nodes)
}

/// A stretch of time in the longest steps that it is made of: quarters, hours, days, and down again.
fn pieces(stretch: Stretch) -> Vec<UsageQuery> {
    let mut at = stretch.from_ms - stretch.from_ms.rem_euclid(QUARTER_MS);
    let end = stretch.to_ms + (-stretch.to_ms).rem_euclid(QUARTER_MS);
    let mut pieces: Vec<UsageQuery> = Vec::new();
    while at < end {
        let fits = |step: i64| at.rem_euclid(step) == 0 && at + step <= end;
        let step_ms = [DAY_MS, HOUR_MS]
            .into_iter()
            .find(|step| fits(*step))
            .unwrap_or(QUARTER_MS);
        let to_ms = at + step_ms;
        match pieces.last_mut() {
            Some(last) if last.step_ms == step_ms => last.to_ms = to_ms,
            _ => pieces.push(UsageQuery {
                from_ms: at,
                to_ms,
                step_ms,
            }),
        }
        at = to_ms;
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stretch_is_made_of_the_longest_steps_without_a_gap() {
        let at = |hours: i64, quarters: i64| hours * HOUR_MS + quarters * QUARTER_MS;
        let stretch = Stretch {
            from_ms: at(21, 2) + 1,
            to_ms: at(24 * 3 + 5, 1) - 1,
        };
        let steps: Vec<_> = pieces(stretch)
            .into_iter()
            .map(|piece| (piece.from_ms, piece.to_ms, piece.step_ms))
            .collect();
        let days = (at(24, 0), at(24 * 3, 0), DAY_MS);
        let expected = [
            (at(21, 2), at(22, 0), QUARTER_MS),
            (at(22, 0), at(24, 0), HOUR_MS),
            days,
            (at(24 * 3, 0), at(24 * 3 + 5, 0), HOUR_MS),
            (at(24 * 3 + 5, 0), at(24 * 3 + 5, 1), QUARTER_MS),
        ];
        assert_eq!(steps, expected);
        assert_eq!(
            pieces(Stretch {
                from_ms: 5,
                to_ms: 0
            })
            .len(),
            0
        );
    }
}
