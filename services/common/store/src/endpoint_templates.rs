//! Endpoint templates: how an inbound is presented in subscriptions. A template belongs to the owner
//! of its inbound. Nodes know nothing of it.

use sea_orm::sea_query::{Expr, LockType};
use sea_orm::{
    ActiveValue::Set, ColumnTrait, Condition, EntityTrait, PaginatorTrait, QueryFilter, QueryOrder,
    QueryResult, QuerySelect,
};
use serde::{Deserialize, Serialize};
use vpnpanel_domain::{Alpn, EndpointTemplateId, Fingerprint, InboundId, NamePattern, TenantId};

use crate::audit::Event;
use crate::connect::Store;
use crate::entity::endpoint_template::{ActiveModel, Column, Entity, Model};
use crate::entity::inbound;
use crate::error::{Result, StoreError};
use crate::idempotency::{self, RequestKey};
use crate::page::Page;
use crate::sql;
use crate::tenants::check_version;
use crate::transaction::Write;

/// Templates that an inbound can have: each is a connection of every device on every node.
const MOST_OF_AN_INBOUND: u64 = 20;

/// How an inbound is presented.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointTemplate {
    /// Its id.
    pub id: EndpointTemplateId,
    /// The tenant that owns it and its inbound; `None` is the platform.
    pub tenant_id: Option<TenantId>,
    /// The inbound.
    pub inbound_id: InboundId,
    /// What connections are called.
    pub name_pattern: NamePattern,
    /// Where they stand among the others: lower numbers first.
    pub order: i32,
    /// It is as if it were not there.
    pub disabled: bool,
    /// What differs from what the inbound says.
    pub presentation: Presentation,
    /// Grows with each change.
    pub version: u64,
    /// When it was made.
    pub created_at_ms: i64,
    /// When it was last changed.
    pub updated_at_ms: i64,
}

/// What clients are told otherwise than the inbound and the node say; what is empty is as they say.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Presentation {
    /// Where clients connect: a host name or an IP address.
    pub address: Option<String>,
    /// The port there.
    pub port: Option<u16>,
    /// The name they ask for in TLS.
    pub server_name: Option<String>,
    /// The host that a WebSocket's request names.
    pub host: Option<String>,
    /// Whose first message they imitate.
    pub fingerprint: Option<Fingerprint>,
    /// What they offer in TLS, in this order.
    pub alpn: Vec<Alpn>,
}

/// What a connection has of the template that it is presented by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectionTemplate {
    /// The template.
    pub id: EndpointTemplateId,
    /// What the connection is called.
    pub name_pattern: NamePattern,
    /// What clients are told.
    pub presentation: Presentation,
}

/// A template to make.
#[derive(Debug, Clone)]
pub struct NewEndpointTemplate {
    /// Its id.
    pub id: EndpointTemplateId,
    /// The tenant that owns it and its inbound; `None` is the platform.
    pub tenant_id: Option<TenantId>,
    /// The inbound, of the same owner.
    pub inbound_id: InboundId,
    /// What connections are called.
    pub name_pattern: NamePattern,
    /// Where they stand among the others.
    pub order: i32,
    /// Whether it is as if it were not there.
    pub disabled: bool,
    /// What clients are told.
    pub presentation: Presentation,
}

/// Fields to change; `None` leaves a field as it is.
#[derive(Debug, Clone, Default)]
pub struct EndpointTemplatePatch {
    /// What connections are called.
    pub name_pattern: Option<NamePattern>,
    /// Where they stand among the others.
    pub order: Option<i32>,
    /// Whether it is as if it were not there.
    pub disabled: Option<bool>,
    /// What clients are told, as a whole.
    pub presentation: Option<Presentation>,
}

/// Which templates of a list; empty is all.
#[derive(Debug, Clone, Copy, Default)]
pub struct EndpointTemplateFilter {
    /// Of this inbound.
    pub inbound_id: Option<InboundId>,
}

