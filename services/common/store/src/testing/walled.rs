//! Databases in which a missing condition on the tenant cannot hide. Row-level security by itself
//! would hide it: rows of other tenants are left out, whether or not the statement leaves them
//! out. Here the policies are the product's, but their question is answered by an error wherever
//! the answer would be no, and each table has rows of two other tenants, whose ids lie before and
//! behind all others. A statement of a tenant that reaches one of them fails, and so does its test.

use std::hash::{DefaultHasher, Hash, Hasher};

use sqlx::{Connection, Executor, PgConnection};

use super::TestStore;
use crate::connect::Options;

/// With the rights of which transactions of tenants run in tests.
pub const TENANT_ROLE: &str = "vpnpanel_test_tenant";

pub(super) fn options() -> Options {
    Options {
        tenant_role: Some(TENANT_ROLE.to_owned()),
        ..super::options()
    }
}

/// The URL of a database where a statement reaches no more rows than it has conditions for: in
/// small tables PostgreSQL would rather read everything, and join by hashing everything.
pub(super) fn url(url: &str) -> String {
    let mut url = url.to_owned();
    // Prices as high as these would also have every statement compiled (jit).
    for setting in [
        "enable_seqscan",
        "enable_hashjoin",
        "enable_mergejoin",
        "jit",
    ] {
        url.push(if url.contains('?') { '&' } else { '?' });
        url.push_str(&format!("options[{setting}]=off"));
    }
    url
}

/// Makes the template, unless there is one.
pub(super) async fn template(server: &str) -> String {
    let mut hasher = DefaultHasher::new();
    (TENANT_ROLE, ASK, NEIGHBOURS).hash(&mut hasher);
    let version = format!(
        "{}_{:016x}",
        vpnpanel_migration::fingerprint(),
        hasher.finish()
    );
    make_role(server).await;
    super::template(server, "walled", version, options()).await
}

async fn make_role(server: &str) {
    let mut admin = PgConnection::connect(server)
        .await
        .expect("the test server");
    // Roles are of the server, and several processes may come at once.
    let role = format!(
        "DO $$ BEGIN
             CREATE ROLE {TENANT_ROLE} NOLOGIN NOSUPERUSER NOBYPASSRLS;
         EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;
         END $$"
    );
    admin
        .execute(sqlx::AssertSqlSafe(role))
        .await
        .expect("the role for tenants");
}

impl TestStore {
    /// Puts the other tenants into a database on Postgres, and gives [`TENANT_ROLE`] its rights:
    /// then it has the walls that production has.
    pub async fn with_walls_as_shipped(self) -> Self {
        make_role(&self.url).await;
        let owner = super::connect(&self.url, &options(), self.clock.clone()).await;
        owner.migrate().await.expect("the rights of the role");
        owner.close().await;
        let mut owner = PgConnection::connect(&self.url)
            .await
            .expect("the database");
        owner.execute(NEIGHBOURS).await.expect("neighbours");
        self
    }
}

/// Puts the question and the other tenants into a migrated database.
pub(super) async fn prepare(url: &str) {
    let mut owner = PgConnection::connect(url).await.expect("the template");
    for text in [ASK, NEIGHBOURS] {
        owner.execute(text).await.expect("walls");
    }
    owner.close().await.expect("the template's release");
}

/// What the policies ask of each row that a statement reaches, its own conditions considered. The
/// price makes PostgreSQL look at those first. What is the platform's another policy may show.
const ASK: &str = "
CREATE OR REPLACE FUNCTION in_tenant(tenant uuid) RETURNS boolean
LANGUAGE plpgsql STABLE PARALLEL SAFE COST 100000 AS $$
DECLARE
    scope text := current_setting('vpnpanel.tenant', TRUE);
BEGIN
    IF tenant::text = scope THEN
        RETURN TRUE;
    END IF;
    IF tenant IS NULL OR tenant = '00000000-0000-0000-0000-000000000000' THEN
        RETURN FALSE;
    END IF;
    RAISE EXCEPTION 'a statement for tenant % reached a row of tenant %', scope, tenant
        USING ERRCODE = 'insufficient_privilege';
