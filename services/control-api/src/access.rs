//! Authentication and authorization over the store: one for all services of a process, so that a
//! sign-out is seen by all of them at once.

use std::{sync::Arc, time::Duration};

use vpnpanel_auth::{
    AuthGuard, Authenticator, PolicyCache, StandingCache, TokenIssuer, TokenSettings,
};
use vpnpanel_runtime::clock::Clock;
use vpnpanel_store::Store;

use crate::{Error, accounts::StoredAccounts, bootstrap, policy::StoredPolicy, seal::Vault};

/// How long a sign-out or a lost role may go unnoticed by other processes.
const STANDING_TTL: Duration = Duration::from_secs(5);

/// How long a change of what a role permits may.
const POLICY_TTL: Duration = Duration::from_secs(5);

/// Who may call what, by the accounts and keys of the store.
#[derive(Debug, Clone)]
pub struct Access {
    pub(crate) tokens: Arc<TokenIssuer>,
    pub(crate) standings: StandingCache,
    pub(crate) policy: PolicyCache,
    guard: AuthGuard,
}

impl Access {
    /// Reads the keys that sign access tokens; makes the first one where there is none.
    ///
    /// # Errors
    /// When the store fails, or the keys were sealed under another master key.
    pub async fn open(
        settings: impl Into<TokenSettings>,
        store: &Store,
        vault: &Vault,
    ) -> Result<Self, Error> {
        let ring = bootstrap::key_ring(store, vault).await?;
        let tokens = Arc::new(TokenIssuer::new(Arc::new(ring), settings.into()));
        let accounts = Arc::new(StoredAccounts::new(store.clone()));
        let standings = StandingCache::new(accounts, STANDING_TTL);
        let policy = StoredPolicy::new(store.clone());
        let policy = PolicyCache::new(Arc::new(policy), POLICY_TTL);
        let authenticator = Authenticator::new(
            Arc::clone(&tokens),
            standings.clone(),
            Arc::new(policy.clone()),
            Clock::system(),
        );
        Ok(Self {
            tokens,
            standings,
            policy,
            guard: AuthGuard::new(Arc::new(authenticator)),
        })
    }

    /// The guard to put in front of every service of the contract.
    pub fn guard(&self) -> AuthGuard {
        self.guard.clone()
    }
}
