//! Operations: calls that go on after they have answered. An operation is rows: what there is to do, each
//! item with the id of what it makes drawn in advance, and what became of it. Whoever works on one has
//! it under a lease with a fence, for a batch; the batch, what it made and the figures are committed
//! together, so that nothing is done twice or lost whenever somebody is killed (docs/adr/0022).

mod work;

use sea_orm::{ConnectionTrait, QueryResult};
use uuid::Uuid;
use vpnpanel_domain::{OperationId, PlanId, TenantId, UserId};

use crate::audit::{Attribution, Event};
use crate::connect::Store;
use crate::error::{Result, StoreError};
use crate::idempotency::{self, RequestKey};
use crate::page::Page;
use crate::row_set::{Cell, Column, RowSet};
use crate::transaction::Write;
use crate::{fresh_id, plans, sql};

/// Most items of an operation.
pub const MAX_OPERATION_ITEMS: usize = 10_000;

/// Most operations of a tenant that go on at a time.
pub const MAX_OPERATIONS: u32 = 10;

/// Items inserted by one statement.
const CHUNK: usize = 2_000;

/// A long-running call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    /// Its id.
    pub id: OperationId,
    /// The tenant.
    pub tenant_id: TenantId,
    /// How far it is.
    pub state: OperationState,
    /// The plan that users are made from.
    pub plan_id: PlanId,
    /// Items that there are.
    pub total: u32,
    /// Items that are done.
    pub done: u32,
    /// Items that could not be done.
    pub failed: u32,
    /// Why it waits though its turn has come; empty otherwise.
    pub waiting: String,
    /// Who called.
    pub actor: String,
    /// When it was called.
    pub created_at_ms: i64,
    /// When it ended.
    pub ended_at_ms: Option<i64>,
}

/// How far an operation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OperationState {
    /// It goes on, or waits for its turn.
    Running,
    /// Each item is done or has failed.
    Ended,
    /// Somebody has ended it.
    Cancelled,
}

/// Users to make.
#[derive(Debug, Clone)]
pub struct NewOperation {
    /// Its id.
    pub id: OperationId,
    /// The plan to make them from.
    pub plan_id: PlanId,
    /// The name and the note of each.
    pub users: Vec<(String, String)>,
}

/// One of the things that an operation does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OperationItem {
    /// Its place in the call.
    pub number: u32,
    /// What became of it.
    pub state: ItemState,
    /// What it was called by.
    pub name: String,
    /// Free text.
    pub note: String,
    /// Id of what is made.
    pub resource_id: Uuid,
    /// Why it failed, in the words of the API's errors.
    pub error_reason: String,
    /// The same for people.
    pub error_message: String,
}

/// What became of an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ItemState {
    /// Its turn has not come.
    Waiting,
    /// It is done.
    Done,
    /// It could not be done.
    Failed,
}

/// The right to do a batch of an operation. Nothing is written under it once somebody else has it.
#[derive(Debug, Clone)]
pub struct OperationLease {
    /// The operation.
    pub id: OperationId,
    /// The tenant.
    pub tenant: TenantId,
    /// The plan that users are made from.
    pub plan_id: PlanId,
    /// For whom.
    pub who: Attribution,
    fence: i64,
}

/// Why an item could not be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ItemFailure {
    /// The item.
    pub number: u32,
    /// In the words of the API's errors.
    pub reason: String,
    /// For people.
    pub message: String,
}

