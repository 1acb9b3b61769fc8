//! The schema says whose rows are, as PostgreSQL's catalog tells: a table with rows of tenants has
//! the tenant in a key, its foreign keys to other such tables hold the tenant on both ends, and
//! row-level security guards it. What is otherwise is listed here with the reason.

use std::collections::BTreeSet;

use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, Row};
use vpnpanel_store::testing::{TENANT_ROLE, TestStore};

/// Tables without a tenant in their rows, and why.
const WITHOUT_TENANT: [(&str, &str); 28] = [
    ("accounts", "people: memberships say where they act"),
    ("address_pools", "one of each inbound, reached through it"),
    ("audit_refusals", "sign-ins, of the platform's log"),
    ("authorities", "of the installation"),
    ("batch_digests", "of a node's stream"),
    ("dead_letters", "of a node's stream"),
    ("inbound_nodes", "of an inbound and a node of one owner"),
    ("installation", "the installation"),
    ("job_runs", "of the installation"),
    ("jobs", "of the installation"),
    ("join_tokens", "of a node, reached through it"),
    ("leases", "of a node and a period"),
    ("marks", "of a node's stream"),
    ("node_certificates", "of a node, reached through it"),
    ("node_cursors", "of a node's stream"),
    ("node_links", "of a node's stream"),
    ("node_states", "of a node, reached through it"),
    ("orphan_usage", "usage of which nobody knows whose it is"),
    ("recovery_codes", "of an account"),
    ("refresh_tokens", "of an account"),
    ("released_addresses", "of an inbound, reached through it"),
    ("restores", "of the installation"),
    ("roles", "of the platform, held in tenants"),
    ("seaql_migrations", "of the schema"),
    ("second_factors", "of an account"),
    ("sessions", "of an account"),
    ("signing_keys", "of the installation"),
    ("usage_floors", "of the installation"),
];

/// Tables with a tenant in their rows and in none of their keys, and why.
const WITHOUT_KEY: [(&str, &str); 5] = [
    ("api_tokens", "found by a hash, whosesoever they are"),
    ("change_log", "read in one order by collectors alone"),
    (
        "peers",
        "ids are keys of counters on nodes; user and device hold the tenant in foreign keys",
    ),
    (
        "periods",
        "found by nodes' usage; the user holds the tenant in a foreign key",
    ),
    ("quarantine_usage", "numbered as it came"),
];

/// Foreign keys between tables with tenants that do not hold the tenant, and why.
const WITHOUT_TENANT_IN_REFERENCE: [(&str, &str); 3] = [
    (
        "endpoint_templates -> inbounds",
        "the platform's have no tenant; the store lets an owner present its own inbounds alone",
    ),
    (
        "group_inbounds -> inbounds",
        "the platform's inbounds, which it offers, have no tenant",
    ),
    ("peers -> inbounds", "follows from the groups' inbounds"),
];

async fn connect(test: &TestStore) -> PgConnection {
    PgConnection::connect(&test.url).await.unwrap()
}

async fn names(db: &mut PgConnection, text: &str) -> BTreeSet<String> {
    let rows = db.fetch_all(AssertSqlSafe(text.to_owned())).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

/// The tables that `condition` holds of; partitions are as their tables are.
async fn tables(db: &mut PgConnection, condition: &str) -> BTreeSet<String> {
    let text = format!(
        "SELECT c.relname::text FROM pg_class c
         LEFT JOIN pg_attribute t ON t.attrelid = c.oid AND t.attname = 'tenant_id'
         WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p')
           AND NOT c.relispartition AND c.relname <> 'tenants' AND {condition}"
    );
    names(db, &text).await
}

fn listed<const N: usize>(list: [(&str, &str); N]) -> BTreeSet<String> {
    list.map(|it| it.0.to_owned()).into()
}

#[tokio::test]
async fn tables_without_a_tenant_are_those_that_need_none() {
    let test = TestStore::postgres().await;
    let found = tables(&mut connect(&test).await, "t.attnum IS NULL").await;
    assert_eq!(found, listed(WITHOUT_TENANT));
}

#[tokio::test]
async fn tables_of_tenants_have_the_tenant_in_a_key() {
    let test = TestStore::postgres().await;
    let condition = "t.attnum IS NOT NULL AND NOT EXISTS (
        SELECT 1 FROM pg_index i WHERE i.indrelid = c.oid AND i.indisunique
           AND t.attnum = ANY (i.indkey::int2[]))";
    let found = tables(&mut connect(&test).await, condition).await;
    assert_eq!(found, listed(WITHOUT_KEY));
}

