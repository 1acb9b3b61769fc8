//! Databases for tests: each test has one of its own, migrated, gone when the test is over. On
//! Postgres it is cloned from a template that is migrated once for each server. Each test also runs
//! on Postgres behind walls (docs/adr/0010): see [`TestStore::walled`].
//!
//! `VPNPANEL_TEST_POSTGRES_URL` names a server (as its superuser). Where it is not set,
//! `scripts/postgres` starts one for the test process and stops it with the process.
#![allow(clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

mod plans;
mod usage;
mod walled;

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, OnceLock};

use sqlx::{Connection, Executor, PgConnection};
use uuid::Uuid;

use crate::connect::{Options, Store, system_clock};
pub use walled::TENANT_ROLE;

/// The server of this test process, unless one was named.
static SERVER: OnceLock<Server> = OnceLock::new();
/// Names of the templates on the server.
static TEMPLATE: tokio::sync::OnceCell<String> = tokio::sync::OnceCell::const_new();
static WALLED: tokio::sync::OnceCell<String> = tokio::sync::OnceCell::const_new();

/// A store of a test.
#[derive(Debug)]
pub struct TestStore {
    /// The store.
    pub store: Store,
    /// Its clock.
    pub clock: TestClock,
    /// Where it is, as the owner of its tables.
    pub url: String,
    options: Options,
    _database: Database,
}

/// A clock that runs like the system's, plus what a test has put it forward by; or one that stands
/// still but for that.
#[derive(Debug, Clone, Default)]
pub struct TestClock(Arc<Hands>);

#[derive(Debug, Default)]
struct Hands {
    ahead: AtomicI64,
    stopped_at: OnceLock<i64>,
}

impl TestClock {
    /// Now, milliseconds of the Unix epoch.
    pub fn now_ms(&self) -> i64 {
        let base = self.0.stopped_at.get().copied();
        base.unwrap_or_else(system_clock) + self.0.ahead.load(Ordering::SeqCst)
    }

    /// Puts the clock forward.
    pub fn advance(&self, ms: i64) {
        self.0.ahead.fetch_add(ms, Ordering::SeqCst);
    }

    /// Has it stand still, for good: no time passes between two looks.
    pub fn stop(&self) {
        self.0.stopped_at.get_or_init(system_clock);
    }
}

impl TestStore {
    /// Where it is, by a way on which a server asks for the password.
    pub fn guarded_url(&self) -> &str {
        self.url.split("?host=").next().unwrap_or_default()
    }

    /// On SQLite, in a folder of its own.
    pub async fn sqlite() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let url = format!("sqlite:{}", folder.path().join("test.db").display());
        let this = Self::open(url, options(), Database::Folder(folder)).await;
        this.store.migrate().await.expect("the schema");
        this
    }

    /// On Postgres, in a database of its own.
    pub async fn postgres() -> Self {
        let server = server_url();
        let make = || {
            template(
                server,
                "template",
                vpnpanel_migration::fingerprint(),
                options(),
            )
        };
        let template = TEMPLATE.get_or_init(make).await;
        Self::clone_of(template, options()).await
    }

    /// As [`TestStore::postgres`], where what concerns one tenant runs under a role with row-level
    /// security, and fails when it so much as reaches a row of another tenant. Each table has such
    /// rows, of two tenants that no test knows of.
    pub async fn walled() -> Self {
        let server = server_url();
        let make = || async { walled::template(server).await };
        let template = WALLED.get_or_init(make).await;
        Self::clone_of(template, walled::options()).await
    }

    async fn clone_of(template: &str, options: Options) -> Self {
        let server = server_url();
        let name = format!("test_{}", Uuid::now_v7().simple());
        let mut admin = PgConnection::connect(server)
            .await
            .expect("the test server");
        let clone = format!("CREATE DATABASE {name} TEMPLATE {template}");
        admin
            .execute(sqlx::AssertSqlSafe(clone))
            .await
            .expect("a clone of the template");
        let url = with_database(server, &name);
        Self::open(url, options, Database::Postgres { server, name }).await
    }

    /// A copy of the database as it is now: a backup, and what comes of it when it is put back.
    pub async fn copy(&self) -> Self {
        let this = match &self._database {
            Database::Folder(folder) => {
                let copy = tempfile::tempdir().expect("a temporary folder");
                // With what is in the log and not in the file yet.
                for name in ["test.db", "test.db-wal"] {
                    let from = folder.path().join(name);
                    if from.exists() {
                        std::fs::copy(&from, copy.path().join(name)).expect("a copy");
                    }
                }
                let url = format!("sqlite:{}", copy.path().join("test.db").display());
                Self::open(url, self.options.clone(), Database::Folder(copy)).await
            }
            Database::Postgres { server, name } => {
                closed_to_others(server, name).await;
                let copy = Self::clone_of(name, self.options.clone()).await;
                let mut admin = PgConnection::connect(server)
                    .await
                    .expect("the test server");
                let text = format!("ALTER DATABASE {name} ALLOW_CONNECTIONS true");
                admin
                    .execute(sqlx::AssertSqlSafe(text))
                    .await
                    .expect("the original's return");
                copy
            }
        };
        this.clock
            .advance(self.clock.now_ms() - this.clock.now_ms());
        this
    }

    /// Another store on the same database: another process, as far as the database can tell.
    pub async fn another(&self) -> Store {
        connect(&self.url, &self.options, self.clock.clone()).await
    }

    async fn open(url: String, options: Options, database: Database) -> Self {
        let clock = TestClock::default();
        Self {
            store: connect(&url, &options, clock.clone()).await,
            clock,
            url,
            options,
            _database: database,
        }
    }
}

