//! Second factors. A code is used up in the transaction that accepts it: the last time step that
//! was used only grows, so that a code seen by somebody else is worth nothing, however many
//! present it at once. Wrong codes are counted there too.

use std::fmt;

use vpnpanel_domain::{AccountId, SessionId, TenantId};

use crate::accounts;
use crate::audit::Event;
use crate::connect::Store;
use crate::error::{Result, StoreError};
use crate::sql;
use crate::transaction::Write;

/// What events call it; its id is the account's.
pub(crate) const SECOND_FACTOR: &str = "secondFactor";

/// Wrong codes in a row that cost nothing but the attempt.
const FREE_FAILURES: i64 = 5;
/// The first pause after them; each further wrong code doubles it.
const FIRST_PAUSE_MS: i64 = 5_000;
/// The longest pause: somebody who knows the password keeps the owner's codes out for no longer,
/// and has 96 guesses a day, of which one in 333,000 is right.
const LONGEST_PAUSE_MS: i64 = 15 * 60_000;

/// The second factor of an account.
#[derive(Clone, PartialEq, Eq)]
pub struct SecondFactor {
    /// Whose it is.
    pub account_id: AccountId,
    /// The secret that codes are made of, sealed.
    pub sealed_secret: Vec<u8>,
    /// When a first code of it was seen; `None` is not in force yet.
    pub confirmed_at_ms: Option<i64>,
    /// Recovery codes that are not used.
    pub recovery_codes_left: u64,
}

/// What became of a code that was presented.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CodeUse {
    /// It is good, and used up.
    Accepted,
    /// It is wrong, or was used before.
    Refused,
    /// It was not looked at: too many were wrong.
    Blocked {
        /// Codes are looked at again from then on.
        until_ms: i64,
    },
}

