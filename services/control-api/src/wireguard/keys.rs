//! WireGuard's keys: Curve25519 pairs and preshared keys, 32 bytes each, base64 in texts
//! (wg(8), "genkey").

use base64::{Engine, engine::general_purpose::STANDARD};
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::Zeroizing;

use crate::Error;

/// A private or preshared key; wiped when dropped, never printed.
pub(crate) type SecretKey = Zeroizing<[u8; 32]>;

/// A new private key and its public key.
///
/// # Errors
/// [`Error::Random`].
pub(crate) fn pair() -> Result<(SecretKey, [u8; 32]), Error> {
    let mut secret = random()?;
    // RFC 7748, section 5: as `wg genkey` prints them, for tools that check.
    secret[0] &= 248;
    secret[31] = (secret[31] & 127) | 64;
    let public = PublicKey::from(&StaticSecret::from(*secret)).to_bytes();
    Ok((secret, public))
}

/// A new preshared key.
///
/// # Errors
/// [`Error::Random`].
pub(crate) fn preshared() -> Result<SecretKey, Error> {
    random()
}

/// Whether anything can be agreed on with the holder of a public key: not so with the few points of small
/// order (RFC 7748, section 6.1), of which everybody knows what comes out.
///
/// # Errors
/// [`Error::Random`].
pub(crate) fn is_usable(public: &[u8; 32]) -> Result<bool, Error> {
    let secret = StaticSecret::from(*random()?);
    let agreed = secret.diffie_hellman(&PublicKey::from(*public));
    Ok(agreed.was_contributory())
}

/// The text form of a key.
pub(crate) fn text(key: &[u8; 32]) -> Zeroizing<String> {
    Zeroizing::new(STANDARD.encode(key))
}

/// The public key of a private key.
#[cfg(test)]
pub(crate) fn public_of(secret: &[u8; 32]) -> [u8; 32] {
    PublicKey::from(&StaticSecret::from(*secret)).to_bytes()
}

fn random() -> Result<SecretKey, Error> {
    let mut key = Zeroizing::new([0; 32]);
    getrandom::fill(key.as_mut_slice()).map_err(|e| Error::Random(e.to_string()))?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_belongs_together_and_is_new_each_time() {
        let (secret, public) = pair().unwrap();
        assert_eq!(public_of(&secret), public);
        assert_ne!(pair().unwrap().1, public);
        assert_ne!(*preshared().unwrap(), *preshared().unwrap());
    }

    #[test]
    fn keys_of_small_order_are_none() {
        let mut one = [0; 32];
        one[0] = 1;
        assert!(!is_usable(&[0; 32]).unwrap());
        assert!(!is_usable(&one).unwrap());
        assert!(is_usable(&pair().unwrap().1).unwrap());
    }

    #[test]
    fn private_keys_are_clamped() {
        let (secret, _) = pair().unwrap();
        assert_eq!(secret[0] & 7, 0);
        assert_eq!(secret[31] & 0xc0, 0x40);
    }
}
