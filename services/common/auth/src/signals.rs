//! What replicas tell each other when something changed that another one may remember.
//!
//! A signal makes a change effective at once. Nothing rests on its arrival: a message may be lost,
//! and whoever made the change may be cut off from the others. That is why nothing that decides
//! who may act is believed for longer than [`TRUST`] after the database was asked for it.

use std::{
    fmt,
    str::FromStr,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use vpnpanel_domain::{AccountId, ApiTokenId, SessionId, TenantId};

/// How long an answer of the database is believed, counted from the moment it was asked: the bound
/// on how long a change may go unnoticed when no signal arrives. Calls that are under way then, and
/// wait for a slow Redis, still end within the second.
pub const TRUST: Duration = Duration::from_millis(700);

/// Something changed that another replica may remember otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Signal {
    /// A session was ended.
    SessionEnded {
        /// Whose it was.
        account: AccountId,
        /// The session.
        session: SessionId,
    },
    /// An account was changed: disabled, its password or memberships, all of its sessions.
    AccountChanged(AccountId),
    /// A tenant was changed, for example suspended.
    TenantChanged(TenantId),
    /// What roles permit was changed.
    PolicyChanged,
    /// The keys that sign access tokens were changed.
    SigningKeysChanged,
    /// An API token was changed or revoked.
    ApiTokenChanged(ApiTokenId),
    /// Signals may have been missed: nothing that is remembered can be relied on.
    Everything,
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SessionEnded { account, session } => write!(f, "session {account} {session}"),
            Self::AccountChanged(account) => write!(f, "account {account}"),
            Self::TenantChanged(tenant) => write!(f, "tenant {tenant}"),
            Self::PolicyChanged => f.write_str("policy"),
            Self::SigningKeysChanged => f.write_str("signing-keys"),
            Self::ApiTokenChanged(token) => write!(f, "api-token {token}"),
            Self::Everything => f.write_str("everything"),
        }
    }
}

impl FromStr for Signal {
    type Err = UnknownSignal;

    fn from_str(text: &str) -> Result<Self, UnknownSignal> {
        let mut words = text.split(' ');
        let mut next = || words.next().ok_or(UnknownSignal);
        let signal = match next()? {
            "session" => Self::SessionEnded {
                account: id(next()?)?,
                session: id(next()?)?,
            },
            "account" => Self::AccountChanged(id(next()?)?),
            "tenant" => Self::TenantChanged(id(next()?)?),
            "policy" => Self::PolicyChanged,
            "signing-keys" => Self::SigningKeysChanged,
            "api-token" => Self::ApiTokenChanged(id(next()?)?),
            "everything" => Self::Everything,
            _ => return Err(UnknownSignal),
        };
        match words.next() {
            None => Ok(signal),
            Some(_) => Err(UnknownSignal),
        }
    }
}

fn id<T: FromStr>(text: &str) -> Result<T, UnknownSignal> {
    text.parse().map_err(|_| UnknownSignal)
}

/// A text that is no signal, or one of a version to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("unknown signal")]
pub struct UnknownSignal;

/// Somebody who remembers things. Is told in the middle of other work: it must neither block nor
/// wait.
pub trait Listener: Send + Sync + 'static {
    /// Forgets what the signal says has changed.
    fn heard(&self, signal: &Signal);
}

/// The way signals take: to the listeners of this process at once, and to other replicas.
pub trait Signals: Send + Sync + 'static {
    /// Tells everybody; never blocks or fails, however the others are reached. To be called after
    /// the change was committed.
    fn ring(&self, signal: Signal);

    /// Tells `listener` every signal from now on, those of this process included.
    fn listen(&self, listener: Arc<dyn Listener>);
}

/// The listeners of this process; by itself, the signals of a process that has no replicas.
#[derive(Default)]
pub struct LocalSignals(RwLock<Vec<Arc<dyn Listener>>>);

impl fmt::Debug for LocalSignals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalSignals").finish_non_exhaustive()
    }
}

impl Signals for LocalSignals {
    fn ring(&self, signal: Signal) {
        let listeners = self.0.read().unwrap_or_else(PoisonError::into_inner);
        listeners
            .iter()
            .for_each(|listener| listener.heard(&signal));
    }

    fn listen(&self, listener: Arc<dyn Listener>) {
        let mut listeners = self.0.write().unwrap_or_else(PoisonError::into_inner);
        listeners.push(listener);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_signal_is_read_as_it_was_written() {
        let account = AccountId::from_parts(1, [1; 10]);
        for signal in [
            Signal::SessionEnded {
                account,
                session: SessionId::from_parts(1, [2; 10]),
            },
            Signal::AccountChanged(account),
            Signal::TenantChanged(TenantId::from_parts(1, [3; 10])),
            Signal::PolicyChanged,
            Signal::SigningKeysChanged,
            Signal::ApiTokenChanged(ApiTokenId::from_parts(1, [4; 10])),
            Signal::Everything,
        ] {
            assert_eq!(signal.to_string().parse(), Ok(signal), "{signal}");
        }
    }

    #[test]
    fn what_is_no_signal_is_not_taken_for_another() {
        for text in [
            "",
            "account",
            "account x",
            "policy now",
            "tenants",
            " policy",
        ] {
            assert_eq!(text.parse::<Signal>(), Err(UnknownSignal), "{text}");
        }
    }
}
