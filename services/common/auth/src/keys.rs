//! Keys of access tokens: one that signs, and all whose tokens are still accepted. Every replica
//! reads them from the same place, again and again, so that a rotation is followed without a gap
//! and a revoked key is out of force everywhere within moments.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use aws_lc_rs::{
    rand::SystemRandom,
    signature::{Ed25519KeyPair, KeyPair},
};
use jsonwebtoken::{DecodingKey, EncodingKey};
use sha2::{Digest, Sha256};
use tokio::sync::Mutex;
use zeroize::Zeroizing;

use crate::{AuthError, SourceError};

/// Tokens of unknown keys make the keys be read again at most so often, whoever sends them.
const MIN_PAUSE: Duration = Duration::from_millis(200);
/// Length of a key's id in hexadecimal digits.
const KID_CHARS: usize = 16;

/// An Ed25519 key pair with its id.
#[derive(Clone)]
pub struct SigningKey {
    kid: String,
    public: [u8; 32],
    pkcs8: Zeroizing<Vec<u8>>,
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SigningKey({})", self.kid)
    }
}

impl SigningKey {
    /// Makes a new key pair.
    ///
    /// # Errors
    /// [`AuthError::Key`].
    pub fn generate() -> Result<Self, AuthError> {
        let document = Ed25519KeyPair::generate_pkcs8v1(&SystemRandom::new())
            .map_err(|_| AuthError::Key("could not be generated".to_owned()))?;
        Self::from_pkcs8(document.as_ref())
    }

    /// Takes a private key in PKCS #8 DER (RFC 8410).
    ///
    /// # Errors
    /// [`AuthError::Key`] when it is no Ed25519 key.
    pub fn from_pkcs8(der: &[u8]) -> Result<Self, AuthError> {
        let pair = Ed25519KeyPair::from_pkcs8(der).map_err(|e| AuthError::Key(e.to_string()))?;
        let public: [u8; 32] = pair
            .public_key()
            .as_ref()
            .try_into()
            .map_err(|_| AuthError::Key("public key is not 32 bytes long".to_owned()))?;
        Ok(Self {
            kid: key_id(&public),
            public,
            pkcs8: Zeroizing::new(der.to_vec()),
        })
    }

    /// The key's id: the first 16 hexadecimal digits of SHA-256 over the public key.
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// The public key (RFC 8032).
    pub fn public_key(&self) -> &[u8; 32] {
        &self.public
    }

    /// The private key in PKCS #8 DER, to be sealed before it is stored.
    pub fn pkcs8(&self) -> &[u8] {
        &self.pkcs8
    }
}

/// A key whose tokens are accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VerifyingKey {
    /// The public key (RFC 8032).
    pub public: [u8; 32],
    /// From then on its tokens are refused, milliseconds of the Unix epoch; `None` is open.
    pub until_ms: Option<i64>,
}

/// The keys in force.
#[derive(Debug)]
pub struct KeySet {
    /// Signs; its own tokens are accepted too.
    pub signing: SigningKey,
    /// Others whose tokens are accepted.
    pub others: Vec<VerifyingKey>,
}

/// Where the keys are kept.
#[async_trait]
pub trait KeySource: Send + Sync + 'static {
    /// The keys in force now.
    async fn keys(&self) -> Result<KeySet, SourceError>;
}

/// The keys in force, replaced as a whole while calls go on.
pub struct KeyRing {
    ring: ArcSwap<Ring>,
    source: Arc<dyn KeySource>,
    /// When the keys were last asked for; held while they are.
    read: Mutex<Option<Instant>>,
}

pub(crate) struct Ring {
    pub(crate) kid: String,
    pub(crate) signing: EncodingKey,
    verifying: HashMap<String, Verifying>,
}

struct Verifying {
    key: DecodingKey,
    until_ms: Option<i64>,
}

impl std::fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ring = self.ring.load();
        f.debug_struct("KeyRing")
            .field("signing", &ring.kid)
            .field("verifying", &ring.verifying.keys())
            .finish_non_exhaustive()
    }
}

impl KeyRing {
    /// The keys of `source`.
    ///
    /// # Errors
    /// [`AuthError::Source`].
    pub async fn open(source: Arc<dyn KeySource>) -> Result<Self, AuthError> {
        let keys = source.keys().await.map_err(AuthError::Source)?;
        Ok(Self {
            ring: ArcSwap::from_pointee(Ring::new(&keys)),
            source,
            read: Mutex::default(),
        })
    }

