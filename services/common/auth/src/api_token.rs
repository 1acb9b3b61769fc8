//! API tokens: a prefix that says what the token is, 256 random bits, and a checksum, so that
//! scanners recognise a leaked one and a mistyped one is refused before anything is looked up.
//! Only their SHA-256 is ever stored.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use async_trait::async_trait;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use vpnpanel_domain::{AccountId, ApiTokenId, TenantId};

use crate::{AuthError, SourceError};

const PREFIX: &str = "vpt_";
const RANDOM_BYTES: usize = 32;
const CHECKSUM_BYTES: usize = 4;
/// The prefix and six characters: 36 bits tell an account's tokens apart, and 220 stay unknown.
const HINT_CHARS: usize = PREFIX.len() + 6;

/// An API token.
#[derive(Debug, Clone)]
pub struct ApiToken(SecretString);

impl ApiToken {
    /// Draws a new token.
    ///
    /// # Errors
    /// [`AuthError::Random`] when the operating system gives no random bytes.
    pub fn generate() -> Result<Self, AuthError> {
        let mut bytes = [0_u8; RANDOM_BYTES + CHECKSUM_BYTES];
        let (random, sum) = bytes.split_at_mut(RANDOM_BYTES);
        getrandom::fill(random).map_err(|e| AuthError::Random(e.to_string()))?;
        sum.copy_from_slice(&checksum(random));
        Ok(Self(
            format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes)).into(),
        ))
    }

    /// Whether a bearer token means to be an API token.
    pub fn is_meant_by(text: &str) -> bool {
        text.starts_with(PREFIX)
    }

    /// Takes the text that somebody presents; `None` when it cannot be a token.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = URL_SAFE_NO_PAD.decode(text.strip_prefix(PREFIX)?).ok()?;
        let (random, sum) = bytes.split_at_checked(RANDOM_BYTES)?;
        (sum == checksum(random)).then(|| Self(text.to_owned().into()))
    }

    /// The token's text: handed out once, never logged.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }

    /// Its first characters, to be shown beside its name.
    pub fn hint(&self) -> String {
        self.expose().chars().take(HINT_CHARS).collect()
    }

    /// SHA-256 over the text: what is stored and looked up.
    pub fn hash(&self) -> [u8; 32] {
        Sha256::digest(self.expose().as_bytes()).into()
    }
}

/// Not a secret and no protection against forgery: the random bits are that.
fn checksum(random: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let digest = Sha256::new()
        .chain_update(b"vpnpanel api token")
        .chain_update(random)
        .finalize();
    let mut sum = [0; CHECKSUM_BYTES];
    sum.copy_from_slice(&digest[..CHECKSUM_BYTES]);
    sum
}

/// What never changes about a token that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiTokenGrant {
    /// Its id.
    pub id: ApiTokenId,
    /// Whose it is.
    pub account: AccountId,
    /// What it is for; `None` is the platform.
    pub tenant: Option<TenantId>,
    /// What it permits at most.
    pub permissions: BTreeSet<String>,
}

/// Where API tokens are kept.
#[async_trait]
pub trait ApiTokenSource: Send + Sync + 'static {
    /// The token that has the hash. Whether it is over is asked apart, by
    /// [`crate::StandingSource`].
    async fn by_hash(&self, hash: &[u8; 32]) -> Result<Option<ApiTokenGrant>, SourceError>;

    /// Notes that a token was used; must not wait.
    fn used(&self, id: ApiTokenId);
}

/// Remembers grants, which never change, so that a call does not look its token up each time.
pub(crate) struct ApiTokens {
    pub(crate) source: Arc<dyn ApiTokenSource>,
    known: moka::future::Cache<[u8; 32], Arc<ApiTokenGrant>>,
}

impl ApiTokens {
    pub(crate) fn new(source: Arc<dyn ApiTokenSource>) -> Self {
        let known = moka::future::Cache::builder()
            .max_capacity(10_000)
            .time_to_idle(Duration::from_secs(600))
            .build();
        Self { source, known }
    }

    /// What a token grants; `None` when there is none.
    pub(crate) async fn grant(
        &self,
        token: &ApiToken,
    ) -> Result<Option<Arc<ApiTokenGrant>>, SourceError> {
        let hash = token.hash();
        if let Some(known) = self.known.get(&hash).await {
            return Ok(Some(known));
        }
        let found = self.source.by_hash(&hash).await?.map(Arc::new);
        if let Some(grant) = &found {
            self.known.insert(hash, Arc::clone(grant)).await;
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_found_again_by_its_text() {
        let token = ApiToken::generate().unwrap();
        let parsed = ApiToken::parse(token.expose()).unwrap();
        assert_eq!(parsed.hash(), token.hash());
        assert_eq!(token.expose().len(), 4 + 48);
        assert!(token.expose().starts_with(&token.hint()));
        assert_eq!(token.hint().len(), 10);
        assert_ne!(token.hash(), ApiToken::generate().unwrap().hash());
    }

    #[test]
    fn a_mistyped_token_is_refused_before_it_is_looked_up() {
        let token = ApiToken::generate().unwrap();
        let text = token.expose();
        for at in 4..text.len() {
            let other = if &text[at..=at] == "A" { "B" } else { "A" };
            let typo = format!("{}{other}{}", &text[..at], &text[at + 1..]);
            assert!(ApiToken::parse(&typo).is_none(), "{typo}");
        }
        for text in ["", "vpt_", "vpt_AAAA", &text[4..], &text[..51], "vpt_!!!!"] {
            assert!(ApiToken::parse(text).is_none(), "{text}");
        }
    }

    #[test]
    fn debug_does_not_show_the_token() {
        let token = ApiToken::generate().unwrap();
        assert!(!format!("{token:?}").contains(token.expose()));
    }
}