impl Store {
    /// Makes a template.
    ///
    /// # Errors
    /// [`StoreError::InvalidReference`] for an inbound that its owner does not have,
    /// [`StoreError::LimitReached`] when the inbound has 20 of them.
    pub async fn create_endpoint_template(
        &self,
        new: NewEndpointTemplate,
        request: Option<&RequestKey>,
    ) -> Result<EndpointTemplate> {
        let mut tx = self.begin_in(new.tenant_id).await?;
        if let Some(existing) = idempotency::claim(&tx, request, new.id).await? {
            drop(tx);
            let id = EndpointTemplateId::new(existing);
            return self.endpoint_template(new.tenant_id, id).await;
        }
        hold_inbound(&tx, new.tenant_id, new.inbound_id).await?;
        let present = Entity::find()
            .filter(owned(new.tenant_id))
            .filter(Column::InboundId.eq(new.inbound_id.uuid()))
            .count(&*tx)
            .await?;
        if present >= MOST_OF_AN_INBOUND {
            return Err(StoreError::LimitReached {
                what: "endpoint templates of an inbound",
            });
        }
        let row = Model {
            id: new.id.uuid(),
            tenant_id: new.tenant_id.map(TenantId::uuid),
            inbound_id: new.inbound_id.uuid(),
            name_pattern: new.name_pattern.to_string(),
            sort_order: new.order,
            disabled: new.disabled,
            settings: serde_json::json!(new.presentation),
            version: 1,
            created_at: tx.now,
            updated_at: tx.now,
        };
        Entity::insert(ActiveModel::from(row.clone()))
            .exec_without_returning(&*tx)
            .await?;
        let made = EndpointTemplate::try_from(row)?;
        tx.audit(Event::created(&made));
        tx.commit().await?;
        Ok(made)
    }

    /// One template that an owner has; for a tenant, also one of an inbound that the platform offers.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    pub async fn endpoint_template(
        &self,
        tenant: Option<TenantId>,
        id: EndpointTemplateId,
    ) -> Result<EndpointTemplate> {
        visible(tenant)
            .filter(Column::Id.eq(id.uuid()))
            .one(&self.read_in(tenant).await?)
            .await?
            .ok_or(NOT_FOUND)?
            .try_into()
    }

    /// Templates of an owner in the order they were made; for a tenant, also those of inbounds that
    /// the platform offers.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn endpoint_templates(
        &self,
        tenant: Option<TenantId>,
        filter: EndpointTemplateFilter,
        page: Page<EndpointTemplateId>,
    ) -> Result<Vec<EndpointTemplate>> {
        let mut query = visible(tenant);
        if let Some(inbound) = filter.inbound_id {
            query = query.filter(Column::InboundId.eq(inbound.uuid()));
        }
        if let Some(after) = page.after {
            query = query.filter(Column::Id.gt(after.uuid()));
        }
        query
            .order_by_asc(Column::Id)
            .limit(u64::from(page.size))
            .all(&self.read_in(tenant).await?)
            .await?
            .into_iter()
            .map(TryInto::try_into)
            .collect()
    }

    /// Changes fields of a template that the owner itself has.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::StaleVersion`].
    pub async fn update_endpoint_template(
        &self,
        tenant: Option<TenantId>,
        id: EndpointTemplateId,
        patch: EndpointTemplatePatch,
        version: Option<u64>,
    ) -> Result<EndpointTemplate> {
        let mut tx = self.begin_in(tenant).await?;
        let row = lock(&tx, tenant, id).await?;
        check_version(row.version, version)?;
        let before: EndpointTemplate = row.clone().try_into()?;
        let mut change = ActiveModel {
            id: Set(row.id),
            version: Set(row.version + 1),
            updated_at: Set(tx.now),
            ..ActiveModel::default()
        };
        if let Some(pattern) = patch.name_pattern {
            change.name_pattern = Set(pattern.to_string());
        }
        if let Some(order) = patch.order {
            change.sort_order = Set(order);
        }
        if let Some(disabled) = patch.disabled {
            change.disabled = Set(disabled);
        }
        if let Some(presentation) = patch.presentation {
            change.settings = Set(serde_json::json!(presentation));
        }
        let changed: EndpointTemplate = Entity::update(change).exec(&*tx).await?.try_into()?;
        tx.audit(Event::changed(&before, &changed));
        tx.commit().await?;
        Ok(changed)
    }

    /// Deletes a template; its inbound is presented by the others, or by none.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::StaleVersion`].
    pub async fn delete_endpoint_template(
        &self,
        tenant: Option<TenantId>,
        id: EndpointTemplateId,
        version: Option<u64>,
    ) -> Result<()> {
        let mut tx = self.begin_in(tenant).await?;
        let row = lock(&tx, tenant, id).await?;
        check_version(row.version, version)?;
        tx.audit(Event::deleted(&EndpointTemplate::try_from(row)?));
        Entity::delete_by_id(id.uuid()).exec(&*tx).await?;
        tx.commit().await
    }
}