impl Store {
    /// Notes an operation that makes users.
    ///
    /// # Errors
    /// [`StoreError::InvalidReference`] for the plan, [`StoreError::PlanArchived`],
    /// [`StoreError::LimitReached`], [`StoreError::NotFound`] for the tenant.
    pub async fn create_operation(
        &self,
        tenant: TenantId,
        new: NewOperation,
        request: Option<&RequestKey>,
    ) -> Result<Operation> {
        if new.users.is_empty() || new.users.len() > MAX_OPERATION_ITEMS {
            return Err(StoreError::InvalidArgument {
                what: "users",
                reason: format!("are 1 to {MAX_OPERATION_ITEMS}"),
            });
        }
        let mut tx = self.begin_in(tenant).await?;
        if let Some(existing) = idempotency::claim(&tx, request, new.id).await? {
            drop(tx);
            return self.operation(tenant, OperationId::new(existing)).await;
        }
        has_room(&tx, tenant).await?;
        plans::hold(&tx, tenant, [new.plan_id]).await?;
        let who = tx.acting().cloned().unwrap_or_else(Attribution::anonymous);
        sql::run(
            &*tx,
            "INSERT INTO operations (tenant_id, id, kind, state, plan_id, attribution, actor, total,
                done, failed, waiting, fence, lease_until, created_at)
             VALUES ($1, $2, 'batch_create_users', 'running', $3, $4, $5, $6, 0, 0, '', 0, $7, $7)",
            vec![
                tenant.uuid().into(),
                new.id.uuid().into(),
                new.plan_id.uuid().into(),
                who.to_json().into(),
                who.actor.as_str().into(),
                sql::signed(new.users.len() as u64).into(),
                tx.now.into(),
            ],
        )
        .await?;
        let items: Vec<_> = new.users.iter().enumerate().collect();
        for chunk in items.chunks(CHUNK) {
            insert_items(&tx, tenant, new.id, chunk).await?;
        }
        let made = load(&*tx, tenant, new.id).await?;
        tx.audit(Event::created(&made));
        tx.commit().await?;
        Ok(made)
    }

    /// One operation.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    pub async fn operation(&self, tenant: TenantId, id: OperationId) -> Result<Operation> {
        load(&self.read_in(tenant).await?, tenant, id).await
    }

    /// Operations of a tenant, the newest first.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn operations(
        &self,
        tenant: TenantId,
        page: Page<OperationId>,
    ) -> Result<Vec<Operation>> {
        let (text, values) = list(tenant, page);
        sql::all(&self.read_in(tenant).await?, text, values)
            .await?
            .iter()
            .map(|row| operation(row, tenant))
            .collect()
    }

    /// Items of an operation by number; only those of a state, where one is given.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] for the operation.
    pub async fn operation_items(
        &self,
        tenant: TenantId,
        id: OperationId,
        state: Option<ItemState>,
        page: Page<u32>,
    ) -> Result<Vec<OperationItem>> {
        let db = &self.read_in(tenant).await?;
        load(db, tenant, id).await?;
        items(db, tenant, id, state, page).await
    }

    /// Ends an operation before its next batch; no change when it has ended.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    pub async fn cancel_operation(&self, tenant: TenantId, id: OperationId) -> Result<Operation> {
        let mut tx = self.begin_in(tenant).await?;
        // Whoever works on it ends the batch first.
        sql::one(
            &*tx,
            "SELECT id FROM operations WHERE tenant_id = $1 AND id = $2 {for_update}",
            vec![tenant.uuid().into(), id.uuid().into()],
        )
        .await?
        .ok_or(StoreError::NotFound("operation"))?;
        let before = load(&*tx, tenant, id).await?;
        sql::run(
            &*tx,
            "UPDATE operations SET state = 'cancelled', waiting = '', ended_at = $3
             WHERE tenant_id = $1 AND id = $2 AND state = 'running'",
            vec![tenant.uuid().into(), id.uuid().into(), tx.now.into()],
        )
        .await?;
        let after = load(&*tx, tenant, id).await?;
        tx.audit(Event::changed(&before, &after));
        tx.commit().await?;
        Ok(after)
    }
}

/// Refuses an operation more than a tenant may have going on. The tenant is locked, so that of two at
/// once the second sees the first.
async fn has_room(tx: &Write, tenant: TenantId) -> Result<()> {
    sql::one(
        &**tx,
        "SELECT id FROM tenants WHERE id = $1 AND deleted_at IS NULL {for_update}",
        vec![tenant.uuid().into()],
    )
    .await?
    .ok_or(StoreError::NotFound("tenant"))?;
    let going_on = sql::one(
        &**tx,
        "SELECT COUNT(*) FROM operations WHERE tenant_id = $1 AND state = 'running'",
        vec![tenant.uuid().into()],
    )
    .await?
    .map_or(Ok(0), |row| sql::get::<i64>(&row, 0))?;
    if going_on >= i64::from(MAX_OPERATIONS) {
        return Err(StoreError::LimitReached { what: "operations" });
    }
    Ok(())
}

async fn insert_items(
    tx: &Write,
    tenant: TenantId,
    id: OperationId,
    chunk: &[(usize, &(String, String))],
) -> Result<()> {
    let mut rows = RowSet::new(
        &**tx,
        &[
            ("number", Column::Big),
            ("name", Column::Text),
            ("note", Column::Text),
            ("resource_id", Column::Id),
        ],
    );
    for (number, (name, note)) in chunk {
        rows.push([
            Cell::Big(sql::signed(*number as u64)),
            Cell::Text(name),
            Cell::Text(note),
            Cell::Id(fresh_id::<UserId>().uuid()),
        ]);
    }
    let text = format!(
        "INSERT INTO operation_items (tenant_id, operation_id, number, state, name, note,
            resource_id, error_reason, error_message)
         SELECT $1, $2, number, 'waiting', name, note, resource_id, '', '' FROM {} WHERE TRUE",
        rows.source(3)
    );
    let mut values = vec![tenant.uuid().into(), id.uuid().into()];
    values.extend(rows.into_values());
    sql::run(&**tx, text, values).await?;
    Ok(())
}

