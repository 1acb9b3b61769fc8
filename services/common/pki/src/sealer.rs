//! Sealing: authenticated encryption of secrets at rest (AES-256-GCM, NIST SP 800-38D) under the
//! master key. A sealed value is bound to a context, such as "device-key/<id>", so that one row's
//! secret cannot be moved to another row.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::{Error, MasterKey};

/// First byte of a sealed value: the form `version ‖ key id ‖ nonce ‖ ciphertext ‖ tag`.
const VERSION: u8 = 1;
const KEY_ID_LEN: usize = 4;
const HEADER_LEN: usize = 1 + KEY_ID_LEN + NONCE_LEN;

/// Seals and opens secrets.
pub struct Sealer {
    key: LessSafeKey,
    key_id: [u8; KEY_ID_LEN],
}

impl Sealer {
    /// A sealer under a master key.
    ///
    /// # Errors
    /// Never for a [`MasterKey`]; the cipher's own check is passed on.
    pub fn new(master: &MasterKey) -> Result<Self, Error> {
        let key =
            UnboundKey::new(&AES_256_GCM, master.bytes()).map_err(|_| Error::MasterKeyFormat)?;
        let digest = Sha256::new()
            .chain_update(b"vpnpanel key id")
            .chain_update(master.bytes());
        let mut key_id = [0; KEY_ID_LEN];
        key_id.copy_from_slice(&digest.finalize()[..KEY_ID_LEN]);
        Ok(Self {
            key: LessSafeKey::new(key),
            key_id,
        })
    }

    /// Seals `secret` for `context`.
    ///
    /// # Errors
    /// [`Error::Randomness`].
    pub fn seal(&self, context: &str, secret: &[u8]) -> Result<Vec<u8>, Error> {
        let mut nonce = [0; NONCE_LEN];
        getrandom::fill(&mut nonce).map_err(|_| Error::Randomness)?;
        let mut ciphertext = Vec::with_capacity(secret.len() + AES_256_GCM.tag_len());
        ciphertext.extend_from_slice(secret);
        self.key
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(context.as_bytes()),
                &mut ciphertext,
            )
            .map_err(|_| Error::Randomness)?;
        let mut sealed = Vec::with_capacity(HEADER_LEN + ciphertext.len());
        sealed.push(VERSION);
        sealed.extend_from_slice(&self.key_id);
        sealed.extend_from_slice(&nonce);
        sealed.extend_from_slice(&ciphertext);
        Ok(sealed)
    }

    /// Opens what [`Sealer::seal`] made for the same `context`.
    ///
    /// # Errors
    /// [`Error::Unsealable`] for another key, another context or damaged data.
    pub fn open(&self, context: &str, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, Error> {
        let (header, ciphertext) = sealed
            .split_at_checked(HEADER_LEN)
            .ok_or(Error::Unsealable)?;
        let (version, rest) = header.split_first().ok_or(Error::Unsealable)?;
        let (key_id, nonce) = rest.split_at_checked(KEY_ID_LEN).ok_or(Error::Unsealable)?;
        if *version != VERSION || key_id != self.key_id {
            return Err(Error::Unsealable);
        }
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| Error::Unsealable)?;
        let mut buffer = Zeroizing::new(ciphertext.to_vec());
        let length = self
            .key
            .open_in_place(nonce, Aad::from(context.as_bytes()), &mut buffer)
            .map_err(|_| Error::Unsealable)?
            .len();
        buffer.truncate(length);
        Ok(buffer)
    }
}

impl std::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sealer").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sealer(byte: u8) -> Sealer {
        Sealer::new(&MasterKey::from_bytes([byte; 32])).unwrap()
    }

    #[test]
    fn a_secret_opens_only_with_its_key_and_context() {
        let sealed = sealer(1).seal("device/1", b"secret").unwrap();
        assert_eq!(
            sealer(1).open("device/1", &sealed).unwrap().as_slice(),
            b"secret"
        );
        assert!(matches!(
            sealer(1).open("device/2", &sealed),
            Err(Error::Unsealable)
        ));
        assert!(matches!(
            sealer(2).open("device/1", &sealed),
            Err(Error::Unsealable)
        ));
    }

    #[test]
    fn the_same_secret_never_seals_to_the_same_bytes() {
        let sealer = sealer(1);
        assert_ne!(
            sealer.seal("c", b"s").unwrap(),
            sealer.seal("c", b"s").unwrap()
        );
    }

    proptest! {
        #[test]
        fn junk_and_damage_are_refused(junk in proptest::collection::vec(any::<u8>(), 0..200), at in 0usize..40) {
            prop_assert!(sealer(1).open("c", &junk).is_err());
            let mut sealed = sealer(1).seal("c", b"secret").unwrap();
            let at = at % sealed.len();
            sealed[at] ^= 1;
            prop_assert!(sealer(1).open("c", &sealed).is_err());
        }
    }
}
