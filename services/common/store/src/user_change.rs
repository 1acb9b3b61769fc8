//! Changing users. Whatever lifts or sets one reason (a limit, an end, a hand) goes through
//! here, and the status that is stored for filters is derived anew each time.

use std::collections::BTreeSet;

use sea_orm::sea_query::LockType;
use sea_orm::{ActiveValue::Set, ColumnTrait, EntityTrait, QueryFilter, QuerySelect};
use uuid::Uuid;
use vpnpanel_domain::{
    GroupId, Limit, MicroBytes, PeriodId, ResetStrategy, Schedule, Speed, TenantId, UserFacts,
    UserId, Zone,
};

use crate::audit::Event;
use crate::changes::Entry;
use crate::connect::Store;
use crate::entity::user::{ActiveModel, Column, Entity, Model};
use crate::error::{Result, StoreError};
use crate::idempotency::{self, RequestKey};
use crate::peers::{self, Scope};
use crate::tenants::{check_version, name_key};
use crate::transaction::Write;
use crate::user_create::{add_to_groups, open_period};
use crate::users::{self, User};
use crate::{amount, fresh_id, groups, sql};

/// Fields to change; `None` leaves a field as it is.
#[derive(Debug, Clone, Default)]
pub struct UserPatch {
    /// The name.
    pub username: Option<String>,
    /// Free text.
    pub note: Option<String>,
    /// The groups; the user gains and loses peers at once.
    pub group_ids: Option<BTreeSet<GroupId>>,
    /// The limit, of the current period too.
    pub limit: Option<Limit>,
    /// How fast it may send on each node.
    pub speed_up: Option<Speed>,
    /// How fast it may receive on each node.
    pub speed_down: Option<Speed>,
    /// When a new period begins; holds from the next one on.
    pub reset_strategy: Option<ResetStrategy>,
    /// When it ends; `Some(None)` is never.
    pub expires_at_ms: Option<Option<i64>>,
    /// Disabled by hand.
    pub disabled: Option<bool>,
}

/// A user whose row and period are locked, with what was used in the period.
struct Locked {
    row: Model,
    used: MicroBytes,
    limit: Limit,
}

impl Store {
    /// Changes fields of a user.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::StaleVersion`], [`StoreError::AlreadyExists`] for
    /// the name, [`StoreError::InvalidReference`] for a group, [`StoreError::PoolExhausted`].
    pub async fn update_user(
        &self,
        tenant: TenantId,
        id: UserId,
        patch: UserPatch,
        version: Option<u64>,
    ) -> Result<User> {
        let mut tx = self.begin_in(tenant).await?;
        if let Some(groups) = &patch.group_ids {
            groups::hold(&tx, tenant, groups).await?;
        }
        let mut user = lock(&tx, tenant, id).await?;
        check_version(user.row.version, version)?;
        let before = users::load(&*tx, tenant, id, tx.now).await?;
        if let Some(limit) = patch.limit {
            sql::run(
                &*tx,
                "UPDATE periods SET limit_bytes = $2 WHERE id = $1 AND tenant_id = $3",
                vec![
                    user.row.period_id.into(),
                    sql::signed(limit.to_wire()).into(),
                    tenant.uuid().into(),
                ],
            )
            .await?;
            user.limit = limit;
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
        }
        if let Some(expires_at) = patch.expires_at_ms {
            user.row.expires_at = expires_at;
            change.expires_at = Set(expires_at);
        }
        if let Some(disabled) = patch.disabled {
            user.row.disabled = disabled;
            change.disabled = Set(disabled);
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
            user.row.disabled = disabled;
            let change = ActiveModel {
                disabled: Set(disabled),
                ..ActiveModel::default()
            };
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
        let period: PeriodId = fresh_id();
        if idempotency::claim(&tx, request, period).await?.is_some() {
            drop(tx);
            return self.user(tenant, id).await;
        }
        let mut user = lock(&tx, tenant, id).await?;
        let now = tx.now;
        let before = users::load(&*tx, tenant, id, now).await?;
        let strategy: ResetStrategy = user
            .row
            .reset_strategy
            .parse()
            .map_err(|error| StoreError::corrupt("users.reset_strategy", error))?;
        let window = Schedule::new(strategy, zone(&tx, tenant).await?, now)
            .and_then(|schedule| schedule.window_at(now))
            .map_err(|error| StoreError::corrupt("users.reset_strategy", error))?;
        sql::run(
            &*tx,
            "UPDATE periods SET closed_at = $2 WHERE id = $1 AND tenant_id = $3",
            vec![user.row.period_id.into(), now.into(), tenant.uuid().into()],
        )
        .await?;
        let limit = Limit::from_wire(sql::unsigned(user.row.limit_bytes));
        open_period(&tx, tenant, id, period, window, limit).await?;
        user.row.period_id = period.uuid();
        user.used = MicroBytes::ZERO;
        user.limit = limit;
        let change = ActiveModel {
            period_id: Set(period.uuid()),
            ..ActiveModel::default()
        };
        save(&mut tx, tenant, &user, change).await?;
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

/// Locks a live user's period and then the user. Ingest locks periods by the thousand and a user
/// only when it crosses its limit, so that is the order for everybody.
async fn lock(tx: &Write, tenant: TenantId, id: UserId) -> Result<Locked> {
    let find =
        || Entity::find_by_id((tenant.uuid(), id.uuid())).filter(Column::DeletedAt.is_null());
    let missing = || StoreError::NotFound("user");
    // A reset may put another period in place between the two locks; it is rare.
    for _ in 0..4 {
        let period: Uuid = find().one(&**tx).await?.ok_or_else(missing)?.period_id;
        let row = sql::one(
            &**tx,
            "SELECT billed_bytes, billed_micro, limit_bytes FROM periods
             WHERE id = $1 AND tenant_id = $2 {for_update}",
            vec![period.into(), tenant.uuid().into()],
        )
        .await?
        .ok_or_else(|| StoreError::corrupt("users.period_id", period))?;
        let user = find()
            .lock(LockType::NoKeyUpdate)
            .one(&**tx)
            .await?
            .ok_or_else(missing)?;
        if user.period_id == period {
            return Ok(Locked {
                row: user,
                used: amount::get(&row, 0)?,
                limit: Limit::from_wire(sql::unsigned(sql::get(&row, 2)?)),
            });
        }
    }
    Err(StoreError::StaleVersion)
}

/// Writes a change with the status that follows from it, and notes it for the log.
async fn save(tx: &mut Write, tenant: TenantId, user: &Locked, change: ActiveModel) -> Result<()> {
    let id = UserId::new(user.row.id);
    let facts = UserFacts {
        deleted: user.row.deleted_at.is_some(),
        disabled: user.row.disabled,
        expires_at_ms: user.row.expires_at,
        limit: user.limit,
        used: user.used,
        on_hold: user.row.on_hold,
    };
    Entity::update_many()
        .set(ActiveModel {
            status: Set(facts.status(tx.now).as_str().to_owned()),
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

async fn set_groups(
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

async fn zone(tx: &Write, tenant: TenantId) -> Result<Zone> {
    let row = sql::one(
        &**tx,
        "SELECT time_zone FROM tenants WHERE id = $1",
        vec![tenant.uuid().into()],
    )
    .await?
    .ok_or(StoreError::NotFound("tenant"))?;
    sql::get::<String>(&row, 0)?
        .parse()
        .map_err(|error| StoreError::corrupt("tenants.time_zone", error))
}
