//! Roles and what they permit, as the database has them. Built once for all services of a process
//! and remembered there by [`vpnpanel_auth::CachedPolicy`], which whoever changes a role tells.

use std::sync::Arc;

use async_trait::async_trait;
use vpnpanel_auth::{PermissionSet, Policy, SourceError};
use vpnpanel_store::Store;

/// The roles of the store.
#[derive(Debug, Clone)]
pub(crate) struct StoredPolicy {
    store: Store,
}

impl StoredPolicy {
    /// Reads `store`.
    pub(crate) fn new(store: Store) -> Self {
        Self { store }
    }
}

#[async_trait]
impl Policy for StoredPolicy {
    async fn permissions(&self, role: &str) -> Result<Option<Arc<PermissionSet>>, SourceError> {
        Ok(self.store.role_permissions(role).await?.map(Arc::new))
    }
}
