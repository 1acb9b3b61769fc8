//! Certificate authorities of the installation. One of each kind is active; the trust bundle is
//! every one that is not retired, so that a rotation can have two in force.

use std::fmt;

use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, QueryOrder};
use uuid::Uuid;

use crate::connect::Store;
use crate::entity::authority::{ActiveModel, Column, Entity, Model};
use crate::error::{Result, StoreError};
use crate::{fresh_id, sql};

/// Where an authority is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthorityState {
    /// Made, trusted by nobody.
    Standby,
    /// Trusted, signs nothing yet.
    Staged,
    /// Trusted and signs.
    Active,
    /// Trusted, signs nothing any more.
    Retiring,
    /// Trusted by nobody any more.
    Retired,
}

impl AuthorityState {
    const ALL: [Self; 5] = [
        Self::Standby,
        Self::Staged,
        Self::Active,
        Self::Retiring,
        Self::Retired,
    ];

    /// The name in the database.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Standby => "standby",
            Self::Staged => "staged",
            Self::Active => "active",
            Self::Retiring => "retiring",
            Self::Retired => "retired",
        }
    }
}

/// A certificate authority.
#[derive(Clone, PartialEq, Eq)]
pub struct Authority {
    /// Its id.
    pub id: Uuid,
    /// What it signs, for example `internal`.
    pub kind: String,
    /// Its number among those of its kind, from 1.
    pub sequence: u64,
    /// Where it is in its life.
    pub state: AuthorityState,
    /// Its certificate, DER.
    pub certificate_der: Vec<u8>,
    /// Its private key, sealed.
    pub sealed_private_key: Vec<u8>,
    /// When its certificate ends.
    pub not_after_ms: i64,
    /// When it was made.
    pub created_at_ms: i64,
}

/// An authority to keep.
#[derive(Clone)]
pub struct NewAuthority {
    /// What it signs.
    pub kind: String,
    /// Its certificate, DER.
    pub certificate_der: Vec<u8>,
    /// Its private key, sealed.
    pub sealed_private_key: Vec<u8>,
    /// When its certificate ends.
    pub not_after_ms: i64,
}

impl Store {
    /// Makes `new` the active authority of its kind when there is none; returns the active one.
    /// Of several processes that start at once all get the same.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn ensure_authority(&self, new: NewAuthority) -> Result<Authority> {
        let tx = self.begin().await?;
        sql::one(&*tx, "SELECT id FROM installation {for_update}", vec![]).await?;
        let of_kind = Entity::find()
            .filter(Column::Kind.eq(new.kind.as_str()))
            .order_by_desc(Column::Sequence)
            .all(&*tx)
            .await?;
        let last = of_kind.first().map_or(0, |row| row.sequence);
        let active = AuthorityState::Active.as_str();
        if let Some(row) = of_kind.into_iter().find(|row| row.state == active) {
            return row.try_into();
        }
        let row = Model {
            id: fresh_id(),
            kind: new.kind,
            sequence: last + 1,
            state: active.to_owned(),
            certificate_der: new.certificate_der,
            sealed_private_key: new.sealed_private_key,
            not_after: new.not_after_ms,
            created_at: tx.now,
        };
        Entity::insert(ActiveModel::from(row.clone()))
            .exec_without_returning(&*tx)
            .await?;
        tx.commit().await?;
        row.try_into()
    }

    /// The active authority of a kind.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn active_authority(&self, kind: &str) -> Result<Option<Authority>> {
        Entity::find()
            .filter(Column::Kind.eq(kind))
            .filter(Column::State.eq(AuthorityState::Active.as_str()))
            .one(self.read())
            .await?
            .map(TryInto::try_into)
            .transpose()
    }

    /// Authorities of a kind that are to be trusted, the oldest first.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn trusted_authorities(&self, kind: &str) -> Result<Vec<Authority>> {
        let untrusted = [AuthorityState::Standby, AuthorityState::Retired];
        Entity::find()
            .filter(Column::Kind.eq(kind))
            .filter(Column::State.is_not_in(untrusted.map(AuthorityState::as_str)))
            .order_by_asc(Column::Sequence)
            .all(self.read())
            .await?
            .into_iter()
            .map(TryInto::try_into)
            .collect()
    }
}

impl TryFrom<Model> for Authority {
    type Error = StoreError;

    fn try_from(row: Model) -> Result<Self> {
        Ok(Self {
            state: AuthorityState::ALL
                .into_iter()
                .find(|one| one.as_str() == row.state)
                .ok_or_else(|| StoreError::corrupt("authorities.state", &row.state))?,
            id: row.id,
            kind: row.kind,
            sequence: sql::unsigned(row.sequence),
            certificate_der: row.certificate_der,
            sealed_private_key: row.sealed_private_key,
            not_after_ms: row.not_after,
            created_at_ms: row.created_at,
        })
    }
}

/// Without the sealed key.
impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority")
            .field("id", &self.id)
            .field("kind", &self.kind)
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

/// Without the sealed key.
impl fmt::Debug for NewAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewAuthority")
            .field("kind", &self.kind)
            .finish_non_exhaustive()
    }
}
