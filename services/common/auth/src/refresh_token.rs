//! Refresh tokens: a prefix that says what the token is (so that a leaked one is recognised) and
//! 256 random bits. Only their SHA-256 is ever stored: with so many random bits a slow hash
//! would add nothing.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};

use crate::AuthError;

const PREFIX: &str = "vpr_";
const RANDOM_BYTES: usize = 32;

/// A refresh token.
#[derive(Debug, Clone)]
pub struct RefreshToken(SecretString);

impl RefreshToken {
    /// Draws a new token.
    ///
    /// # Errors
    /// [`AuthError::Random`] when the operating system gives no random bytes.
    pub fn generate() -> Result<Self, AuthError> {
        let mut random = [0_u8; RANDOM_BYTES];
        getrandom::fill(&mut random).map_err(|e| AuthError::Random(e.to_string()))?;
        let text = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(random));
        Ok(Self(text.into()))
    }

    /// Takes the text that somebody presents; `None` when it cannot be a token.
    pub fn parse(text: &str) -> Option<Self> {
        let random = URL_SAFE_NO_PAD.decode(text.strip_prefix(PREFIX)?).ok()?;
        (random.len() == RANDOM_BYTES).then(|| Self(text.to_owned().into()))
    }

    /// The token's text: handed out once, never logged.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }

    /// SHA-256 over the text: what is stored and looked up.
    pub fn hash(&self) -> [u8; 32] {
        Sha256::digest(self.expose().as_bytes()).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_found_again_by_its_text() {
        let token = RefreshToken::generate().unwrap();
        let parsed = RefreshToken::parse(token.expose()).unwrap();
        assert_eq!(parsed.hash(), token.hash());
        assert_eq!(token.expose().len(), 4 + 43);
    }

    #[test]
    fn no_two_tokens_are_alike() {
        let one = RefreshToken::generate().unwrap();
        assert_ne!(one.hash(), RefreshToken::generate().unwrap().hash());
    }

    #[test]
    fn what_cannot_be_a_token_is_refused_before_it_is_looked_up() {
        for text in ["", "vpr_", "vpr_AAAA", "vpj_AAAA", "vpr_!!!!"] {
            assert!(RefreshToken::parse(text).is_none(), "{text}");
        }
    }

    #[test]
    fn debug_does_not_show_the_token() {
        let token = RefreshToken::generate().unwrap();
        assert!(!format!("{token:?}").contains(token.expose()));
    }
}
