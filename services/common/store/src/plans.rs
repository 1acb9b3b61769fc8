//! Plans: what users are filled in from. What is changed about a plan holds for users that are given it
//! from then on; so it is read, and held, in the transaction that gives it. A plan that something
//! refers to is archived instead of deleted (docs/adr/0022).

use std::collections::{BTreeMap, BTreeSet};

use sea_orm::sea_query::LockType;
use sea_orm::{
    ActiveValue::Set, ColumnTrait, ConnectionTrait, EntityTrait, QueryFilter, QuerySelect,
};
use uuid::Uuid;
use vpnpanel_domain::{
    GroupId, Limit, NextPlanStart, PlanId, ResetStrategy, Speed, SpeedLimit, TenantId,
};

use crate::audit::Event;
use crate::connect::Store;
use crate::entity::plan::{ActiveModel, Column, Entity, Model};
use crate::error::{Result, StoreError};
use crate::idempotency::{self, RequestKey};
use crate::page::Page;
use crate::row_set::{Cell, Column as Kind, RowSet};
use crate::tenants::{check_version, name_key};
use crate::transaction::Write;
use crate::{groups, periods, sql};

/// Limits and access that users are given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Its id.
    pub id: PlanId,
    /// The tenant it belongs to.
    pub tenant_id: TenantId,
    /// Its name, unique without regard to case among those that are not archived.
    pub name: String,
    /// Free text.
    pub note: String,
    /// What a user is given.
    pub terms: PlanTerms,
    /// When it was archived: nobody is given it any more, but those who wait for it.
    pub archived_at_ms: Option<i64>,
    /// Grows with each change.
    pub version: u64,
    /// When it was made.
    pub created_at_ms: i64,
    /// When it was last changed.
    pub updated_at_ms: i64,
}

/// What a user is given by a plan.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PlanTerms {
    /// What it may use in a period.
    pub limit: Limit,
    /// When a new period begins.
    pub reset_strategy: ResetStrategy,
    /// How long it may connect; `None` is without an end.
    pub duration_ms: Option<i64>,
    /// That time begins with its first traffic.
    pub on_first_use: bool,
    /// How fast it may be on each node.
    pub speed: SpeedLimit,
    /// How many devices it may have; 0 is as many as anybody.
    pub device_limit: u32,
    /// Groups that it is put into; empty leaves those of a user that has some.
    pub group_ids: BTreeSet<GroupId>,
    /// What follows.
    pub next: Option<NextPlan>,
}

/// What follows when a plan is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NextPlan {
    /// The plan.
    pub plan_id: PlanId,
    /// When.
    pub start: NextPlanStart,
}

/// A plan to make.
#[derive(Debug, Clone)]
pub struct NewPlan {
    /// Its id.
    pub id: PlanId,
    /// The tenant it belongs to.
    pub tenant_id: TenantId,
    /// Its name.
    pub name: String,
    /// Free text.
    pub note: String,
    /// What a user is given.
    pub terms: PlanTerms,
}

/// Fields to change; `None` leaves a field as it is.
#[derive(Debug, Clone, Default)]
pub struct PlanPatch {
    /// The name.
    pub name: Option<String>,
    /// Free text.
    pub note: Option<String>,
    /// What a user may use in a period.
    pub limit: Option<Limit>,
    /// When a new period begins.
    pub reset_strategy: Option<ResetStrategy>,
    /// How long a user may connect; `Some(None)` is without an end.
    pub duration_ms: Option<Option<i64>>,
    /// Whether that time begins with the first traffic.
    pub on_first_use: Option<bool>,
    /// How fast a user may send on each node.
    pub speed_up: Option<Speed>,
    /// How fast a user may receive on each node.
    pub speed_down: Option<Speed>,
    /// How many devices a user may have.
    pub device_limit: Option<u32>,
    /// Groups that a user is put into.
    pub group_ids: Option<BTreeSet<GroupId>>,
    /// What follows; `Some(None)` is nothing.
    pub next: Option<Option<NextPlan>>,
}

/// Which plans to list.
#[derive(Debug, Clone, Default)]
pub struct PlanFilter {
    /// Whose name begins so, without regard to case.
    pub name_prefix: Option<String>,
    /// Archived ones too.
    pub archived: bool,
}

