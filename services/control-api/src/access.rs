//! Authentication and authorization over the store: one for all services of a process, so that a
//! sign-out is seen by all of them at once; other processes see it through what replicas share.

use std::sync::Arc;

use vpnpanel_auth::{
    AuthGuard, Authenticator, CachedPolicy, LimitSettings, Limits, StandingCache, TokenIssuer,
    TokenSettings,
};
use vpnpanel_cache::Cache;
use vpnpanel_runtime::{Service, clock::Clock, settings::CidrList};
use vpnpanel_store::Store;

use crate::{
    AccessArgs, Error, accounts::StoredAccounts, bootstrap, policy::StoredPolicy, seal::Vault,
};

/// Who may call what, by the accounts and keys of the store.
#[derive(Debug, Clone)]
pub struct Access {
    pub(crate) tokens: Arc<TokenIssuer>,
    pub(crate) standings: StandingCache,
    pub(crate) limits: Limits,
    pub(crate) policy: CachedPolicy,
    cache: Cache,
    accounts: Arc<StoredAccounts>,
    guard: AuthGuard,
}

impl Access {
    /// Reads the keys that sign access tokens; makes the first one where there is none. Shares
    /// nothing with other processes and limits nothing.
    ///
    /// # Errors
    /// When the store fails, or the keys were sealed under another master key.
    pub async fn open(
        settings: impl Into<TokenSettings>,
        store: &Store,
        vault: &Vault,
    ) -> Result<Self, Error> {
        let settings = settings.into();
        let cache = Cache::in_process(credential_life(&settings));
        let (limits, networks) = (LimitSettings::OFF, CidrList::default());
        Self::over(cache, limits, networks, settings, store, vault).await
    }

    /// The same as one of an installation's replicas, by its settings.
    ///
    /// # Errors
    /// As [`Access::open`], and for settings that make no sense.
    pub async fn shared(
        args: &AccessArgs,
        settings: impl Into<TokenSettings>,
        store: &Store,
        vault: &Vault,
    ) -> Result<Self, Error> {
        let settings = settings.into();
        let life = credential_life(&settings);
        let cache = Cache::open(&args.cache, life, Arc::new(vault.clone()))?;
        let (limits, networks) = (args.limits(), args.admin_cidrs.clone());
        Self::over(cache, limits, networks, settings, store, vault).await
    }

    async fn over(
        cache: Cache,
        limits: LimitSettings,
        admin_networks: CidrList,
        settings: TokenSettings,
        store: &Store,
        vault: &Vault,
    ) -> Result<Self, Error> {
        let ring = bootstrap::key_ring(store, vault).await?;
        let tokens = Arc::new(TokenIssuer::new(Arc::new(ring), settings));
        let accounts = Arc::new(StoredAccounts::new(store.clone()));
        let (signals, revocations) = (cache.signals.clone(), cache.revocations.clone());
        let standings = StandingCache::shared(accounts.clone(), signals, revocations);
        let policy = CachedPolicy::new(
            Arc::new(StoredPolicy::new(store.clone())),
            cache.policy.clone(),
            cache.signals.clone(),
        );
        let limits = Limits::new(cache.limiter.clone(), limits);
        let authenticator = Authenticator::new(
            Arc::clone(&tokens),
            standings.clone(),
            Arc::new(policy.clone()),
            Clock::system(),
        )
        .limits(limits.clone())
        .admin_networks(admin_networks);
        Ok(Self {
            tokens,
            standings,
            limits,
            policy,
            cache,
            accounts,
            guard: AuthGuard::new(Arc::new(authenticator)),
        })
    }

    /// The guard to put in front of every service of the contract.
    pub fn guard(&self) -> AuthGuard {
        self.guard.clone()
    }

    /// What roles permit; to be told when that was changed.
    pub fn policy(&self) -> &CachedPolicy {
        &self.policy
    }

    /// What this process shares with other replicas.
    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    /// Keeps in touch with other replicas as long as `service` runs: to be called for one service
    /// of each process.
    pub fn keep_in_touch(&self, service: &mut Service) {
        self.cache.register(service.metrics());
        let (cache, accounts) = (self.cache.clone(), self.accounts.clone());
        service.task("cache", move |stop| async move {
            cache.run(accounts, stop).await;
            Ok::<(), Error>(())
        });
    }
}

/// How long an access token can be presented after its session has ended.
fn credential_life(settings: &TokenSettings) -> std::time::Duration {
    settings.access_lifetime.saturating_add(settings.clock_skew)
}
