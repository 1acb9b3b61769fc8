//! Users whose time has ended: their status is brought up to date in sets, under a job's lease.

use vpnpanel_domain::{TenantId, UserId, UserStatus};

use crate::audit::{Event, Resource};
use crate::changes::Entry;
use crate::connect::{Backend, Store};
use crate::error::{Result, StoreError};
use crate::jobs::{self, JobLease};
use crate::sql;

impl Store {
    /// Expires users whose time has ended, at most `limit`, under a job's lease: their status,
    /// the change log and the run's figure in one transaction. Returns how many there were.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`], and those of the database.
    pub async fn expire_users(&self, lease: &JobLease, limit: u32) -> Result<u64> {
        let mut write = self.begin().await?;
        jobs::hold(&*write, lease).await?;
        // a user that somebody else holds right now is left to the next run
        let skip = match self.backend() {
            Backend::Postgres => "FOR UPDATE SKIP LOCKED",
            Backend::Sqlite => "",
        };
        // these three statuses and no other are below `expired` in `UserFacts::status`
        let due = sql::all(
            &*write,
            format!(
                "SELECT tenant_id, id, status FROM users
                 WHERE status IN ('active', 'on_hold', 'limited') AND expires_at <= $1
                 ORDER BY expires_at, id LIMIT $2 {skip}"
            ),
            vec![write.now.into(), i64::from(limit).into()],
        )
        .await?;
        let mut users = Vec::with_capacity(due.len());
        for row in &due {
            let (tenant, user) = (
                TenantId::new(sql::get(row, 0)?),
                UserId::new(sql::get(row, 1)?),
            );
            let before: UserStatus = sql::get::<String>(row, 2)?
                .parse()
                .map_err(|error| StoreError::corrupt("users.status", error))?;
            write.changed(Entry::user(tenant, user));
            write.audit(Event::changed(
                Resource::UserStatus(tenant, user, before),
                Resource::UserStatus(tenant, user, UserStatus::Expired),
            ));
            users.push(user);
        }
        if users.is_empty() {
            return Ok(0);
        }
        let count = users.len() as u64;
        sql::run(
            &*write,
            format!(
                "UPDATE users SET status = 'expired', version = version + 1, updated_at = $1
                 WHERE id {}",
                sql::in_ids(&*write, 2)
            ),
            vec![write.now.into(), sql::ids(&*write, users)],
        )
        .await?;
        jobs::count(&write, lease, count).await?;
        write.commit().await?;
        Ok(count)
    }
}