    /// Reads the keys again. When that fails those before stay in force.
    ///
    /// # Errors
    /// [`AuthError::Source`].
    pub async fn reload(&self) -> Result<(), AuthError> {
        let mut read = self.read.lock().await;
        self.read_now(&mut read).await
    }

    /// Reads the keys again because of a key that is not among them, unless that was done just
    /// now: those who come while they are read wait for what the one in front finds.
    pub(crate) async fn reload_for_unknown(&self) {
        let asked = Instant::now();
        let mut read = self.read.lock().await;
        let recent = |at: Instant| asked.saturating_duration_since(at) < MIN_PAUSE;
        if read.is_some_and(recent) {
            return;
        }
        if let Err(error) = self.read_now(&mut read).await {
            tracing::warn!(event = "signing_keys_unavailable", error = %error);
        }
    }

    async fn read_now(&self, read: &mut Option<Instant>) -> Result<(), AuthError> {
        let keys = self.source.keys().await;
        *read = Some(Instant::now());
        let ring = Ring::new(&keys.map_err(AuthError::Source)?);
        let before = self.ring.swap(Arc::new(ring));
        let now = self.ring.load();
        if before.kid != now.kid {
            tracing::info!(event = "signing_key_changed", kid = now.kid);
        }
        Ok(())
    }

    pub(crate) fn current(&self) -> arc_swap::Guard<Arc<Ring>> {
        self.ring.load()
    }
}

impl Ring {
    fn new(keys: &KeySet) -> Self {
        let own = VerifyingKey {
            public: keys.signing.public,
            until_ms: None,
        };
        let verifying = keys.others.iter().chain([&own]).map(|key| {
            let verifying = Verifying {
                key: DecodingKey::from_ed_der(&key.public),
                until_ms: key.until_ms,
            };
            (key_id(&key.public), verifying)
        });
        Self {
            kid: keys.signing.kid.clone(),
            signing: EncodingKey::from_ed_der(&keys.signing.pkcs8),
            verifying: verifying.collect(),
        }
    }

    /// The key of an id, while its tokens are accepted.
    pub(crate) fn verifying(&self, kid: &str, now_ms: i64) -> Option<&DecodingKey> {
        self.verifying
            .get(kid)
            .filter(|key| key.until_ms.is_none_or(|until| now_ms < until))
            .map(|key| &key.key)
    }
}

/// Whether a text can be the id of a key: anything else is not worth a look.
pub(crate) fn is_key_id(kid: &str) -> bool {
    kid.len() == KID_CHARS && kid.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

fn key_id(public: &[u8; 32]) -> String {
    let digest = Sha256::digest(public);
    digest
        .iter()
        .take(KID_CHARS / 2)
        .map(|b| format!("{b:02x}"))
        .collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::Mutex as Shared;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Keys that a test changes.
    pub(crate) struct Keys {
        set: Shared<(SigningKey, Vec<VerifyingKey>)>,
        reads: AtomicUsize,
    }

    impl Keys {
        pub(crate) fn of(signing: &SigningKey) -> Arc<Self> {
            Arc::new(Self {
                set: Shared::new((signing.clone(), Vec::new())),
                reads: AtomicUsize::new(0),
            })
        }

        pub(crate) fn put(&self, signing: &SigningKey, others: &[VerifyingKey]) {
            *self.set.lock().unwrap() = (signing.clone(), others.to_vec());
        }

        pub(crate) fn reads(&self) -> usize {
            self.reads.load(Ordering::Relaxed)
        }
    }

    #[async_trait]
    impl KeySource for Keys {
        async fn keys(&self) -> Result<KeySet, SourceError> {
            self.reads.fetch_add(1, Ordering::Relaxed);
            let (signing, others) = self.set.lock().unwrap().clone();
            Ok(KeySet { signing, others })
        }
    }

    #[test]
    fn a_stored_key_is_the_same_key() {
        let key = SigningKey::generate().unwrap();
        let again = SigningKey::from_pkcs8(key.pkcs8()).unwrap();
        assert_eq!(key.kid(), again.kid());
        assert!(is_key_id(key.kid()));
        assert!(SigningKey::from_pkcs8(b"junk").is_err());
    }

    #[tokio::test]
    async fn unknown_keys_make_the_source_be_asked_once_in_a_while() {
        let keys = Keys::of(&SigningKey::generate().unwrap());
        let ring = KeyRing::open(Arc::clone(&keys) as _).await.unwrap();
        let storm = (0..100).map(|_| ring.reload_for_unknown());
        futures::future::join_all(storm).await;
        assert_eq!(keys.reads(), 2, "one at the start, one for all of them");
    }
}
