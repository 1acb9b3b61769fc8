//! The list of revocations of a process that shares nothing with others.

use std::time::Duration;

use async_trait::async_trait;
use vpnpanel_auth::revocation::{Credential, Listed, RevocationList};

/// Beyond so many, the oldest are left to the database.
const MAX_CREDENTIALS: u64 = 100_000;

/// Credentials that were ended in this process, as long as they could be presented. It never says
/// that one is in order: after a start it knows nothing of what was ended before.
#[derive(Debug)]
pub(crate) struct LocalRevocations(moka::sync::Cache<Credential, ()>);

impl LocalRevocations {
    pub(crate) fn new(credential_life: Duration) -> Self {
        Self(
            moka::sync::Cache::builder()
                .max_capacity(MAX_CREDENTIALS)
                .time_to_live(credential_life)
                .build(),
        )
    }
}

#[async_trait]
impl RevocationList for LocalRevocations {
    async fn revoke(&self, credentials: &[Credential]) {
        credentials
            .iter()
            .for_each(|credential| self.0.insert(*credential, ()));
    }

    async fn check(&self, credential: Credential) -> Listed {
        if self.0.contains_key(&credential) {
            Listed::Revoked
        } else {
            Listed::Unknown
        }
    }
}
