//! Join tokens: 256 random bits that enrol one host. Only the hash is kept.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::Error;

const PREFIX: &str = "vpj_";
const LEN: usize = 32;

/// A join token.
pub struct JoinToken(Zeroizing<[u8; LEN]>);

impl JoinToken {
    /// A new random token.
    ///
    /// # Errors
    /// [`Error::Randomness`].
    pub fn generate() -> Result<Self, Error> {
        let mut bytes = Zeroizing::new([0; LEN]);
        getrandom::fill(bytes.as_mut()).map_err(|_| Error::Randomness)?;
        Ok(Self(bytes))
    }

    /// Reads what [`JoinToken::text`] wrote.
    ///
    /// # Errors
    /// [`Error::JoinTokenFormat`].
    pub fn parse(text: &str) -> Result<Self, Error> {
        let encoded = text.strip_prefix(PREFIX).ok_or(Error::JoinTokenFormat)?;
        let decoded = Zeroizing::new(
            URL_SAFE_NO_PAD
                .decode(encoded)
                .map_err(|_| Error::JoinTokenFormat)?,
        );
        let bytes: [u8; LEN] = decoded
            .as_slice()
            .try_into()
            .map_err(|_| Error::JoinTokenFormat)?;
        Ok(Self(Zeroizing::new(bytes)))
    }

    /// The token as it is given out, once: `vpj_` and 43 characters.
    pub fn text(&self) -> Zeroizing<String> {
        Zeroizing::new(format!(
            "{PREFIX}{}",
            URL_SAFE_NO_PAD.encode(self.0.as_slice())
        ))
    }

    /// What is kept: SHA-256 of the token. With 256 random bits it needs no slow hash.
    pub fn hash(&self) -> [u8; 32] {
        Sha256::digest(self.0.as_slice()).into()
    }
}

impl std::fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("JoinToken([redacted])")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_token_reads_back_to_the_same_hash() {
        let token = JoinToken::generate().unwrap();
        let read = JoinToken::parse(&token.text()).unwrap();
        assert_eq!(token.hash(), read.hash());
        assert!(!format!("{token:?}").contains(&token.text()[4..]));
    }

    proptest! {
        #[test]
        fn any_other_text_is_refused_without_a_panic(text in ".{0,80}") {
            prop_assume!(!text.starts_with(PREFIX));
            prop_assert!(JoinToken::parse(&text).is_err());
            let prefixed = format!("{PREFIX}{text}");
            prop_assert!(JoinToken::parse(&prefixed).is_err() || text.len() == 43);
        }
    }
}
