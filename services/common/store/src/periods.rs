//! Periods: the rows that usage hangs on. A user has a current one and, where that ends, the one
//! that follows, made in advance: both are announced to the nodes, and neither their ids nor their
//! ends move from then on. Which is in force is a matter of the clock, whether or not somebody has
//! rolled them over meanwhile (docs/adr/0016).

use sea_orm::{ConnectionTrait, QueryResult};
use uuid::Uuid;
use vpnpanel_domain::{
    Calendar, Limit, MicroBytes, PeriodId, Planned, ResetStrategy, TenantId, UserId, Window,
};

use crate::connect::Store;
use crate::error::{Result, StoreError};
use crate::page::Page;
use crate::row_set::{Cell, Column, RowSet};
use crate::transaction::Write;
use crate::{amount, fresh_id, sql};

/// A quota window with what was used in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Period {
    /// Its id, never used again.
    pub id: PeriodId,
    /// When it began.
    pub starts_at_ms: i64,
    /// When it ends; `None` is never.
    pub ends_at_ms: Option<i64>,
    /// By what its end was found.
    pub reset_strategy: ResetStrategy,
    /// What may be used in it.
    pub limit: Limit,
    /// Raw bytes from the user.
    pub up: u64,
    /// Raw bytes to the user.
    pub down: u64,
    /// What they cost.
    pub used: MicroBytes,
    /// When traffic was last counted in it.
    pub last_used_at_ms: Option<i64>,
}

impl Store {
    /// Periods of a user, the newest first: those that are over, the current one, and the one that
    /// follows it. One that was announced, never began and holds nothing is left out.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] for a user that the tenant never had.
    pub async fn user_periods(
        &self,
        tenant: TenantId,
        user: UserId,
        page: Page<PeriodId>,
    ) -> Result<Vec<Period>> {
        let db = &self.read_in(tenant).await?;
        sql::one(
            db,
            "SELECT 1 FROM users WHERE tenant_id = $1 AND id = $2",
            vec![tenant.uuid().into(), user.uuid().into()],
        )
        .await?
        .ok_or(StoreError::NotFound("user"))?;
        let (text, values) = list(tenant, user, page);
        sql::all(db, text, values)
            .await?
            .iter()
            .map(|row| period(row, 0))
            .collect()
    }
}

/// The statement of [`Store::user_periods`].
pub(crate) fn list(
    tenant: TenantId,
    user: UserId,
    page: Page<PeriodId>,
) -> (String, Vec<sea_orm::Value>) {
    let mut values = vec![
        tenant.uuid().into(),
        user.uuid().into(),
        i64::from(page.size).into(),
    ];
    let mut before = "";
    if let Some(after) = page.after {
        values.push(after.uuid().into());
        before = "AND (p.starts_at, p.id) < (
            SELECT a.starts_at, a.id FROM periods a
            WHERE a.id = $4 AND a.tenant_id = $1 AND a.user_id = $2)";
    }
    let text = format!(
        "SELECT {COLUMNS} FROM periods p WHERE p.tenant_id = $1 AND p.user_id = $2 {before}
           AND NOT (p.closed_at IS NOT NULL AND p.closed_at <= p.starts_at
                AND p.up = 0 AND p.down = 0)
         ORDER BY p.starts_at DESC, p.id DESC LIMIT $3"
    );
    (text, values)
}

/// What [`period`] reads, of `periods p`.
pub(crate) const COLUMNS: &str = "p.id, p.starts_at, p.ends_at, p.up, p.down, p.billed_bytes,
    p.billed_micro, p.last_used_at, p.limit_bytes, p.reset_strategy";

/// A period whose columns begin at a place.
pub(crate) fn period(row: &QueryResult, first: usize) -> Result<Period> {
    Ok(Period {
        id: PeriodId::new(sql::get(row, first)?),
        starts_at_ms: sql::get(row, first + 1)?,
        ends_at_ms: sql::get(row, first + 2)?,
        up: sql::unsigned(sql::get(row, first + 3)?),
        down: sql::unsigned(sql::get(row, first + 4)?),
        used: amount::get(row, first + 5)?,
        last_used_at_ms: sql::get(row, first + 7)?,
        limit: Limit::from_wire(sql::unsigned(sql::get(row, first + 8)?)),
        reset_strategy: strategy(sql::get(row, first + 9)?)?,
    })
}