END $$";

/// Two tenants, with a row in every table that has a tenant. They need nothing else to be there:
/// foreign keys and triggers sleep meanwhile. Their audit logs are chained already, and of the one
/// tenant alone, because retention looks for the oldest.
const NEIGHBOURS: &str = r#"
SET session_replication_role = replica;
DO $$
DECLARE
    lead text;
    t uuid;
    o uuid;
    n integer := 0;
BEGIN
    FOREACH lead IN ARRAY ARRAY['00000000', 'ffffffff'] LOOP
        t := lead || '-0000-7000-8000-000000000001';
        o := lead || '-0000-7000-8000-000000000002';
        n := n + 1;
        INSERT INTO tenants (id, name, name_key, time_zone, version, created_at, updated_at)
        VALUES (t, 'neighbour ' || n, 'neighbour ' || n, 'UTC', 1, 1, 1);
        INSERT INTO memberships (id, account_id, tenant_id, role, created_at)
        VALUES (o, o, t, 'owner', 1);
        INSERT INTO nodes (id, tenant_id, name, name_key, region, address, labels,
            multiplier_ppm, disabled, version, created_at, updated_at)
        VALUES (o, t, 'node', 'node', 'eu', '192.0.2.1', '{}', 1000000, FALSE, 1, 1, 1);
        INSERT INTO inbounds (id, tenant_id, name, name_key, kind, selector, offered, settings,
            version, created_at, updated_at)
        VALUES (o, t, 'inbound', 'inbound', 'wireguard', '{}', FALSE,
            '{"port": 51820, "ipv4_pool": "10.250.0.0/16", "ipv6_pool": null, "dns": [],
              "mtu": 1420, "keepalive_seconds": 25, "client_allowed_ips": []}', 1, 1, 1);
        INSERT INTO endpoint_templates (id, tenant_id, inbound_id, name_pattern, sort_order,
            disabled, settings, version, created_at, updated_at)
        VALUES (o, t, o, '{user}', 0, FALSE, '{}', 1, 1, 1);
        INSERT INTO groups (tenant_id, id, name, name_key, version, created_at, updated_at)
        VALUES (t, o, 'everybody', 'everybody', 1, 1, 1);
        INSERT INTO group_inbounds (tenant_id, group_id, inbound_id) VALUES (t, o, o);
        INSERT INTO users (tenant_id, id, username, username_key, note, status, disabled, on_hold,
            limit_bytes, reset_strategy, period_id, credentials_version, version, created_at,
            updated_at)
        VALUES (t, o, 'ada', 'ada', '', 'active', FALSE, FALSE, 0, 'none', o, 1, 1, 1, 1);
        INSERT INTO plans (tenant_id, id, name, name_key, note, limit_bytes, reset_strategy,
            on_first_use, speed_up_bps, speed_down_bps, device_limit, next_plan_start, version,
            created_at, updated_at)
        VALUES (t, o, 'month', 'month', '', 0, 'none', FALSE, 0, 0, 0, 'first_end', 1, 1, 1);
        INSERT INTO plan_groups (tenant_id, plan_id, group_id) VALUES (t, o, o);
        INSERT INTO tenant_months (tenant_id, starts_at, ends_at, billed_bytes, billed_micro)
        VALUES (t, 0, 9000000000000, 0, 0);
        INSERT INTO operations (tenant_id, id, kind, state, plan_id, attribution, actor, total,
            done, failed, waiting, fence, lease_until, created_at, ended_at)
        VALUES (t, o, 'batch_create_users', 'ended', o, '{}', 'nobody', 1, 1, 0, '', 1, 1, 1,
            9000000000000);
        INSERT INTO operation_items (tenant_id, operation_id, number, state, name, note,
            resource_id, error_reason, error_message)
        VALUES (t, o, 0, 'done', 'ada', '', o, '', '');
        INSERT INTO subscription_fetches (tenant_id, user_id, fetched_at, client)
        VALUES (t, o, 1, 'client');
        INSERT INTO user_groups (tenant_id, user_id, group_id) VALUES (t, o, o);
        INSERT INTO devices (tenant_id, id, user_id, name, public_key, created_at)
        VALUES (t, o, o, 'phone', lead::bytea, 1);
        INSERT INTO peers (id, tenant_id, user_id, device_id, inbound_id, ipv4, created_at)
        VALUES (o, t, o, o, o, 184156162, 1);
        INSERT INTO periods (tenant_id, id, user_id, starts_at, limit_bytes, up, down,
            billed_bytes, billed_micro, reserved_bytes, reserved_micro)
        VALUES (t, o, o, 1, 0, 1, 1, 2, 0, 0, 0);
        INSERT INTO usage_buckets (tenant_id, user_id, bucket_at, node_id, period_id, up, down,
            billed_bytes, billed_micro)
        VALUES (t, o, 0, o, o, 1, 1, 2, 0);
        INSERT INTO node_buckets (tenant_id, node_id, bucket_at, up, down, billed_bytes,
            billed_micro)
        VALUES (t, o, 0, 1, 1, 2, 0);
        INSERT INTO usage_hours (tenant_id, user_id, hour_at, node_id, up, down, billed_bytes,
            billed_micro)
        VALUES (t, o, 0, o, 1, 1, 2, 0);
        INSERT INTO usage_days (tenant_id, user_id, day_at, node_id, up, down, billed_bytes,
            billed_micro)
        VALUES (t, o, 0, o, 1, 1, 2, 0);
        INSERT INTO node_hours (tenant_id, node_id, hour_at, up, down, billed_bytes, billed_micro)
        VALUES (t, o, 0, 1, 1, 2, 0);
        INSERT INTO node_days (tenant_id, node_id, day_at, up, down, billed_bytes, billed_micro)
        VALUES (t, o, 0, 1, 1, 2, 0);
        INSERT INTO usage_touched (hour_at, tenant_id, id) VALUES (0, t, o);
        INSERT INTO quarantine_usage (tenant_id, node_id, incarnation, peer_id, user_id, period_id,
            multiplier_ppm, bucket_at, up_from, up_to, down_from, down_to, recorded_at, state)
        VALUES (t, o, '', o, o, o, 1000000, 0, 0, 1, 0, 1, 1, 'waiting');
        INSERT INTO change_log (kind, tenant_id, resource_id, recorded_at)
        VALUES ('tenant', t, t, 1);
        INSERT INTO api_tokens (id, account_id, tenant_id, name, hint, hash, permissions,
            created_at, expires_at)
        VALUES (o, o, t, 'token', 'vp_', lead::bytea, '[]', 1, 9000000000000);
        INSERT INTO idempotency (account_id, tenant_id, method, request_id, request_digest,
            resource_id, expires_at)
        VALUES (o, t, 'method', 'request', '', o, 9000000000000);
        INSERT INTO node_commands (tenant_id, node_id, id, request_id, kind, ttl_ms, state,
            created_at, expires_at, message, output)
        VALUES (t, o, o, o, 'drain', 1, 'pending', 1, 9000000000000, '', '');
    END LOOP;
    INSERT INTO audit_events (tenant_id, id, recorded_at, actor, roles, credential, address,
        user_agent, request_id, method, resource_type, resource_id, outcome, reason, times,
        state_before, state_after, seq, prev_hash, hash)
    VALUES (t, o, 1, 'nobody', '', '', '', '', '', '', 'thing', '1', 'done', '', 1, '', '', 1,
        '', '');
    INSERT INTO audit_heads (tenant_id, seq, hash, chained_at) VALUES (t, 1, '', 1);
    INSERT INTO audit_checkpoints (tenant_id, through_seq, hash, made_at) VALUES (t, 0, '', 1);
END $$;
SET session_replication_role = DEFAULT"#;