const NOT_FOUND: StoreError = StoreError::NotFound("endpoint template");

/// The template out of a connection's columns, beginning at `at`: id, pattern, settings. `None` where
/// the inbound has none.
pub(crate) fn of_connection(row: &QueryResult, at: usize) -> Result<Option<ConnectionTemplate>> {
    let Some(id) = sql::get(row, at)? else {
        return Ok(None);
    };
    Ok(Some(ConnectionTemplate {
        id: EndpointTemplateId::new(id),
        name_pattern: pattern(&sql::get::<String>(row, at + 1)?)?,
        presentation: presentation(sql::get(row, at + 2)?)?,
    }))
}

/// Holds an inbound that the owner itself has, so that its templates are counted one after another.
async fn hold_inbound(tx: &Write, tenant: Option<TenantId>, id: InboundId) -> Result<()> {
    let owned = match tenant {
        Some(tenant) => inbound::Column::TenantId.eq(tenant.uuid()),
        None => inbound::Column::TenantId.is_null(),
    };
    inbound::Entity::find_by_id(id.uuid())
        .filter(owned)
        .lock(LockType::NoKeyUpdate)
        .one(&**tx)
        .await?
        .map(drop)
        .ok_or(StoreError::InvalidReference {
            what: "endpoint_template.inbound_id",
            id: id.to_string(),
        })
}

async fn lock(tx: &Write, tenant: Option<TenantId>, id: EndpointTemplateId) -> Result<Model> {
    Entity::find_by_id(id.uuid())
        .filter(owned(tenant))
        .lock(LockType::NoKeyUpdate)
        .one(&**tx)
        .await?
        .ok_or(NOT_FOUND)
}

fn owned(tenant: Option<TenantId>) -> Condition {
    Condition::all().add(match tenant {
        Some(tenant) => Column::TenantId.eq(tenant.uuid()),
        None => Column::TenantId.is_null(),
    })
}

fn visible(tenant: Option<TenantId>) -> sea_orm::Select<Entity> {
    let query = Entity::find();
    if tenant.is_none() {
        return query.filter(owned(tenant));
    }
    // Whose a row is comes first: what the inbound is asked for is never another tenant's.
    let offered =
        "inbound_id IN (SELECT i.id FROM inbounds i WHERE i.tenant_id IS NULL AND i.offered)";
    query
        .filter(
            Condition::any()
                .add(owned(tenant))
                .add(Column::TenantId.is_null()),
        )
        .filter(Condition::any().add(owned(tenant)).add(Expr::cust(offered)))
}

fn pattern(text: &str) -> Result<NamePattern> {
    text.parse()
        .map_err(|error| StoreError::corrupt("endpoint_templates.name_pattern", error))
}

fn presentation(settings: serde_json::Value) -> Result<Presentation> {
    serde_json::from_value(settings)
        .map_err(|error| StoreError::corrupt("endpoint_templates.settings", error))
}

impl TryFrom<Model> for EndpointTemplate {
    type Error = StoreError;

    fn try_from(row: Model) -> Result<Self> {
        Ok(Self {
            id: EndpointTemplateId::new(row.id),
            tenant_id: row.tenant_id.map(TenantId::new),
            inbound_id: InboundId::new(row.inbound_id),
            name_pattern: pattern(&row.name_pattern)?,
            order: row.sort_order,
            disabled: row.disabled,
            presentation: presentation(row.settings)?,
            version: sql::unsigned(row.version),
            created_at_ms: row.created_at,
            updated_at_ms: row.updated_at,
        })
    }
}
