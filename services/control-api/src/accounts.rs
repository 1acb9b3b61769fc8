//! The store, as the auth crate wants to see it: standings of accounts, and password hashes.

use async_trait::async_trait;
use vpnpanel_auth::{
    CredentialSource, Membership, RevocationSource, SourceError, Standing, StandingSource,
    StoredPassword,
    revocation::{Credential, Revocation},
};
use vpnpanel_domain::{AccountId, SessionId};
use vpnpanel_store::{Store, StoreError};

/// Accounts and sessions of the store. The scheduler and every other service that checks access
/// tokens stands on it too.
#[derive(Debug, Clone)]
pub struct StoredAccounts {
    store: Store,
}

impl StoredAccounts {
    /// Reads and writes `store`.
    pub fn new(store: Store) -> Self {
        Self { store }
    }
}

#[async_trait]
impl StandingSource for StoredAccounts {
    async fn standing(
        &self,
        account: AccountId,
        session: SessionId,
    ) -> Result<Option<Standing>, SourceError> {
        let Some(session) = found(self.store.session(session).await)? else {
            return Ok(None);
        };
        let over = session.revoked_at_ms.is_some()
            || session.expires_at_ms <= self.store.now_ms()
            || session.account_id != account;
        if over {
            return Ok(None);
        }
        let Some(account) = found(self.store.account(account).await)? else {
            return Ok(None);
        };
        if account.disabled {
            return Ok(None);
        }
        let memberships = self.store.memberships(account.id).await?;
        Ok(Some(Standing {
            password_change_required: account.password_change_required,
            memberships: memberships
                .into_iter()
                .map(|membership| Membership {
                    tenant: membership.tenant_id,
                    role: membership.role,
                    suspended: membership.suspended,
                })
                .collect(),
        }))
    }
}

#[async_trait]
impl RevocationSource for StoredAccounts {
    async fn revoked_since(&self, since_ms: i64) -> Result<Vec<Revocation>, SourceError> {
        let ended = self.store.sessions_ended_since(since_ms).await?;
        Ok(ended
            .into_iter()
            .map(|(session, at_ms)| Revocation {
                credential: Credential::Session(session),
                at_ms,
            })
            .collect())
    }
}

#[async_trait]
impl CredentialSource for StoredAccounts {
    async fn by_email(&self, email: &str) -> Result<Option<StoredPassword>, SourceError> {
        let account = self.store.account_by_email(email).await?;
        Ok(account
            .filter(|account| !account.disabled)
            .map(|account| StoredPassword {
                account: account.id,
                hash: account.password_hash,
            }))
    }

    async fn replace_hash(
        &self,
        account: AccountId,
        read: &str,
        new: &str,
    ) -> Result<(), SourceError> {
        Ok(self.store.rehash_password(account, read, new).await?)
    }
}

/// `None` for what does not exist.
fn found<T>(result: Result<T, StoreError>) -> Result<Option<T>, StoreError> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(StoreError::NotFound(_)) => Ok(None),
        Err(error) => Err(error),
    }
}
