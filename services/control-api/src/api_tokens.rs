//! API tokens of the store, as the auth crate wants to see them. That a token was used is noted in
//! memory and written down every few seconds for all tokens at once, never by a call.

use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError},
};

use async_trait::async_trait;
use vpnpanel_auth::{ApiTokenGrant, ApiTokenSource, SourceError};
use vpnpanel_domain::ApiTokenId;
use vpnpanel_store::Store;

/// Most tokens whose use is noted at a time; more are noted the next time they are used.
const MAX_NOTED: usize = 10_000;

/// API tokens of the store.
#[derive(Debug)]
pub(crate) struct StoredApiTokens {
    store: Store,
    used: Mutex<HashSet<ApiTokenId>>,
}

impl StoredApiTokens {
    pub(crate) fn new(store: Store) -> Self {
        Self {
            store,
            used: Mutex::default(),
        }
    }

    /// Writes down which tokens were used since the last time.
    pub(crate) async fn write_down(&self) {
        let used: Vec<ApiTokenId> = self.noted().drain().collect();
        if used.is_empty() {
            return;
        }
        let now = self.store.now_ms();
        if let Err(error) = self.store.note_api_token_uses(&used, now).await {
            tracing::warn!(event = "api_token_uses_not_noted", error = %error);
            let mut noted = self.noted();
            let room = MAX_NOTED.saturating_sub(noted.len());
            noted.extend(used.into_iter().take(room));
        }
    }

    fn noted(&self) -> std::sync::MutexGuard<'_, HashSet<ApiTokenId>> {
        // A panic while the lock was held leaves a set that is right all the same.
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl ApiTokenSource for StoredApiTokens {
    async fn by_hash(&self, hash: &[u8; 32]) -> Result<Option<ApiTokenGrant>, SourceError> {
        let found = self.store.api_token_by_hash(hash).await?;
        Ok(found.map(|token| ApiTokenGrant {
            id: token.id,
            account: token.account_id,
            tenant: token.tenant_id,
            permissions: token.permissions,
        }))
    }

    fn used(&self, id: ApiTokenId) {
        let mut noted = self.noted();
        if noted.len() < MAX_NOTED {
            noted.insert(id);
        }
    }
}
