//! Users as they are read: with their current period, and with a status that is derived at
//! that moment.

use std::collections::{BTreeMap, BTreeSet};

use sea_orm::{ConnectionTrait, QueryResult};
use uuid::Uuid;
use vpnpanel_domain::{
    GroupId, Limit, PlanId, ResetStrategy, Speed, SpeedLimit, TenantId, UserFacts, UserId,
    UserStatus,
};

use crate::connect::Store;
use crate::error::{Result, StoreError};
use crate::page::Page;
use crate::periods::{self, Period};
use crate::plans::{self, NextPlan};
use crate::sql;
use crate::subscriptions::Fetched;
use crate::tenants::name_key;

/// For how long a deleted user can be taken back: 30 days.
pub const DELETED_USERS_KEPT_MS: i64 = 30 * 24 * 3_600_000;

/// A subscriber.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Its id.
    pub id: UserId,
    /// Its tenant.
    pub tenant_id: TenantId,
    /// Its name, unique in the tenant without regard to case.
    pub username: String,
    /// Free text.
    pub note: String,
    /// What it may do now.
    pub status: UserStatus,
    /// Disabled by hand.
    pub disabled: bool,
    /// Groups whose inbounds it may use.
    pub group_ids: BTreeSet<GroupId>,
    /// What it may use in a period.
    pub limit: Limit,
    /// How fast it may be on each node.
    pub speed: SpeedLimit,
    /// When a new period begins, as far as that is not announced yet.
    pub reset_strategy: ResetStrategy,
    /// When it ends.
    pub expires_at_ms: Option<i64>,
    /// Its clock starts at the first traffic and lasts this long; `None` once it runs, or when
    /// it never waited.
    pub on_hold_ms: Option<i64>,
    /// The plan that it was made from or has come to.
    pub plan_id: Option<PlanId>,
    /// What follows.
    pub next_plan: Option<NextPlan>,
    /// How many devices it may have; 0 is as many as anybody.
    pub device_limit: u32,
    /// The quota window in force.
    pub period: Period,
    /// The token of its subscription's link, sealed; `None` until it has one.
    pub sealed_subscription: Option<Vec<u8>>,
    /// When its subscription was fetched last, and by what, as far as that was written down.
    pub fetched: Option<Fetched>,
    /// Grows with each revocation of its credentials.
    pub credentials_version: u64,
    /// Grows with each change, not with usage.
    pub version: u64,
    /// When it was made.
    pub created_at_ms: i64,
    /// When it was last changed.
    pub updated_at_ms: i64,
    /// When it was deleted.
    pub deleted_at_ms: Option<i64>,
}

/// Which users to list; what is `None` does not matter.
#[derive(Debug, Clone, Default)]
pub struct UserFilter {
    /// Of this status, as it is now. Deleted ones are listed while they can be taken back.
    pub status: Option<UserStatus>,
    /// Whose name begins so, without regard to case.
    pub username_prefix: Option<String>,
    /// Of this group.
    pub group_id: Option<GroupId>,
    /// Of this plan.
    pub plan_id: Option<PlanId>,
}

impl Store {
    /// One user.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], also when it was deleted.
    pub async fn user(&self, tenant: TenantId, id: UserId) -> Result<User> {
        load(&self.read_in(tenant).await?, tenant, id, self.now_ms()).await
    }

    /// Users of a tenant in the order they were made; deleted ones only where they are asked for.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn users(
        &self,
        tenant: TenantId,
        filter: &UserFilter,
        page: Page<UserId>,
    ) -> Result<Vec<User>> {
        let db = &self.read_in(tenant).await?;
        let now = self.now_ms();
        let (text, values) = list(tenant, filter, page, now);
        let rows = sql::all(db, text, values).await?;
        with_groups(db, tenant, &rows, now).await
    }
}

