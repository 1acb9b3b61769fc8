//! Giving users plans: by hand, or because the one before is over. Each is under a lock on the plan, so
//! that what is given is what the plan says at the commit (docs/adr/0022).

use sea_orm::ActiveValue::Set;
use uuid::Uuid;
use vpnpanel_domain::{PlanFacts, PlanId, TenantId, UserId, UserStatus};

use crate::audit::{Event, Resource};
use crate::connect::Store;
use crate::entity::user::ActiveModel;
use crate::error::{Result, StoreError};
use crate::idempotency::{self, RequestKey};
use crate::jobs::{self, JobLease};
use crate::plans::{self, NextPlan, Plan};
use crate::tenants::check_version;
use crate::transaction::Write;
use crate::user_change::{self, Locked};
use crate::users::{self, User};
use crate::{groups, sql};

/// A user whose plan may be over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlanOver {
    /// Its tenant.
    pub tenant: TenantId,
    /// The user.
    pub user: UserId,
}

/// How far a run has come among the users whose plans are over; each is looked at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PlanCursor(Uuid);

impl Store {
    /// Gives a user a plan from now on.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::StaleVersion`], [`StoreError::InvalidReference`] for the
    /// plan, [`StoreError::PlanArchived`], [`StoreError::PoolExhausted`].
    pub async fn change_user_plan(
        &self,
        tenant: TenantId,
        id: UserId,
        plan: PlanId,
        version: Option<u64>,
        request: Option<&RequestKey>,
    ) -> Result<User> {
        let mut tx = self.begin_in(tenant).await?;
        if idempotency::claim(&tx, request, id).await?.is_some() {
            drop(tx);
            return self.user(tenant, id).await;
        }
        // A user that is not there is told of before a plan that is not.
        users::load(&*tx, tenant, id, tx.now).await?;
        let plan = plans::held(&tx, tenant, plan, false).await?;
        groups::hold(&tx, tenant, &plan.terms.group_ids).await?;
        let mut user = user_change::lock(&tx, tenant, id).await?;
        check_version(user.row.version, version)?;
        let before = users::load(&*tx, tenant, id, tx.now).await?;
        give(&mut tx, &mut user, &plan, false).await?;
        let user = users::load(&*tx, tenant, id, tx.now).await?;
        tx.audit(Event::changed(&before, &user));
        tx.commit().await?;
        Ok(user)
    }

    /// Users who wait for a next plan and whose own may be over, at most `limit`; none when the run
    /// has seen all of them.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn users_with_plan_over(
        &self,
        cursor: &mut PlanCursor,
        limit: u32,
    ) -> Result<Vec<PlanOver>> {
        let (text, values) = over(*cursor, limit);
        let rows = sql::all(self.read(), text, values).await?;
        let mut found = Vec::with_capacity(rows.len());
        for row in &rows {
            found.push(PlanOver {
                tenant: TenantId::new(sql::get(row, 0)?),
                user: UserId::new(sql::get(row, 1)?),
            });
        }
        if let Some(last) = found.last() {
            *cursor = PlanCursor(last.user.uuid());
        }
        Ok(found)
    }

    /// Gives one of them the plan that it waits for, where its own is over indeed, under a job's lease:
    /// the user, the change log and the run's figure in one transaction. Answers whether it was.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`], [`StoreError::PoolExhausted`] for the plan's groups, and those of
    /// the database.
    pub async fn give_next_plan(&self, lease: &JobLease, over: PlanOver) -> Result<bool> {
        let PlanOver { tenant, user: id } = over;
        let mut tx = self.begin().await?;
        jobs::hold(&*tx, lease).await?;
        let waited = match users::load(&*tx, tenant, id, tx.now).await {
            Ok(user) => user.next_plan,
            Err(StoreError::NotFound(_)) => None,
            Err(error) => return Err(error),
        };
        let Some(NextPlan { plan_id, start }) = waited else {
            return Ok(false);
        };
        let plan = plans::held(&tx, tenant, plan_id, true).await?;
        groups::hold(&tx, tenant, &plan.terms.group_ids).await?;
        let mut user = match user_change::lock(&tx, tenant, id).await {
            Ok(user) => user,
            Err(StoreError::NotFound(_)) => return Ok(false),
            Err(error) => return Err(error),
        };
        let stands = plans::next_of(user.row.next_plan_id, &user.row.next_plan_start)? == waited;
        let facts = PlanFacts {
            status: user.status_unless_disabled(tx.now),
            is_endless: user
                .periods
                .in_force(tx.now)
                .planned
                .window
                .ends_ms
                .is_none(),
            is_period_over: user.row.next_plan_due_at.is_some(),
        };
        if !stands || user.row.disabled || !start.is_due(facts) {
            return Ok(false);
        }
        let goes_on = goes_on(&user, &plan, facts.status, tx.now);
        let shown = |of: Option<Uuid>, status: UserStatus| Resource::UserPlan {
            tenant,
            user: id,
            plan: of.map(PlanId::new),
            status,
        };
        let before = shown(user.row.plan_id, facts.status);
        give(&mut tx, &mut user, &plan, goes_on).await?;
        let after = shown(Some(plan.id.uuid()), user.status_unless_disabled(tx.now));
        tx.audit(Event::changed(before, after));
        jobs::count(&tx, lease, 1).await?;
        tx.commit().await?;
        Ok(true)
    }
}

