//! The audit log: what was done by whom, append-only by triggers, and the hash chain over it
//! (docs/adr/0009). The nil tenant is the platform, so that a tenant is a chain's key.
//!
//! What the triggers let through: events without a place in the chain come in; the chainer sets
//! an event's place once; events up to a checkpoint go out; heads of chains only advance.

use async_trait::async_trait;
use sea_orm_migration::sea_orm::DbErr;
use sea_orm_migration::{MigrationName, MigrationTrait, SchemaManager};

use crate::dialect;

pub(crate) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &str {
        "m20261126_000009_audit"
    }
}

#[async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        dialect::run(manager, UP).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        dialect::run(manager, DOWN).await
    }
}

// On SQLite, REPLACE deletes rows without running triggers on deletion: what would make it delete
// one is refused before.
pub(crate) const UP: &str = r"
CREATE TABLE audit_events (
    tenant_id {uuid} NOT NULL,
    id {uuid} NOT NULL,
    recorded_at {big} NOT NULL,
    actor TEXT NOT NULL,
    roles TEXT NOT NULL,
    credential TEXT NOT NULL,
    address TEXT NOT NULL,
    user_agent TEXT NOT NULL,
    request_id TEXT NOT NULL,
    method TEXT NOT NULL,
    resource_type TEXT NOT NULL,
    resource_id TEXT NOT NULL,
    outcome TEXT NOT NULL CHECK (outcome IN ('done', 'refused')),
    reason TEXT NOT NULL,
    times {big} NOT NULL,
    state_before TEXT NOT NULL,
    state_after TEXT NOT NULL,
    seq {big},
    prev_hash {bytes},
    hash {bytes},
    PRIMARY KEY (tenant_id, id),
    CHECK ((seq IS NULL) = (hash IS NULL) AND (seq IS NULL) = (prev_hash IS NULL))
) {table};
CREATE UNIQUE INDEX audit_events_seq ON audit_events (tenant_id, seq) WHERE seq IS NOT NULL;
CREATE INDEX audit_events_unchained ON audit_events (id) WHERE seq IS NULL;
CREATE INDEX audit_events_actor ON audit_events (tenant_id, actor, id);
CREATE INDEX audit_events_resource ON audit_events (tenant_id, resource_id, id);

CREATE TABLE audit_heads (
    tenant_id {uuid} PRIMARY KEY NOT NULL,
    seq {big} NOT NULL,
    hash {bytes} NOT NULL,
    chained_at {big} NOT NULL
) {clustered};

CREATE TABLE audit_checkpoints (
    tenant_id {uuid} NOT NULL,
    through_seq {big} NOT NULL,
    hash {bytes} NOT NULL,
    made_at {big} NOT NULL,
    PRIMARY KEY (tenant_id, through_seq)
) {clustered};

CREATE TABLE audit_refusals (
    minute {big} NOT NULL,
    subject TEXT NOT NULL,
    network TEXT NOT NULL,
    reason TEXT NOT NULL,
    method TEXT NOT NULL,
    times {big} NOT NULL,
    PRIMARY KEY (minute, subject, network)
) {clustered};

{pg}CREATE FUNCTION audit_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
{pg}BEGIN
{pg}    RAISE EXCEPTION 'the audit log is append-only' USING ERRCODE = 'insufficient_privilege'{;}
{pg}END $$;
{pg}CREATE FUNCTION audit_events_change() RETURNS trigger LANGUAGE plpgsql AS $$
{pg}DECLARE
{pg}    plain audit_events := NEW{;}
{pg}BEGIN
{pg}    plain.seq := NULL{;}
{pg}    plain.prev_hash := NULL{;}
{pg}    plain.hash := NULL{;}
{pg}    IF OLD.seq IS NULL AND NEW.seq IS NOT NULL AND plain IS NOT DISTINCT FROM OLD THEN
{pg}        RETURN NEW{;}
{pg}    END IF{;}
{pg}    RAISE EXCEPTION 'the audit log is append-only' USING ERRCODE = 'insufficient_privilege'{;}
{pg}END $$;
{pg}CREATE FUNCTION audit_events_removal() RETURNS trigger LANGUAGE plpgsql AS $$
{pg}BEGIN
{pg}    IF OLD.seq <= (SELECT MAX(through_seq) FROM audit_checkpoints WHERE tenant_id = OLD.tenant_id) THEN
{pg}        RETURN OLD{;}
{pg}    END IF{;}
{pg}    RAISE EXCEPTION 'the audit log is append-only' USING ERRCODE = 'insufficient_privilege'{;}
{pg}END $$;
{pg}CREATE TRIGGER audit_events_insert BEFORE INSERT ON audit_events
{pg}FOR EACH ROW WHEN (NEW.seq IS NOT NULL) EXECUTE FUNCTION audit_refuse();
{pg}CREATE TRIGGER audit_events_update BEFORE UPDATE ON audit_events
{pg}FOR EACH ROW EXECUTE FUNCTION audit_events_change();
{pg}CREATE TRIGGER audit_events_delete BEFORE DELETE ON audit_events
{pg}FOR EACH ROW EXECUTE FUNCTION audit_events_removal();
{pg}CREATE TRIGGER audit_events_truncate BEFORE TRUNCATE ON audit_events
{pg}FOR EACH STATEMENT EXECUTE FUNCTION audit_refuse();
{pg}CREATE TRIGGER audit_heads_update BEFORE UPDATE ON audit_heads
{pg}FOR EACH ROW WHEN (NEW.tenant_id <> OLD.tenant_id OR NEW.seq <= OLD.seq) EXECUTE FUNCTION audit_refuse();
{pg}CREATE TRIGGER audit_heads_delete BEFORE DELETE ON audit_heads
{pg}FOR EACH ROW EXECUTE FUNCTION audit_refuse();
{pg}CREATE TRIGGER audit_heads_truncate BEFORE TRUNCATE ON audit_heads
{pg}FOR EACH STATEMENT EXECUTE FUNCTION audit_refuse();
{pg}CREATE TRIGGER audit_checkpoints_change BEFORE UPDATE OR DELETE ON audit_checkpoints
{pg}FOR EACH ROW EXECUTE FUNCTION audit_refuse();
{pg}CREATE TRIGGER audit_checkpoints_truncate BEFORE TRUNCATE ON audit_checkpoints
{pg}FOR EACH STATEMENT EXECUTE FUNCTION audit_refuse();

