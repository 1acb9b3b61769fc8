//! Keys that sign access tokens. One is active; others verify until they retire.

use std::fmt;

use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, QueryOrder};

use crate::connect::Store;
use crate::entity::signing_key::{ActiveModel, Column, Entity, Model};
use crate::error::{Result, StoreError};
use crate::sql;
use crate::transaction::Write;

/// What a key is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SigningKeyState {
    /// Published, so that verifiers know it before it signs.
    Standby,
    /// Signs and verifies.
    Active,
    /// Verifies until its time.
    Retiring,
    /// Neither.
    Retired,
}

impl SigningKeyState {
    const ALL: [Self; 4] = [Self::Standby, Self::Active, Self::Retiring, Self::Retired];

    /// The name in the database.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Standby => "standby",
            Self::Active => "active",
            Self::Retiring => "retiring",
            Self::Retired => "retired",
        }
    }
}

/// A key pair.
#[derive(Clone, PartialEq, Eq)]
pub struct SigningKey {
    /// Its id, the `kid` of tokens.
    pub kid: String,
    /// The public key.
    pub public_key: Vec<u8>,
    /// The private key, sealed; empty once the key signs no more.
    pub sealed_private_key: Vec<u8>,
    /// What it is used for.
    pub state: SigningKeyState,
    /// When it was made.
    pub created_at_ms: i64,
    /// When it began to sign.
    pub activated_at_ms: Option<i64>,
    /// When a retiring key stops to verify, or a retired one stopped.
    pub retire_at_ms: Option<i64>,
}

/// A key pair to keep.
#[derive(Clone)]
pub struct NewSigningKey {
    /// Its id.
    pub kid: String,
    /// The public key.
    pub public_key: Vec<u8>,
    /// The private key, sealed.
    pub sealed_private_key: Vec<u8>,
}

impl Store {
    /// Makes `new` the active key when there is none; returns the active key. Of several
    /// processes that start at once all get the same.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn ensure_signing_key(&self, new: NewSigningKey) -> Result<SigningKey> {
        let tx = self.begin().await?;
        lock(&tx).await?;
        let active = Entity::find()
            .filter(Column::State.eq(SigningKeyState::Active.as_str()))
            .one(&*tx)
            .await?;
        if let Some(active) = active {
            return active.try_into();
        }
        let row = insert(&tx, new, SigningKeyState::Active).await?;
        tx.commit().await?;
        row.try_into()
    }

    /// Every key that is kept, retired ones too, the oldest first.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn all_signing_keys(&self) -> Result<Vec<SigningKey>> {
        Entity::find()
            .order_by_asc(Column::CreatedAt)
            .order_by_asc(Column::Kid)
            .all(self.read())
            .await?
            .into_iter()
            .map(TryInto::try_into)
            .collect()
    }

    /// Every key that is not retired, the oldest first.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn signing_keys(&self) -> Result<Vec<SigningKey>> {
        Entity::find()
            .filter(Column::State.ne(SigningKeyState::Retired.as_str()))
            .order_by_asc(Column::CreatedAt)
            .all(self.read())
            .await?
            .into_iter()
            .map(TryInto::try_into)
            .collect()
    }
}

/// One change of the keys at a time: the installation's row is the lock.
pub(crate) async fn lock(tx: &Write) -> Result<()> {
    sql::one(&**tx, "SELECT id FROM installation {for_update}", vec![]).await?;
    Ok(())
}

pub(crate) async fn insert(
    tx: &Write,
    new: NewSigningKey,
    state: SigningKeyState,
) -> Result<Model> {
    let row = Model {
        kid: new.kid,
        public_key: new.public_key,
        sealed_private_key: new.sealed_private_key,
        activated_at: (state == SigningKeyState::Active).then_some(tx.now),
        state: state.as_str().to_owned(),
        created_at: tx.now,
        retire_at: None,
    };
    Entity::insert(ActiveModel::from(row.clone()))
        .exec_without_returning(&**tx)
        .await?;
    Ok(row)
}

impl TryFrom<Model> for SigningKey {
    type Error = StoreError;

    fn try_from(row: Model) -> Result<Self> {
        Ok(Self {
            state: SigningKeyState::ALL
                .into_iter()
                .find(|one| one.as_str() == row.state)
                .ok_or_else(|| StoreError::corrupt("signing_keys.state", &row.state))?,
            kid: row.kid,
            public_key: row.public_key,
            sealed_private_key: row.sealed_private_key,
            created_at_ms: row.created_at,
            activated_at_ms: row.activated_at,
            retire_at_ms: row.retire_at,
        })
    }
}

/// Without the sealed key.
impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey")
            .field("kid", &self.kid)
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

/// Without the sealed key.
impl fmt::Debug for NewSigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewSigningKey")
            .field("kid", &self.kid)
            .finish_non_exhaustive()
    }
}
