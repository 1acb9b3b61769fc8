//! Walls between tenants that the database keeps beside the store's own conditions (docs/adr/0010).
//! What concerns one tenant runs in a transaction that says so; where a role for tenants was
//! named, on PostgreSQL, that transaction gives up the owner's rights for those of the role, to
//! whom row-level security shows this tenant's rows and no others. Without such a role none of
//! this costs anything: a read is a statement on the pool as it would be anyway.

use sea_orm::{
    ConnectionTrait, DatabaseBackend, DatabaseConnection, DatabaseTransaction, DbErr, ExecResult,
    QueryResult, Statement,
};
use vpnpanel_domain::TenantId;

use crate::connect::{Backend, Store};
use crate::error::{Result, StoreError};
use crate::sql;
use crate::transaction::Write;

/// What the role may not even ask for: credentials and keys, and the work of the platform.
const NOT_FOR_TENANTS: [&str; 12] = [
    "authorities",
    "batch_digests",
    "dead_letters",
    "job_runs",
    "jobs",
    "orphan_usage",
    "recovery_codes",
    "refresh_tokens",
    "second_factors",
    "seaql_migrations",
    "sessions",
    "signing_keys",
];

/// Where a tenant is read: outside of a transaction, or in one that the database narrows.
pub(crate) enum Read {
    Pool(DatabaseConnection),
    Narrowed(DatabaseTransaction),
}

impl Store {
    /// As [`Store::begin`], for what concerns one tenant; with `None`, the platform.
    pub(crate) async fn begin_in(&self, tenant: impl Into<Option<TenantId>>) -> Result<Write> {
        let tx = self.begin().await?;
        self.narrow(&*tx, tenant.into()).await?;
        Ok(tx)
    }

    /// For reading what concerns one tenant; with `None`, the platform.
    pub(crate) async fn read_in(&self, tenant: impl Into<Option<TenantId>>) -> Result<Read> {
        let tenant = tenant.into();
        if self.inner.tenant_role.is_none() || tenant.is_none() {
            return Ok(Read::Pool(self.read().clone()));
        }
        Ok(Read::Narrowed(self.snapshot_in(tenant).await?))
    }

    /// As [`Store::snapshot`], of what concerns one tenant; with `None`, the platform.
    pub(crate) async fn snapshot_in(
        &self,
        tenant: impl Into<Option<TenantId>>,
    ) -> Result<DatabaseTransaction> {
        let db = self.snapshot().await?;
        self.narrow(&db, tenant.into()).await?;
        Ok(db)
    }

    /// Until the transaction ends: as the role for tenants, and as that of one tenant.
    async fn narrow(&self, db: &impl ConnectionTrait, tenant: Option<TenantId>) -> Result<()> {
        if let (Some(role), Some(tenant)) = (&self.inner.tenant_role, tenant) {
            sql::one(
                db,
                "SELECT set_config('vpnpanel.tenant', $1, TRUE), set_config('role', $2, TRUE)",
                vec![tenant.uuid().to_string().into(), role.as_str().into()],
            )
            .await?;
        }
        Ok(())
    }

    /// Gives the role for tenants, where there is one, its rights on the tables: all rows that
    /// row-level security shows it, except of tables that are none of a tenant's business.
    pub(crate) async fn grant_tenant_role(&self) -> Result<()> {
        let Some(role) = &self.inner.tenant_role else {
            return Ok(());
        };
        let tx = self.begin().await?;
        // One process at a time: of two that change the rights on a table at once one fails.
        sql::one(
            &*tx,
            "SELECT pg_advisory_xact_lock(hashtext('tenant_role'))",
            vec![],
        )
        .await?;
        // Partitions are reached through their table, whose policies hold then.
        let rows = sql::all(
            &*tx,
            "SELECT relname::text FROM pg_class
             WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'p')
               AND NOT relispartition ORDER BY relname",
            vec![],
        )
        .await?;
        for row in &rows {
            let table: String = sql::get(row, 0)?;
            let text = if NOT_FOR_TENANTS.contains(&table.as_str()) {
                format!("REVOKE ALL ON {table} FROM {role}")
            } else {
                format!("GRANT SELECT, INSERT, UPDATE, DELETE ON {table} TO {role}")
            };
            sql::run(&*tx, text, vec![]).await?;
        }
        tx.commit().await
    }
}

/// The role for tenants, of a database that has roles. It stands in statements as it is.
pub(crate) fn tenant_role(backend: Backend, role: Option<String>) -> Result<Option<String>> {
    let Some(role) = role.filter(|_| backend == Backend::Postgres) else {
        return Ok(None);
    };
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    if role.len() > 63
        || !role.starts_with(|c: char| c.is_ascii_lowercase())
        || !role.bytes().all(plain)
    {
        return Err(StoreError::Configuration(
            "the database's role for tenants has to be a name of lower-case letters, digits and _"
                .to_owned(),
        ));
    }
    Ok(Some(role))
}

#[async_trait::async_trait]
impl ConnectionTrait for Read {
    fn get_database_backend(&self) -> DatabaseBackend {
        match self {
            Self::Pool(db) => db.get_database_backend(),
            Self::Narrowed(db) => db.get_database_backend(),
        }
    }

    async fn execute_raw(&self, statement: Statement) -> Result<ExecResult, DbErr> {
        match self {
            Self::Pool(db) => db.execute_raw(statement).await,
            Self::Narrowed(db) => db.execute_raw(statement).await,
        }
    }

    async fn execute_unprepared(&self, sql: &str) -> Result<ExecResult, DbErr> {
        match self {
            Self::Pool(db) => db.execute_unprepared(sql).await,
            Self::Narrowed(db) => db.execute_unprepared(sql).await,
        }
    }

    async fn query_one_raw(&self, statement: Statement) -> Result<Option<QueryResult>, DbErr> {
        match self {
            Self::Pool(db) => db.query_one_raw(statement).await,
            Self::Narrowed(db) => db.query_one_raw(statement).await,
        }
    }

    async fn query_all_raw(&self, statement: Statement) -> Result<Vec<QueryResult>, DbErr> {
        match self {
            Self::Pool(db) => db.query_all_raw(statement).await,
            Self::Narrowed(db) => db.query_all_raw(statement).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_that_would_need_quotes_is_refused() {
        let role = |name: &str| tenant_role(Backend::Postgres, Some(name.to_owned()));
        assert_eq!(role("vpnpanel_tenant").unwrap().unwrap(), "vpnpanel_tenant");
        for wrong in ["", "Tenant", "a b", "a;b", "a\"b", "1a", &"a".repeat(64)] {
            assert!(role(wrong).is_err(), "{wrong:?}");
        }
        let lite = tenant_role(Backend::Sqlite, Some("tenant".to_owned()));
        assert_eq!(lite.unwrap(), None);
    }
}
