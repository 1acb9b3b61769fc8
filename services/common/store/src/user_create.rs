//! Making users: each with its first period, its devices, and a peer with an address on every
//! inbound of its groups, in one transaction; one user or a thousand at once.

use std::collections::BTreeSet;

use sea_orm::{ActiveValue, EntityTrait};
use vpnpanel_domain::{
    Calendar, DeviceId, GroupId, Limit, MicroBytes, PlanId, ResetStrategy, SpeedLimit, TenantId,
    UserFacts, UserId, Zone,
};

use crate::audit::Event;
use crate::changes::Entry;
use crate::connect::Store;
use crate::device_keys::DeviceKeys;
use crate::entity::{device, user};
use crate::error::{Result, StoreError};
use crate::idempotency::{self, RequestKey};
use crate::peers::{self, Scope};
use crate::periods::{self, Standing};
use crate::plans::{self, NextPlan};
use crate::row_set::{Cell, Column, RowSet};
use crate::subscriptions::SubscriptionToken;
use crate::tenants::name_key;
use crate::transaction::Write;
use crate::users::{self, User};
use crate::{groups, sql};

/// Most users that one call makes.
pub const MAX_NEW_USERS: usize = 1_000;

/// A user to make.
#[derive(Debug, Clone)]
pub struct NewUser {
    /// Its id.
    pub id: UserId,
    /// Its name.
    pub username: String,
    /// Free text.
    pub note: String,
    /// Groups whose inbounds it may use.
    pub group_ids: BTreeSet<GroupId>,
    /// What it may use in a period.
    pub limit: Limit,
    /// How fast it may be on each node.
    pub speed: SpeedLimit,
    /// When a new period begins.
    pub reset_strategy: ResetStrategy,
    /// When it ends.
    pub expires_at_ms: Option<i64>,
    /// Its clock starts at the first traffic and lasts this long.
    pub on_hold_ms: Option<i64>,
    /// Disabled from the start.
    pub disabled: bool,
    /// The plan that it is made from.
    pub plan_id: Option<PlanId>,
    /// The version of it whose terms these are; `None` is not compared.
    pub plan_version: Option<u64>,
    /// What follows.
    pub next_plan: Option<NextPlan>,
    /// How many devices it may have; 0 is as many as anybody.
    pub device_limit: u32,
    /// Its devices.
    pub devices: Vec<NewDevice>,
    /// The token of its subscription's link; without one it gets it from
    /// [`Store::link_subscriptions`].
    pub subscription: Option<SubscriptionToken>,
}

/// A device to make.
#[derive(Debug, Clone)]
pub struct NewDevice {
    /// Its id.
    pub id: DeviceId,
    /// Its name.
    pub name: String,
    /// What it shows to be let in.
    pub keys: DeviceKeys,
}

impl Store {
    /// Makes a user.
    ///
    /// # Errors
    /// [`StoreError::AlreadyExists`] for the name, [`StoreError::InvalidReference`] for a group or a
    /// plan, [`StoreError::PlanArchived`], [`StoreError::PoolExhausted`],
    /// [`StoreError::LimitReached`], [`StoreError::NotFound`] for the tenant.
    pub async fn create_user(
        &self,
        tenant: TenantId,
        new: NewUser,
        request: Option<&RequestKey>,
    ) -> Result<User> {
        let id = new.id;
        let mut tx = self.begin_in(tenant).await?;
        if let Some(existing) = idempotency::claim(&tx, request, id).await? {
            drop(tx);
            return self.user(tenant, UserId::new(existing)).await;
        }
        create(&mut tx, tenant, vec![new]).await?;
        let user = users::load(&*tx, tenant, id, tx.now).await?;
        tx.audit(Event::created(&user));
        tx.commit().await?;
        Ok(user)
    }

