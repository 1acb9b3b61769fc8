//! How often somebody may call. What is counted and how much of it is permitted is decided here;
//! where it is counted is behind [`RateLimiter`], so that replicas can count together.
//!
//! Anonymous callers are counted by their address, others by their credential. Passwords are
//! counted before they are checked, by address and by (account, network): whoever guesses at an
//! account from elsewhere cannot lock its owner out.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    num::NonZeroU32,
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use sha2::{Digest, Sha256};

use crate::{AuthError, Authentication, Principal};

/// So many within so long; written `600/1m`. All of them may come at once (GCRA): after that, one
/// more whenever a share of the time has passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Quota {
    /// How many.
    pub count: NonZeroU32,
    /// Within how long.
    pub per: Duration,
}

impl Quota {
    /// The time after which one more is permitted, at least one microsecond.
    pub fn interval(&self) -> Duration {
        (self.per / self.count.get()).max(Duration::from_micros(1))
    }

    /// A part of it, for a guard that counts alone.
    #[must_use]
    pub fn divided_by(self, parts: NonZeroU32) -> Self {
        let count = NonZeroU32::new(self.count.get() / parts.get());
        match count {
            Some(count) => Self { count, ..self },
            None => Self {
                count: NonZeroU32::MIN,
                per: self.per * parts.get() / self.count.get(),
            },
        }
    }
}

/// What is counted together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Limit {
    /// Calls without right credentials, by address.
    Anonymous,
    /// Calls of a session or API token.
    Credential,
    /// Sign-ins, by address.
    SignInAddress,
    /// Sign-ins, by account and network.
    SignInAccount,
    /// Passwords and codes that somebody who is signed in has to give once more, by credential.
    Confirmation,
}

impl Limit {
    /// Every limit.
    pub const ALL: [Self; 5] = [
        Self::Anonymous,
        Self::Credential,
        Self::SignInAddress,
        Self::SignInAccount,
        Self::Confirmation,
    ];

    /// Its name in keys, metrics and answers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Anonymous => "anonymous",
            Self::Credential => "credential",
            Self::SignInAddress => "sign_in_address",
            Self::SignInAccount => "sign_in_account",
            Self::Confirmation => "confirmation",
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a limiter says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Within the quota; it has been counted.
    Permitted,
    /// Beyond the quota.
    Refused {
        /// When the next one is permitted.
        retry_after: Duration,
    },
}

/// Counts.
#[async_trait]
pub trait RateLimiter: Send + Sync + 'static {
    /// Counts one of `key`. Takes a bounded time, and permits nothing for not being able to count.
    async fn count(&self, limit: Limit, key: &str, quota: Quota) -> Verdict;
}

/// How much is permitted; `None` is not limited.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitSettings {
    /// See [`Limit::Anonymous`].
    pub anonymous: Option<Quota>,
    /// See [`Limit::Credential`].
    pub credential: Option<Quota>,
    /// See [`Limit::SignInAddress`].
    pub sign_in_address: Option<Quota>,
    /// See [`Limit::SignInAccount`].
    pub sign_in_account: Option<Quota>,
    /// See [`Limit::Confirmation`].
    pub confirmation: Option<Quota>,
}

impl LimitSettings {
    /// Nothing is limited.
    pub const OFF: Self = Self {
        anonymous: None,
        credential: None,
        sign_in_address: None,
        sign_in_account: None,
        confirmation: None,
    };
}

/// The limits of a service. Cheap to clone.
#[derive(Clone)]
pub struct Limits {
    limiter: Arc<dyn RateLimiter>,
    settings: Arc<LimitSettings>,
}

impl fmt::Debug for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Limits").field(&self.settings).finish()
    }
}

impl Limits {
    /// Counts with `limiter`.
    pub fn new(limiter: Arc<dyn RateLimiter>, settings: LimitSettings) -> Self {
        Self {
            limiter,
            settings: Arc::new(settings),
        }
    }

    /// Counts a call. Callers in the same process have no address when they act for nobody
    /// outside of it: those are not counted.
    ///
    /// # Errors
    /// [`AuthError::TooMany`].
    pub async fn call(
        &self,
        caller: &Authentication,
        address: Option<IpAddr>,
    ) -> Result<(), AuthError> {
        match (caller, address) {
            (Authentication::Verified(principal), _) => {
                let quota = self.settings.credential;
                self.count(Limit::Credential, &credential(principal), quota)
                    .await
            }
            (_, Some(address)) => {
                let quota = self.settings.anonymous;
                self.count(Limit::Anonymous, &host(address), quota).await
            }
            (_, None) => Ok(()),
        }
    }

    /// Counts an attempt to sign in. To be called before the password is looked at.
    ///
    /// # Errors
    /// [`AuthError::TooMany`].
    pub async fn sign_in(&self, email: &str, address: Option<IpAddr>) -> Result<(), AuthError> {
        if let Some(address) = address {
            let quota = self.settings.sign_in_address;
            self.count(Limit::SignInAddress, &host(address), quota)
                .await?;
        }
        let quota = self.settings.sign_in_account;
        self.count(Limit::SignInAccount, &account(email, address), quota)
            .await
    }

    /// Counts an attempt of somebody who is signed in to prove once more who they are. To be
    /// called before the password or code is looked at.
    ///
    /// # Errors
    /// [`AuthError::TooMany`].
    pub async fn confirmation(&self, principal: &Principal) -> Result<(), AuthError> {
        let quota = self.settings.confirmation;
        self.count(Limit::Confirmation, &credential(principal), quota)
            .await
    }

