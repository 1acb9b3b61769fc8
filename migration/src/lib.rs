//! The schema, for Postgres 15+ and SQLite. A migration that has been published never changes:
//! what it got wrong is put right by the next one. Each is one text with tokens for what the
//! two databases name differently (see `dialect`), so that their schemas cannot drift apart.

mod dialect;
mod m20261123_000001_identity;
mod m20261123_000002_access;
mod m20261123_000003_nodes;
mod m20261123_000004_ledger;
mod m20261123_000005_operations;
mod m20261126_000006_people;
mod m20261126_000008_credentials;
mod m20261126_000009_audit;
mod m20261127_000012_walls;
mod m20261128_000013_renewal;
mod m20261128_000014_told_revisions;
mod m20261128_000015_commands;
mod m20261128_000016_rollups;
mod m20261128_000017_removals;
mod m20261128_000018_speed_limits;
mod m20261128_000019_periods;
mod m20261128_000020_restore;
mod m20261128_000021_certificates;
mod m20261128_000022_xray;
mod m20261128_000023_draining;
mod m20261128_000024_reports;
mod m20261128_000025_plans;
mod m20261128_000026_subscriptions;
mod m20261128_000028_watches;
mod m20261128_000029_endpoint_templates;
mod m20261128_000030_figures;

pub use sea_orm_migration::sea_orm::DbErr;

use async_trait::async_trait;
use sea_orm_migration::sea_orm::{
    ConnectionTrait, DatabaseBackend, DatabaseConnection, SqliteTransactionMode, Statement,
    TransactionOptions, TransactionTrait,
};
use sea_orm_migration::{MigrationTrait, MigratorTrait};

/// Key of the Postgres advisory lock that migrations hold: "vpnpanel" in ASCII.
const ADVISORY_LOCK: i64 = 0x7670_6e70_616e_656c;

/// The migrations, oldest first.
#[derive(Debug)]
pub struct Migrator;

#[async_trait]
impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![
            Box::new(m20261123_000001_identity::Migration),
            Box::new(m20261123_000002_access::Migration),
            Box::new(m20261123_000003_nodes::Migration),
            Box::new(m20261123_000004_ledger::Migration),
            Box::new(m20261123_000005_operations::Migration),
            Box::new(m20261126_000006_people::Migration),
            Box::new(m20261126_000008_credentials::Migration),
            Box::new(m20261126_000009_audit::Migration),
            Box::new(m20261127_000012_walls::Migration),
            Box::new(m20261128_000013_renewal::Migration),
            Box::new(m20261128_000014_told_revisions::Migration),
            Box::new(m20261128_000015_commands::Migration),
            Box::new(m20261128_000016_rollups::Migration),
            Box::new(m20261128_000017_removals::Migration),
            Box::new(m20261128_000018_speed_limits::Migration),
            Box::new(m20261128_000019_periods::Migration),
            Box::new(m20261128_000020_restore::Migration),
            Box::new(m20261128_000021_certificates::Migration),
            Box::new(m20261128_000022_xray::Migration),
            Box::new(m20261128_000023_draining::Migration),
            Box::new(m20261128_000024_reports::Migration),
            Box::new(m20261128_000025_plans::Migration),
            Box::new(m20261128_000026_subscriptions::Migration),
            Box::new(m20261128_000028_watches::Migration),
            Box::new(m20261128_000029_endpoint_templates::Migration),
            Box::new(m20261128_000030_figures::Migration),
        ]
    }
}

/// Brings the schema up to date. Any number of processes may call it at once: one migrates, the
/// others wait for it. All pending migrations commit together or not at all.
///
/// # Errors
/// Whatever the database answers; nothing was changed then.
pub async fn up(db: &DatabaseConnection) -> Result<(), DbErr> {
    let transaction = locked(db).await?;
    Migrator::up(&transaction, None).await?;
    transaction.commit().await
}

/// Takes the last `steps` migrations back, with the data in their tables.
///
/// # Errors
/// Whatever the database answers; nothing was changed then.
pub async fn down(db: &DatabaseConnection, steps: u32) -> Result<(), DbErr> {
    let transaction = locked(db).await?;
    Migrator::down(&transaction, Some(steps)).await?;
    transaction.commit().await
}

/// Names of the migrations that the database lacks, oldest first.
///
/// # Errors
/// Whatever the database answers.
pub async fn pending(db: &DatabaseConnection) -> Result<Vec<String>, DbErr> {
    let pending = Migrator::get_pending_migrations_read_only(db).await?;
    Ok(pending.iter().map(|one| one.name().to_owned()).collect())
}

/// Changes with every migration, published or not: names a schema that can be used again.
pub fn fingerprint() -> String {
    use std::hash::{DefaultHasher, Hash, Hasher};

    let mut hasher = DefaultHasher::new();
    for one in Migrator::migrations() {
        one.name().hash(&mut hasher);
    }
    for text in [
        m20261123_000001_identity::UP,
        m20261123_000002_access::UP,
        m20261123_000003_nodes::UP,
        m20261123_000004_ledger::UP,
        m20261123_000005_operations::UP,
        m20261126_000006_people::UP,
        m20261126_000008_credentials::UP,
        m20261126_000009_audit::UP,
        m20261127_000012_walls::UP,
        m20261128_000013_renewal::UP,
        m20261128_000014_told_revisions::UP,
        m20261128_000015_commands::UP,
        m20261128_000016_rollups::UP,
        m20261128_000017_removals::UP,
        m20261128_000018_speed_limits::UP,
        m20261128_000019_periods::UP,
        m20261128_000020_restore::UP,
        m20261128_000021_certificates::UP,
        m20261128_000022_xray::UP,
        m20261128_000023_draining::UP,
        m20261128_000024_reports::UP,
        m20261128_000025_plans::UP,
        m20261128_000026_subscriptions::UP,
        m20261128_000028_watches::UP,
        m20261128_000029_endpoint_templates::UP,
        m20261128_000030_figures::UP,
    ] {
        text.hash(&mut hasher);
    }
    format!("{:016x}", hasher.finish())
}

/// A transaction that excludes every other migrating process until it ends.
async fn locked(
    db: &DatabaseConnection,
) -> Result<sea_orm_migration::sea_orm::DatabaseTransaction, DbErr> {
    let transaction = db
        .begin_with_options(TransactionOptions {
            sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
            ..TransactionOptions::default()
        })
        .await?;
    if transaction.get_database_backend() == DatabaseBackend::Postgres {
        transaction
            .execute_raw(Statement::from_sql_and_values(
                DatabaseBackend::Postgres,
                "SELECT pg_advisory_xact_lock($1)",
                [ADVISORY_LOCK.into()],
            ))
            .await?;
    }
    Ok(transaction)
}