    /// Makes up to [`MAX_NEW_USERS`] users, all or none.
    ///
    /// # Errors
    /// As [`Store::create_user`].
    pub async fn create_users(&self, tenant: TenantId, new: Vec<NewUser>) -> Result<()> {
        if new.len() > MAX_NEW_USERS {
            return Err(StoreError::InvalidArgument {
                what: "users",
                reason: format!("are at most {MAX_NEW_USERS} at once"),
            });
        }
        let mut tx = self.begin_in(tenant).await?;
        let ids: Vec<UserId> = new.iter().map(|user| user.id).collect();
        create(&mut tx, tenant, new).await?;
        if tx.is_audited() {
            for user in users::load_all(&*tx, tenant, &ids, tx.now).await? {
                tx.audit(Event::created(&user));
            }
        }
        tx.commit().await
    }
}

/// Makes users in a transaction of the caller's.
pub(crate) async fn create(tx: &mut Write, tenant: TenantId, new: Vec<NewUser>) -> Result<()> {
    let zone = admit(tx, tenant, new.len()).await?;
    let given = new.iter().filter_map(|user| user.plan_id);
    let followed = new.iter().filter_map(|user| user.next_plan);
    plans::hold_all(tx, tenant, given, followed.map(|next| next.plan_id)).await?;
    let read = new
        .iter()
        .filter_map(|user| user.plan_id.zip(user.plan_version));
    plans::as_read(tx, tenant, read).await?;
    let wanted: BTreeSet<GroupId> = new.iter().flat_map(|user| user.group_ids.clone()).collect();
    groups::hold(tx, tenant, &wanted).await?;

    let now = tx.now;
    let ids: Vec<UserId> = new.iter().map(|user| user.id).collect();
    let standing = new
        .iter()
        .map(|new| {
            let calendar = Calendar {
                strategy: new.reset_strategy,
                zone: zone.clone(),
            };
            Standing::begin(&calendar, new.limit, now)
        })
        .collect::<Result<Vec<_>>>()?;
    let rows = new
        .iter()
        .zip(&standing)
        .map(|(new, periods)| row(new, periods, tenant, now));
    user::Entity::insert_many(rows.map(user::ActiveModel::from))
        .exec_without_returning(&**tx)
        .await
        .map_err(StoreError::unique("username"))?;
    let opened = ids.iter().zip(standing).flat_map(|(user, periods)| {
        let both = std::iter::once(periods.current).chain(periods.next);
        both.map(|period| (tenant, *user, period))
    });
    periods::open(tx, opened).await?;
    let devices: Vec<_> = new
        .iter()
        .flat_map(|user| devices(user, tenant, now))
        .collect();
    if !devices.is_empty() {
        device::Entity::insert_many(devices)
            .exec_without_returning(&**tx)
            .await
            .map_err(StoreError::unique("public_key"))?;
    }
    let memberships: Vec<_> = new
        .iter()
        .flat_map(|user| user.group_ids.iter().map(|group| (user.id, *group)))
        .collect();
    add_to_groups(tx, tenant, &memberships).await?;
    peers::sync(tx, tenant, Scope::Users(ids.clone())).await?;
    for id in ids {
        tx.changed(Entry::user(tenant, id));
    }
    Ok(())
}

/// Puts users into groups.
pub(crate) async fn add_to_groups(
    tx: &Write,
    tenant: TenantId,
    memberships: &[(UserId, GroupId)],
) -> Result<()> {
    let mut rows = RowSet::new(&**tx, &[("user_id", Column::Id), ("group_id", Column::Id)]);
    for (user, group) in memberships {
        rows.push([Cell::Id(user.uuid()), Cell::Id(group.uuid())]);
    }
    if rows.is_empty() {
        return Ok(());
    }
    let text = format!(
        "INSERT INTO user_groups (tenant_id, user_id, group_id)
         SELECT $1, user_id, group_id FROM {} WHERE TRUE",
        rows.source(2)
    );
    let mut values = vec![tenant.uuid().into()];
    values.extend(rows.into_values());
    sql::run(&**tx, text, values).await?;
    Ok(())
}

