//! The token in a subscription's link: 192 random bits, 32 characters that need no escaping. It is
//! found by its SHA-256: with so many random bits a slow hash would add nothing. Whatever somebody
//! presents is hashed and looked up, so that what cannot be a token takes as long as what was one.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::Error;

const RANDOM_BYTES: usize = 24;

/// A new token.
///
/// # Errors
/// [`Error::Random`].
pub(crate) fn generate() -> Result<Zeroizing<String>, Error> {
    let mut random = Zeroizing::new([0; RANDOM_BYTES]);
    getrandom::fill(random.as_mut_slice()).map_err(|e| Error::Random(e.to_string()))?;
    Ok(Zeroizing::new(URL_SAFE_NO_PAD.encode(random.as_slice())))
}

/// By what it is kept and found.
pub(crate) fn hash(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_new_each_time_and_fits_into_a_path_as_it_is() {
        let (one, other) = (generate().unwrap(), generate().unwrap());
        assert_ne!(*one, *other);
        assert_ne!(hash(&one), hash(&other));
        assert_eq!(one.len(), 32);
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        assert!(one.bytes().all(plain), "{}", *one);
    }
}
