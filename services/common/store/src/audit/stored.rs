//! Events as they are kept, and the queries that list them.

use sea_orm::{QueryResult, Value};
use uuid::Uuid;
use vpnpanel_domain::TenantId;

use super::least_id;
use crate::connect::Store;
use crate::error::{Result, StoreError};
use crate::page::Page;
use crate::sql;

/// An event of the audit log, every text as it is kept: the hash is over these.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditEvent {
    /// Whose log it is in; `None` is the platform's.
    pub tenant_id: Option<TenantId>,
    /// Its id, a UUIDv7 of its time.
    pub id: Uuid,
    /// When it happened, milliseconds of the Unix epoch.
    pub recorded_at_ms: i64,
    /// Who did it: see [`crate::Attribution::actor`].
    pub actor: String,
    /// Names of the roles that counted there, sorted, separated by commas.
    pub roles: String,
    /// What they showed: see [`crate::Attribution::credential`].
    pub credential: String,
    /// Where they called from; of a sum of events, the network.
    pub address: String,
    /// What their client calls itself.
    pub user_agent: String,
    /// Id of the request.
    pub request_id: String,
    /// Path of the method.
    pub method: String,
    /// Kind of the resource.
    pub resource_type: String,
    /// Its id.
    pub resource_id: String,
    /// `done` or `refused`.
    pub outcome: String,
    /// Why it was refused.
    pub reason: String,
    /// How many things of the same kind the event stands for.
    pub times: u64,
    /// The resource before, JSON; empty for none.
    pub before: String,
    /// The resource after, JSON; empty for none.
    pub after: String,
    /// Its place in the chain; `None` until the chainer has been there.
    pub link: Option<ChainLink>,
}

/// The place of an event in its chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainLink {
    /// Its number, from 1.
    pub seq: u64,
    /// Hash of the event before.
    pub prev_hash: Vec<u8>,
    /// Its own hash.
    pub hash: Vec<u8>,
}

/// Which events to list; what is `None` does not matter.
#[derive(Debug, Clone, Default)]
pub struct AuditFilter {
    /// Of this actor.
    pub actor: Option<String>,
    /// By this method.
    pub method: Option<String>,
    /// Of this kind of resource.
    pub resource_type: Option<String>,
    /// Of this resource.
    pub resource_id: Option<String>,
    /// Not before.
    pub from_ms: Option<i64>,
    /// Before.
    pub to_ms: Option<i64>,
}

impl Store {
    /// Events of a tenant or, with `None`, of the platform, the newest first.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn audit_events(
        &self,
        tenant: Option<TenantId>,
        filter: &AuditFilter,
        page: Page<Uuid>,
    ) -> Result<Vec<AuditEvent>> {
        let mut text = format!("{SELECT} WHERE tenant_id = $1");
        let mut values: Vec<Value> = vec![chain_of(tenant).into()];
        let mut and = |condition: &str, value: Value| {
            values.push(value);
            text.push_str(&format!(" AND {condition} ${}", values.len()));
        };
        if let Some(after) = page.after {
            and("id <", after.into());
        }
        for (column, wanted) in [
            ("actor =", &filter.actor),
            ("method =", &filter.method),
            ("resource_type =", &filter.resource_type),
            ("resource_id =", &filter.resource_id),
        ] {
            if let Some(wanted) = wanted {
                and(column, wanted.as_str().into());
            }
        }
        // Ids begin with the time.
        if let Some(from) = filter.from_ms {
            and("id >=", least_id(from).into());
        }
        if let Some(to) = filter.to_ms {
            and("id <", least_id(to).into());
        }
        and("TRUE ORDER BY id DESC LIMIT", i64::from(page.size).into());
        let rows = sql::all(&self.read_in(tenant).await?, text, values).await?;
        rows.iter().map(event).collect()
    }

    /// One event of a tenant or, with `None`, of the platform.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    pub async fn audit_event(&self, tenant: Option<TenantId>, id: Uuid) -> Result<AuditEvent> {
        let row = sql::one(
            &self.read_in(tenant).await?,
            format!("{SELECT} WHERE tenant_id = $1 AND id = $2"),
            vec![chain_of(tenant).into(), id.into()],
        )
        .await?;
        event(&row.ok_or(StoreError::NotFound("audit event"))?)
    }

    /// Events that are in the chain of a tenant or, with `None`, of the platform, in its order;
    /// the page's key is an event's number.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn chained_events(
        &self,
        tenant: Option<TenantId>,
        page: Page<u64>,
    ) -> Result<Vec<AuditEvent>> {
        chained(&self.read_in(tenant).await?, chain_of(tenant), page).await
    }

    /// Whose chains there are: those of tenants, and `None`, the platform's.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn audit_chains(&self) -> Result<Vec<Option<TenantId>>> {
        let rows = sql::all(
            self.read(),
            "SELECT tenant_id FROM audit_heads UNION SELECT tenant_id FROM audit_checkpoints
             UNION SELECT tenant_id FROM audit_events ORDER BY tenant_id",
            vec![],
        )
        .await?;
        rows.iter()
            .map(|row| Ok(tenant_of(sql::get(row, 0)?)))
            .collect()
    }
}

