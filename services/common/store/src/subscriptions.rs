//! Subscriptions: what a user's programs fetch, found by the hash of the token in the user's link
//! alone; and when that was done last, written down for many users at once.

use std::fmt;

use sea_orm::ActiveValue::Set;
use vpnpanel_domain::{TenantId, UserId};

use crate::audit::Event;
use crate::connect::Store;
use crate::connections::{self, Connection};
use crate::entity::user::ActiveModel;
use crate::error::{Result, StoreError};
use crate::idempotency::{self, RequestKey};
use crate::ledger::months;
use crate::row_set::{Cell, Column, RowSet};
use crate::users::{self, User};
use crate::{sql, user_change};

/// Users that one call of [`Store::link_subscriptions`] looks at.
const LINKED: u64 = 1_000;

/// Users that have no link yet.
pub(crate) const UNLINKED: &str =
    "SELECT tenant_id, id FROM users WHERE subscription_hash IS NULL AND deleted_at IS NULL";

/// The token of a link, as it is kept.
#[derive(Clone, PartialEq, Eq)]
pub struct SubscriptionToken {
    /// SHA-256 over it: by this it is found.
    pub hash: [u8; 32],
    /// Itself, sealed: it has to be shown again.
    pub sealed: Vec<u8>,
}

/// What is known of a subscription's last fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// When.
    pub at_ms: i64,
    /// What the program calls itself.
    pub client: String,
}

/// A fetch to be written down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubscriptionFetch {
    /// The user's tenant.
    pub tenant_id: TenantId,
    /// Whose subscription was fetched.
    pub user_id: UserId,
    /// When and by what.
    pub fetched: Fetched,
}

/// Everything that a fetch answers with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscription {
    /// Whose it is, without the groups.
    pub user: User,
    /// Name of the tenant.
    pub tenant_name: String,
    /// No traffic of the tenant's users passes: it is suspended, or has used up its month.
    pub is_cut_off: bool,
    /// How its devices connect, as [`Store::connections`].
    pub connections: Vec<Connection>,
}

impl Store {
    /// The subscription whose token has the hash: two statements, each by keys.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when there is none, also when the user or its tenant was deleted.
    pub async fn subscription(&self, hash: &[u8; 32]) -> Result<Subscription> {
        let now = self.now_ms();
        let (text, values) = by_hash(hash, now);
        let row = sql::one(self.read(), text, values)
            .await?
            .ok_or(StoreError::NotFound("subscription"))?;
        let tenant = TenantId::new(sql::get(&row, users::WIDTH)?);
        let user = users::user(&row, tenant, now)?;
        let db = self.read_in(tenant).await?;
        Ok(Subscription {
            connections: connections::load(&db, tenant, user.id).await?,
            tenant_name: sql::get(&row, users::WIDTH + 1)?,
            is_cut_off: sql::get::<Option<i64>>(&row, users::WIDTH + 2)?.is_some(),
            user,
        })
    }

