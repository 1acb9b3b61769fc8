//! The audit log (docs/adr/0009): what was done, by whom, to what. A [`Store`] that
//! [acts](Store::acting) for somebody writes an event with each of its transactions, in the same
//! commit; one that would commit without an event is refused, so that none is forgotten.

mod attribution;
mod chain;
mod event;
mod hash;
mod refusals;
mod retention;
mod stored;
mod verify;

pub use attribution::{Attribution, Describe, Described, HeldRole};
pub use chain::AuditTail;
pub use event::{Event, Outcome, Resource};
pub use stored::{AuditEvent, AuditFilter, ChainLink};
pub use verify::{Anchor, Breach, Broken, Verification};

use std::borrow::Cow;

use uuid::{Builder, Uuid};
use vpnpanel_domain::TenantId;

use crate::connect::Store;
use crate::error::{Result, StoreError};
use crate::row_set::{Cell, Column, RowSet};
use crate::sql;
use crate::transaction::Write;

/// Longest state of a resource that an event holds; the place of a longer one tells its length.
const MAX_STATE_BYTES: usize = 64 * 1024;

/// An event on its way into the log.
#[derive(Debug)]
pub(crate) struct Row {
    id: Uuid,
    tenant: Uuid,
    resource_type: &'static str,
    resource_id: String,
    outcome: Outcome,
    reason: Cow<'static, str>,
    times: i64,
    before: String,
    after: String,
    /// Where it came from, if not from where whoever acts does.
    address: Option<String>,
    /// By which method, if not the one of whoever acts.
    method: Option<String>,
}

/// What a transaction says of itself in the audit log.
#[derive(Debug, Default)]
pub(crate) struct Record {
    rows: Vec<Row>,
    /// It needs no event.
    quiet: bool,
}

impl Write {
    /// Whether somebody is acting, so that events are wanted: what only they need is not read
    /// otherwise.
    pub(crate) fn is_audited(&self) -> bool {
        self.acting().is_some()
    }

    /// Notes an event, to be appended at the commit.
    pub(crate) fn audit(&mut self, event: Event<'_>) {
        let Some(acting) = self.acting() else { return };
        let Described { before, after } = event.describe(acting.describe);
        let row = Row {
            id: event_id(self.now, self.record.rows.len()),
            tenant: event.tenant.map_or(Uuid::nil(), TenantId::uuid),
            resource_type: event.resource_type,
            resource_id: event.resource_id,
            outcome: event.outcome,
            reason: event.reason.into(),
            times: 1,
            before: text(before),
            after: text(after),
            address: None,
            method: None,
        };
        self.record.rows.push(row);
    }

    /// Commits without an event, when none was noted: nothing was done that anybody has to answer
    /// for.
    pub(crate) fn needs_no_event(&mut self) {
        self.record.quiet = true;
    }
}

/// Appends what a transaction noted.
///
/// # Errors
/// [`StoreError::Unaudited`] when somebody acts and nothing was noted.
pub(crate) async fn append(tx: &Write) -> Result<()> {
    let Some(acting) = tx.acting() else {
        return Ok(());
    };
    let Record { rows, quiet } = &tx.record;
    if rows.is_empty() {
        return if *quiet {
            Ok(())
        } else {
            Err(StoreError::Unaudited {
                method: acting.method.to_string(),
            })
        };
    }
    let mut set = RowSet::new(
        &**tx,
        &[
            ("tenant_id", Column::Id),
            ("id", Column::Id),
            ("roles", Column::Text),
            ("address", Column::Text),
            ("method", Column::Text),
            ("resource_type", Column::Text),
            ("resource_id", Column::Text),
            ("outcome", Column::Text),
            ("reason", Column::Text),
            ("times", Column::Big),
            ("state_before", Column::Text),
            ("state_after", Column::Text),
        ],
    );
    for row in rows {
        set.push([
            Cell::Id(row.tenant),
            Cell::Id(row.id),
            Cell::Text(&acting.roles_in(row.tenant)),
            Cell::Text(row.address.as_deref().unwrap_or(&acting.address)),
            Cell::Text(row.method.as_deref().unwrap_or(&acting.method)),
            Cell::Text(row.resource_type),
            Cell::Text(&row.resource_id),
            Cell::Text(row.outcome.as_str()),
            Cell::Text(&row.reason),
            Cell::Big(row.times),
            Cell::Text(&row.before),
            Cell::Text(&row.after),
        ]);
    }
    let text = format!(
        "INSERT INTO audit_events (recorded_at, actor, credential, user_agent, request_id,
            tenant_id, id, roles, address, method, resource_type, resource_id, outcome, reason,
            times, state_before, state_after)
         SELECT $1, $2, $3, $4, $5, tenant_id, id, roles, address, method, resource_type,
            resource_id, outcome, reason, times, state_before, state_after FROM {} WHERE TRUE",
        set.source(6)
    );
    let mut values = vec![
        tx.now.into(),
        acting.actor.as_str().into(),
        acting.credential.as_str().into(),
        acting.user_agent.as_str().into(),
        acting.request_id.as_str().into(),
    ];
    values.extend(set.into_values());
    sql::run(&**tx, text, values).await?;
    Ok(())
}

impl Store {
    /// Records an event that changes nothing else, for example that secrets were shown.
    ///
    /// # Errors
    /// Those of the database: what is not recorded must not be done.
    pub async fn record(&self, event: Event<'_>) -> Result<()> {
        let mut tx = self.begin().await?;
        tx.audit(event);
        tx.commit().await
    }
}

/// A UUIDv7 of the store's clock. The events of a transaction are in the order they were noted:
/// what comes behind the milliseconds is their number, then random bits (RFC 9562, section 6.2).
fn event_id(now: i64, number: usize) -> Uuid {
    let mut random = [0; 10];
    random.copy_from_slice(&Uuid::new_v4().as_bytes()[6..]);
    // Beyond 4095 events the order of the rest is by chance.
    let number = u16::try_from(number.min(0xfff)).unwrap_or(0xfff);
    random[..2].copy_from_slice(&number.to_be_bytes());
    Builder::from_unix_timestamp_millis(sql::unsigned(now), &random).into_uuid()
}

/// The least id of events of a moment: times of events are compared by their ids.
pub(crate) fn least_id(at_ms: i64) -> Uuid {
    Builder::from_unix_timestamp_millis(sql::unsigned(at_ms), &[0; 10]).into_uuid()
}

fn text(state: Option<serde_json::Value>) -> String {
    let Some(state) = state else {
        return String::new();
    };
    let text = state.to_string();
    if text.len() <= MAX_STATE_BYTES {
        text
    } else {
        serde_json::json!({"tooLong": text.len()}).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_order_events_by_time_and_then_by_number() {
        let ids = [
            least_id(1_000),
            event_id(1_000, 0),
            event_id(1_000, 1),
            event_id(1_000, 9_999),
            least_id(1_001),
        ];
        assert!(ids.is_sorted(), "{ids:?}");
        assert!(ids.iter().all(|id| id.get_version_num() == 7));
        assert_ne!(event_id(1_000, 0), event_id(1_000, 0));
    }
}