impl Store {
    /// Makes a plan.
    ///
    /// # Errors
    /// [`StoreError::AlreadyExists`] for the name, [`StoreError::InvalidReference`] for a group or the
    /// next plan, [`StoreError::PlanArchived`] for that, [`StoreError::NotFound`] for the tenant.
    pub async fn create_plan(&self, new: NewPlan, request: Option<&RequestKey>) -> Result<Plan> {
        let mut tx = self.begin_in(new.tenant_id).await?;
        if let Some(existing) = idempotency::claim(&tx, request, new.id).await? {
            drop(tx);
            return self.plan(new.tenant_id, PlanId::new(existing)).await;
        }
        let (tenant, id, terms) = (new.tenant_id, new.id, new.terms);
        sql::one(
            &*tx,
            "SELECT id FROM tenants WHERE id = $1 AND deleted_at IS NULL",
            vec![tenant.uuid().into()],
        )
        .await?
        .ok_or(StoreError::NotFound("tenant"))?;
        hold(&tx, tenant, terms.next.map(|next| next.plan_id)).await?;
        groups::hold(&tx, tenant, &terms.group_ids).await?;
        let row = Model {
            tenant_id: tenant.uuid(),
            id: id.uuid(),
            name_key: name_key(&new.name),
            name: new.name,
            note: new.note,
            limit_bytes: sql::signed(terms.limit.to_wire()),
            reset_strategy: terms.reset_strategy.to_string(),
            duration_ms: terms.duration_ms,
            on_first_use: terms.on_first_use,
            speed_up_bps: sql::signed(terms.speed.up.bps()),
            speed_down_bps: sql::signed(terms.speed.down.bps()),
            device_limit: i64::from(terms.device_limit),
            next_plan_id: terms.next.map(|next| next.plan_id.uuid()),
            next_plan_start: start_of(terms.next).to_string(),
            archived_at: None,
            version: 1,
            created_at: tx.now,
            updated_at: tx.now,
        };
        Entity::insert(ActiveModel::from(row))
            .exec_without_returning(&*tx)
            .await
            .map_err(StoreError::unique("name"))?;
        add_groups(&tx, tenant, id, &terms.group_ids).await?;
        let made = load(&*tx, tenant, id).await?;
        tx.audit(Event::created(&made));
        tx.commit().await?;
        Ok(made)
    }

    /// One plan, archived or not.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    pub async fn plan(&self, tenant: TenantId, id: PlanId) -> Result<Plan> {
        load(&self.read_in(tenant).await?, tenant, id).await
    }

    /// Plans of a tenant in the order they were made.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn plans(
        &self,
        tenant: TenantId,
        filter: &PlanFilter,
        page: Page<PlanId>,
    ) -> Result<Vec<Plan>> {
        let db = &self.read_in(tenant).await?;
        let (text, values) = list(tenant, filter, page);
        let rows = Entity::find()
            .from_raw_sql(sql::statement(db, text, values))
            .all(db)
            .await?;
        with_groups(db, tenant, rows).await
    }

    /// Changes fields of a plan, for users that are given it from now on.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::StaleVersion`], and those of [`Store::create_plan`];
    /// [`StoreError::InvalidArgument`] where the fields do not go together any more.
    pub async fn update_plan(
        &self,
        tenant: TenantId,
        id: PlanId,
        patch: PlanPatch,
        version: Option<u64>,
    ) -> Result<Plan> {
        let mut tx = self.begin_in(tenant).await?;
        // In the order of ids: two plans that are made to follow each other do not wait for each other.
        let next = patch.next.flatten().map(|next| next.plan_id);
        hold(&tx, tenant, next.filter(|next| *next < id)).await?;
        let row = lock(&tx, tenant, id).await?;
        check_version(row.version, version)?;
        hold(&tx, tenant, next.filter(|next| *next > id)).await?;
        let before = load(&*tx, tenant, id).await?;
        if let Some(groups) = &patch.group_ids {
            groups::hold(&tx, tenant, groups).await?;
        }
        Entity::update(changed(&row, &patch, tx.now)?)
            .exec(&*tx)
            .await
            .map_err(StoreError::unique("name"))?;
        if let Some(groups) = &patch.group_ids {
            sql::run(
                &*tx,
                "DELETE FROM plan_groups WHERE tenant_id = $1 AND plan_id = $2",
                vec![tenant.uuid().into(), id.uuid().into()],
            )
            .await?;
            add_groups(&tx, tenant, id, groups).await?;
        }
        let plan = load(&*tx, tenant, id).await?;
        tx.audit(Event::changed(&before, &plan));
        tx.commit().await?;
        Ok(plan)
    }

    /// Deletes a plan that nothing refers to, and answers `None`; archives any other, and answers it.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::StaleVersion`].
    pub async fn delete_plan(
        &self,
        tenant: TenantId,
        id: PlanId,
        version: Option<u64>,
    ) -> Result<Option<Plan>> {
        let mut tx = self.begin_in(tenant).await?;
        let row = lock(&tx, tenant, id).await?;
        check_version(row.version, version)?;
        let before = load(&*tx, tenant, id).await?;
        if !is_in_use(&tx, tenant, id).await? {
            Entity::delete_by_id((tenant.uuid(), id.uuid()))
                .exec(&*tx)
                .await?;
            tx.audit(Event::deleted(&before));
            tx.commit().await?;
            return Ok(None);
        }
        if row.archived_at.is_none() {
            set_archived(&tx, &row, Some(tx.now)).await?;
        }
        let plan = load(&*tx, tenant, id).await?;
        tx.audit(Event::changed(&before, &plan));
        tx.commit().await?;
        Ok(Some(plan))
    }

    /// Takes a plan out of the archive; no change when it is not there.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::AlreadyExists`] for the name.
    pub async fn undelete_plan(&self, tenant: TenantId, id: PlanId) -> Result<Plan> {
        let mut tx = self.begin_in(tenant).await?;
        let row = lock(&tx, tenant, id).await?;
        let before = load(&*tx, tenant, id).await?;
        if row.archived_at.is_some() {
            set_archived(&tx, &row, None).await?;
        }
        let plan = load(&*tx, tenant, id).await?;
        tx.audit(Event::changed(&before, &plan));
        tx.commit().await?;
        Ok(plan)
    }
}