/// Events of a chain behind a number, in order.
pub(super) async fn chained(
    db: &impl sea_orm::ConnectionTrait,
    chain: Uuid,
    page: Page<u64>,
) -> Result<Vec<AuditEvent>> {
    let after = sql::signed(page.after.unwrap_or(0));
    let rows = sql::all(
        db,
        format!("{SELECT} WHERE tenant_id = $1 AND seq > $2 ORDER BY seq, id LIMIT $3"),
        vec![chain.into(), after.into(), i64::from(page.size).into()],
    )
    .await?;
    rows.iter().map(event).collect()
}

/// The key of a chain: the nil UUID is the platform.
pub(super) fn chain_of(tenant: Option<TenantId>) -> Uuid {
    tenant.map_or(Uuid::nil(), TenantId::uuid)
}

pub(super) fn tenant_of(chain: Uuid) -> Option<TenantId> {
    (!chain.is_nil()).then(|| TenantId::new(chain))
}

pub(super) const SELECT: &str = "
    SELECT tenant_id, id, recorded_at, actor, roles, credential, address, user_agent, request_id,
           method, resource_type, resource_id, outcome, reason, times, state_before, state_after,
           seq, prev_hash, hash
    FROM audit_events";

pub(super) fn event(row: &QueryResult) -> Result<AuditEvent> {
    let seq: Option<i64> = sql::get(row, 17)?;
    let (prev_hash, hash): (Option<Vec<u8>>, Option<Vec<u8>>) =
        (sql::get(row, 18)?, sql::get(row, 19)?);
    Ok(AuditEvent {
        tenant_id: tenant_of(sql::get(row, 0)?),
        id: sql::get(row, 1)?,
        recorded_at_ms: sql::get(row, 2)?,
        actor: sql::get(row, 3)?,
        roles: sql::get(row, 4)?,
        credential: sql::get(row, 5)?,
        address: sql::get(row, 6)?,
        user_agent: sql::get(row, 7)?,
        request_id: sql::get(row, 8)?,
        method: sql::get(row, 9)?,
        resource_type: sql::get(row, 10)?,
        resource_id: sql::get(row, 11)?,
        outcome: sql::get(row, 12)?,
        reason: sql::get(row, 13)?,
        times: sql::unsigned(sql::get(row, 14)?),
        before: sql::get(row, 15)?,
        after: sql::get(row, 16)?,
        link: seq.map(|seq| ChainLink {
            seq: sql::unsigned(seq),
            prev_hash: prev_hash.unwrap_or_default(),
            hash: hash.unwrap_or_default(),
        }),
    })
}
