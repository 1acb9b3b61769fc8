//! Changing users. Whatever lifts or sets one reason (a limit, an end, a hand) goes through
//! here, and the status that is stored for filters is derived anew each time.

use std::collections::BTreeSet;

use sea_orm::sea_query::LockType;
use sea_orm::{ActiveValue::Set, ColumnTrait, EntityTrait, QueryFilter, QuerySelect};
use vpnpanel_domain::{
    Calendar, GroupId, Limit, PeriodId, ResetStrategy, Speed, TenantId, UserFacts, UserId,
    UserStatus,
};

use crate::audit::Event;
use crate::changes::Entry;
use crate::connect::Store;
use crate::entity::user::{ActiveModel, Column, Entity, Model};
use crate::error::{Result, StoreError};
use crate::idempotency::{self, RequestKey};
use crate::peers::{self, Scope};
use crate::periods::{self, Announced, Standing};
use crate::plans::{self, NextPlan};
use crate::tenants::{check_version, name_key};
use crate::transaction::Write;
use crate::user_create::add_to_groups;
use crate::users::{self, User};
use crate::{groups, sql};

/// Fields to change; `None` leaves a field as it is.
#[derive(Debug, Clone, Default)]
pub struct UserPatch {
    /// The name.
    pub username: Option<String>,
    /// Free text.
    pub note: Option<String>,
    /// The groups; the user gains and loses peers at once.
    pub group_ids: Option<BTreeSet<GroupId>>,
    /// The limit, of the current period and the next one too.
    pub limit: Option<Limit>,
    /// How fast it may send on each node.
    pub speed_up: Option<Speed>,
    /// How fast it may receive on each node.
    pub speed_down: Option<Speed>,
    /// When a new period begins; holds behind the periods that are announced, the current one and
    /// the next. One that has no end gets it now.
    pub reset_strategy: Option<ResetStrategy>,
    /// When it ends; `Some(None)` is never. Either ends a wait for the first traffic.
    pub expires_at_ms: Option<Option<i64>>,
    /// It waits for its first traffic, and lasts so long from then on instead of up to its end;
    /// `Some(None)` is not any more.
    pub on_hold_ms: Option<Option<i64>>,
    /// How many devices it may have; 0 is as many as anybody.
    pub device_limit: Option<u32>,
    /// What follows; `Some(None)` is nothing.
    pub next_plan: Option<Option<NextPlan>>,
    /// Disabled by hand.
    pub disabled: Option<bool>,
}

/// A user whose row and periods are locked.
pub(crate) struct Locked {
    pub(crate) row: Model,
    pub(crate) periods: Standing,
}

impl Store {
    /// Changes fields of a user.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::StaleVersion`], [`StoreError::AlreadyExists`] for
    /// the name, [`StoreError::InvalidReference`] for a group or a plan, [`StoreError::PlanArchived`],
    /// [`StoreError::PoolExhausted`].
    pub async fn update_user(
        &self,
        tenant: TenantId,
        id: UserId,
        patch: UserPatch,
        version: Option<u64>,
    ) -> Result<User> {
        let mut tx = self.begin_in(tenant).await?;
        let mut patch = patch;
        if patch.next_plan.is_some() && patch.next_plan == queued(&tx, tenant, id).await? {
            patch.next_plan = None;
        }
        let next = patch.next_plan.flatten();
        plans::hold(&tx, tenant, next.map(|next| next.plan_id)).await?;
        if let Some(groups) = &patch.group_ids {
            groups::hold(&tx, tenant, groups).await?;
        }
        let mut user = lock(&tx, tenant, id).await?;
        check_version(user.row.version, version)?;
        let before = users::load(&*tx, tenant, id, tx.now).await?;
        patch.keep_news(&user.row);
        if let Some(limit) = patch.limit {
            user.set_limit(&tx, tenant, limit).await?;
        }
        let mut change = ActiveModel::default();
        if let Some(name) = patch.username {
            change.username_key = Set(name_key(&name));
            change.username = Set(name);
        }
        if let Some(note) = patch.note {
            change.note = Set(note);
        }
        if let Some(limit) = patch.limit {
            change.limit_bytes = Set(sql::signed(limit.to_wire()));
        }
        if let Some(speed) = patch.speed_up {
            change.speed_up_bps = Set(sql::signed(speed.bps()));
        }
        if let Some(speed) = patch.speed_down {
            change.speed_down_bps = Set(sql::signed(speed.bps()));
        }
        if let Some(strategy) = patch.reset_strategy {
            change.reset_strategy = Set(strategy.to_string());
            user.set_strategy(&tx, tenant, strategy).await?;
        }
        if let Some(expires_at) = patch.expires_at_ms {
            user.set_end(&mut change, expires_at);
        }
        if let Some(on_hold) = patch.on_hold_ms {
            user.set_hold(&mut change, on_hold, tx.now);
        }
        if let Some(devices) = patch.device_limit {
            change.device_limit = Set(i64::from(devices));
        }
        if let Some(next) = patch.next_plan {
            set_next(&mut change, next);
        }
        if let Some(disabled) = patch.disabled {
            user.set_disabled(&mut change, disabled, tx.now);
        }
        save(&mut tx, tenant, &user, change).await?;
        if let Some(groups) = patch.group_ids {
            set_groups(&mut tx, tenant, id, groups).await?;
        }
        let user = users::load(&*tx, tenant, id, tx.now).await?;
        tx.audit(Event::changed(&before, &user));
        tx.commit().await?;
        Ok(user)
    }