pub(crate) fn strategy(text: String) -> Result<ResetStrategy> {
    text.parse()
        .map_err(|error| StoreError::corrupt("a reset strategy", error))
}

/// Joins `periods p` that are in force at the moment that is parameter `now`: the one that follows
/// once the current one has ended, whether or not the user was rolled over.
pub(crate) fn join_in_force(now: usize) -> String {
    format!(
        "JOIN periods p ON p.id = CASE
            WHEN u.period_ends_at <= ${now} AND u.next_period_id IS NOT NULL THEN u.next_period_id
            ELSE u.period_id END"
    )
}

/// A period that is announced to nodes, or is about to be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Announced {
    pub(crate) id: PeriodId,
    pub(crate) planned: Planned,
    pub(crate) limit: Limit,
    pub(crate) used: MicroBytes,
}

impl Announced {
    /// One that was not there before.
    pub(crate) fn new(planned: Planned, limit: Limit) -> Self {
        Self {
            id: fresh_id(),
            planned,
            limit,
            used: MicroBytes::ZERO,
        }
    }

    pub(crate) fn has_ended(&self, now: i64) -> bool {
        self.planned.window.ends_ms.is_some_and(|end| end <= now)
    }
}

/// The periods of a user that stand.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Standing {
    pub(crate) current: Announced,
    pub(crate) next: Option<Announced>,
}

impl Standing {
    /// Those of a user whose quota begins now.
    pub(crate) fn begin(calendar: &Calendar, limit: Limit, now: i64) -> Result<Self> {
        let first = calendar.first(now).map_err(wrong)?;
        Self::from(calendar, Announced::new(first, limit), limit)
    }

    /// A current period, and a new one to follow it with the limit that the user has: the current one
    /// may have been given more for once.
    pub(crate) fn from(calendar: &Calendar, current: Announced, limit: Limit) -> Result<Self> {
        let next = calendar.after(current.planned).map_err(wrong)?;
        Ok(Self {
            next: next.map(|planned| Announced::new(planned, limit)),
            current,
        })
    }

    /// Which of them is in force.
    pub(crate) fn in_force(&self, now: i64) -> &Announced {
        match &self.next {
            Some(next) if self.current.has_ended(now) => next,
            _ => &self.current,
        }
    }

    /// As [`Standing::in_force`], to be changed.
    pub(crate) fn in_force_mut(&mut self, now: i64) -> &mut Announced {
        match &mut self.next {
            Some(next) if self.current.has_ended(now) => next,
            _ => &mut self.current,
        }
    }

    pub(crate) fn ids(&self) -> impl Iterator<Item = PeriodId> {
        let next = self.next.map(|next| next.id);
        std::iter::once(self.current.id).chain(next)
    }

    /// The column of the user that says when they change.
    pub(crate) fn ends_at(&self) -> Option<i64> {
        self.current.planned.window.ends_ms
    }

    pub(crate) fn next_id(&self) -> Option<Uuid> {
        self.next.map(|next| next.id.uuid())
    }
}

/// What cannot be found in a calendar was refused when it was set.
pub(crate) fn wrong(error: vpnpanel_domain::Error) -> StoreError {
    StoreError::InvalidArgument {
        what: "reset_strategy",
        reason: error.to_string(),
    }
}