/// The statement of [`Store::plans`].
pub(crate) fn list(
    tenant: TenantId,
    filter: &PlanFilter,
    page: Page<PlanId>,
) -> (String, Vec<sea_orm::Value>) {
    let after = page.after.map_or(Uuid::nil(), PlanId::uuid);
    let mut values = vec![
        tenant.uuid().into(),
        after.into(),
        i64::from(page.size).into(),
    ];
    let mut narrows = String::new();
    if !filter.archived {
        narrows.push_str(" AND archived_at IS NULL");
    }
    if let Some(prefix) = filter.name_prefix.as_deref().filter(|it| !it.is_empty()) {
        let low = name_key(prefix);
        let high = format!("{low}\u{10FFFF}");
        values.extend([low.into(), high.into()]);
        narrows.push_str(" AND name_key >= $4 AND name_key < $5");
    }
    let text = format!(
        "SELECT * FROM plans WHERE tenant_id = $1 AND id > $2{narrows} ORDER BY id LIMIT $3"
    );
    (text, values)
}

/// Holds plans that are about to be named until the commit, and refuses such as the tenant does not
/// have or has archived.
pub(crate) async fn hold(
    tx: &Write,
    tenant: TenantId,
    plans: impl IntoIterator<Item = PlanId>,
) -> Result<()> {
    hold_all(tx, tenant, plans, []).await
}

/// Refuses terms that a plan, which is held, does not have any more.
pub(crate) async fn as_read(
    tx: &Write,
    tenant: TenantId,
    read: impl IntoIterator<Item = (PlanId, u64)>,
) -> Result<()> {
    let read: BTreeSet<(PlanId, u64)> = read.into_iter().collect();
    if read.is_empty() {
        return Ok(());
    }
    let text = format!(
        "SELECT id, version FROM plans WHERE tenant_id = $1 AND id {}",
        sql::in_ids(&**tx, 2)
    );
    let ids = sql::ids(&**tx, read.iter().map(|(plan, _)| *plan));
    let mut stand = BTreeSet::new();
    for row in &sql::all(&**tx, text, vec![tenant.uuid().into(), ids]).await? {
        stand.insert((
            PlanId::new(sql::get(row, 0)?),
            sql::unsigned(sql::get(row, 1)?),
        ));
    }
    match read.is_subset(&stand) {
        true => Ok(()),
        false => Err(StoreError::StaleVersion),
    }
}

/// As [`hold`]; those that `followed` names may be in the archive.
pub(crate) async fn hold_all(
    tx: &Write,
    tenant: TenantId,
    given: impl IntoIterator<Item = PlanId>,
    followed: impl IntoIterator<Item = PlanId>,
) -> Result<()> {
    let given: BTreeSet<PlanId> = given.into_iter().collect();
    let mut plans: BTreeSet<PlanId> = followed.into_iter().collect();
    plans.extend(&given);
    if plans.is_empty() {
        return Ok(());
    }
    let text = format!(
        "SELECT id, archived_at FROM plans WHERE tenant_id = $1 AND id {} ORDER BY id {{for_share}}",
        sql::in_ids(&**tx, 2)
    );
    let values = vec![tenant.uuid().into(), sql::ids(&**tx, plans.iter().copied())];
    let mut present = BTreeMap::new();
    for row in &sql::all(&**tx, text, values).await? {
        let archived = sql::get::<Option<i64>>(row, 1)?.is_some();
        present.insert(PlanId::new(sql::get(row, 0)?), archived);
    }
    for plan in plans {
        match present.get(&plan) {
            Some(true) if given.contains(&plan) => return Err(StoreError::PlanArchived),
            Some(_) => {}
            None => {
                return Err(StoreError::InvalidReference {
                    what: "plan_id",
                    id: plan.to_string(),
                });
            }
        }
    }
    Ok(())
}

