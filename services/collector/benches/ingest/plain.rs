//! The limit: the same rows into the same tables by plain SQL, one connection, nothing around it.

use std::time::{Duration, Instant};

use sqlx::{Connection, PgConnection, SqliteConnection, sqlite::SqliteConnectOptions};
use uuid::Uuid;
use vpnpanel_domain::Zone;
use vpnpanel_store::{NewTenant, TenantLimits, fresh_id, testing::TestStore};

use crate::{Figure, Sizes, load::make_users};

/// Rows of a transaction.
const ROWS: usize = 16_384;

/// What one transaction writes.
struct Rows {
    tenant: Uuid,
    node: Uuid,
    users: Vec<Uuid>,
    periods: Vec<Uuid>,
    peers: Vec<Uuid>,
    mark: i64,
    seq: i64,
}

enum Database {
    Sqlite(SqliteConnection),
    Postgres(PgConnection),
}

pub(crate) async fn run(test: TestStore, sizes: Sizes) -> Figure {
    let tenant = NewTenant {
        id: fresh_id(),
        name: "tenant".to_owned(),
        time_zone: Zone::utc(),
        limits: TenantLimits::default(),
    };
    let id = tenant.id;
    test.store.create_tenant(tenant, None).await.unwrap();
    let users = make_users(&test.store, id, sizes.users).await;
    analyze(&test.url).await;
    let nodes: Vec<Uuid> = (0..sizes.nodes).map(|_| Uuid::now_v7()).collect();
    let peers: Vec<Vec<Uuid>> = nodes
        .iter()
        .map(|_| users.iter().map(|_| Uuid::now_v7()).collect())
        .collect();
    let mut database = open(&test.url).await;
    let mut rounds = Vec::new();
    for round in 0..sizes.rounds {
        let started = Instant::now();
        for (node, peers) in nodes.iter().zip(&peers) {
            for (n, chunk) in users.chunks(ROWS).enumerate() {
                let first = n * ROWS;
                let rows = Rows {
                    tenant: id.uuid(),
                    node: *node,
                    users: chunk.iter().map(|user| user.id.uuid()).collect(),
                    periods: chunk.iter().map(|user| user.period.id.uuid()).collect(),
                    peers: peers[first..first + chunk.len()].to_vec(),
                    mark: (round as i64 + 1) * 1_000,
                    seq: (round * users.len() + first) as i64 + 1,
                };
                match &mut database {
                    Database::Sqlite(connection) => sqlite(connection, rows).await,
                    Database::Postgres(connection) => postgres(connection, rows).await,
                }
            }
        }
        rounds.push(started.elapsed());
    }
    Figure {
        deltas: (sizes.users * sizes.nodes * sizes.rounds) as u64,
        first_round: rounds[0],
        rest: rounds[1..].iter().sum(),
        p99_wait: Duration::ZERO,
        longest_wait: Duration::ZERO,
    }
}

/// What autovacuum does within a minute, so that both are planned by the numbers that are there.
pub(crate) async fn analyze(url: &str) {
    if url.starts_with("postgres") {
        let mut connection = PgConnection::connect(url).await.unwrap();
        sqlx::query("ANALYZE")
            .execute(&mut connection)
            .await
            .unwrap();
    }
}

async fn open(url: &str) -> Database {
    if url.starts_with("postgres") {
        return Database::Postgres(PgConnection::connect(url).await.unwrap());
    }
    // durable commits, as the store makes them
    let options: SqliteConnectOptions = url.parse().unwrap();
    let options = options
        .journal_mode(sqlx::sqlite::SqliteJournalMode::Wal)
        .synchronous(sqlx::sqlite::SqliteSynchronous::Full)
        .busy_timeout(Duration::from_secs(30));
    Database::Sqlite(SqliteConnection::connect_with(&options).await.unwrap())
}

const BUCKET: &str = "INSERT INTO usage_buckets (tenant_id, user_id, bucket_at, node_id, period_id,
        up, down, billed_bytes, billed_micro)
    SELECT $1, u, $2, $3, p, 1000, 1000, 2000, 0 FROM {rows} WHERE TRUE
    ON CONFLICT (tenant_id, user_id, bucket_at, node_id, period_id) DO UPDATE
    SET up = usage_buckets.up + excluded.up, down = usage_buckets.down + excluded.down,
        billed_bytes = usage_buckets.billed_bytes + excluded.billed_bytes";
