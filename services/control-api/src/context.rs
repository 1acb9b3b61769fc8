//! What handlers work with.

use std::{sync::Arc, time::Duration};

use tokio::sync::Notify;
use vpnpanel_auth::{
    CachedPolicy, Limits, PasswordHasher, PasswordSignIn, StandingCache, TokenIssuer,
};
use vpnpanel_domain::AccountId;
use vpnpanel_store::{HeldRole, Store};

use crate::{
    Error,
    access::Access,
    authority::Authority,
    caller::Caller,
    certificate_log::CertificateRecords,
    dashboards::Dashboards,
    direct::Direct,
    held_back::HeldBack,
    rates::RateWatch,
    seal::Vault,
    subscription::{Links, SubscriptionFetches},
};

/// The parts of the service, shared by all handlers.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) store: Store,
    pub(crate) vault: Vault,
    pub(crate) authority: Authority,
    /// What was issued and revoked, apart from the database.
    pub(crate) certificates: CertificateRecords,
    /// Nodes that are reached directly.
    pub(crate) direct: Direct,
    pub(crate) tokens: Arc<TokenIssuer>,
    pub(crate) hasher: PasswordHasher,
    pub(crate) password_sign_in: PasswordSignIn,
    pub(crate) standings: StandingCache,
    pub(crate) limits: Limits,
    /// Sign-ins that those keep back.
    pub(crate) held_back: HeldBack,
    pub(crate) policy: CachedPolicy,
    pub(crate) access: Access,
    /// Longest life of an API token.
    pub(crate) api_token_max_life: Duration,
    /// Life of a node's certificate.
    pub(crate) node_certificate_life: Duration,
    /// Rung when an operation has begun.
    pub(crate) operations: Notify,
    /// Where subscriptions are fetched.
    pub(crate) links: Links,
    /// That they were.
    pub(crate) fetches: SubscriptionFetches,
    /// What dashboards show.
    pub(crate) dashboards: Dashboards,
    /// How fast traffic is.
    pub(crate) rates: RateWatch,
    /// Where hosts reach the enrolment listener, `https://host:port`.
    pub(crate) enrollment_url: String,
}

impl Context {
    /// Gives a link of a subscription to every user that has none.
    ///
    /// # Errors
    /// Those of the store and of the vault; it is tried again later.
    pub(crate) async fn link_subscriptions(&self) -> Result<(), Error> {
        let link = |id| Ok(self.vault.new_subscription_token(id)?);
        while self.store.link_subscriptions(&link).await? {}
        Ok(())
    }

    /// The store, acting for a caller: what is changed through it is in the audit log.
    pub(crate) fn acting(&self, caller: &Caller) -> Store {
        self.store.acting(caller.who.clone())
    }

    /// The store, acting for somebody who has just proven to be an account.
    ///
    /// # Errors
    /// Those of the store, which knows the account's roles.
    pub(crate) async fn acting_as(
        &self,
        account: AccountId,
        caller: &Caller,
    ) -> Result<Store, Error> {
        let memberships = self.store.memberships(account).await?;
        let held = memberships.into_iter().map(|membership| HeldRole {
            tenant: membership.tenant_id,
            role: membership.role,
        });
        let who = caller.who.clone().by_account(account, held.collect());
        Ok(self.store.acting(who))
    }
}
