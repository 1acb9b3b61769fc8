//! The store, as the auth crate wants to see it: standings of accounts, and password hashes.

use async_trait::async_trait;
use vpnpanel_auth::{
    Credential, CredentialSource, Membership, RevocationSource, SourceError, Standing,
    StandingSource, StoredPassword, revocation::Revocation,
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

    async fn session_in_force(
        &self,
        account: AccountId,
        id: SessionId,
    ) -> Result<bool, StoreError> {
        let session = found(self.store.session(id).await)?;
        Ok(session.is_some_and(|session| {
            session.account_id == account
                && session.revoked_at_ms.is_none()
                && session.expires_at_ms > self.store.now_ms()
        }))
    }
}

#[async_trait]
impl StandingSource for StoredAccounts {
    async fn standing(
        &self,
        account: AccountId,
        credential: Credential,
    ) -> Result<Option<Standing>, SourceError> {
        let in_force = match credential {
            Credential::Session(id) => self.session_in_force(account, id).await?,
            Credential::ApiToken(id) => self.store.api_token_in_force(account, id).await?,
        };
        if !in_force {
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
            second_factor_owed: self.store.second_factor_owed(account.id).await?,
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
        let sessions = self.store.sessions_ended_since(since_ms).await?;
        let tokens = self.store.api_tokens_ended_since(since_ms).await?;
        let sessions = sessions
            .into_iter()
            .map(|(id, at_ms)| (Credential::Session(id), at_ms));
        let tokens = tokens
            .into_iter()
            .map(|(id, at_ms)| (Credential::ApiToken(id), at_ms));
        Ok(sessions
            .chain(tokens)
            .map(|(credential, at_ms)| Revocation { credential, at_ms })
            .collect())
    }
}

#[async_trait]
impl CredentialSource for StoredAccounts {
    async fn by_email(&self, email: &str) -> Result<Option<StoredPassword>, SourceError> {
        let account = self.store.account_by_email(email).await?;
        // asked for whether or not there is such an account: both take the same way
        let seen_at = self.store.addresses_by_email(email).await?;
        Ok(account
            .filter(|account| !account.disabled)
            .map(|account| StoredPassword {
                account: account.id,
                hash: account.password_hash,
                seen_at: seen_at
                    .iter()
                    .filter_map(|text| text.parse().ok())
                    .collect(),
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