/// The statement of [`Store::users`]: what each of a few conditions finds by an index of its own, put
/// together.
pub(crate) fn list(
    tenant: TenantId,
    filter: &UserFilter,
    page: Page<UserId>,
    now: i64,
) -> (String, Vec<sea_orm::Value>) {
    let after = page.after.map_or(Uuid::nil(), UserId::uuid);
    let mut values = vec![tenant.uuid().into(), now.into(), after.into()];
    let mut narrows = String::new();
    let prefix = filter.username_prefix.as_deref();
    if let Some(prefix) = prefix.filter(|it| !it.is_empty()) {
        let low = name_key(prefix);
        // Everything that begins with the prefix lies between it and it with the largest
        // character behind: an index can serve that.
        let high = format!("{low}\u{10FFFF}");
        values.extend([low.into(), high.into()]);
        narrows.push_str(&format!(
            " AND u.username_key >= ${} AND u.username_key < ${}",
            values.len() - 1,
            values.len()
        ));
    }
    if let Some(group) = filter.group_id {
        values.push(group.uuid().into());
        narrows.push_str(&format!(
            " AND EXISTS (SELECT 1 FROM user_groups g WHERE g.tenant_id = u.tenant_id
                AND g.user_id = u.id AND g.group_id = ${})",
            values.len()
        ));
    }
    if let Some(plan) = filter.plan_id {
        values.push(plan.uuid().into());
        narrows.push_str(&format!(" AND u.plan_id = ${}", values.len()));
    }
    values.push(i64::from(page.size).into());
    let limit = values.len();
    let mut is_there = "u.deleted_at IS NULL".to_owned();
    if filter.status == Some(UserStatus::Deleted) {
        values.push(now.saturating_sub(DELETED_USERS_KEPT_MS).into());
        is_there = format!("u.deleted_at > ${}", values.len());
    }
    let found = |behind: &str, condition: &str| {
        format!(
            "{} WHERE u.tenant_id = $1 AND {is_there} AND {behind}{condition}{narrows}",
            select(2)
        )
    };
    let behind = "u.id > $3";
    let (noted, unnoted) = match filter.status {
        Some(status) => of_status(status),
        None => (String::new(), None),
    };
    let noted = format!("{} ORDER BY u.id LIMIT ${limit}", found(behind, &noted));
    let text = match unnoted {
        // There are few of them: they need neither an order nor an end of their own, and are found by
        // what has ended, not by their place in the list.
        Some(unnoted) => format!(
            "SELECT * FROM ({noted}) noted UNION ALL SELECT * FROM ({}) unnoted
             ORDER BY 1 LIMIT ${limit}",
            found(&format!("({behind}) IS TRUE"), &unnoted)
        ),
        None => noted,
    };
    (text, values)
}

/// Users that are not deleted, as they are at `now`.
pub(crate) async fn load_all(
    db: &impl ConnectionTrait,
    tenant: TenantId,
    ids: &[UserId],
    now: i64,
) -> Result<Vec<User>> {
    let text = format!(
        "{} WHERE u.tenant_id = $1 AND u.id {} AND u.deleted_at IS NULL ORDER BY u.id",
        select(2),
        sql::in_ids(db, 3)
    );
    let values = vec![
        tenant.uuid().into(),
        now.into(),
        sql::ids(db, ids.iter().copied()),
    ];
    with_groups(db, tenant, &sql::all(db, text, values).await?, now).await
}

/// A user that is not deleted, as it is at `now`.
pub(crate) async fn load(
    db: &impl ConnectionTrait,
    tenant: TenantId,
    id: UserId,
    now: i64,
) -> Result<User> {
    let user = load_kept(db, tenant, id, now).await?;
    match user.deleted_at_ms {
        None => Ok(user),
        Some(_) => Err(StoreError::NotFound("user")),
    }
}

/// As [`load`], also of a user that was deleted.
pub(crate) async fn load_kept(
    db: &impl ConnectionTrait,
    tenant: TenantId,
    id: UserId,
    now: i64,
) -> Result<User> {
    let rows = sql::all(
        db,
        format!("{} WHERE u.tenant_id = $1 AND u.id = $3", select(2)),
        vec![tenant.uuid().into(), now.into(), id.uuid().into()],
    )
    .await?;
    with_groups(db, tenant, &rows, now)
        .await?
        .pop()
        .ok_or(StoreError::NotFound("user"))
}

/// Users with the period in force at the moment that is parameter `now`.
pub(crate) fn select(now: usize) -> String {
    format!("SELECT {} FROM users u {}", columns(), joins(now))
}

/// How many columns [`columns`] are.
pub(crate) const WIDTH: usize = 33;

/// What [`user`] reads, of what [`joins`] joins.
pub(crate) fn columns() -> String {
    format!(
        "u.id, u.username, u.note, u.disabled, u.expires_at, u.on_hold, u.on_hold_ms,
                u.limit_bytes, u.reset_strategy, u.credentials_version, u.version, u.created_at,
                u.updated_at, {}, u.speed_up_bps, u.speed_down_bps, u.plan_id, u.next_plan_id,
                u.next_plan_start, u.device_limit, u.deleted_at, u.sealed_subscription,
                f.fetched_at, f.client",
        periods::COLUMNS
    )
}

/// Joins what else is read of `users u` at the moment that is parameter `now`.
pub(crate) fn joins(now: usize) -> String {
    format!(
        "{} LEFT JOIN subscription_fetches f ON f.tenant_id = u.tenant_id AND f.user_id = u.id",
        periods::join_in_force(now)
    )
}