/// Refuses more users than the tenant's limit permits; answers the tenant's zone. The tenant is
/// locked only where it has a limit.
pub(crate) async fn admit(tx: &Write, tenant: TenantId, more: usize) -> Result<Zone> {
    let find = "SELECT time_zone, max_users FROM tenants WHERE id = $1 AND deleted_at IS NULL";
    let find = async |lock: &str| {
        sql::one(&**tx, format!("{find} {lock}"), vec![tenant.uuid().into()])
            .await?
            .ok_or(StoreError::NotFound("tenant"))
    };
    let mut row = find("").await?;
    if sql::get::<Option<i64>>(&row, 1)?.is_some() {
        // What it says is what it says once nobody else can add users or change it.
        row = find("{for_update}").await?;
    }
    if let Some(most) = sql::get::<Option<i64>>(&row, 1)? {
        let count = sql::one(
            &**tx,
            "SELECT COUNT(*) FROM users WHERE tenant_id = $1 AND deleted_at IS NULL",
            vec![tenant.uuid().into()],
        )
        .await?
        .map_or(Ok(0), |row| sql::get::<i64>(&row, 0))?;
        if count.saturating_add_unsigned(more as u64) > most {
            return Err(StoreError::LimitReached { what: "users" });
        }
    }
    let zone: String = sql::get(&row, 0)?;
    zone.parse()
        .map_err(|error| StoreError::corrupt("tenants.time_zone", error))
}

fn row(new: &NewUser, periods: &Standing, tenant: TenantId, now: i64) -> user::Model {
    let facts = UserFacts {
        deleted: false,
        disabled: new.disabled,
        expires_at_ms: new.expires_at_ms,
        limit: new.limit,
        used: MicroBytes::ZERO,
        on_hold: new.on_hold_ms.is_some(),
    };
    user::Model {
        tenant_id: tenant.uuid(),
        id: new.id.uuid(),
        username_key: name_key(&new.username),
        username: new.username.clone(),
        note: new.note.clone(),
        status: facts.status(now).as_str().to_owned(),
        disabled: new.disabled,
        expires_at: new.expires_at_ms,
        on_hold: facts.on_hold,
        on_hold_ms: new.on_hold_ms,
        limit_bytes: sql::signed(new.limit.to_wire()),
        reset_strategy: new.reset_strategy.to_string(),
        period_id: periods.current.id.uuid(),
        next_period_id: periods.next_id(),
        period_ends_at: periods.ends_at(),
        credentials_version: 1,
        version: 1,
        created_at: now,
        updated_at: now,
        speed_up_bps: sql::signed(new.speed.up.bps()),
        speed_down_bps: sql::signed(new.speed.down.bps()),
        deleted_at: None,
        plan_id: new.plan_id.map(PlanId::uuid),
        next_plan_id: new.next_plan.map(|next| next.plan_id.uuid()),
        next_plan_start: plans::start_of(new.next_plan).to_string(),
        next_plan_due_at: None,
        device_limit: i64::from(new.device_limit),
        hold_since: new.on_hold_ms.map(|_| now),
        started_at: None,
        subscription_hash: new.subscription.as_ref().map(|it| it.hash.to_vec()),
        sealed_subscription: new.subscription.as_ref().map(|it| it.sealed.clone()),
    }
}

fn devices(
    user: &NewUser,
    tenant: TenantId,
    now: i64,
) -> impl Iterator<Item = device::ActiveModel> {
    let id = user.id;
    user.devices
        .iter()
        .map(move |new| device_row(new, tenant, id, now))
}

/// The row of a new device of a user.
pub(crate) fn device_row(
    new: &NewDevice,
    tenant: TenantId,
    user: UserId,
    now: i64,
) -> device::ActiveModel {
    device::ActiveModel {
        tenant_id: ActiveValue::Set(tenant.uuid()),
        id: ActiveValue::Set(new.id.uuid()),
        user_id: ActiveValue::Set(user.uuid()),
        name: ActiveValue::Set(new.name.clone()),
        public_key: ActiveValue::Set(new.keys.public_key.to_vec()),
        sealed_private_key: ActiveValue::Set(new.keys.sealed_private_key.clone()),
        sealed_preshared_key: ActiveValue::Set(new.keys.sealed_preshared_key.clone()),
        created_at: ActiveValue::Set(now),
        sealed_seed: ActiveValue::Set(Some(new.keys.sealed_seed.clone())),
    }
}