const MARK: &str = "INSERT INTO marks (node_id, incarnation, peer_id, up, down, user_id, period_id,
        multiplier_ppm)
    SELECT $1, $2, c, $3, $3, u, p, 1000000 FROM {rows} WHERE TRUE
    ON CONFLICT (node_id, incarnation, peer_id) DO UPDATE
    SET up = excluded.up, down = excluded.down";
const PERIOD: &str = "UPDATE periods SET up = up + 1000, down = down + 1000,
        billed_bytes = billed_bytes + 2000, last_used_at = $1
    FROM {rows} WHERE periods.id = s.p";
const CURSOR: &str =
    "INSERT INTO node_cursors (node_id, epoch, seq, digest) VALUES ($1, $2, $3, $2)
    ON CONFLICT (node_id, epoch) DO UPDATE SET seq = excluded.seq, digest = excluded.digest";

/// The rows as a table whose first parameter has this number.
fn with_rows(text: &str, first: usize, postgres: bool) -> sqlx::AssertSqlSafe<String> {
    let rows = if postgres {
        format!(
            "unnest(${first}::uuid[], ${}::uuid[], ${}::uuid[]) AS s(u, p, c)",
            first + 1,
            first + 2
        )
    } else {
        format!(
            "(SELECT unhex(value ->> 0) AS u, unhex(value ->> 1) AS p, unhex(value ->> 2) AS c
              FROM json_each(${first})) AS s"
        )
    };
    sqlx::AssertSqlSafe(text.replace("{rows}", &rows))
}

async fn postgres(connection: &mut PgConnection, rows: Rows) {
    let incarnation = rows.node.as_bytes().to_vec();
    let mut tx = connection.begin().await.unwrap();
    sqlx::query(CURSOR)
        .bind(rows.node)
        .bind(&incarnation)
        .bind(rows.seq)
        .execute(&mut *tx)
        .await
        .unwrap();
    sqlx::query(with_rows(MARK, 4, true))
        .bind(rows.node)
        .bind(&incarnation)
        .bind(rows.mark)
        .bind(&rows.users)
        .bind(&rows.periods)
        .bind(&rows.peers)
        .execute(&mut *tx)
        .await
        .unwrap();
    sqlx::query(with_rows(BUCKET, 4, true))
        .bind(rows.tenant)
        .bind(bucket())
        .bind(rows.node)
        .bind(&rows.users)
        .bind(&rows.periods)
        .bind(&rows.peers)
        .execute(&mut *tx)
        .await
        .unwrap();
    sqlx::query(with_rows(PERIOD, 2, true))
        .bind(bucket())
        .bind(&rows.users)
        .bind(&rows.periods)
        .bind(&rows.peers)
        .execute(&mut *tx)
        .await
        .unwrap();
    tx.commit().await.unwrap();
}

async fn sqlite(connection: &mut SqliteConnection, rows: Rows) {
    let node = rows.node.as_bytes().to_vec();
    let tenant = rows.tenant.as_bytes().to_vec();
    let keys = rows.users.iter().zip(&rows.periods).zip(&rows.peers);
    let keys: Vec<[String; 3]> = keys
        .map(|((user, period), peer)| [user, period, peer].map(|id| id.simple().to_string()))
        .collect();
    let keys = serde_json::to_string(&keys).unwrap();
    let mut tx = connection.begin_with("BEGIN IMMEDIATE").await.unwrap();
    sqlx::query(CURSOR)
        .bind(&node)
        .bind(&node)
        .bind(rows.seq)
        .execute(&mut *tx)
        .await
        .unwrap();
    sqlx::query(with_rows(MARK, 4, false))
        .bind(&node)
        .bind(&node)
        .bind(rows.mark)
        .bind(&keys)
        .execute(&mut *tx)
        .await
        .unwrap();
    sqlx::query(with_rows(BUCKET, 4, false))
        .bind(&tenant)
        .bind(bucket())
        .bind(&node)
        .bind(&keys)
        .execute(&mut *tx)
        .await
        .unwrap();
    sqlx::query(with_rows(PERIOD, 2, false))
        .bind(bucket())
        .bind(&keys)
        .execute(&mut *tx)
        .await
        .unwrap();
    tx.commit().await.unwrap();
}

/// The bucket that is open now.
fn bucket() -> i64 {
    let now = crate::agent::now_ms();
    now - now.rem_euclid(900_000)
}
