//! Authentication and authorization over the store: one for all services of a process, so that a
//! sign-out is seen by all of them at once; other processes see it through what replicas share.

use std::{sync::Arc, time::Duration};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use vpnpanel_auth::{
    AuthGuard, Authenticator, CachedPolicy, KeyRing, LimitSettings, Limits, Signal, StandingCache,
    TokenIssuer, TokenSettings, signals::Listener,
};
use vpnpanel_cache::Cache;
use vpnpanel_runtime::{
    Service,
    clock::{Clock, TimeSource},
    settings::CidrList,
};
use vpnpanel_store::Store;

use crate::{
    AccessArgs, Error, accounts::StoredAccounts, api_tokens::StoredApiTokens, policy::StoredPolicy,
    seal::Vault, signing_keys::StoredKeys,
};

/// How long a change of the signing keys may go unnoticed when no signal arrives.
const KEYS_EVERY: Duration = Duration::from_millis(700);
/// Uses of API tokens are written down every so many rounds.
const USES_EVERY: u32 = 15;

/// Who may call what, by the accounts and keys of the store.
#[derive(Debug, Clone)]
pub struct Access {
    pub(crate) tokens: Arc<TokenIssuer>,
    pub(crate) standings: StandingCache,
    pub(crate) limits: Limits,
    pub(crate) policy: CachedPolicy,
    cache: Cache,
    accounts: Arc<StoredAccounts>,
    api_tokens: Arc<StoredApiTokens>,
    keys_changed: Arc<KeysChanged>,
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
        let keys = StoredKeys::new(store.clone(), vault.clone());
        let ring = KeyRing::open(Arc::new(keys)).await?;
        let tokens = Arc::new(TokenIssuer::new(Arc::new(ring), settings));
        let keys_changed = Arc::new(KeysChanged::default());
        cache.signals.listen(Arc::clone(&keys_changed) as _);
        let accounts = Arc::new(StoredAccounts::new(store.clone()));
        let (signals, revocations) = (cache.signals.clone(), cache.revocations.clone());
        let standings = StandingCache::shared(accounts.clone(), signals, revocations);
        let policy = CachedPolicy::new(
            Arc::new(StoredPolicy::new(store.clone())),
            cache.policy.clone(),
            cache.signals.clone(),
        );
        let limits = Limits::new(cache.limiter.clone(), limits);
        let api_tokens = Arc::new(StoredApiTokens::new(store.clone()));
        let authenticator = Authenticator::new(
            Arc::clone(&tokens),
            standings.clone(),
            Arc::new(policy.clone()),
            Clock::from_source(StoreClock(store.clone())),
        )
        .api_tokens(Arc::clone(&api_tokens) as _)
        .limits(limits.clone())
        .admin_networks(admin_networks);
        Ok(Self {
            tokens,
            standings,
            limits,
            policy,
            cache,
            accounts,
            api_tokens,
            keys_changed,
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

    /// How long a signing key has to be accepted after it has signed last.
    pub fn key_overlap(&self) -> Duration {
        self.tokens.settings().key_overlap()
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
        let this = self.clone();
        service.task("credentials", move |stop| async move {
            this.follow(stop).await;
            Ok::<(), Error>(())
        });
    }

    /// Follows the signing keys and writes uses of API tokens down, until `stop`. The database
    /// being away is no reason to end.
    pub async fn follow(self, stop: CancellationToken) {
        let mut round = 0;
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                () = self.keys_changed.0.notified() => {}
                () = tokio::time::sleep(KEYS_EVERY) => round += 1,
            }
            if let Err(error) = self.tokens.keys().reload().await {
                tracing::warn!(event = "signing_keys_unavailable", error = %error);
            }
            if round >= USES_EVERY {
                round = 0;
                self.api_tokens.write_down().await;
            }
        }
        self.api_tokens.write_down().await;
    }

    /// Puts changed signing keys into force, here and on other replicas.
    pub(crate) async fn signing_keys_changed(&self) -> Result<(), Error> {
        self.tokens.keys().reload().await?;
        self.cache.signals.ring(Signal::SigningKeysChanged);
        Ok(())
    }
}

/// How long an access token can be presented after its session has ended.
fn credential_life(settings: &TokenSettings) -> Duration {
    settings.access_lifetime.saturating_add(settings.clock_skew)
}

/// Wakes whoever follows the signing keys.
#[derive(Debug, Default)]
struct KeysChanged(Notify);

impl Listener for KeysChanged {
    fn heard(&self, signal: &Signal) {
        if matches!(signal, Signal::SigningKeysChanged | Signal::Everything) {
            self.0.notify_one();
        }
    }
}

/// Tokens are checked by the clock that they are issued by.
#[derive(Debug)]
struct StoreClock(Store);

impl TimeSource for StoreClock {
    fn unix_millis(&self) -> i64 {
        self.0.now_ms()
    }

    fn since_boot(&self) -> Duration {
        Clock::system().since_boot()
    }
}
