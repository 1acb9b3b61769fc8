//! Refused sign-ins. The first of a minute for an account from a network is an event at once; the
//! rest of that minute are counted, and become one more event when it is over. What is counted
//! apart is bounded, so that a flood of made-up accounts fills no disk.

use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::{Event, Record, Row, event_id};
use crate::connect::Store;
use crate::error::Result;
use crate::jobs::{self, JobLease};
use crate::sql;
use crate::tenants::name_key;
use crate::transaction::Write;
use crate::{Attribution, Outcome};

const MINUTE_MS: i64 = 60_000;

/// Most accounts and networks that are told apart in a minute; all others are counted as one.
const MOST_SUBJECTS: i64 = 60;

/// What events call the account.
const ACCOUNT: &str = "account";

impl Store {
    /// Records that a sign-in was refused, whether or not there is an account of the e-mail
    /// address: what is written, and the work of it, are the same. `network` is the part of the
    /// caller's address that it cannot change at will.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn refuse_sign_in(
        &self,
        email: &str,
        network: &str,
        reason: &'static str,
    ) -> Result<()> {
        let mut tx = self.begin().await?;
        let minute = minute(tx.now);
        let account = subject(&tx, email).await?;
        let known = sql::one(
            &*tx,
            "SELECT COUNT(*), COALESCE(SUM(CASE WHEN subject = $2 AND network = $3 THEN 1 ELSE 0 END), 0)
             FROM audit_refusals WHERE minute = $1",
            vec![minute.into(), account.as_str().into(), network.into()],
        )
        .await?;
        let (all, this): (i64, i64) = match &known {
            Some(row) => (sql::get(row, 0)?, sql::get(row, 1)?),
            None => (0, 0),
        };
        let (account, network) = if this == 0 && all >= MOST_SUBJECTS {
            (String::new(), "")
        } else {
            (account, network)
        };
        let method = tx
            .acting()
            .map(|who| who.method.clone())
            .unwrap_or_default();
        let counted = sql::one(
            &*tx,
            "INSERT INTO audit_refusals (minute, subject, network, reason, method, times)
             VALUES ($1, $2, $3, $4, $5, 1)
             ON CONFLICT (minute, subject, network)
             DO UPDATE SET times = audit_refusals.times + 1
             RETURNING times",
            vec![
                minute.into(),
                account.as_str().into(),
                network.into(),
                reason.into(),
                method.as_ref().into(),
            ],
        )
        .await?;
        let times: i64 = counted.map_or(Ok(1), |row| sql::get(&row, 0))?;
        if times == 1 {
            tx.audit(Event::on(ACCOUNT, None, account).refused(reason));
        } else {
            tx.needs_no_event();
        }
        tx.commit().await
    }

    /// Records that a sign-in was not looked at, because there were too many. What the database
    /// is spared by that the caller must not spend here: it says which of them are worth an event.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn hold_sign_in_back(&self, email: &str, reason: &'static str) -> Result<()> {
        let mut tx = self.begin().await?;
        let account = subject(&tx, email).await?;
        tx.audit(Event::on(ACCOUNT, None, account).refused(reason));
        tx.commit().await
    }

    /// Turns what was counted in minutes that are over into events, under a job's lease; returns
    /// how many there were.
    ///
    /// # Errors
    /// [`crate::StoreError::LeaseLost`], and those of the database.
    pub async fn record_refusals(&self, lease: &JobLease) -> Result<u64> {
        let mut tx = self.acting(Attribution::anonymous()).begin().await?;
        jobs::hold(&*tx, lease).await?;
        let rows = sql::all(
            &*tx,
            "DELETE FROM audit_refusals WHERE minute < $1
             RETURNING subject, network, reason, method, times",
            vec![minute(tx.now).into()],
        )
        .await?;
        if rows.is_empty() {
            return Ok(0);
        }
        for row in &rows {
            // The first one is an event already.
            let more = sql::get::<i64>(row, 4)? - 1;
            if more == 0 {
                continue;
            }
            let event = Row {
                id: event_id(tx.now, tx.record.rows.len()),
                tenant: Uuid::nil(),
                resource_type: ACCOUNT,
                resource_id: sql::get(row, 0)?,
                outcome: Outcome::Refused,
                reason: sql::get::<String>(row, 2)?.into(),
                times: more,
                before: String::new(),
                after: String::new(),
                address: Some(sql::get(row, 1)?),
                method: Some(sql::get(row, 3)?),
            };
            tx.record.rows.push(event);
        }
        let Record { rows, quiet } = &mut tx.record;
        *quiet = rows.is_empty();
        let count = rows.len() as u64;
        tx.commit().await?;
        Ok(count)
    }
}

/// The minute that a moment is in.
pub(super) fn minute(at_ms: i64) -> i64 {
    at_ms.div_euclid(MINUTE_MS)
}

/// The account of an e-mail address; for one that has none, a digest of it: people type their
/// passwords into the wrong field.
async fn subject(tx: &Write, email: &str) -> Result<String> {
    let key = name_key(email.trim());
    let account = sql::one(
        &**tx,
        "SELECT id FROM accounts WHERE email_key = $1 AND deleted_at IS NULL",
        vec![key.as_str().into()],
    )
    .await?;
    let digest = hex::encode(&Sha256::digest(key.as_bytes())[..16]);
    Ok(match account {
        Some(row) => sql::get::<Uuid>(&row, 0)?.to_string(),
        None => format!("email-sha256:{digest}"),
    })
}
