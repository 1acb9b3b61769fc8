//! Changes of passwords. Each names the hash that the caller checked, so that of two changes at
//! once the second one does not undo the first.

use vpnpanel_domain::AccountId;

use crate::audit::Event;
use crate::connect::Store;
use crate::error::{Result, StoreError};
use crate::sql;

impl Store {
    /// Whether there is any account, deleted ones included.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn has_accounts(&self) -> Result<bool> {
        let row = sql::one(self.read(), "SELECT 1 FROM accounts LIMIT 1", vec![]).await?;
        Ok(row.is_some())
    }

    /// Replaces a hash by one of the same password with other parameters. No change when the
    /// password was changed since `read` was.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn rehash_password(&self, id: AccountId, read: &str, new: &str) -> Result<()> {
        sql::run(
            &self.inner.write,
            "UPDATE accounts SET password_hash = $3
             WHERE id = $1 AND password_hash = $2 AND deleted_at IS NULL",
            vec![id.uuid().into(), read.into(), new.into()],
        )
        .await?;
        Ok(())
    }

    /// Takes a new password, which its owner has chosen, and ends every session of the account.
    ///
    /// # Errors
    /// [`StoreError::StaleVersion`] when the password was changed since `read` was.
    pub async fn change_password(&self, id: AccountId, read: &str, new: &str) -> Result<()> {
        let mut tx = self.begin().await?;
        tx.audit(Event::on("account", None, id));
        let changed = sql::run(
            &*tx,
            "UPDATE accounts SET password_hash = $3, password_change_required = $4,
                version = version + 1, updated_at = $5
             WHERE id = $1 AND password_hash = $2 AND deleted_at IS NULL",
            vec![
                id.uuid().into(),
                read.into(),
                new.into(),
                false.into(),
                tx.now.into(),
            ],
        )
        .await?;
        if changed == 0 {
            return Err(StoreError::StaleVersion);
        }
        sql::run(
            &*tx,
            "UPDATE sessions SET revoked_at = $2, revoked_reason = 'password_change'
             WHERE account_id = $1 AND revoked_at IS NULL",
            vec![id.uuid().into(), tx.now.into()],
        )
        .await?;
        tx.commit().await
    }
}
