//! Opening a database: pools, and the settings that make a commit mean what the node link needs.
//!
//! SQLite runs in WAL mode with one writing connection and several reading ones. `synchronous`
//! is FULL: a commit is on the disk when it returns. NORMAL would survive kill -9, but after a
//! power loss it may forget its last commits, and an acknowledged usage batch has to be one
//! that is never forgotten. Ingest commits many batches at once, so that it pays one sync for all.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sea_orm::{DatabaseConnection, SqlxPostgresConnector, SqlxSqliteConnector};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use tokio::sync::watch;

use crate::audit::Attribution;
use crate::doorbell::Doorbell;
use crate::error::{Result, StoreError};
use crate::{sql, walls};

/// Kind of the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// PostgreSQL 15 or later.
    Postgres,
    /// SQLite in a file.
    Sqlite,
}

impl Backend {
    /// `postgres` or `sqlite`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Postgres => "postgres",
            Self::Sqlite => "sqlite",
        }
    }
}

/// How to use the database.
#[derive(Debug, Clone)]
pub struct Options {
    /// Most connections to Postgres; on SQLite, most readers (there is one writer besides).
    pub max_connections: u32,
    /// Connections to Postgres that are opened before they are needed, and kept. Proving the
    /// password gives way to everything else hundreds of times (PBKDF2 in small pieces): on a
    /// runtime that has much to do, a connection takes seconds to open.
    pub min_connections: u32,
    /// How long a call waits for a free connection.
    pub acquire_timeout: Duration,
    /// How long Postgres works on one statement; on SQLite, how long it waits for a lock that
    /// another process holds.
    pub statement_timeout: Duration,
    /// On Postgres, the role with whose rights the transactions of tenants run: see docs/adr/0010.
    /// The one that connects has to be its member.
    pub tenant_role: Option<String>,
    /// What `pg_stat_activity` shows.
    pub application_name: String,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            max_connections: 8,
            min_connections: 0,
            acquire_timeout: Duration::from_secs(10),
            statement_timeout: Duration::from_secs(30),
            tenant_role: None,
            application_name: "vpnpanel".to_owned(),
        }
    }
}

type Clock = dyn Fn() -> i64 + Send + Sync;

/// The database of the control plane. Cheap to clone; all clones share their connections.
#[derive(Clone)]
pub struct Store {
    pub(crate) inner: Arc<Inner>,
    /// For whom, where the audit log has to say so.
    pub(crate) acting: Option<Arc<Attribution>>,
}

pub(crate) struct Inner {
    pub(crate) backend: Backend,
    /// On SQLite, one connection.
    pub(crate) write: DatabaseConnection,
    pub(crate) read: DatabaseConnection,
    pub(crate) doorbell: Doorbell,
    pub(crate) tenant_role: Option<String>,
    clock: Box<Clock>,
}

impl Store {
    /// Opens `postgres://…` or `sqlite:<path>`; the file is made when it does not exist. The
    /// schema is not touched: see [`Store::migrate`].
    ///
    /// # Errors
    /// [`StoreError::Configuration`] for any other URL, [`StoreError::Unavailable`].
    pub async fn connect(url: &str, options: Options) -> Result<Self> {
        Self::connect_with_clock(url, options, system_clock).await
    }

    /// As [`Store::connect`], with another source of "now" (milliseconds of the Unix epoch).
    ///
    /// # Errors
    /// As [`Store::connect`].
    pub async fn connect_with_clock(
        url: &str,
        options: Options,
        clock: impl Fn() -> i64 + Send + Sync + 'static,
    ) -> Result<Self> {
        let (backend, write, read, doorbell) = if url.starts_with("postgres") {
            let pool = postgres(url, &options).await?;
            let db = SqlxPostgresConnector::from_sqlx_postgres_pool(pool.clone());
            (Backend::Postgres, db.clone(), db, Doorbell::postgres(pool))
        } else if url.starts_with("sqlite:") {
            let (write, read) = sqlite(url, &options).await?;
            (Backend::Sqlite, write, read, Doorbell::local())
        } else {
            return Err(StoreError::Configuration(
                "a database URL begins with postgres:// or sqlite:".to_owned(),
            ));
        };
        let tenant_role = walls::tenant_role(backend, options.tenant_role)?;
        Ok(Self {
            inner: Arc::new(Inner {
                backend,
                write,
                read,
                doorbell,
                tenant_role,
                clock: Box::new(clock),
            }),
            acting: None,
        })
    }