/// Conditions that a user is of a status at the moment that is parameter 2: who is noted so, and who is
/// so though something else is noted. What is stored knows nothing of the clock: an end that has passed
/// counts at once, and so does a period that has begun, whether or not the scheduler has been there.
fn of_status(status: UserStatus) -> (String, Option<String>) {
    let noted = format!(" AND u.status = '{status}'");
    let facts = match status {
        UserStatus::Expired => {
            let unnoted = " AND u.status NOT IN ('expired', 'disabled', 'deleted')
                AND u.expires_at <= $2";
            return (noted, Some(unnoted.to_owned()));
        }
        UserStatus::Disabled | UserStatus::Deleted => return (noted, None),
        UserStatus::Limited => SPENT.to_owned(),
        UserStatus::OnHold => format!("NOT ({SPENT}) AND u.on_hold"),
        UserStatus::Active => format!("NOT ({SPENT}) AND NOT u.on_hold"),
    };
    let now = format!("AND {facts} AND (u.expires_at IS NULL OR u.expires_at > $2)");
    let unnoted = format!(
        " AND u.status NOT IN ('{status}', 'expired', 'disabled', 'deleted')
         AND u.period_ends_at <= $2 {now}"
    );
    (format!("{noted} {now}"), Some(unnoted))
}

/// The status that a user has at the moment that is parameter `now`, where it is neither deleted nor
/// disabled; with the period in force as `p`.
pub(crate) fn derived(now: usize) -> String {
    format!(
        "CASE WHEN u.expires_at <= ${now} THEN 'expired' WHEN {SPENT} THEN 'limited'
              WHEN u.on_hold THEN 'on_hold' ELSE 'active' END"
    )
}

const SPENT: &str = "p.limit_bytes > 0 AND p.billed_bytes >= p.limit_bytes";

async fn with_groups(
    db: &impl ConnectionTrait,
    tenant: TenantId,
    rows: &[QueryResult],
    now: i64,
) -> Result<Vec<User>> {
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    let mut users = rows
        .iter()
        .map(|row| user(row, tenant, now))
        .collect::<Result<Vec<_>>>()?;
    let text = format!(
        "SELECT user_id, group_id FROM user_groups WHERE tenant_id = $1 AND user_id {}",
        sql::in_ids(db, 2)
    );
    let values = vec![
        tenant.uuid().into(),
        sql::ids(db, users.iter().map(|user| user.id)),
    ];
    let mut groups: BTreeMap<UserId, BTreeSet<GroupId>> = BTreeMap::new();
    for row in sql::all(db, text, values).await? {
        groups
            .entry(UserId::new(sql::get(&row, 0)?))
            .or_default()
            .insert(GroupId::new(sql::get(&row, 1)?));
    }
    for user in &mut users {
        user.group_ids = groups.remove(&user.id).unwrap_or_default();
    }
    Ok(users)
}

/// A user without its groups.
pub(crate) fn user(row: &QueryResult, tenant: TenantId, now: i64) -> Result<User> {
    let on_hold: bool = sql::get(row, 5)?;
    let period = periods::period(row, 13)?;
    let deleted_at_ms: Option<i64> = sql::get(row, 29)?;
    let facts = UserFacts {
        deleted: deleted_at_ms.is_some(),
        disabled: sql::get(row, 3)?,
        expires_at_ms: sql::get(row, 4)?,
        limit: period.limit,
        used: period.used,
        on_hold,
    };
    Ok(User {
        id: UserId::new(sql::get(row, 0)?),
        tenant_id: tenant,
        username: sql::get(row, 1)?,
        note: sql::get(row, 2)?,
        status: facts.status(now),
        disabled: facts.disabled,
        group_ids: BTreeSet::new(),
        limit: Limit::from_wire(sql::unsigned(sql::get(row, 7)?)),
        speed: speed(row, 23)?,
        reset_strategy: periods::strategy(sql::get(row, 8)?)?,
        expires_at_ms: facts.expires_at_ms,
        on_hold_ms: if on_hold { sql::get(row, 6)? } else { None },
        plan_id: sql::get::<Option<Uuid>>(row, 25)?.map(PlanId::new),
        next_plan: plans::next_of(sql::get(row, 26)?, &sql::get::<String>(row, 27)?)?,
        device_limit: plans::devices(sql::get(row, 28)?),
        deleted_at_ms,
        period,
        sealed_subscription: sql::get(row, 30)?,
        fetched: fetched(row, 31)?,
        credentials_version: sql::unsigned(sql::get(row, 9)?),
        version: sql::unsigned(sql::get(row, 10)?),
        created_at_ms: sql::get(row, 11)?,
        updated_at_ms: sql::get(row, 12)?,
    })
}

fn fetched(row: &QueryResult, first: usize) -> Result<Option<Fetched>> {
    let Some(at_ms) = sql::get(row, first)? else {
        return Ok(None);
    };
    Ok(Some(Fetched {
        at_ms,
        client: sql::get(row, first + 1)?,
    }))
}

/// A speed limit from two columns of bits per second.
pub(crate) fn speed(row: &QueryResult, first: usize) -> Result<SpeedLimit> {
    let one = |index| -> Result<Speed> {
        let bps = sql::unsigned(sql::get(row, index)?);
        Speed::new(bps).map_err(|error| StoreError::corrupt("users.speed_bps", error))
    };
    Ok(SpeedLimit {
        up: one(first)?,
        down: one(first + 1)?,
    })
}
