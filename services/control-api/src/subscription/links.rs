//! Where subscriptions are fetched.

use std::time::Duration;

use vpnpanel_store::User;
use zeroize::Zeroizing;

use crate::{Error, seal::Vault, settings::SubscriptionSettings};

const HOUR: Duration = Duration::from_secs(3600);

/// The addresses of subscriptions, and what is said with each.
#[derive(Debug)]
pub(crate) struct Links {
    /// What each begins with.
    base: String,
    /// How often programs should fetch again: hours, at least one.
    pub(crate) update_hours: u64,
    /// Where subscribers find help.
    pub(crate) support_url: Option<String>,
}

impl Links {
    pub(crate) fn new(settings: &SubscriptionSettings) -> Self {
        let base = settings.subscription_url.to_string();
        let every = settings.subscription_update_interval.0;
        Self {
            base: base.trim_end_matches('/').to_owned(),
            update_hours: every.as_secs().div_ceil(HOUR.as_secs()).max(1),
            support_url: settings.subscription_support_url.clone().map(|it| it.0),
        }
    }

    /// Of a token.
    pub(crate) fn of_token(&self, token: &str) -> Zeroizing<String> {
        Zeroizing::new(format!("{}/sub/{token}", self.base))
    }

    /// Of a user; empty while it has none.
    ///
    /// # Errors
    /// When the token was sealed under another master key.
    pub(crate) fn of_user(&self, vault: &Vault, user: &User) -> Result<Zeroizing<String>, Error> {
        match &user.sealed_subscription {
            Some(sealed) => Ok(self.of_token(&vault.subscription_token(user.id, sealed)?)),
            None => Ok(Zeroizing::default()),
        }
    }
}