/// Ends every connection to a database, so that it can be a template. Stores open new ones.
async fn closed_to_others(server: &str, name: &str) {
    let mut admin = PgConnection::connect(server)
        .await
        .expect("the test server");
    for text in [
        format!("ALTER DATABASE {name} ALLOW_CONNECTIONS false"),
        format!(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = '{name}'"
        ),
    ] {
        admin
            .execute(sqlx::AssertSqlSafe(text))
            .await
            .expect("an idle database");
    }
}

async fn connect(url: &str, options: &Options, clock: TestClock) -> Store {
    let url = match options.tenant_role {
        Some(_) => walled::url(url),
        None => url.to_owned(),
    };
    Store::connect_with_clock(&url, options.clone(), move || clock.now_ms())
        .await
        .expect("the test's database")
}

/// Makes of one async function, which takes a [`TestStore`], a test on each database.
#[macro_export]
macro_rules! on_each_database {
    ($($(#[$meta:meta])* $name:ident),+ $(,)?) => {$(
        mod $name {
            $(#[$meta])*
            #[tokio::test(flavor = "multi_thread")]
            async fn sqlite() {
                super::$name($crate::testing::TestStore::sqlite().await).await;
            }

            $(#[$meta])*
            #[tokio::test(flavor = "multi_thread")]
            async fn postgres() {
                super::$name($crate::testing::TestStore::postgres().await).await;
            }

            $(#[$meta])*
            #[tokio::test(flavor = "multi_thread")]
            async fn postgres_walled() {
                super::$name($crate::testing::TestStore::walled().await).await;
            }
        }
    )+};
}

fn options() -> Options {
    Options {
        max_connections: 8,
        ..Options::default()
    }
}

#[derive(Debug)]
enum Database {
    Folder(#[allow(dead_code)] tempfile::TempDir),
    Postgres { server: &'static str, name: String },
}

impl Drop for Database {
    fn drop(&mut self) {
        let Self::Postgres { server, name } = self else {
            return;
        };
        // PostgreSQL drops a database when each of its processes has let go of the files, and now
        // and then one never answers: the server, which goes away with the tests, keeps what
        // could not be dropped in time.
        static GIVEN_UP: AtomicBool = AtomicBool::new(false);
        if GIVEN_UP.load(Ordering::Relaxed) {
            return;
        }
        let drop = format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)");
        let server = *server;
        // Dropping is not async, and the test's runtime may be on its way out.
        let done = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            runtime.block_on(async {
                let mut admin = PgConnection::connect(server).await?;
                admin.execute("SET statement_timeout = '5s'").await?;
                admin.execute(sqlx::AssertSqlSafe(drop)).await
            })
        })
        .join();
        if let Ok(Err(error)) = done {
            GIVEN_UP.store(true, Ordering::Relaxed);
            tracing::warn!(%error, "a test's database was left behind");
        }
    }
}

/// A server that lives as long as this process: the script stops it when its input ends.
#[derive(Debug)]
struct Server {
    url: String,
    _script: Option<Child>,
}

fn server_url() -> &'static str {
    let server = SERVER.get_or_init(|| match std::env::var("VPNPANEL_TEST_POSTGRES_URL") {
        Ok(url) if !url.is_empty() => Server { url, _script: None },
        _ => start_server(),
    });
    &server.url
}

fn start_server() -> Server {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../scripts/postgres");
    let mut child = Command::new(script)
        .arg("hold")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("scripts/postgres");
    let mut line = String::new();
    if let Some(stdout) = child.stdout.take() {
        BufReader::new(stdout)
            .read_line(&mut line)
            .expect("what scripts/postgres prints");
    }
    match line.split_whitespace().collect::<Vec<_>>()[..] {
        [url, _, folder] => Server {
            // by the socket, where nobody has to prove a password
            url: format!("{url}?host={folder}"),
            _script: Some(child),
        },
        _ => panic!(
            "no PostgreSQL for the tests: run `make test-deps`, or set VPNPANEL_TEST_POSTGRES_URL"
        ),
    }
}

/// Migrates the template, unless another test process has. Its name holds the migrations' names,
/// so that a server that lives longer than a schema serves both.
async fn template(server: &str, kind: &str, version: String, options: Options) -> String {
    let mut admin = PgConnection::connect(server)
        .await
        .expect("the test server");
    admin
        .execute("SELECT pg_advisory_lock(hashtext('vpnpanel_test_template'))")
        .await
        .expect("the template's lock");
    let name = format!("{kind}_{version}");
    let made = admin
        .fetch_optional(sqlx::AssertSqlSafe(format!(
            "SELECT 1 FROM pg_database WHERE datname = '{name}' AND datistemplate"
        )))
        .await
        .expect("the list of databases");
    if made.is_none() {
        let url = with_database(server, &name);
        for text in [
            format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)"),
            format!("CREATE DATABASE {name}"),
        ] {
            admin
                .execute(sqlx::AssertSqlSafe(text))
                .await
                .expect("an empty template");
        }
        let walled = options.tenant_role.is_some();
        let store = Store::connect(&url, options).await.expect("the template");
        store.migrate().await.expect("the schema");
        store.close().await;
        if walled {
            walled::prepare(&url).await;
        }
        admin
            .execute(sqlx::AssertSqlSafe(format!(
                "ALTER DATABASE {name} IS_TEMPLATE true"
            )))
            .await
            .expect("a template");
    }
    admin.close().await.expect("the lock's release");
    name
}

fn with_database(server: &str, name: &str) -> String {
    let (base, query) = server.split_once('?').unwrap_or((server, ""));
    let (host, _) = base.rsplit_once('/').expect("a database in the URL");
    if query.is_empty() {
        format!("{host}/{name}")
    } else {
        format!("{host}/{name}?{query}")
    }
}
