//! A copy of a test's database: what an operator has who restores a backup.

use sqlx::{Connection, Executor, PgConnection};
use uuid::Uuid;

use super::{Database, TestStore, server_url, with_database};
use crate::connect::Backend;
use crate::sql;

impl TestStore {
    /// The database as it is at this moment, as another one with the same clock. Nothing may be under
    /// way in this one.
    pub async fn backup(&self) -> Self {
        let copy = match self.store.backend() {
            Backend::Sqlite => self.copy_file().await,
            Backend::Postgres => self.copy_database().await,
        };
        Self {
            store: super::connect(&copy.url, &copy.options, self.clock.clone()).await,
            clock: self.clock.clone(),
            ..copy
        }
    }

    async fn copy_file(&self) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("test.db").display().to_string();
        sql::run(
            &self.store.inner.write,
            "VACUUM INTO $1",
            vec![path.clone().into()],
        )
        .await
        .expect("a copy");
        let url = format!("sqlite:{path}");
        Self::open(url, self.options.clone(), Database::Folder(folder)).await
    }

    /// A database is copied while nobody is connected to it; connections are made again when they are
    /// needed.
    async fn copy_database(&self) -> Self {
        let server = server_url();
        let source = self.url.rsplit('/').next().unwrap_or_default();
        let source = source.split('?').next().unwrap_or_default();
        let name = format!("test_{}", Uuid::now_v7().simple());
        let mut admin = PgConnection::connect(server)
            .await
            .expect("the test server");
        for text in [
            format!("ALTER DATABASE {source} ALLOW_CONNECTIONS false"),
            format!(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = '{source}'"
            ),
            format!("CREATE DATABASE {name} TEMPLATE {source}"),
            format!("ALTER DATABASE {source} ALLOW_CONNECTIONS true"),
        ] {
            admin
                .execute(sqlx::AssertSqlSafe(text))
                .await
                .expect("a copy of the database");
        }
        let url = with_database(server, &name);
        let database = Database::Postgres { server, name };
        Self::open(url, self.options.clone(), database).await
    }
}
