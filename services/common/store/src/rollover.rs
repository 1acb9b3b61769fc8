//! Rollover of users whose current period has ended, in sets and under a job's lease: the next period
//! becomes the current one, and gets a next one itself. Whose next period has ended as well, because
//! nobody was there for a while, is brought to the window that holds now: the periods between were
//! announced to nobody, so nothing can be in them (docs/adr/0016).

use std::collections::BTreeMap;

use sea_orm::QueryResult;
use uuid::Uuid;
use vpnpanel_domain::{Calendar, Limit, PeriodId, TenantId, UserFacts, UserId, UserStatus, Zone};

use crate::changes::Entry;
use crate::connect::Store;
use crate::error::{Result, StoreError};
use crate::jobs::{self, JobLease};
use crate::periods::{self, Announced, Standing};
use crate::row_set::{Cell, Column, RowSet};
use crate::sql;
use crate::transaction::Write;
use crate::user_change::{self, Locked};

/// How far a run has come among the users that are due; each is looked at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RollCursor {
    ends_at: i64,
    user: Uuid,
}

/// A user that is due, locked with its periods.
struct Due {
    tenant: TenantId,
    user: UserId,
    periods: Standing,
    calendar: Calendar,
    limit: Limit,
    /// But for limit and usage.
    facts: UserFacts,
}

/// A user after its rollover.
struct Rolled {
    tenant: TenantId,
    user: UserId,
    periods: Standing,
    status: UserStatus,
    closed: Vec<PeriodId>,
    opened: Vec<Announced>,
}

impl Store {
    /// Rolls over users whose current period has ended, at most `limit`, under a job's lease: their
    /// periods, their status, the change log and the run's figure in one transaction. Returns how
    /// many there were, and `None` when the run has seen all that are due. Who is locked by somebody
    /// else right now is left to the next run.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`], and those of the database.
    pub async fn roll_periods(
        &self,
        lease: &JobLease,
        cursor: &mut RollCursor,
        limit: u32,
    ) -> Result<Option<u64>> {
        let mut tx = self.begin().await?;
        jobs::hold(&*tx, lease).await?;
        let (text, values) = due(*cursor, tx.now, limit);
        let seen = sql::all(&*tx, text, values).await?;
        let Some(last) = seen.last() else {
            return Ok(None);
        };
        let come_to = RollCursor {
            ends_at: sql::get(last, 0)?,
            user: sql::get(last, 1)?,
        };
        let due = lock(&tx, &seen).await?;
        let rolled = due
            .into_iter()
            .map(|due| due.roll(tx.now))
            .collect::<Result<Vec<_>>>()?;
        write(&tx, &rolled).await?;
        for user in &rolled {
            tx.changed(Entry::user(user.tenant, user.user));
        }
        let count = rolled.len() as u64;
        jobs::count(&tx, lease, count).await?;
        tx.commit().await?;
        *cursor = come_to;
        Ok(Some(count))
    }
}

/// Finds users that are due, by when they became so.
pub(crate) fn due(cursor: RollCursor, now: i64, limit: u32) -> (String, Vec<sea_orm::Value>) {
    let text = "SELECT period_ends_at, id, period_id, next_period_id FROM users
        WHERE deleted_at IS NULL AND period_ends_at <= $1 AND (period_ends_at, id) > ($2, $3)
        ORDER BY period_ends_at, id LIMIT $4";
    let values = vec![
        now.into(),
        cursor.ends_at.into(),
        cursor.user.into(),
        i64::from(limit).into(),
    ];
    (text.to_owned(), values)
}