    async fn count(&self, limit: Limit, key: &str, quota: Option<Quota>) -> Result<(), AuthError> {
        let Some(quota) = quota else { return Ok(()) };
        match self.limiter.count(limit, key, quota).await {
            Verdict::Permitted => Ok(()),
            Verdict::Refused { retry_after } => Err(AuthError::TooMany { limit, retry_after }),
        }
    }
}

fn credential(principal: &Principal) -> String {
    principal.credential.to_string()
}

/// Whoever has one IPv6 address has a /64 of them.
fn host(address: IpAddr) -> String {
    match address.to_canonical() {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => network(address.into(), 32, 64),
    }
}

/// The account that is tried, from the network that it is tried from. No e-mail address stands in
/// a key: keys are seen by whoever looks after Redis.
fn account(email: &str, address: Option<IpAddr>) -> String {
    let network = address.map(|address| network(address, 24, 56));
    let digest = Sha256::new()
        .chain_update(b"vpnpanel sign-in\0")
        .chain_update(email.trim().to_lowercase())
        .chain_update(b"\0")
        .chain_update(network.unwrap_or_default())
        .finalize();
    digest[..16]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Whether two addresses are counted together where an account is tried from them.
pub(crate) fn is_same_network(one: IpAddr, other: IpAddr) -> bool {
    network(one, 24, 56) == network(other, 24, 56)
}

/// The address with all but the first bits cleared.
fn network(address: IpAddr, bits_v4: u32, bits_v6: u32) -> String {
    match address.to_canonical() {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(32 - bits_v4).unwrap_or(0);
            format!("{}/{bits_v4}", Ipv4Addr::from(u32::from(address) & mask))
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(128 - bits_v6).unwrap_or(0);
            format!("{}/{bits_v6}", Ipv6Addr::from(u128::from(address) & mask))
        }
    }
}

/// Why a text is no quota; the words follow "… is not valid: ".
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected a number and a time, such as 600/1m, or off")]
pub struct QuotaExpected;

/// A [`Quota`] as a setting: `600/1m`, or `off`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuotaSetting(pub Option<Quota>);

impl FromStr for QuotaSetting {
    type Err = QuotaExpected;

    fn from_str(text: &str) -> Result<Self, QuotaExpected> {
        if text == "off" {
            return Ok(Self(None));
        }
        let (count, per) = text.split_once('/').ok_or(QuotaExpected)?;
        let per: vpnpanel_runtime::settings::HumanDuration =
            per.parse().map_err(|_| QuotaExpected)?;
        let day = Duration::from_secs(24 * 3600);
        let per = Some(per.0).filter(|per| (Duration::from_secs(1)..=day).contains(per));
        let count: NonZeroU32 = count.parse().map_err(|_| QuotaExpected)?;
        let count = Some(count).filter(|count| count.get() <= 1_000_000);
        match (count, per) {
            (Some(count), Some(per)) => Ok(Self(Some(Quota { count, per }))),
            _ => Err(QuotaExpected),
        }
    }
}

impl fmt::Display for QuotaSetting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(Quota { count, per }) => {
                let per = vpnpanel_runtime::settings::HumanDuration(per);
                write!(f, "{count}/{per}")
            }
            None => f.write_str("off"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn the_owner_elsewhere_is_counted_apart_from_who_guesses() {
        let key = |address| account("A@example.com ", ip(address));
        assert_eq!(
            key("198.51.100.7"),
            account("a@EXAMPLE.com", ip("198.51.100.250"))
        );
        assert_eq!(key("198.51.100.7"), key("::ffff:198.51.100.7"));
        assert_ne!(key("198.51.100.7"), key("198.51.101.7"));
        assert_eq!(key("2001:db8:0:1::1"), key("2001:db8:0:ff:2::"));
        assert_ne!(key("2001:db8:0:1::1"), key("2001:db8:0:100::"));
        assert_ne!(
            key("198.51.100.7"),
            account("b@example.com", ip("198.51.100.7"))
        );
    }

    #[test]
    fn no_key_holds_an_email_address() {
        assert!(!account("ada@example.com", ip("198.51.100.7")).contains("ada"));
        assert_eq!(account("ada@example.com", None).len(), 32);
    }

    #[test]
    fn who_owns_an_ipv6_network_is_one_caller() {
        let key = |text: &str| host(text.parse().unwrap());
        assert_eq!(key("2001:db8::1"), key("2001:db8::ffff:1"));
        assert_ne!(key("2001:db8::1"), key("2001:db8:0:1::1"));
        assert_eq!(key("::ffff:192.0.2.1"), "192.0.2.1");
        assert_ne!(key("192.0.2.1"), key("192.0.2.2"));
    }

    #[test]
    fn quotas_are_written_as_they_are_read() {
        for text in ["600/1m", "10/5m", "off", "1/1d"] {
            assert_eq!(text.parse::<QuotaSetting>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "600",
            "0/1m",
            "5/0s",
            "5/1ms",
            "-1/1m",
            "5/2d",
            "9999999/1s",
            "x/y",
        ] {
            assert_eq!(text.parse::<QuotaSetting>(), Err(QuotaExpected), "{text}");
        }
    }

    #[test]
    fn a_part_of_a_quota_is_smaller_and_never_none() {
        let parts = NonZeroU32::new(4).unwrap();
        let quota = |text: &str| text.parse::<QuotaSetting>().unwrap().0.unwrap();
        assert_eq!(quota("600/1m").divided_by(parts), quota("150/1m"));
        assert_eq!(quota("1/1m").divided_by(parts), quota("1/4m"));
        assert_eq!(quota("2/1m").divided_by(parts), quota("1/2m"));
    }
}