    /// Disables a user or takes that back; no change when it is so already.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    pub async fn set_user_disabled(
        &self,
        tenant: TenantId,
        id: UserId,
        disabled: bool,
    ) -> Result<User> {
        let mut tx = self.begin_in(tenant).await?;
        let mut user = lock(&tx, tenant, id).await?;
        let before = users::load(&*tx, tenant, id, tx.now).await?;
        if user.row.disabled != disabled {
            let mut change = ActiveModel::default();
            user.set_disabled(&mut change, disabled, tx.now);
            save(&mut tx, tenant, &user, change).await?;
        }
        let user = users::load(&*tx, tenant, id, tx.now).await?;
        tx.audit(Event::changed(&before, &user));
        tx.commit().await?;
        Ok(user)
    }

    /// Opens a new period with nothing used. What nodes hold of the old period's allowance
    /// stays spendable there in addition.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    pub async fn reset_user_usage(
        &self,
        tenant: TenantId,
        id: UserId,
        request: Option<&RequestKey>,
    ) -> Result<User> {
        let mut tx = self.begin_in(tenant).await?;
        if idempotency::claim(&tx, request, id).await?.is_some() {
            drop(tx);
            return self.user(tenant, id).await;
        }
        let mut user = lock(&tx, tenant, id).await?;
        let before = users::load(&*tx, tenant, id, tx.now).await?;
        let strategy = periods::strategy(user.row.reset_strategy.clone())?;
        let limit = Limit::from_wire(sql::unsigned(user.row.limit_bytes));
        user.begin_anew(&tx, tenant, strategy, limit).await?;
        save(&mut tx, tenant, &user, ActiveModel::default()).await?;
        let user = users::load(&*tx, tenant, id, tx.now).await?;
        tx.audit(Event::changed(&before, &user));
        tx.commit().await?;
        Ok(user)
    }

    /// Deletes a user: its peers go, its usage stays.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::StaleVersion`].
    pub async fn delete_user(
        &self,
        tenant: TenantId,
        id: UserId,
        version: Option<u64>,
    ) -> Result<()> {
        let mut tx = self.begin_in(tenant).await?;
        let mut user = lock(&tx, tenant, id).await?;
        check_version(user.row.version, version)?;
        let was = users::load(&*tx, tenant, id, tx.now).await?;
        tx.audit(Event::deleted(&was));
        user.row.deleted_at = Some(tx.now);
        let change = ActiveModel {
            deleted_at: Set(user.row.deleted_at),
            ..ActiveModel::default()
        };
        save(&mut tx, tenant, &user, change).await?;
        peers::remove_all(&mut tx, tenant, id).await?;
        tx.commit().await
    }
}

impl UserPatch {
    /// Without what says of a user what is so already: it undoes nothing that was added to the period
    /// in force or to the clock.
    fn keep_news(&mut self, row: &Model) {
        let hold = row.on_hold_ms.filter(|_| row.on_hold);
        self.limit = self
            .limit
            .filter(|limit| sql::signed(limit.to_wire()) != row.limit_bytes);
        self.expires_at_ms = self.expires_at_ms.filter(|end| *end != row.expires_at);
        self.on_hold_ms = self.on_hold_ms.filter(|it| *it != hold);
    }
}

/// What follows a user's plan, as it stands.
async fn queued(tx: &Write, tenant: TenantId, id: UserId) -> Result<Option<Option<NextPlan>>> {
    let row = Entity::find_by_id((tenant.uuid(), id.uuid()))
        .one(&**tx)
        .await?;
    row.map(|row| plans::next_of(row.next_plan_id, &row.next_plan_start))
        .transpose()
}

impl Locked {
    /// Grows each time the user's devices get new keys.
    pub(crate) const fn credentials_version(&self) -> i64 {
        self.row.credentials_version
    }

