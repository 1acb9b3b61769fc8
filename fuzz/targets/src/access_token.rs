//! Access tokens, checked with one fixed key at one fixed time.

use std::sync::{Arc, LazyLock};

use async_trait::async_trait;
use tokio::runtime::Runtime;
use uuid::Uuid;
use vpnpanel_auth::{
    KeyRing, KeySet, KeySource, SigningKey, SourceError, TokenIssuer, TokenSettings,
};

const NOW_MS: i64 = 1_790_000_000_000;
/// `jti` of every token that the key has signed: all of them are in the corpus.
const SIGNED: Uuid = Uuid::from_u128(0x0197_0000_0000_7000_8000_0000_0000_0001);

/// The key of the corpus. It is no secret.
///
/// # Panics
/// Never: it is a key.
pub fn test_key() -> SigningKey {
    // RFC 8410: the head of every Ed25519 key in PKCS #8, then the seed.
    let mut der = b"\x30\x2e\x02\x01\x00\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20".to_vec();
    der.extend_from_slice(&[7; 32]);
    SigningKey::from_pkcs8(&der).expect("a key")
}

struct Fixed;

#[async_trait]
impl KeySource for Fixed {
    async fn keys(&self) -> Result<KeySet, SourceError> {
        Ok(KeySet {
            signing: test_key(),
            others: Vec::new(),
        })
    }
}

/// A bearer token. What is accepted says what the key has signed, and is in time.
pub(crate) fn access_tokens(data: &[u8]) -> bool {
    static ISSUER: LazyLock<(Runtime, TokenIssuer)> = LazyLock::new(|| {
        let runtime = crate::runtime();
        let ring = runtime.block_on(KeyRing::open(Arc::new(Fixed)));
        let ring = Arc::new(ring.expect("a ring"));
        (runtime, TokenIssuer::new(ring, TokenSettings::default()))
    });
    let Some(text) = crate::line(data) else {
        return false;
    };
    let (runtime, issuer) = &*ISSUER;
    let Ok(claims) = runtime.block_on(issuer.verify(text, NOW_MS)) else {
        return false;
    };
    let settings = issuer.settings();
    assert_eq!(claims.jti, SIGNED, "a forged token was accepted: {text}");
    assert_eq!(claims.iss, settings.issuer);
    assert_eq!(claims.aud, settings.audience);
    let now = NOW_MS / 1000;
    assert!(claims.nbf - 30 <= now && now < claims.exp + 30);
    true
}
