//! More time or more bytes for a user, and a deleted user taken back.

use std::collections::BTreeSet;

use sea_orm::ActiveValue::Set;
use vpnpanel_domain::{GroupId, Limit, TenantId, UserId};

use crate::audit::Event;
use crate::connect::Store;
use crate::entity::user::ActiveModel;
use crate::error::{Result, StoreError};
use crate::idempotency::{self, RequestKey};
use crate::peers::{self, Scope};
use crate::transaction::Write;
use crate::user_change::{self, Locked};
use crate::users::{self, DELETED_USERS_KEPT_MS, User};
use crate::{groups, rollover, sql, user_create};

/// The last instant that the contract can write: the end of the year 9999.
pub(crate) const LAST_MS: i64 = 253_402_300_799_999;
/// The longest time that a user can have from its first traffic on: 3660 days.
const LONGEST_HOLD_MS: i64 = 3_660 * 24 * 3_600_000;

/// Most bytes that a limit can be.
const MOST_BYTES: u64 = 1 << 50;

/// What a user is given more of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Extension {
    /// Time, behind its end or behind now where that has passed.
    pub time_ms: i64,
    /// Bytes, in the current period alone.
    pub bytes: u64,
}

impl Store {
    /// Gives a user more.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::NoExpireTime`], [`StoreError::NoDataLimit`],
    /// [`StoreError::InvalidArgument`] for more than there can be.
    pub async fn extend_user(
        &self,
        tenant: TenantId,
        id: UserId,
        by: Extension,
        request: Option<&RequestKey>,
    ) -> Result<User> {
        let mut tx = self.begin_in(tenant).await?;
        if idempotency::claim(&tx, request, id).await?.is_some() {
            drop(tx);
            return self.user(tenant, id).await;
        }
        let mut user = rollover::lock_in_force(&tx, tenant, id).await?;
        if user.row.deleted_at.is_some() {
            return Err(StoreError::NotFound("user"));
        }
        let before = users::load(&*tx, tenant, id, tx.now).await?;
        let mut change = ActiveModel::default();
        if by.time_ms > 0 {
            add_time(&mut user, &mut change, by.time_ms, tx.now)?;
        }
        if by.bytes > 0 {
            add_bytes(&tx, &mut user, by.bytes).await?;
        }
        user_change::save(&mut tx, tenant, &user, change).await?;
        let user = users::load(&*tx, tenant, id, tx.now).await?;
        tx.audit(Event::changed(&before, &user));
        tx.commit().await?;
        Ok(user)
    }

    /// Takes a deleted user back; no change when it is not deleted.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], also when it was deleted too long ago; [`StoreError::AlreadyExists`]
    /// for the name, [`StoreError::LimitReached`], [`StoreError::PoolExhausted`],
    /// [`StoreError::StaleVersion`] when its groups change meanwhile.
    pub async fn undelete_user(&self, tenant: TenantId, id: UserId) -> Result<User> {
        let mut tx = self.begin_in(tenant).await?;
        let seen = users::load_kept(&*tx, tenant, id, tx.now).await?;
        let Some(deleted_at) = seen.deleted_at_ms else {
            tx.audit(Event::changed(&seen, &seen));
            tx.commit().await?;
            return Ok(seen);
        };
        if deleted_at <= tx.now.saturating_sub(DELETED_USERS_KEPT_MS) {
            return Err(StoreError::NotFound("user"));
        }
        user_create::admit(&tx, tenant, 1).await?;
        let held: BTreeSet<GroupId> = seen.group_ids;
        groups::hold(&tx, tenant, &held).await?;
        let mut user = rollover::lock_in_force(&tx, tenant, id).await?;
        let before = users::load_kept(&*tx, tenant, id, tx.now).await?;
        if before.deleted_at_ms != Some(deleted_at) || !before.group_ids.is_subset(&held) {
            return Err(StoreError::StaleVersion);
        }
        user.row.deleted_at = None;
        let mut change = ActiveModel {
            deleted_at: Set(None),
            ..ActiveModel::default()
        };
        user.came_back(&mut change, tx.now);
        user_change::save(&mut tx, tenant, &user, change).await?;
        peers::sync(&mut tx, tenant, Scope::Users(vec![id])).await?;
        let user = users::load(&*tx, tenant, id, tx.now).await?;
        tx.audit(Event::changed(&before, &user));
        tx.commit().await?;
        Ok(user)
    }
}

/// Puts a user's end off; of one that waits for its first traffic, what it will have then.
fn add_time(user: &mut Locked, change: &mut ActiveModel, time_ms: i64, now: i64) -> Result<()> {
    let more = |from: i64, most: i64, reason: &str| {
        from.checked_add(time_ms)
            .filter(|end| *end <= most)
            .ok_or_else(|| StoreError::InvalidArgument {
                what: "days",
                reason: reason.to_owned(),
            })
    };
    if let Some(waits_for) = user.row.on_hold_ms.filter(|_| user.row.on_hold) {
        let longer = more(
            waits_for,
            LONGEST_HOLD_MS,
            "would make it more than 3660 days",
        )?;
        user.row.on_hold_ms = Some(longer);
        change.on_hold_ms = Set(Some(longer));
        return Ok(());
    }
    let end = user.row.expires_at.ok_or(StoreError::NoExpireTime)?;
    let end = more(
        end.max(now),
        LAST_MS,
        "would put the end beyond the year 9999",
    )?;
    user.row.expires_at = Some(end);
    change.expires_at = Set(Some(end));
    Ok(())
}

/// Raises the limit of the period in force, and of no other.
async fn add_bytes(tx: &Write, user: &mut Locked, bytes: u64) -> Result<()> {
    let now = tx.now;
    let in_force = user.periods.in_force_mut(now);
    let Limit::Bytes(limit) = in_force.limit else {
        return Err(StoreError::NoDataLimit);
    };
    let raised = limit
        .checked_add(bytes)
        .filter(|raised| *raised <= MOST_BYTES)
        .ok_or_else(|| StoreError::InvalidArgument {
            what: "data_bytes",
            reason: format!("would make the limit more than {MOST_BYTES} bytes"),
        })?;
    in_force.limit = Limit::Bytes(raised);
    sql::run(
        &**tx,
        "UPDATE periods SET limit_bytes = $3 WHERE tenant_id = $1 AND id = $2",
        vec![
            user.row.tenant_id.into(),
            in_force.id.uuid().into(),
            sql::signed(raised).into(),
        ],
    )
    .await?;
    Ok(())
}