/// Rows of new periods.
pub(crate) async fn open(
    tx: &Write,
    periods: impl IntoIterator<Item = (TenantId, UserId, Announced)>,
) -> Result<()> {
    let mut rows = RowSet::new(
        &**tx,
        &[
            ("tenant_id", Column::Id),
            ("id", Column::Id),
            ("user_id", Column::Id),
            ("starts_at", Column::Big),
            ("ends_at", Column::Big),
            ("reset_strategy", Column::Text),
            ("anchor_at", Column::Big),
            ("limit_bytes", Column::Big),
        ],
    );
    for (tenant, user, period) in periods {
        let Planned {
            window,
            strategy,
            anchor_ms,
        } = period.planned;
        rows.push([
            Cell::Id(tenant.uuid()),
            Cell::Id(period.id.uuid()),
            Cell::Id(user.uuid()),
            Cell::Big(window.starts_ms),
            // No column of a set is null: −1 stands for it.
            Cell::Big(window.ends_ms.unwrap_or(-1)),
            Cell::Text(&strategy.to_string()),
            Cell::Big(anchor_ms),
            Cell::Big(sql::signed(period.limit.to_wire())),
        ]);
    }
    if rows.is_empty() {
        return Ok(());
    }
    let text = format!(
        "INSERT INTO periods (tenant_id, id, user_id, starts_at, ends_at, reset_strategy, anchor_at,
            limit_bytes, up, down, billed_bytes, billed_micro, reserved_bytes, reserved_micro)
         SELECT tenant_id, id, user_id, starts_at, NULLIF(ends_at, -1), reset_strategy, anchor_at,
            limit_bytes, 0, 0, 0, 0, 0, 0 FROM {} WHERE TRUE",
        rows.source(1)
    );
    sql::run(&**tx, text, rows.into_values()).await?;
    Ok(())
}

/// From now on nothing is granted in them; what was used in them and comes late still lands there.
pub(crate) async fn close(
    tx: &Write,
    tenant: Option<TenantId>,
    ids: impl IntoIterator<Item = PeriodId>,
) -> Result<()> {
    let mut values = vec![tx.now.into(), sql::ids(&**tx, ids)];
    let of_tenant = of(tenant, &mut values);
    let text = format!(
        "UPDATE periods SET closed_at = $1 WHERE closed_at IS NULL AND id {} {of_tenant}",
        sql::in_ids(&**tx, 2)
    );
    sql::run(&**tx, text, values).await?;
    Ok(())
}

/// Gives a period that has no end the one that is planned for it.
pub(crate) async fn end(tx: &Write, tenant: TenantId, period: &Announced) -> Result<()> {
    let planned = period.planned;
    sql::run(
        &**tx,
        "UPDATE periods SET ends_at = $3, reset_strategy = $4, anchor_at = $5
         WHERE id = $1 AND tenant_id = $2 AND ends_at IS NULL",
        vec![
            period.id.uuid().into(),
            tenant.uuid().into(),
            planned.window.ends_ms.into(),
            planned.strategy.to_string().into(),
            planned.anchor_ms.into(),
        ],
    )
    .await?;
    Ok(())
}

/// The condition that rows are of a tenant, where they are to be of one alone.
fn of(tenant: Option<TenantId>, values: &mut Vec<sea_orm::Value>) -> String {
    tenant.map_or_else(String::new, |tenant| {
        values.push(tenant.uuid().into());
        format!("AND tenant_id = ${}", values.len())
    })
}

/// Periods as they stand, locked in the order of their ids; where `tenant` is given, of it alone.
pub(crate) async fn lock(
    tx: &impl ConnectionTrait,
    tenant: Option<TenantId>,
    ids: impl IntoIterator<Item = PeriodId>,
) -> Result<Vec<Announced>> {
    let mut values = vec![sql::ids(tx, ids)];
    let of_tenant = of(tenant, &mut values);
    let text = format!(
        "SELECT id, starts_at, ends_at, reset_strategy, anchor_at, limit_bytes, billed_bytes,
            billed_micro
         FROM periods WHERE id {} {of_tenant} ORDER BY id {{for_update}}",
        sql::in_ids(tx, 1)
    );
    sql::all(tx, text, values)
        .await?
        .iter()
        .map(|row| {
            Ok(Announced {
                id: PeriodId::new(sql::get(row, 0)?),
                planned: Planned {
                    window: Window {
                        starts_ms: sql::get(row, 1)?,
                        ends_ms: sql::get(row, 2)?,
                    },
                    strategy: strategy(sql::get(row, 3)?)?,
                    anchor_ms: sql::get(row, 4)?,
                },
                limit: Limit::from_wire(sql::unsigned(sql::get(row, 5)?)),
                used: amount::get(row, 6)?,
            })
        })
        .collect()
}