impl Store {
    /// The second factor of an account, in force or not.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn second_factor(&self, account: AccountId) -> Result<Option<SecondFactor>> {
        let row = sql::one(
            self.read(),
            "SELECT sealed_secret, confirmed_at,
                    (SELECT COUNT(*) FROM recovery_codes r
                     WHERE r.account_id = f.account_id AND r.used_at IS NULL)
             FROM second_factors f WHERE f.account_id = $1",
            vec![account.uuid().into()],
        )
        .await?;
        row.map(|row| {
            Ok(SecondFactor {
                account_id: account,
                sealed_secret: sql::get(&row, 0)?,
                confirmed_at_ms: sql::get(&row, 1)?,
                recovery_codes_left: sql::unsigned(sql::get(&row, 2)?),
            })
        })
        .transpose()
    }

    /// Tenants of an account that require a second factor, where it has none.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn second_factor_owed(&self, account: AccountId) -> Result<Vec<TenantId>> {
        let rows = sql::all(
            self.read(),
            "SELECT t.id FROM memberships m JOIN tenants t ON t.id = m.tenant_id
             WHERE m.account_id = $1 AND t.require_second_factor AND t.deleted_at IS NULL
               AND NOT EXISTS (SELECT 1 FROM second_factors f
                               WHERE f.account_id = $1 AND f.confirmed_at IS NOT NULL)",
            vec![account.uuid().into()],
        )
        .await?;
        rows.iter()
            .map(|row| Ok(TenantId::new(sql::get(row, 0)?)))
            .collect()
    }

    /// Keeps the secret of a second factor that is to be confirmed; replaces one that was not.
    ///
    /// # Errors
    /// [`StoreError::SecondFactorExists`] when one is in force.
    pub async fn enroll_second_factor(
        &self,
        account: AccountId,
        sealed_secret: &[u8],
    ) -> Result<()> {
        let mut tx = self.begin().await?;
        let kept = sql::run(
            &*tx,
            "INSERT INTO second_factors
                (account_id, sealed_secret, created_at, last_step, failures, blocked_until)
             VALUES ($1, $2, $3, 0, 0, 0)
             ON CONFLICT (account_id) DO UPDATE
             SET sealed_secret = excluded.sealed_secret, created_at = excluded.created_at,
                 last_step = 0, failures = 0, blocked_until = 0
             WHERE second_factors.confirmed_at IS NULL",
            vec![account.uuid().into(), sealed_secret.into(), tx.now.into()],
        )
        .await?;
        if kept == 0 {
            return Err(StoreError::SecondFactorExists);
        }
        tx.audit(Event::on(SECOND_FACTOR, None, account));
        tx.commit().await
    }

    /// Puts a second factor into force, of which a code of `step` was seen, with the hashes of
    /// its recovery codes; ends the sessions of the account but `keep`, which were opened
    /// without it.
    ///
    /// # Errors
    /// [`StoreError::StaleVersion`] when another secret was made, or confirmed, meanwhile.
    pub async fn confirm_second_factor(
        &self,
        read: &SecondFactor,
        step: i64,
        recovery_hashes: &[[u8; 32]],
        keep: SessionId,
    ) -> Result<()> {
        let mut tx = self.begin().await?;
        let account = read.account_id;
        // Before a sign-in that has not seen it, or after: see `Store::create_session`.
        accounts::lock(&tx, account).await?;
        let confirmed = sql::run(
            &*tx,
            "UPDATE second_factors
             SET confirmed_at = $3, last_step = $4, failures = 0, blocked_until = 0
             WHERE account_id = $1 AND sealed_secret = $2 AND confirmed_at IS NULL",
            vec![
                account.uuid().into(),
                read.sealed_secret.as_slice().into(),
                tx.now.into(),
                step.into(),
            ],
        )
        .await?;
        if confirmed == 0 {
            return Err(StoreError::StaleVersion);
        }
        replace_codes(&tx, account, recovery_hashes).await?;
        sql::run(
            &*tx,
            "UPDATE sessions SET revoked_at = $3, revoked_reason = 'second_factor'
             WHERE account_id = $1 AND id <> $2 AND revoked_at IS NULL",
            vec![account.uuid().into(), keep.uuid().into(), tx.now.into()],
        )
        .await?;
        tx.audit(Event::on(SECOND_FACTOR, None, account));
        tx.commit().await
    }

    /// Uses a code up: `step` is the time step that it is the code of, `None` a wrong code.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn use_totp(&self, read: &SecondFactor, step: Option<i64>) -> Result<CodeUse> {
        let mut tx = self.begin().await?;
        let Some(state) = locked(&tx, read.account_id).await? else {
            return Ok(CodeUse::Refused);
        };
        if state.blocked_until > tx.now {
            return Ok(CodeUse::Blocked {
                until_ms: state.blocked_until,
            });
        }
        let step = step
            .filter(|&step| state.sealed_secret == read.sealed_secret && step > state.last_step);
        let used = note(&tx, read.account_id, &state, step).await?;
        // What the code was for is the event, or that it was refused.
        tx.needs_no_event();
        tx.commit().await?;
        Ok(used)
    }

    /// Uses a recovery code up, given as its hash. Too many wrong ones are counted together with
    /// other codes, but never block a right one: they cannot be guessed.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn use_recovery_code(&self, account: AccountId, hash: &[u8; 32]) -> Result<CodeUse> {
        let mut tx = self.begin().await?;
        let Some(state) = locked(&tx, account).await? else {
            return Ok(CodeUse::Refused);
        };
        let found = sql::run(
            &*tx,
            "UPDATE recovery_codes SET used_at = $3
             WHERE account_id = $1 AND hash = $2 AND used_at IS NULL",
            vec![account.uuid().into(), hash.as_slice().into(), tx.now.into()],
        )
        .await?;
        let step = (found > 0).then_some(state.last_step);
        let used = note(&tx, account, &state, step).await?;
        match used {
            CodeUse::Accepted => tx.audit(Event::on("recoveryCode", None, account)),
            _ => tx.needs_no_event(),
        }
        tx.commit().await?;
        Ok(used)
    }

    /// Replaces the recovery codes of a second factor that is in force.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when there is none.
    pub async fn replace_recovery_codes(
        &self,
        account: AccountId,
        hashes: &[[u8; 32]],
    ) -> Result<()> {
        let mut tx = self.begin().await?;
        match locked(&tx, account).await? {
            Some(_) => replace_codes(&tx, account, hashes).await?,
            None => return Err(StoreError::NotFound("second factor")),
        }
        tx.audit(Event::on(SECOND_FACTOR, None, account));
        tx.commit().await
    }

    /// Takes a second factor away, with its recovery codes.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn remove_second_factor(&self, account: AccountId) -> Result<()> {
        let mut tx = self.begin().await?;
        remove(&tx, account).await?;
        tx.audit(Event::on(SECOND_FACTOR, None, account));
        tx.commit().await
    }
}