    /// What it may do but for a hand that has disabled it.
    pub(crate) fn status_unless_disabled(&self, now: i64) -> UserStatus {
        UserFacts {
            disabled: false,
            ..self.facts(now)
        }
        .status(now)
    }

    fn facts(&self, now: i64) -> UserFacts {
        let in_force = self.periods.in_force(now);
        UserFacts {
            deleted: self.row.deleted_at.is_some(),
            disabled: self.row.disabled,
            expires_at_ms: self.row.expires_at,
            limit: in_force.limit,
            used: in_force.used,
            on_hold: self.row.on_hold,
        }
    }

    /// A hand lets it in or keeps it out.
    fn set_disabled(&mut self, change: &mut ActiveModel, disabled: bool, now: i64) {
        if self.row.disabled && !disabled {
            self.came_back(change, now);
        }
        self.row.disabled = disabled;
        change.disabled = Set(disabled);
    }

    /// It may connect again: a plan that was due meanwhile is due from now on, so that no day of it
    /// has passed already.
    pub(crate) fn came_back(&mut self, change: &mut ActiveModel, now: i64) {
        if self.row.next_plan_due_at.is_some() {
            self.row.next_plan_due_at = Some(now);
            change.next_plan_due_at = Set(Some(now));
        }
    }

    /// It ends then, whenever its clock began or was to begin.
    pub(crate) fn set_end(&mut self, change: &mut ActiveModel, expires_at: Option<i64>) {
        self.row.expires_at = expires_at;
        change.expires_at = Set(expires_at);
        self.set_clock(change, None, None);
    }

    /// It waits for its first traffic, or does not any more.
    pub(crate) fn set_hold(&mut self, change: &mut ActiveModel, on_hold: Option<i64>, now: i64) {
        if on_hold.is_some() {
            self.set_end(change, None);
        }
        self.set_clock(change, on_hold, on_hold.map(|_| now));
    }

    fn set_clock(&mut self, change: &mut ActiveModel, on_hold: Option<i64>, since: Option<i64>) {
        self.row.on_hold = on_hold.is_some();
        self.row.on_hold_ms = on_hold;
        change.on_hold = Set(self.row.on_hold);
        change.on_hold_ms = Set(on_hold);
        change.hold_since = Set(since);
        change.started_at = Set(None);
    }

    /// Its quota begins anew now: what stands is closed, and what silent nodes hold of it remains
    /// spendable there.
    pub(crate) async fn begin_anew(
        &mut self,
        tx: &Write,
        tenant: TenantId,
        strategy: ResetStrategy,
        limit: Limit,
    ) -> Result<()> {
        let calendar = calendar(tx, tenant, strategy).await?;
        periods::close(tx, Some(tenant), self.periods.ids()).await?;
        self.periods = Standing::begin(&calendar, limit, tx.now)?;
        let user = UserId::new(self.row.id);
        let opened = std::iter::once(self.periods.current).chain(self.periods.next);
        periods::open(tx, opened.map(|period| (tenant, user, period))).await
    }

    /// The limit holds in both periods that stand: nodes hold allowances of either.
    pub(crate) async fn set_limit(
        &mut self,
        tx: &Write,
        tenant: TenantId,
        limit: Limit,
    ) -> Result<()> {
        let text = format!(
            "UPDATE periods SET limit_bytes = $1 WHERE tenant_id = $2 AND id {}",
            sql::in_ids(&**tx, 3)
        );
        let values = vec![
            sql::signed(limit.to_wire()).into(),
            tenant.uuid().into(),
            sql::ids(&**tx, self.periods.ids()),
        ];
        sql::run(&**tx, text, values).await?;
        self.row.limit_bytes = sql::signed(limit.to_wire());
        self.periods.current.limit = limit;
        if let Some(next) = &mut self.periods.next {
            next.limit = limit;
        }
        Ok(())
    }

    /// What is announced stands, but where it has no end: that one gets it, and a period to follow.
    async fn set_strategy(
        &mut self,
        tx: &Write,
        tenant: TenantId,
        strategy: ResetStrategy,
    ) -> Result<()> {
        let last = self.periods.next.unwrap_or(self.periods.current);
        if last.planned.window.ends_ms.is_some() || strategy == ResetStrategy::None {
            return Ok(());
        }
        let calendar = calendar(tx, tenant, strategy).await?;
        let planned = calendar.ending(last.planned, tx.now);
        let ended = Announced {
            planned: planned.map_err(periods::wrong)?,
            ..last
        };
        periods::end(tx, tenant, &ended).await?;
        if let Some(next) = &mut self.periods.next {
            *next = ended;
            return Ok(());
        }
        let limit = Limit::from_wire(sql::unsigned(self.row.limit_bytes));
        self.periods = Standing::from(&calendar, ended, limit)?;
        let user = UserId::new(self.row.id);
        let next = self.periods.next.map(|next| (tenant, user, next));
        periods::open(tx, next).await
    }
}