/// Locks periods and then users, as everybody does, and leaves out those that somebody else has
/// changed or still holds.
async fn lock(tx: &Write, seen: &[QueryResult]) -> Result<Vec<Due>> {
    let mut users = BTreeMap::new();
    let mut ids = Vec::with_capacity(seen.len() * 2);
    for row in seen {
        let user: Uuid = sql::get(row, 1)?;
        let periods: (Uuid, Option<Uuid>) = (sql::get(row, 2)?, sql::get(row, 3)?);
        ids.extend(
            std::iter::once(periods.0)
                .chain(periods.1)
                .map(PeriodId::new),
        );
        users.insert(user, periods);
    }
    let locked: BTreeMap<PeriodId, Announced> = periods::lock(&**tx, None, ids)
        .await?
        .into_iter()
        .map(|period| (period.id, period))
        .collect();
    let text = format!(
        "SELECT u.id, u.tenant_id, u.period_id, u.next_period_id, u.disabled, u.expires_at, u.on_hold,
            u.limit_bytes, u.reset_strategy, t.time_zone
         FROM users u JOIN tenants t ON t.id = u.tenant_id
         WHERE u.id {} AND u.deleted_at IS NULL AND u.period_ends_at <= $2
         ORDER BY u.id {{for_update_u_free}}",
        sql::in_ids(&**tx, 1)
    );
    let values = vec![sql::ids(&**tx, users.keys().copied()), tx.now.into()];
    let mut zones: BTreeMap<String, Zone> = BTreeMap::new();
    let mut due = Vec::with_capacity(users.len());
    for row in &sql::all(&**tx, text, values).await? {
        let periods: (Uuid, Option<Uuid>) = (sql::get(row, 2)?, sql::get(row, 3)?);
        let current = locked.get(&PeriodId::new(periods.0)).copied();
        let next = periods
            .1
            .and_then(|id| locked.get(&PeriodId::new(id)).copied());
        let unchanged = users.get(&sql::get(row, 0)?) == Some(&periods);
        if let (true, Some(current)) = (unchanged, current) {
            due.push(read(row, Standing { current, next }, &mut zones)?);
        }
    }
    Ok(due)
}

fn read(row: &QueryResult, periods: Standing, zones: &mut BTreeMap<String, Zone>) -> Result<Due> {
    let zone: String = sql::get(row, 9)?;
    let zone = match zones.get(&zone) {
        Some(zone) => zone.clone(),
        None => {
            let parsed: Zone = zone
                .parse()
                .map_err(|error| StoreError::corrupt("tenants.time_zone", error))?;
            zones.insert(zone, parsed.clone());
            parsed
        }
    };
    Ok(Due {
        tenant: TenantId::new(sql::get(row, 1)?),
        user: UserId::new(sql::get(row, 0)?),
        periods,
        calendar: Calendar {
            strategy: periods::strategy(sql::get(row, 8)?)?,
            zone,
        },
        limit: Limit::from_wire(sql::unsigned(sql::get(row, 7)?)),
        facts: UserFacts {
            disabled: sql::get(row, 4)?,
            expires_at_ms: sql::get(row, 5)?,
            on_hold: sql::get(row, 6)?,
            ..UserFacts::default()
        },
    })
}

/// Locks a user, also one that was deleted, and brings it to the period that holds now where those
/// announced are over: nobody rolls over who is deleted, and the scheduler may have been away.
pub(crate) async fn lock_in_force(tx: &Write, tenant: TenantId, id: UserId) -> Result<Locked> {
    let user = user_change::lock_kept(tx, tenant, id).await?;
    if !user.periods.in_force(tx.now).has_ended(tx.now) {
        return Ok(user);
    }
    let strategy = periods::strategy(user.row.reset_strategy.clone())?;
    let due = Due {
        tenant,
        user: id,
        periods: user.periods,
        calendar: user_change::calendar(tx, tenant, strategy).await?,
        limit: Limit::from_wire(sql::unsigned(user.row.limit_bytes)),
        facts: UserFacts {
            deleted: user.row.deleted_at.is_some(),
            disabled: user.row.disabled,
            expires_at_ms: user.row.expires_at,
            on_hold: user.row.on_hold,
            ..UserFacts::default()
        },
    };
    write(tx, &[due.roll(tx.now)?]).await?;
    user_change::lock_kept(tx, tenant, id).await
}