{lite}CREATE TRIGGER audit_events_insert BEFORE INSERT ON audit_events
{lite}WHEN NEW.seq IS NOT NULL
{lite}    OR EXISTS (SELECT 1 FROM audit_events WHERE tenant_id = NEW.tenant_id AND id = NEW.id)
{lite}BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'){;} END;
{lite}CREATE TRIGGER audit_events_update BEFORE UPDATE ON audit_events
{lite}WHEN NOT (OLD.seq IS NULL AND NEW.seq IS NOT NULL
{lite}    AND (NEW.tenant_id, NEW.id, NEW.recorded_at, NEW.actor, NEW.roles, NEW.credential,
{lite}         NEW.address, NEW.user_agent, NEW.request_id, NEW.method, NEW.resource_type,
{lite}         NEW.resource_id, NEW.outcome, NEW.reason, NEW.times, NEW.state_before, NEW.state_after)
{lite}      = (OLD.tenant_id, OLD.id, OLD.recorded_at, OLD.actor, OLD.roles, OLD.credential,
{lite}         OLD.address, OLD.user_agent, OLD.request_id, OLD.method, OLD.resource_type,
{lite}         OLD.resource_id, OLD.outcome, OLD.reason, OLD.times, OLD.state_before, OLD.state_after)
{lite}    AND NOT EXISTS (SELECT 1 FROM audit_events WHERE tenant_id = NEW.tenant_id AND seq = NEW.seq))
{lite}BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'){;} END;
{lite}CREATE TRIGGER audit_events_delete BEFORE DELETE ON audit_events
{lite}WHEN NOT COALESCE(OLD.seq <= (SELECT MAX(through_seq) FROM audit_checkpoints
{lite}    WHERE tenant_id = OLD.tenant_id), FALSE)
{lite}BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'){;} END;
{lite}CREATE TRIGGER audit_heads_insert BEFORE INSERT ON audit_heads
{lite}WHEN EXISTS (SELECT 1 FROM audit_heads WHERE tenant_id = NEW.tenant_id)
{lite}BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'){;} END;
{lite}CREATE TRIGGER audit_heads_update BEFORE UPDATE ON audit_heads
{lite}WHEN NEW.tenant_id <> OLD.tenant_id OR NEW.seq <= OLD.seq
{lite}BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'){;} END;
{lite}CREATE TRIGGER audit_heads_delete BEFORE DELETE ON audit_heads
{lite}BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'){;} END;
{lite}CREATE TRIGGER audit_checkpoints_insert BEFORE INSERT ON audit_checkpoints
{lite}WHEN EXISTS (SELECT 1 FROM audit_checkpoints
{lite}    WHERE tenant_id = NEW.tenant_id AND through_seq = NEW.through_seq)
{lite}BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'){;} END;
{lite}CREATE TRIGGER audit_checkpoints_update BEFORE UPDATE ON audit_checkpoints
{lite}BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'){;} END;
{lite}CREATE TRIGGER audit_checkpoints_delete BEFORE DELETE ON audit_checkpoints
{lite}BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'){;} END;
";

const DOWN: &str = r"
DROP TABLE audit_refusals;
DROP TABLE audit_checkpoints;
DROP TABLE audit_heads;
DROP TABLE audit_events;
{pg}DROP FUNCTION audit_events_removal;
{pg}DROP FUNCTION audit_events_change;
{pg}DROP FUNCTION audit_refuse;
";