const COLUMNS: &str =
    "id, state, plan_id, total, done, failed, waiting, actor, created_at, ended_at";

/// The statement of [`Store::operations`].
pub(crate) fn list(tenant: TenantId, page: Page<OperationId>) -> (String, Vec<sea_orm::Value>) {
    let before = page.after.map_or(Uuid::max(), OperationId::uuid);
    let text = format!(
        "SELECT {COLUMNS} FROM operations WHERE tenant_id = $1 AND id < $2
         ORDER BY id DESC LIMIT $3"
    );
    let values = vec![
        tenant.uuid().into(),
        before.into(),
        i64::from(page.size).into(),
    ];
    (text, values)
}

/// The statement of [`Store::operation_items`].
pub(crate) fn list_items(
    tenant: TenantId,
    id: OperationId,
    state: Option<ItemState>,
    page: Page<u32>,
) -> (String, Vec<sea_orm::Value>) {
    let after = page.after.map_or(-1, i64::from);
    let of_state = match state {
        None => String::new(),
        Some(state) => format!("AND state = '{}'", state.as_str()),
    };
    let text = format!(
        "SELECT number, state, name, note, resource_id, error_reason, error_message
         FROM operation_items
         WHERE tenant_id = $1 AND operation_id = $2 {of_state} AND number > $3
         ORDER BY number LIMIT $4"
    );
    let values = vec![
        tenant.uuid().into(),
        id.uuid().into(),
        after.into(),
        i64::from(page.size).into(),
    ];
    (text, values)
}

async fn items(
    db: &impl ConnectionTrait,
    tenant: TenantId,
    id: OperationId,
    state: Option<ItemState>,
    page: Page<u32>,
) -> Result<Vec<OperationItem>> {
    let (text, values) = list_items(tenant, id, state, page);
    sql::all(db, text, values).await?.iter().map(item).collect()
}

async fn load(db: &impl ConnectionTrait, tenant: TenantId, id: OperationId) -> Result<Operation> {
    let row = sql::one(
        db,
        format!("SELECT {COLUMNS} FROM operations WHERE tenant_id = $1 AND id = $2"),
        vec![tenant.uuid().into(), id.uuid().into()],
    )
    .await?
    .ok_or(StoreError::NotFound("operation"))?;
    operation(&row, tenant)
}

fn operation(row: &QueryResult, tenant: TenantId) -> Result<Operation> {
    let figure = |index| -> Result<u32> {
        let value: i64 = sql::get(row, index)?;
        u32::try_from(value).map_err(|error| StoreError::corrupt("operations.total", error))
    };
    let state = match sql::get::<String>(row, 1)?.as_str() {
        "running" => OperationState::Running,
        "ended" => OperationState::Ended,
        "cancelled" => OperationState::Cancelled,
        other => return Err(StoreError::corrupt("operations.state", other)),
    };
    Ok(Operation {
        id: OperationId::new(sql::get(row, 0)?),
        tenant_id: tenant,
        state,
        plan_id: PlanId::new(sql::get(row, 2)?),
        total: figure(3)?,
        done: figure(4)?,
        failed: figure(5)?,
        waiting: sql::get(row, 6)?,
        actor: sql::get(row, 7)?,
        created_at_ms: sql::get(row, 8)?,
        ended_at_ms: sql::get(row, 9)?,
    })
}

fn item(row: &QueryResult) -> Result<OperationItem> {
    let number: i64 = sql::get(row, 0)?;
    let state = match sql::get::<String>(row, 1)?.as_str() {
        "waiting" => ItemState::Waiting,
        "done" => ItemState::Done,
        "failed" => ItemState::Failed,
        other => return Err(StoreError::corrupt("operation_items.state", other)),
    };
    Ok(OperationItem {
        number: u32::try_from(number)
            .map_err(|error| StoreError::corrupt("operation_items.number", error))?,
        state,
        name: sql::get(row, 2)?,
        note: sql::get(row, 3)?,
        resource_id: sql::get(row, 4)?,
        error_reason: sql::get(row, 5)?,
        error_message: sql::get(row, 6)?,
    })
}

impl ItemState {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Done => "done",
            Self::Failed => "failed",
        }
    }
}