/// Locks a live user's periods and then the user. Ingest locks periods by the thousand and a user
/// only when it crosses its limit, so that is the order for everybody.
pub(crate) async fn lock(tx: &Write, tenant: TenantId, id: UserId) -> Result<Locked> {
    let user = lock_kept(tx, tenant, id).await?;
    match user.row.deleted_at {
        None => Ok(user),
        Some(_) => Err(StoreError::NotFound("user")),
    }
}

/// As [`lock`], also a user that was deleted.
pub(crate) async fn lock_kept(tx: &Write, tenant: TenantId, id: UserId) -> Result<Locked> {
    let find = || Entity::find_by_id((tenant.uuid(), id.uuid()));
    let missing = || StoreError::NotFound("user");
    // A reset or a rollover may put other periods in place between the two locks; it is rare.
    for _ in 0..4 {
        let seen = find().one(&**tx).await?.ok_or_else(missing)?;
        let ids = std::iter::once(seen.period_id).chain(seen.next_period_id);
        let mut locked = periods::lock(&**tx, Some(tenant), ids.map(PeriodId::new)).await?;
        let row = find()
            .lock(LockType::NoKeyUpdate)
            .one(&**tx)
            .await?
            .ok_or_else(missing)?;
        if (row.period_id, row.next_period_id) != (seen.period_id, seen.next_period_id) {
            continue;
        }
        let mut take = |id| {
            let place = locked.iter().position(|it| it.id == PeriodId::new(id))?;
            Some(locked.swap_remove(place))
        };
        let current = take(row.period_id)
            .ok_or_else(|| StoreError::corrupt("users.period_id", row.period_id))?;
        let next = row.next_period_id.and_then(&mut take);
        return Ok(Locked {
            periods: Standing { current, next },
            row,
        });
    }
    Err(StoreError::StaleVersion)
}

/// Writes a change with the status that follows from it, and notes it for the log.
pub(crate) async fn save(
    tx: &mut Write,
    tenant: TenantId,
    user: &Locked,
    change: ActiveModel,
) -> Result<()> {
    let id = UserId::new(user.row.id);
    Entity::update_many()
        .set(ActiveModel {
            status: Set(user.facts(tx.now).status(tx.now).as_str().to_owned()),
            period_id: Set(user.periods.current.id.uuid()),
            next_period_id: Set(user.periods.next_id()),
            period_ends_at: Set(user.periods.ends_at()),
            version: Set(user.row.version + 1),
            updated_at: Set(tx.now),
            ..change
        })
        .filter(Column::TenantId.eq(tenant.uuid()))
        .filter(Column::Id.eq(user.row.id))
        .exec(&**tx)
        .await
        .map_err(StoreError::unique("username"))?;
    tx.changed(Entry::user(tenant, id));
    Ok(())
}

/// What follows is due at the next end that comes from now on.
pub(crate) fn set_next(change: &mut ActiveModel, next: Option<NextPlan>) {
    change.next_plan_id = Set(next.map(|next| next.plan_id.uuid()));
    change.next_plan_start = Set(plans::start_of(next).to_string());
    change.next_plan_due_at = Set(None);
}

pub(crate) async fn set_groups(
    tx: &mut Write,
    tenant: TenantId,
    user: UserId,
    groups: BTreeSet<GroupId>,
) -> Result<()> {
    sql::run(
        &**tx,
        "DELETE FROM user_groups WHERE tenant_id = $1 AND user_id = $2",
        vec![tenant.uuid().into(), user.uuid().into()],
    )
    .await?;
    let memberships: Vec<_> = groups.into_iter().map(|group| (user, group)).collect();
    add_to_groups(tx, tenant, &memberships).await?;
    peers::sync(tx, tenant, Scope::Users(vec![user])).await
}

/// By what windows of the tenant's users are found now.
pub(crate) async fn calendar(
    tx: &Write,
    tenant: TenantId,
    strategy: ResetStrategy,
) -> Result<Calendar> {
    let row = sql::one(
        &**tx,
        "SELECT time_zone FROM tenants WHERE id = $1",
        vec![tenant.uuid().into()],
    )
    .await?
    .ok_or(StoreError::NotFound("tenant"))?;
    let zone = sql::get::<String>(&row, 0)?
        .parse()
        .map_err(|error| StoreError::corrupt("tenants.time_zone", error))?;
    Ok(Calendar { strategy, zone })
}