/// A plan that a user is given in this transaction; it stays as it is until the commit. Whoever has
/// waited for it is given it also from the archive.
pub(crate) async fn held(tx: &Write, tenant: TenantId, id: PlanId, waited: bool) -> Result<Plan> {
    let plan = Entity::find_by_id((tenant.uuid(), id.uuid()))
        .lock(LockType::Share)
        .one(&**tx)
        .await?
        .ok_or_else(|| StoreError::InvalidReference {
            what: "plan_id",
            id: id.to_string(),
        })?;
    if plan.archived_at.is_some() && !waited {
        return Err(StoreError::PlanArchived);
    }
    shown(&**tx, tenant, plan).await
}

/// What is stored for when a next plan follows.
pub(crate) fn start_of(next: Option<NextPlan>) -> NextPlanStart {
    next.map_or_else(NextPlanStart::default, |next| next.start)
}

/// A next plan out of two columns.
pub(crate) fn next_of(plan: Option<Uuid>, start: &str) -> Result<Option<NextPlan>> {
    let Some(plan) = plan else { return Ok(None) };
    let start = start
        .parse()
        .map_err(|error| StoreError::corrupt("next_plan_start", error))?;
    Ok(Some(NextPlan {
        plan_id: PlanId::new(plan),
        start,
    }))
}

async fn lock(tx: &Write, tenant: TenantId, id: PlanId) -> Result<Model> {
    Entity::find_by_id((tenant.uuid(), id.uuid()))
        .lock(LockType::NoKeyUpdate)
        .one(&**tx)
        .await?
        .ok_or(StoreError::NotFound("plan"))
}

fn changed(row: &Model, patch: &PlanPatch, now: i64) -> Result<ActiveModel> {
    let duration = patch.duration_ms.unwrap_or(row.duration_ms);
    if patch.on_first_use.unwrap_or(row.on_first_use) && duration.is_none() {
        return Err(StoreError::InvalidArgument {
            what: "starts_on_first_use",
            reason: "needs a duration that can begin with the first traffic".to_owned(),
        });
    }
    let mut change = ActiveModel {
        tenant_id: Set(row.tenant_id),
        id: Set(row.id),
        version: Set(row.version + 1),
        updated_at: Set(now),
        duration_ms: Set(duration),
        ..ActiveModel::default()
    };
    if let Some(name) = &patch.name {
        change.name_key = Set(name_key(name));
        change.name = Set(name.clone());
    }
    if let Some(note) = &patch.note {
        change.note = Set(note.clone());
    }
    if let Some(limit) = patch.limit {
        change.limit_bytes = Set(sql::signed(limit.to_wire()));
    }
    if let Some(strategy) = patch.reset_strategy {
        change.reset_strategy = Set(strategy.to_string());
    }
    if let Some(on_first_use) = patch.on_first_use {
        change.on_first_use = Set(on_first_use);
    }
    if let Some(speed) = patch.speed_up {
        change.speed_up_bps = Set(sql::signed(speed.bps()));
    }
    if let Some(speed) = patch.speed_down {
        change.speed_down_bps = Set(sql::signed(speed.bps()));
    }
    if let Some(devices) = patch.device_limit {
        change.device_limit = Set(i64::from(devices));
    }
    if let Some(next) = patch.next {
        change.next_plan_id = Set(next.map(|next| next.plan_id.uuid()));
        change.next_plan_start = Set(start_of(next).to_string());
    }
    Ok(change)
}

async fn set_archived(tx: &Write, row: &Model, at: Option<i64>) -> Result<()> {
    let change = ActiveModel {
        tenant_id: Set(row.tenant_id),
        id: Set(row.id),
        archived_at: Set(at),
        version: Set(row.version + 1),
        updated_at: Set(tx.now),
        ..ActiveModel::default()
    };
    Entity::update(change)
        .exec(&**tx)
        .await
        .map_err(StoreError::unique("name"))?;
    Ok(())
}

