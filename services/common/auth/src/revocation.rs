//! Credentials that were ended before their time. Access tokens live on for minutes after their
//! session has ended, so every replica asks a list that all of them share. The list makes a
//! revocation effective at once; that it is effective at all rests on the database, which
//! [`crate::StandingCache`] asks at least once in [`crate::signals::TRUST`].

use async_trait::async_trait;
use vpnpanel_domain::{ApiTokenId, SessionId};

use crate::SourceError;

/// Something that lets somebody act, and can be ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Credential {
    /// A session, with all of its access tokens.
    Session(SessionId),
    /// An API token, by its id.
    ApiToken(ApiTokenId),
}

impl std::fmt::Display for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Session(id) => write!(f, "session:{id}"),
            Self::ApiToken(id) => write!(f, "token:{id}"),
        }
    }
}

/// What the list says about a credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listed {
    /// It was ended.
    Revoked,
    /// It is not on the list, and the list is complete.
    Clear,
    /// The list cannot be read, or is not complete: the database has to answer.
    Unknown,
}

/// The list of ended credentials that replicas share. An entry lasts as long as the credential
/// could be presented otherwise.
#[async_trait]
pub trait RevocationList: Send + Sync + 'static {
    /// Puts credentials on the list, after the database has taken their end. Takes a bounded time
    /// wherever the list is; where it is not to be had, the database says it all the same.
    async fn revoke(&self, credentials: &[Credential]);

    /// Looks a credential up, in a bounded time.
    async fn check(&self, credential: Credential) -> Listed;
}

/// An ended credential, as the database knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Revocation {
    /// The credential.
    pub credential: Credential,
    /// When it was ended, in milliseconds of the Unix epoch.
    pub at_ms: i64,
}

/// What a list that was lost is built of again.
#[async_trait]
pub trait RevocationSource: Send + Sync + 'static {
    /// Credentials ended at or after a time, in milliseconds of the Unix epoch.
    async fn revoked_since(&self, since_ms: i64) -> Result<Vec<Revocation>, SourceError>;
}

/// No list: the database answers.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoRevocationList;

#[async_trait]
impl RevocationList for NoRevocationList {
    async fn revoke(&self, _credentials: &[Credential]) {}

    async fn check(&self, _credential: Credential) -> Listed {
        Listed::Unknown
    }
}