    /// Gives a user's subscription another token: the old one is not found any more.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    pub async fn rotate_subscription(
        &self,
        tenant: TenantId,
        id: UserId,
        token: SubscriptionToken,
        request: Option<&RequestKey>,
    ) -> Result<User> {
        let mut tx = self.begin_in(tenant).await?;
        if idempotency::claim(&tx, request, id).await?.is_some() {
            drop(tx);
            return self.user(tenant, id).await;
        }
        let user = user_change::lock(&tx, tenant, id).await?;
        let before = users::load(&*tx, tenant, id, tx.now).await?;
        user_change::save(&mut tx, tenant, &user, token.change()).await?;
        let user = users::load(&*tx, tenant, id, tx.now).await?;
        tx.audit(Event::changed(&before, &user));
        tx.commit().await?;
        Ok(user)
    }

    /// Gives a link to some of the users that have none, because they were made before there were
    /// links. Answers whether there may be more. A user that got one meanwhile keeps it.
    ///
    /// # Errors
    /// Those of the database and of `make`.
    pub async fn link_subscriptions(
        &self,
        make: &(
             dyn Fn(UserId) -> Result<SubscriptionToken, Box<dyn std::error::Error + Send + Sync>>
                 + Send
                 + Sync
         ),
    ) -> Result<bool> {
        let tx = self.begin().await?;
        let text = format!("{UNLINKED} ORDER BY id LIMIT {LINKED} {{for_update}}");
        let found = sql::all(&*tx, text, vec![]).await?;
        let mut rows = RowSet::new(
            &*tx,
            &[
                ("tenant_id", Column::Id),
                ("id", Column::Id),
                ("hash", Column::Bytes),
                ("sealed", Column::Bytes),
            ],
        );
        for row in &found {
            let (tenant, id) = (sql::get(row, 0)?, UserId::new(sql::get(row, 1)?));
            let token = make(id).map_err(StoreError::key)?;
            rows.push([
                Cell::Id(tenant),
                Cell::Id(id.uuid()),
                Cell::Bytes(&token.hash),
                Cell::Bytes(&token.sealed),
            ]);
        }
        if !rows.is_empty() {
            let text = format!(
                "UPDATE users SET subscription_hash = s.hash, sealed_subscription = s.sealed
                 FROM {} WHERE users.tenant_id = s.tenant_id AND users.id = s.id
                   AND users.subscription_hash IS NULL",
                rows.source(1)
            );
            sql::run(&*tx, text, rows.into_values()).await?;
        }
        tx.commit().await?;
        Ok(found.len() as u64 == LINKED)
    }

    /// Writes down fetches of any tenants, one of each user, in one statement. Of two of a user the
    /// later one stays; of users that are gone there is nothing to write.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn note_subscription_fetches(&self, fetches: &[SubscriptionFetch]) -> Result<()> {
        let db = &self.inner.write;
        let mut rows = RowSet::new(
            db,
            &[
                ("tenant_id", Column::Id),
                ("user_id", Column::Id),
                ("fetched_at", Column::Big),
                ("client", Column::Text),
            ],
        );
        for fetch in fetches {
            rows.push([
                Cell::Id(fetch.tenant_id.uuid()),
                Cell::Id(fetch.user_id.uuid()),
                Cell::Big(fetch.fetched.at_ms),
                Cell::Text(&fetch.fetched.client),
            ]);
        }
        if rows.is_empty() {
            return Ok(());
        }
        // In one order, so that replicas that write at once do not wait for each other in a circle.
        let text = format!(
            "INSERT INTO subscription_fetches (tenant_id, user_id, fetched_at, client)
             SELECT s.tenant_id, s.user_id, s.fetched_at, s.client FROM {}
             JOIN users u ON u.tenant_id = s.tenant_id AND u.id = s.user_id
             WHERE TRUE ORDER BY s.tenant_id, s.user_id
             ON CONFLICT (tenant_id, user_id) DO UPDATE
                SET fetched_at = excluded.fetched_at, client = excluded.client
                WHERE subscription_fetches.fetched_at < excluded.fetched_at",
            rows.source(1)
        );
        sql::run(db, text, rows.into_values()).await?;
        Ok(())
    }
}

impl SubscriptionToken {
    /// Of the user whose it becomes.
    pub(crate) fn change(self) -> ActiveModel {
        ActiveModel {
            subscription_hash: Set(Some(self.hash.to_vec())),
            sealed_subscription: Set(Some(self.sealed)),
            ..ActiveModel::default()
        }
    }
}

/// The statement that finds a user by the hash of its token, with its tenant behind.
pub(crate) fn by_hash(hash: &[u8; 32], now: i64) -> (String, Vec<sea_orm::Value>) {
    let text = format!(
        "SELECT {}, t.id, t.name, COALESCE(t.suspended_at, m.over_at)
         FROM users u {} JOIN tenants t ON t.id = u.tenant_id {}
         WHERE u.subscription_hash = $1 AND u.deleted_at IS NULL AND t.deleted_at IS NULL",
        users::columns(),
        users::joins(2),
        months::join_over(2)
    );
    (text, vec![hash.as_slice().into(), now.into()])
}

/// Without the sealed token.
impl fmt::Debug for SubscriptionToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SubscriptionToken").finish_non_exhaustive()
    }
}
