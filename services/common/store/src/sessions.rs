//! Sign-in sessions. A session is a family of refresh tokens of which one at a time is good: each
//! use spends it for the next, and using a spent one ends the session, because then two hold it.

use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect};
use vpnpanel_domain::{AccountId, SessionId};

use crate::audit::Event;
use crate::connect::Store;
use crate::entity::session::{ActiveModel, Column, Entity, Model};
use crate::error::{Result, StoreError};
use crate::jobs::{self, JobLease};
use crate::page::Page;
use crate::sql;
use crate::tenants::name_key;
use crate::transaction::Write;

/// What events call it.
const SESSION: &str = "session";
/// Ended sessions that are told at a time.
const MAX_ENDED: u32 = 100_000;
/// Sessions that are looked at for where an account is known.
const MAX_SEEN: u32 = 64;

/// Sessions and API tokens are kept for so long after their end: a spent refresh token is known
/// as one, and what happened can be looked into.
const ENDED_KEPT_MS: i64 = 30 * 24 * 3_600_000;

/// A sign-in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// Its id, in the access tokens of the session.
    pub id: SessionId,
    /// Whose it is.
    pub account_id: AccountId,
    /// What signed in.
    pub user_agent: String,
    /// From where.
    pub address: String,
    /// When.
    pub created_at_ms: i64,
    /// When it was last refreshed.
    pub used_at_ms: i64,
    /// When it ends by itself.
    pub expires_at_ms: i64,
    /// When it was ended before that.
    pub revoked_at_ms: Option<i64>,
}

/// A session to begin.
#[derive(Debug, Clone)]
pub struct NewSession {
    /// Its id.
    pub id: SessionId,
    /// Whose it is.
    pub account_id: AccountId,
    /// What signs in.
    pub user_agent: String,
    /// From where.
    pub address: String,
    /// When it ends by itself.
    pub expires_at_ms: i64,
    /// What it is opened by.
    pub proof: Proof,
}

/// What somebody was found to be an account by. That takes a while, in which the account may be
/// disabled, its password changed or a second factor put into force: then it proves nothing more.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Proof {
    /// The hash that a password was held against; `None` where none was.
    pub password_hash: Option<String>,
    /// A second factor was shown.
    pub second_factor: bool,
}

/// What became of a refresh token that was presented.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rotation {
    /// It was good and is spent; the next one is in force.
    Rotated(Session),
    /// It had been spent before: the session is over now.
    Reused(Session),
    /// Unknown, or of a session that is over.
    Refused,
}