/// Finds users that wait and whose plans may be over, by an index of those alone.
pub(crate) fn over(cursor: PlanCursor, limit: u32) -> (String, Vec<sea_orm::Value>) {
    let text = "SELECT tenant_id, id FROM users
        WHERE next_plan_id IS NOT NULL AND deleted_at IS NULL AND NOT disabled
          AND (next_plan_due_at IS NOT NULL OR status IN ('expired', 'limited'))
          AND (status <> 'limited' OR next_plan_start = 'first_end' OR period_ends_at IS NULL)
          AND id > $1
        ORDER BY id LIMIT $2";
    (
        text.to_owned(),
        vec![cursor.0.into(), i64::from(limit).into()],
    )
}

/// Whether the period that has begun is the plan's first: nothing kept the user from using it, and
/// it ends when the plan has it end. Any other plan begins with periods of its own.
fn goes_on(user: &Locked, plan: &Plan, status: UserStatus, now: i64) -> bool {
    let in_force = user.periods.in_force(now).planned;
    let begun = user
        .row
        .next_plan_due_at
        .is_some_and(|due| in_force.window.starts_ms >= due);
    begun
        && matches!(status, UserStatus::Active | UserStatus::OnHold)
        && in_force.strategy == plan.terms.reset_strategy
        && user.row.reset_strategy == plan.terms.reset_strategy.to_string()
}

/// Makes a user's limits, time, access and what follows those of a plan. Its quota begins anew, unless
/// it `goes_on` in the period in force; its time begins with that.
async fn give(tx: &mut Write, user: &mut Locked, plan: &Plan, goes_on: bool) -> Result<()> {
    let (tenant, id) = (plan.tenant_id, UserId::new(user.row.id));
    let terms = &plan.terms;
    let begins = if goes_on {
        user.set_limit(tx, tenant, terms.limit).await?;
        user.periods.in_force(tx.now).planned.window.starts_ms
    } else {
        user.begin_anew(tx, tenant, terms.reset_strategy, terms.limit)
            .await?;
        tx.now
    };
    let mut change = ActiveModel {
        plan_id: Set(Some(plan.id.uuid())),
        limit_bytes: Set(sql::signed(terms.limit.to_wire())),
        reset_strategy: Set(terms.reset_strategy.to_string()),
        speed_up_bps: Set(sql::signed(terms.speed.up.bps())),
        speed_down_bps: Set(sql::signed(terms.speed.down.bps())),
        device_limit: Set(i64::from(terms.device_limit)),
        ..ActiveModel::default()
    };
    match terms.duration_ms {
        Some(duration) if terms.on_first_use => {
            user.set_hold(&mut change, Some(duration), tx.now);
        }
        duration => user.set_end(&mut change, duration.map(|it| begins.saturating_add(it))),
    }
    user_change::set_next(&mut change, terms.next);
    user_change::save(tx, tenant, user, change).await?;
    if !terms.group_ids.is_empty() {
        user_change::set_groups(tx, tenant, id, terms.group_ids.clone()).await?;
    }
    Ok(())
}