/// Users have it, deleted ones too, or wait for it, an operation makes users from it, or another plan
/// names it.
async fn is_in_use(tx: &Write, tenant: TenantId, id: PlanId) -> Result<bool> {
    let row = sql::one(
        &**tx,
        "SELECT EXISTS (SELECT 1 FROM users WHERE tenant_id = $1 AND plan_id = $2)
            OR EXISTS (SELECT 1 FROM users WHERE tenant_id = $1 AND next_plan_id = $2)
            OR EXISTS (SELECT 1 FROM operations
                WHERE tenant_id = $1 AND plan_id = $2 AND state = 'running')
            OR EXISTS (SELECT 1 FROM plans WHERE tenant_id = $1 AND next_plan_id = $2 AND id <> $2)",
        vec![tenant.uuid().into(), id.uuid().into()],
    )
    .await?;
    Ok(row.map_or(Ok(false), |row| sql::get(&row, 0))?)
}

async fn add_groups(
    tx: &Write,
    tenant: TenantId,
    plan: PlanId,
    groups: &BTreeSet<GroupId>,
) -> Result<()> {
    let mut rows = RowSet::new(&**tx, &[("group_id", Kind::Id)]);
    for group in groups {
        rows.push([Cell::Id(group.uuid())]);
    }
    if rows.is_empty() {
        return Ok(());
    }
    let text = format!(
        "INSERT INTO plan_groups (tenant_id, plan_id, group_id)
         SELECT $1, $2, group_id FROM {} WHERE TRUE",
        rows.source(3)
    );
    let mut values = vec![tenant.uuid().into(), plan.uuid().into()];
    values.extend(rows.into_values());
    sql::run(&**tx, text, values).await?;
    Ok(())
}

async fn load(db: &impl ConnectionTrait, tenant: TenantId, id: PlanId) -> Result<Plan> {
    let row = Entity::find_by_id((tenant.uuid(), id.uuid()))
        .filter(Column::TenantId.eq(tenant.uuid()))
        .one(db)
        .await?
        .ok_or(StoreError::NotFound("plan"))?;
    shown(db, tenant, row).await
}

/// A plan with its groups.
async fn shown(db: &impl ConnectionTrait, tenant: TenantId, row: Model) -> Result<Plan> {
    let mut plans = with_groups(db, tenant, vec![row]).await?;
    plans.pop().ok_or(StoreError::NotFound("plan"))
}

async fn with_groups(
    db: &impl ConnectionTrait,
    tenant: TenantId,
    rows: Vec<Model>,
) -> Result<Vec<Plan>> {
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    let text = format!(
        "SELECT plan_id, group_id FROM plan_groups WHERE tenant_id = $1 AND plan_id {}",
        sql::in_ids(db, 2)
    );
    let ids = sql::ids(db, rows.iter().map(|row| row.id));
    let mut groups: BTreeMap<PlanId, BTreeSet<GroupId>> = BTreeMap::new();
    for row in sql::all(db, text, vec![tenant.uuid().into(), ids]).await? {
        groups
            .entry(PlanId::new(sql::get(&row, 0)?))
            .or_default()
            .insert(GroupId::new(sql::get(&row, 1)?));
    }
    rows.into_iter()
        .map(|row| {
            let groups = groups.remove(&PlanId::new(row.id)).unwrap_or_default();
            plan(row, groups)
        })
        .collect()
}

fn plan(row: Model, group_ids: BTreeSet<GroupId>) -> Result<Plan> {
    let speed = |bps: i64| {
        Speed::new(sql::unsigned(bps))
            .map_err(|error| StoreError::corrupt("plans.speed_bps", error))
    };
    Ok(Plan {
        id: PlanId::new(row.id),
        tenant_id: TenantId::new(row.tenant_id),
        terms: PlanTerms {
            limit: Limit::from_wire(sql::unsigned(row.limit_bytes)),
            reset_strategy: periods::strategy(row.reset_strategy)?,
            duration_ms: row.duration_ms,
            on_first_use: row.on_first_use,
            speed: SpeedLimit {
                up: speed(row.speed_up_bps)?,
                down: speed(row.speed_down_bps)?,
            },
            device_limit: devices(row.device_limit),
            group_ids,
            next: next_of(row.next_plan_id, &row.next_plan_start)?,
        },
        name: row.name,
        note: row.note,
        archived_at_ms: row.archived_at,
        version: sql::unsigned(row.version),
        created_at_ms: row.created_at,
        updated_at_ms: row.updated_at,
    })
}

/// A limit of devices out of its column.
pub(crate) fn devices(limit: i64) -> u32 {
    u32::try_from(limit).unwrap_or(0)
}