impl Store {
    /// Begins a session with its first refresh token, given as its hash; `None` when its proof
    /// holds no more. Whoever ends the sessions of an account locks the account's row before, so
    /// that this one is among them or is never opened.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn create_session(
        &self,
        new: NewSession,
        token_hash: &[u8],
    ) -> Result<Option<Session>> {
        let mut tx = self.begin().await?;
        if !holds(&tx, new.account_id, &new.proof).await? {
            return Ok(None);
        }
        let row = Model {
            id: new.id.uuid(),
            account_id: new.account_id.uuid(),
            user_agent: new.user_agent,
            address: new.address,
            created_at: tx.now,
            used_at: tx.now,
            expires_at: new.expires_at_ms,
            revoked_at: None,
            revoked_reason: None,
        };
        Entity::insert(ActiveModel::from(row.clone()))
            .exec_without_returning(&*tx)
            .await?;
        add_token(&tx, new.id, token_hash).await?;
        tx.audit(Event::on(SESSION, None, new.id));
        tx.commit().await?;
        Ok(Some(row.into()))
    }

    /// Spends a refresh token for the next one; both are given as their hashes.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn rotate_refresh_token(&self, spent: &[u8], next: &[u8]) -> Result<Rotation> {
        let mut tx = self.begin().await?;
        let found = sql::one(
            &*tx,
            "SELECT session_id, spent_at FROM refresh_tokens WHERE hash = $1 {for_update}",
            vec![spent.into()],
        )
        .await?;
        let Some(found) = found else {
            return Ok(Rotation::Refused);
        };
        let session: uuid::Uuid = sql::get(&found, 0)?;
        let row = Entity::find_by_id(session)
            .one(&*tx)
            .await?
            .ok_or(StoreError::NotFound("session"))?;
        if row.revoked_at.is_some() || row.expires_at <= tx.now {
            return Ok(Rotation::Refused);
        }
        if !may_sign_in(&tx, row.account_id).await? {
            return Ok(Rotation::Refused);
        }
        if sql::get::<Option<i64>>(&found, 1)?.is_some() {
            let now = tx.now;
            sql::run(
                &*tx,
                "UPDATE sessions SET revoked_at = $2, revoked_reason = 'reuse' WHERE id = $1",
                vec![session.into(), now.into()],
            )
            .await?;
            tx.audit(Event::on(SESSION, None, session).refused("REFRESH_TOKEN_REUSED"));
            tx.commit().await?;
            return Ok(Rotation::Reused(
                Model {
                    revoked_at: Some(now),
                    ..row
                }
                .into(),
            ));
        }
        let now = tx.now;
        sql::run(
            &*tx,
            "UPDATE refresh_tokens SET spent_at = $2 WHERE hash = $1",
            vec![spent.into(), now.into()],
        )
        .await?;
        sql::run(
            &*tx,
            "UPDATE sessions SET used_at = $2 WHERE id = $1",
            vec![session.into(), now.into()],
        )
        .await?;
        add_token(&tx, SessionId::new(session), next).await?;
        // A session that goes on is no news, and happens by the thousand.
        tx.needs_no_event();
        tx.commit().await?;
        Ok(Rotation::Rotated(
            Model {
                used_at: now,
                ..row
            }
            .into(),
        ))
    }

    /// The account of a refresh token, whether or not the token is good.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn refreshing_account(&self, hash: &[u8]) -> Result<Option<AccountId>> {
        let row = sql::one(
            self.read(),
            "SELECT s.account_id FROM refresh_tokens r JOIN sessions s ON s.id = r.session_id
             WHERE r.hash = $1",
            vec![hash.into()],
        )
        .await?;
        let account = |row| sql::get(&row, 0).map(AccountId::new);
        Ok(row.map(account).transpose()?)
    }

    /// One session, whether or not it is over.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    pub async fn session(&self, id: SessionId) -> Result<Session> {
        Entity::find_by_id(id.uuid())
            .one(self.read())
            .await?
            .map(Into::into)
            .ok_or(StoreError::NotFound("session"))
    }

    /// Sessions of an account that are not over, the oldest first.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn sessions(
        &self,
        account: AccountId,
        page: Page<SessionId>,
    ) -> Result<Vec<Session>> {
        Ok(Entity::find()
            .filter(Column::AccountId.eq(account.uuid()))
            .filter(Column::RevokedAt.is_null())
            .filter(Column::ExpiresAt.gt(self.now_ms()))
            .filter(Column::Id.gt(page.after.map_or(uuid::Uuid::nil(), SessionId::uuid)))
            .order_by_asc(Column::Id)
            .limit(u64::from(page.size))
            .all(self.read())
            .await?
            .into_iter()
            .map(Into::into)
            .collect())
    }

    /// Where the account of an e-mail address signed in lately, the newest first; empty where there
    /// is no such account.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn addresses_by_email(&self, email: &str) -> Result<Vec<String>> {
        let text = format!(
            "SELECT s.address FROM sessions s JOIN accounts a ON a.id = s.account_id
             WHERE a.email_key = $1 AND a.deleted_at IS NULL ORDER BY s.id DESC LIMIT {MAX_SEEN}"
        );
        sql::all(self.read(), text, vec![name_key(email).into()])
            .await?
            .iter()
            .map(|row| Ok(sql::get(row, 0)?))
            .collect()
    }

    /// Ends a session of an account.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when the account has no such session that is not over.
    pub async fn revoke_session(
        &self,
        account: AccountId,
        id: SessionId,
        reason: &str,
    ) -> Result<()> {
        let mut tx = self.begin().await?;
        tx.audit(Event::on(SESSION, None, id));
        let ended = sql::run(
            &*tx,
            "UPDATE sessions SET revoked_at = $3, revoked_reason = $4
             WHERE id = $1 AND account_id = $2 AND revoked_at IS NULL AND expires_at > $3",
            vec![
                id.uuid().into(),
                account.uuid().into(),
                tx.now.into(),
                reason.into(),
            ],
        )
        .await?;
        if ended == 0 {
            return Err(StoreError::NotFound("session"));
        }
        tx.commit().await
    }

    /// Ends all sessions of an account but one; returns those that it ended.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn revoke_other_sessions(
        &self,
        account: AccountId,
        keep: Option<SessionId>,
        reason: &str,
    ) -> Result<Vec<SessionId>> {
        let mut tx = self.begin().await?;
        let ended = end(&tx, account, keep, reason).await?;
        for session in &ended {
            tx.audit(Event::on(SESSION, None, session));
        }
        if ended.is_empty() {
            tx.needs_no_event();
        }
        tx.commit().await?;
        Ok(ended)
    }

    /// Sessions that were ended at or after a time, before theirs, and when: the latest first, at
    /// most 100,000.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn sessions_ended_since(&self, since_ms: i64) -> Result<Vec<(SessionId, i64)>> {
        let rows = sql::all(
            self.read(),
            format!(
                "SELECT id, revoked_at FROM sessions
                 WHERE revoked_at >= $1 ORDER BY revoked_at DESC LIMIT {MAX_ENDED}"
            ),
            vec![since_ms.into()],
        )
        .await?;
        rows.iter()
            .map(|row| Ok((SessionId::new(sql::get(row, 0)?), sql::get(row, 1)?)))
            .collect()
    }

    /// Forgets sessions and API tokens that ended a while ago, at most `limit` of each, under a
    /// job's lease. Returns how many.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`], and those of the database.
    pub async fn forget_ended_credentials(&self, lease: &JobLease, limit: u32) -> Result<u64> {
        let mut tx = self.begin().await?;
        tx.needs_no_event();
        jobs::hold(&*tx, lease).await?;
        let mut forgotten = 0;
        for table in ["sessions", "api_tokens"] {
            forgotten += sql::run(
                &*tx,
                format!(
                    "DELETE FROM {table} WHERE id IN (
                         SELECT id FROM {table} WHERE expires_at < $1
                         ORDER BY expires_at LIMIT $2)"
                ),
                vec![(tx.now - ENDED_KEPT_MS).into(), i64::from(limit).into()],
            )
            .await?;
        }
        jobs::count(&tx, lease, forgotten).await?;
        tx.commit().await?;
        Ok(forgotten)
    }
}