impl Due {
    fn roll(self, now: i64) -> Result<Rolled> {
        let Self {
            periods: before,
            calendar,
            ..
        } = self;
        let announced = before.next.filter(|next| !next.has_ended(now));
        let current = match announced {
            Some(next) => next,
            None => {
                let last = before.next.unwrap_or(before.current);
                let planned = calendar.since(last.planned, now).map_err(periods::wrong)?;
                let planned = planned
                    .ok_or_else(|| StoreError::corrupt("periods.ends_at", before.current.id))?;
                Announced::new(planned, self.limit)
            }
        };
        let periods = Standing::from(&calendar, current, self.limit)?;
        let opened = std::iter::once(current).filter(|_| announced.is_none());
        let facts = UserFacts {
            limit: current.limit,
            used: current.used,
            ..self.facts
        };
        Ok(Rolled {
            tenant: self.tenant,
            user: self.user,
            status: facts.status(now),
            closed: before.ids().filter(|id| *id != current.id).collect(),
            opened: opened.chain(periods.next).collect(),
            periods,
        })
    }
}

/// Nothing is granted of a period that is over, so nothing has to be kept back from anybody: what a
/// silent node still lets through by its lease is billed as it comes. A row for each node, user and
/// day would be all that is left.
async fn forget_leases(tx: &Write, closed: sea_orm::Value) -> Result<()> {
    let of_them = sql::in_ids(&**tx, 1);
    for text in [
        format!("DELETE FROM leases WHERE period_id {of_them}"),
        format!("UPDATE periods SET reserved_bytes = 0, reserved_micro = 0 WHERE id {of_them}"),
    ] {
        sql::run(&**tx, text, vec![closed.clone()]).await?;
    }
    Ok(())
}

async fn write(tx: &Write, rolled: &[Rolled]) -> Result<()> {
    let (mut closed, mut opened) = (Vec::new(), Vec::new());
    for user in rolled {
        closed.extend(user.closed.iter().copied());
        let periods = user.opened.iter();
        opened.extend(periods.map(|period| (user.tenant, user.user, *period)));
    }
    let ids = sql::ids(&**tx, closed.iter().copied());
    periods::close(tx, None, closed).await?;
    forget_leases(tx, ids).await?;
    periods::open(tx, opened).await?;
    let mut rows = RowSet::new(
        &**tx,
        &[
            ("id", Column::Id),
            ("period_id", Column::Id),
            ("next_period_id", Column::Id),
            ("ends_at", Column::Big),
            ("starts_at", Column::Big),
            ("status", Column::Text),
        ],
    );
    for user in rolled {
        let current = user.periods.current.id.uuid();
        rows.push([
            Cell::Id(user.user.uuid()),
            Cell::Id(current),
            // No column of a set is null: the current one once more stands for it, and −1.
            Cell::Id(user.periods.next_id().unwrap_or(current)),
            Cell::Big(user.periods.ends_at().unwrap_or(-1)),
            Cell::Big(user.periods.current.planned.window.starts_ms),
            Cell::Text(user.status.as_str()),
        ]);
    }
    if rows.is_empty() {
        return Ok(());
    }
    // Not a change of the user: whoever edits it goes on. Who waits for the end of a period to go on
    // with the next plan is found by the mark.
    let text = format!(
        "UPDATE users SET period_id = s.period_id,
            next_period_id = NULLIF(s.next_period_id, s.period_id),
            period_ends_at = NULLIF(s.ends_at, -1), status = s.status,
            next_plan_due_at = CASE
                WHEN users.next_plan_id IS NULL OR users.next_plan_start <> 'first_end' THEN NULL
                ELSE s.starts_at END
         FROM {} WHERE users.id = s.id",
        rows.source(1)
    );
    sql::run(&**tx, text, rows.into_values()).await?;
    Ok(())
}
