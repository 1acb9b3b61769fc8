//! How signing keys follow each other: standby → active → retiring → retired. The next key is
//! published before it signs, and the one before verifies until its last token has run out, so
//! that no token is refused because of a rotation. A key that signs no more loses its private half.

use std::time::Duration;

use crate::audit::Event;
use crate::connect::Store;
use crate::error::{Result, StoreError};
use crate::jobs::{self, JobLease};
use crate::signing_keys::{NewSigningKey, SigningKey, SigningKeyState, insert, lock};
use crate::sql;
use crate::transaction::Write;

/// What events call them.
const SIGNING_KEY: &str = "signingKey";

/// Retired keys are kept for so long, to be looked at.
const RETIRED_KEPT_MS: i64 = 90 * 24 * 3_600_000;

/// Makes key pairs; the store has no key to seal them with.
pub trait MakeSigningKey: Send + Sync + 'static {
    /// A new key pair, its private half sealed.
    ///
    /// # Errors
    /// When no key can be made or sealed.
    fn make_signing_key(&self) -> Result<NewSigningKey, Box<dyn std::error::Error + Send + Sync>>;
}

/// How long keys do what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SigningKeyTerms {
    /// A key signs for so long.
    pub lifetime: Duration,
    /// And verifies for so long afterwards: no shorter than its last token lives.
    pub overlap: Duration,
}

impl Store {
    /// Lets the standby key sign from now on, and makes the next one. Returns the keys that are
    /// not retired.
    ///
    /// # Errors
    /// [`StoreError::Key`], and those of the database.
    pub async fn rotate_signing_keys(
        &self,
        make: &dyn MakeSigningKey,
        overlap: Duration,
    ) -> Result<Vec<SigningKey>> {
        let mut tx = self.begin().await?;
        lock(&tx).await?;
        retire_due(&mut tx).await?;
        rotate(&mut tx, make, overlap).await?;
        tx.commit().await?;
        self.signing_keys().await
    }

    /// Takes a key out of force at once. Where it signs, the standby key takes its place. Returns
    /// the keys that are not retired.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when there is no such key or it is retired, [`StoreError::Key`].
    pub async fn revoke_signing_key(
        &self,
        kid: &str,
        make: &dyn MakeSigningKey,
    ) -> Result<Vec<SigningKey>> {
        let mut tx = self.begin().await?;
        lock(&tx).await?;
        let revoked = sql::run(
            &*tx,
            "UPDATE signing_keys SET state = 'retired', retire_at = $2, sealed_private_key = $3
             WHERE kid = $1 AND state <> 'retired'",
            vec![kid.into(), tx.now.into(), NO_KEY.into()],
        )
        .await?;
        if revoked == 0 {
            return Err(StoreError::NotFound("signing key"));
        }
        tx.audit(Event::on(SIGNING_KEY, None, kid));
        if !exists(&tx, SigningKeyState::Active).await? {
            promote(&mut tx, make).await?;
        }
        ensure_standby(&mut tx, make).await?;
        tx.commit().await?;
        self.signing_keys().await
    }

    /// What is due under a job's lease: rotates when the active key has signed for its lifetime,
    /// retires and forgets keys whose time is over. Returns how many keys it changed.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`], [`StoreError::Key`], and those of the database.
    pub async fn tend_signing_keys(
        &self,
        lease: &JobLease,
        make: &dyn MakeSigningKey,
        terms: SigningKeyTerms,
    ) -> Result<u64> {
        let mut tx = self.begin().await?;
        jobs::hold(&*tx, lease).await?;
        lock(&tx).await?;
        let mut changed = retire_due(&mut tx).await?;
        let over = tx.now.saturating_sub(millis(terms.lifetime));
        let outlived = sql::one(
            &*tx,
            "SELECT 1 FROM signing_keys WHERE state = 'active' AND activated_at <= $1",
            vec![over.into()],
        )
        .await?;
        if outlived.is_some() {
            rotate(&mut tx, make, terms.overlap).await?;
            changed += 1;
        }
        changed += u64::from(ensure_standby(&mut tx, make).await?);
        changed += sql::run(
            &*tx,
            "DELETE FROM signing_keys WHERE state = 'retired' AND retire_at < $1",
            vec![(tx.now - RETIRED_KEPT_MS).into()],
        )
        .await?;
        jobs::count(&tx, lease, changed).await?;
        // Forgetting what has retired long ago is no event.
        tx.needs_no_event();
        tx.commit().await?;
        Ok(changed)
    }
}

const NO_KEY: &[u8] = &[];

async fn rotate(tx: &mut Write, make: &dyn MakeSigningKey, overlap: Duration) -> Result<()> {
    let until = tx.now.saturating_add(millis(overlap));
    sql::run(
        &**tx,
        "UPDATE signing_keys SET state = 'retiring', retire_at = $1, sealed_private_key = $2
         WHERE state = 'active'",
        vec![until.into(), NO_KEY.into()],
    )
    .await?;
    promote(tx, make).await?;
    ensure_standby(tx, make).await?;
    Ok(())
}

/// Makes the standby key the active one; a new one, where there is none.
async fn promote(tx: &mut Write, make: &dyn MakeSigningKey) -> Result<()> {
    let promoted = sql::one(
        &**tx,
        "UPDATE signing_keys SET state = 'active', activated_at = $1 WHERE state = 'standby'
         RETURNING kid",
        vec![tx.now.into()],
    )
    .await?;
    match promoted {
        Some(row) => tx.audit(Event::on(SIGNING_KEY, None, sql::get::<String>(&row, 0)?)),
        None => add(tx, make, SigningKeyState::Active).await?,
    }
    Ok(())
}

async fn ensure_standby(tx: &mut Write, make: &dyn MakeSigningKey) -> Result<bool> {
    let missing = !exists(tx, SigningKeyState::Standby).await?;
    if missing {
        add(tx, make, SigningKeyState::Standby).await?;
    }
    Ok(missing)
}

async fn add(tx: &mut Write, make: &dyn MakeSigningKey, state: SigningKeyState) -> Result<()> {
    let new = make.make_signing_key().map_err(StoreError::key)?;
    let row = insert(tx, new, state).await?;
    tx.audit(Event::on(SIGNING_KEY, None, row.kid));
    Ok(())
}

async fn exists(tx: &Write, state: SigningKeyState) -> Result<bool> {
    let row = sql::one(
        &**tx,
        "SELECT 1 FROM signing_keys WHERE state = $1",
        vec![state.as_str().into()],
    )
    .await?;
    Ok(row.is_some())
}

async fn retire_due(tx: &mut Write) -> Result<u64> {
    let rows = sql::all(
        &**tx,
        "UPDATE signing_keys SET state = 'retired' WHERE state = 'retiring' AND retire_at <= $1
         RETURNING kid",
        vec![tx.now.into()],
    )
    .await?;
    for row in &rows {
        tx.audit(Event::on(SIGNING_KEY, None, sql::get::<String>(row, 0)?));
    }
    Ok(rows.len() as u64)
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX / 4)
}