/// Ends the sessions of an account but one; gives those that it ended.
pub(crate) async fn end(
    tx: &Write,
    account: AccountId,
    keep: Option<SessionId>,
    reason: &str,
) -> Result<Vec<SessionId>> {
    let rows = sql::all(
        &**tx,
        "UPDATE sessions SET revoked_at = $3, revoked_reason = $4
         WHERE account_id = $1 AND id <> $2 AND revoked_at IS NULL AND expires_at > $3
         RETURNING id",
        vec![
            account.uuid().into(),
            keep.map_or(uuid::Uuid::nil(), SessionId::uuid).into(),
            tx.now.into(),
            reason.into(),
        ],
    )
    .await?;
    rows.iter()
        .map(|row| Ok(SessionId::new(sql::get(row, 0)?)))
        .collect()
}

/// Whether a proof still holds; if so, it does until the commit.
async fn holds(tx: &Write, account: AccountId, proof: &Proof) -> Result<bool> {
    let row = sql::one(
        &**tx,
        "SELECT password_hash FROM accounts
         WHERE id = $1 AND deleted_at IS NULL AND NOT disabled {for_update}",
        vec![account.uuid().into()],
    )
    .await?;
    let Some(row) = row else { return Ok(false) };
    if proof.password_hash.is_some() && proof.password_hash != sql::get(&row, 0)? {
        return Ok(false);
    }
    let owed = sql::one(
        &**tx,
        "SELECT 1 FROM second_factors WHERE account_id = $1 AND confirmed_at IS NOT NULL",
        vec![account.uuid().into()],
    )
    .await?;
    Ok(owed.is_none() || proof.second_factor)
}

/// An account that was disabled or deleted gets no further tokens.
async fn may_sign_in(tx: &Write, account: uuid::Uuid) -> Result<bool> {
    let row = sql::one(
        &**tx,
        "SELECT 1 FROM accounts WHERE id = $1 AND deleted_at IS NULL AND NOT disabled",
        vec![account.into()],
    )
    .await?;
    Ok(row.is_some())
}

async fn add_token(tx: &Write, session: SessionId, hash: &[u8]) -> Result<()> {
    sql::run(
        &**tx,
        "INSERT INTO refresh_tokens (hash, session_id, issued_at) VALUES ($1, $2, $3)",
        vec![hash.into(), session.uuid().into(), tx.now.into()],
    )
    .await?;
    Ok(())
}

/// Without the password's hash.
impl std::fmt::Debug for Proof {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Proof")
            .field("second_factor", &self.second_factor)
            .finish_non_exhaustive()
    }
}

impl From<Model> for Session {
    fn from(row: Model) -> Self {
        Self {
            id: SessionId::new(row.id),
            account_id: AccountId::new(row.account_id),
            user_agent: row.user_agent,
            address: row.address,
            created_at_ms: row.created_at,
            used_at_ms: row.used_at,
            expires_at_ms: row.expires_at,
            revoked_at_ms: row.revoked_at,
        }
    }
}