#[tokio::test]
async fn references_between_tables_of_tenants_hold_the_tenant_on_both_ends() {
    let test = TestStore::postgres().await;
    let text = "SELECT DISTINCT k.conrelid::regclass || ' -> ' || k.confrelid::regclass
        FROM pg_constraint k
        JOIN pg_attribute f ON f.attrelid = k.conrelid AND f.attname = 'tenant_id'
        JOIN pg_attribute t ON t.attrelid = k.confrelid AND t.attname = 'tenant_id'
        WHERE k.contype = 'f'
          AND array_position(k.conkey, f.attnum) IS DISTINCT FROM
              array_position(k.confkey, t.attnum)
           OR k.contype = 'f' AND array_position(k.conkey, f.attnum) IS NULL";
    let found = names(&mut connect(&test).await, text).await;
    assert_eq!(found, listed(WITHOUT_TENANT_IN_REFERENCE));
}

#[tokio::test]
async fn row_level_security_guards_every_table_of_tenants() {
    let test = TestStore::postgres().await;
    let condition = "t.attnum IS NOT NULL AND NOT (c.relrowsecurity AND EXISTS (
        SELECT 1 FROM pg_policy p WHERE p.polrelid = c.oid AND p.polname = 'tenant'
           AND p.polcmd = '*' AND pg_get_expr(p.polqual, c.oid) = 'in_tenant(tenant_id)'))";
    let mut db = connect(&test).await;
    assert_eq!(tables(&mut db, condition).await, BTreeSet::new());
    let policies = "SELECT c.relname || ': ' || pg_get_expr(p.polqual, c.oid)
        FROM pg_policy p JOIN pg_class c ON c.oid = p.polrelid WHERE p.polrelid = 'tenants'::regclass";
    let of_tenants = names(&mut db, policies).await;
    assert_eq!(of_tenants, ["tenants: in_tenant(id)".to_owned()].into());
}

#[tokio::test]
async fn the_role_for_tenants_sees_the_rows_of_the_tenant_named_and_without_a_name_none() {
    let test = TestStore::postgres().await.with_walls_as_shipped().await;
    let mut db = connect(&test).await;
    let all = tables(&mut db, "t.attnum IS NOT NULL").await;
    let neighbours = names(&mut db, "SELECT id::text FROM tenants ORDER BY id").await;
    assert_eq!(neighbours.len(), 2);
    db.execute(AssertSqlSafe(format!("SET ROLE {TENANT_ROLE}")))
        .await
        .unwrap();
    let mut seen = BTreeSet::new();
    for name in ["", neighbours.first().unwrap(), neighbours.last().unwrap()] {
        db.execute(AssertSqlSafe(format!("SET vpnpanel.tenant = '{name}'")))
            .await
            .unwrap();
        for table in &all {
            let text = format!("SELECT tenant_id::text FROM {table} WHERE tenant_id IS NOT NULL");
            let tenants = names(&mut db, &text).await;
            assert!(
                tenants.iter().all(|it| it == name),
                "{table} as {name:?}: {tenants:?}"
            );
            if !tenants.is_empty() {
                seen.insert(table.clone());
            }
        }
    }
    assert_eq!(seen, all, "a table has no row that could have been seen");
}

#[tokio::test]
async fn the_role_for_tenants_writes_no_row_of_another_and_reads_no_secrets_of_the_platform() {
    let test = TestStore::postgres().await.with_walls_as_shipped().await;
    let mut db = connect(&test).await;
    let neighbours = names(&mut db, "SELECT id::text FROM tenants ORDER BY id").await;
    let (us, them) = (neighbours.first().unwrap(), neighbours.last().unwrap());
    let narrow = format!("SET ROLE {TENANT_ROLE}; SET vpnpanel.tenant = '{us}'");
    db.execute(AssertSqlSafe(narrow)).await.unwrap();

    for text in [
        format!("UPDATE users SET note = 'ours' WHERE tenant_id = '{them}'"),
        format!("DELETE FROM groups WHERE tenant_id = '{them}'"),
        "UPDATE nodes SET name = 'ours' WHERE tenant_id IS NULL".to_owned(),
    ] {
        let done = db.execute(AssertSqlSafe(text.clone())).await.unwrap();
        assert_eq!(done.rows_affected(), 0, "{text}");
    }
    for text in [
        format!("UPDATE users SET tenant_id = '{them}'"),
        format!(
            "INSERT INTO groups (tenant_id, id, name, name_key, version, created_at, updated_at)
             VALUES ('{them}', gen_random_uuid(), 'ours', 'ours', 1, 1, 1)"
        ),
        "INSERT INTO memberships (id, account_id, role, created_at)
         VALUES (gen_random_uuid(), gen_random_uuid(), 'admin', 1)"
            .to_owned(),
        "SELECT sealed_private_key FROM signing_keys".to_owned(),
        "SELECT hash FROM refresh_tokens".to_owned(),
        "SELECT * FROM usage_buckets_other".to_owned(),
        "ALTER TABLE users DISABLE ROW LEVEL SECURITY".to_owned(),
    ] {
        let refused = db.execute(AssertSqlSafe(text.clone())).await.unwrap_err();
        let code = refused.as_database_error().and_then(|it| it.code());
        assert_eq!(code.as_deref(), Some("42501"), "{text}: {refused}");
    }
}