/// Takes a second factor away, in force or not; says whether there was one.
pub(crate) async fn remove(tx: &Write, account: AccountId) -> Result<bool> {
    let removed = sql::run(
        &**tx,
        "DELETE FROM second_factors WHERE account_id = $1",
        vec![account.uuid().into()],
    )
    .await?;
    Ok(removed > 0)
}

/// What decides about the next code.
struct State {
    sealed_secret: Vec<u8>,
    last_step: i64,
    failures: i64,
    blocked_until: i64,
}

/// The row of a second factor that is in force, locked.
async fn locked(tx: &Write, account: AccountId) -> Result<Option<State>> {
    let row = sql::one(
        &**tx,
        "SELECT sealed_secret, last_step, failures, blocked_until FROM second_factors
         WHERE account_id = $1 AND confirmed_at IS NOT NULL {for_update}",
        vec![account.uuid().into()],
    )
    .await?;
    row.map(|row| {
        Ok(State {
            sealed_secret: sql::get(&row, 0)?,
            last_step: sql::get(&row, 1)?,
            failures: sql::get(&row, 2)?,
            blocked_until: sql::get(&row, 3)?,
        })
    })
    .transpose()
}

/// Writes what a code has changed.
async fn note(
    tx: &Write,
    account: AccountId,
    state: &State,
    accepted: Option<i64>,
) -> Result<CodeUse> {
    let failures = if accepted.is_some() {
        0
    } else {
        state.failures + 1
    };
    let blocked_until = match pause_ms(failures) {
        0 => 0,
        pause => state.blocked_until.max(tx.now + pause),
    };
    sql::run(
        &**tx,
        "UPDATE second_factors SET last_step = $2, failures = $3, blocked_until = $4
         WHERE account_id = $1",
        vec![
            account.uuid().into(),
            accepted.unwrap_or(state.last_step).into(),
            failures.into(),
            blocked_until.into(),
        ],
    )
    .await?;
    Ok(match accepted {
        Some(_) => CodeUse::Accepted,
        None => CodeUse::Refused,
    })
}

/// How long codes are not looked at after so many wrong ones in a row.
fn pause_ms(failures: i64) -> i64 {
    match failures - FREE_FAILURES {
        ..0 => 0,
        beyond => FIRST_PAUSE_MS
            .saturating_mul(1 << beyond.min(20))
            .min(LONGEST_PAUSE_MS),
    }
}

async fn replace_codes(tx: &Write, account: AccountId, hashes: &[[u8; 32]]) -> Result<()> {
    sql::run(
        &**tx,
        "DELETE FROM recovery_codes WHERE account_id = $1",
        vec![account.uuid().into()],
    )
    .await?;
    for hash in hashes {
        sql::run(
            &**tx,
            "INSERT INTO recovery_codes (account_id, hash) VALUES ($1, $2)",
            vec![account.uuid().into(), hash.as_slice().into()],
        )
        .await?;
    }
    Ok(())
}

/// Without the sealed secret.
impl fmt::Debug for SecondFactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecondFactor")
            .field("account_id", &self.account_id)
            .field("confirmed_at_ms", &self.confirmed_at_ms)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_begin_after_five_wrong_codes_and_double_up_to_a_quarter_of_an_hour() {
        let pauses: Vec<i64> = (0..16).map(|n| pause_ms(n) / 1000).collect();
        assert_eq!(
            pauses,
            [
                0, 0, 0, 0, 0, 5, 10, 20, 40, 80, 160, 320, 640, 900, 900, 900
            ]
        );
        assert_eq!(pause_ms(i64::MAX / 2), LONGEST_PAUSE_MS);
    }
}