    /// Brings the schema up to date, makes the partitions that usage needs soon, and gives the
    /// role for tenants its rights. Safe to
    /// call by any number of processes at once.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn migrate(&self) -> Result<()> {
        vpnpanel_migration::up(&self.inner.write).await?;
        sql::run(
            &self.inner.write,
            "INSERT INTO installation (id, state_epoch, log_horizon_txn, log_horizon_seq, created_at)
             VALUES (1, 1, 0, 0, $1) ON CONFLICT (id) DO NOTHING",
            vec![self.now_ms().into()],
        )
        .await?;
        self.ensure_usage_partitions(4).await?;
        self.grant_tenant_role().await
    }

    /// Takes the last `steps` migrations back, with the data in their tables.
    ///
    /// # Errors
    /// Those of the database; nothing was changed then.
    pub async fn migrate_down(&self, steps: u32) -> Result<()> {
        Ok(vpnpanel_migration::down(&self.inner.write, steps).await?)
    }

    /// Names of the migrations that the database lacks.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn pending_migrations(&self) -> Result<Vec<String>> {
        Ok(vpnpanel_migration::pending(&self.inner.read).await?)
    }

    /// Whether the database answers.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn ping(&self) -> Result<()> {
        sql::run(&self.inner.read, "SELECT 1", vec![]).await?;
        Ok(())
    }

    /// Kind of the database.
    pub fn backend(&self) -> Backend {
        self.inner.backend
    }

    /// The store's clock, milliseconds of the Unix epoch.
    pub fn now_ms(&self) -> i64 {
        (self.inner.clock)()
    }

    /// Changes its value whenever this or (on Postgres) any other process committed to the
    /// change log. It rings late or not at all when connections break: poll as well.
    pub fn doorbell(&self) -> watch::Receiver<u64> {
        self.inner.doorbell.subscribe()
    }

    /// Closes all connections after the statements under way.
    pub async fn close(&self) {
        self.inner.doorbell.stop();
        for db in [&self.inner.read, &self.inner.write] {
            if let Err(error) = db.clone().close().await {
                tracing::warn!(%error, "closing a database pool failed");
            }
        }
    }

    /// For reading outside of a transaction.
    pub(crate) fn read(&self) -> &DatabaseConnection {
        &self.inner.read
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store")
            .field("backend", &self.inner.backend)
            .field("acting", &self.acting)
            .finish_non_exhaustive()
    }
}

pub(crate) fn system_clock() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| {
            i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
        })
}

async fn postgres(url: &str, options: &Options) -> Result<sqlx::PgPool> {
    let timeout = options.statement_timeout.as_millis().to_string();
    let connect = PgConnectOptions::from_str(url)
        .map_err(|error| StoreError::Configuration(format!("the database URL is wrong: {error}")))?
        .application_name(&options.application_name)
        .statement_cache_capacity(512)
        .options([
            ("statement_timeout", timeout.as_str()),
            ("idle_in_transaction_session_timeout", "60000"),
        ]);
    Ok(PgPoolOptions::new()
        .max_connections(options.max_connections)
        .min_connections(options.min_connections)
        .acquire_timeout(options.acquire_timeout)
        .connect_with(connect)
        .await?)
}

async fn sqlite(url: &str, options: &Options) -> Result<(DatabaseConnection, DatabaseConnection)> {
    let connect = SqliteConnectOptions::from_str(url)
        .map_err(|error| StoreError::Configuration(format!("the database URL is wrong: {error}")))?
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .busy_timeout(options.statement_timeout)
        .statement_cache_capacity(256)
        // rows that the thread of a connection reads ahead of whoever takes them
        .row_buffer_size(1_024)
        .pragma("temp_store", "memory")
        .pragma("journal_size_limit", "67108864");
    let pool = |max| {
        SqlitePoolOptions::new()
            .max_connections(max)
            .min_connections(1)
            .acquire_timeout(options.acquire_timeout)
            .idle_timeout(None)
            .max_lifetime(None)
    };
    let writer = connect.clone().pragma("cache_size", "-16000");
    let reader = connect
        .pragma("cache_size", "-4000")
        .pragma("query_only", "on");
    let write = pool(1).connect_with(writer).await?;
    let read = pool(options.max_connections).connect_with(reader).await?;
    Ok((
        SqlxSqliteConnector::from_sqlx_sqlite_pool(write),
        SqlxSqliteConnector::from_sqlx_sqlite_pool(read),
    ))
}
