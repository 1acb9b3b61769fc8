//! Access tokens: Ed25519 JWTs (RFC 7519, RFC 8037). The algorithm belongs to the key, never to
//! the token; a token names its key by `kid`, so that keys rotate with an overlap.

use std::{collections::HashMap, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use aws_lc_rs::{
    rand::SystemRandom,
    signature::{Ed25519KeyPair, KeyPair},
};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, errors::ErrorKind};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;
use vpnpanel_domain::{AccountId, SessionId};
use zeroize::Zeroizing;

use crate::AuthError;

/// Tokens whose signature need not be checked again.
const VERIFIED_TOKENS: u64 = 10_000;

/// Whose tokens these are and how long they live.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenSettings {
    /// `iss` of every token.
    pub issuer: String,
    /// `aud` of every token.
    pub audience: String,
    /// Life of an access token.
    pub access_lifetime: Duration,
    /// Life of a refresh token.
    pub refresh_lifetime: Duration,
    /// How far clocks of two replicas may differ.
    pub clock_skew: Duration,
}

impl Default for TokenSettings {
    fn default() -> Self {
        Self {
            issuer: "vpnpanel".to_owned(),
            audience: "vpnpanel".to_owned(),
            access_lifetime: Duration::from_secs(15 * 60),
            refresh_lifetime: Duration::from_secs(30 * 24 * 3600),
            clock_skew: Duration::from_secs(30),
        }
    }
}

/// What an access token says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessClaims {
    /// Issuer.
    pub iss: String,
    /// Audience.
    pub aud: String,
    /// The account.
    pub sub: AccountId,
    /// The session that the token belongs to.
    pub sid: SessionId,
    /// Id of the token.
    pub jti: Uuid,
    /// Issued at, seconds of the Unix epoch.
    pub iat: i64,
    /// Not valid before, seconds of the Unix epoch.
    pub nbf: i64,
    /// Not valid from here on, seconds of the Unix epoch.
    pub exp: i64,
}

/// A token as it is handed out.
#[derive(Debug)]
pub struct IssuedToken {
    /// The JWT.
    pub token: SecretString,
    /// Its life from now.
    pub expires_in: Duration,
}

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

/// The keys in force: one that signs, and all whose tokens are still accepted. Replaced as a
/// whole while calls go on.
pub struct KeyRing(ArcSwap<Ring>);

struct Ring {
    kid: String,
    signing: EncodingKey,
    verifying: HashMap<String, DecodingKey>,
}

impl std::fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ring = self.0.load();
        f.debug_struct("KeyRing")
            .field("signing", &ring.kid)
            .field("verifying", &ring.verifying.keys())
            .finish()
    }
}

impl KeyRing {
    /// A ring that signs with `signing`, and accepts tokens of it and of the `other` public keys.
    pub fn new(signing: &SigningKey, other: &[[u8; 32]]) -> Self {
        Self(ArcSwap::from_pointee(Ring::new(signing, other)))
    }

    /// Puts other keys into force at once.
    pub fn replace(&self, signing: &SigningKey, other: &[[u8; 32]]) {
        self.0.store(Arc::new(Ring::new(signing, other)));
    }
}

impl Ring {
    fn new(signing: &SigningKey, other: &[[u8; 32]]) -> Self {
        let verifying = other
            .iter()
            .chain([&signing.public])
            .map(|public| (key_id(public), DecodingKey::from_ed_der(public)))
            .collect();
        Self {
            kid: signing.kid.clone(),
            signing: EncodingKey::from_ed_der(&signing.pkcs8),
            verifying,
        }
    }
}

fn key_id(public: &[u8; 32]) -> String {
    let digest = Sha256::digest(public);
    digest.iter().take(8).map(|b| format!("{b:02x}")).collect()
}

/// Issues access tokens and checks them.
#[derive(Debug)]
pub struct TokenIssuer {
    ring: Arc<KeyRing>,
    settings: TokenSettings,
    validation: Validation,
    verified: moka::sync::Cache<[u8; 32], Arc<Verified>>,
}

/// A token whose signature was found right under a key.
#[derive(Debug)]
struct Verified {
    kid: String,
    claims: AccessClaims,
}

impl TokenIssuer {
    /// Issues and accepts tokens of the ring's keys.
    pub fn new(ring: Arc<KeyRing>, settings: TokenSettings) -> Self {
        let mut validation = Validation::new(Algorithm::EdDSA);
        validation.set_issuer(&[&settings.issuer]);
        validation.set_audience(&[&settings.audience]);
        validation.set_required_spec_claims(&["iss", "aud", "sub", "exp", "nbf"]);
        validation.validate_nbf = true;
        validation.leeway = settings.clock_skew.as_secs();
        let verified = moka::sync::Cache::builder()
            .max_capacity(VERIFIED_TOKENS)
            .time_to_live(settings.access_lifetime + settings.clock_skew)
            .build();
        Self {
            ring,
            settings,
            validation,
            verified,
        }
    }

    /// Lifetimes and names in force.
    pub fn settings(&self) -> &TokenSettings {
        &self.settings
    }

    /// Issues an access token at `now_ms`, milliseconds of the Unix epoch.
    ///
    /// # Errors
    /// [`AuthError::Key`], [`AuthError::Random`].
    pub fn issue(
        &self,
        account: AccountId,
        session: SessionId,
        now_ms: i64,
    ) -> Result<IssuedToken, AuthError> {
        let mut random = [0_u8; 10];
        getrandom::fill(&mut random).map_err(|e| AuthError::Random(e.to_string()))?;
        let now = now_ms.div_euclid(1000);
        let life = i64::try_from(self.settings.access_lifetime.as_secs()).unwrap_or(i64::MAX);
        let claims = AccessClaims {
            iss: self.settings.issuer.clone(),
            aud: self.settings.audience.clone(),
            sub: account,
            sid: session,
            jti: vpnpanel_domain::id::uuid_v7(now_ms, random),
            iat: now,
            nbf: now,
            exp: now.saturating_add(life),
        };
        let ring = self.ring.0.load();
        let mut header = Header::new(Algorithm::EdDSA);
        header.kid = Some(ring.kid.clone());
        let token = jsonwebtoken::encode(&header, &claims, &ring.signing)
            .map_err(|e| AuthError::Key(e.to_string()))?;
        Ok(IssuedToken {
            token: token.into(),
            expires_in: self.settings.access_lifetime,
        })
    }

    /// Checks a token at `now_ms`: signature by a key in force, issuer, audience, times.
    ///
    /// # Errors
    /// [`AuthError::TokenInvalid`], [`AuthError::TokenExpired`].
    pub fn verify(&self, token: &str, now_ms: i64) -> Result<AccessClaims, AuthError> {
        let digest: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        let ring = self.ring.0.load();
        if let Some(verified) = self.verified.get(&digest)
            && ring.verifying.contains_key(&verified.kid)
        {
            self.in_time(&verified.claims, now_ms)?;
            return Ok(verified.claims.clone());
        }
        let header = jsonwebtoken::decode_header(token).map_err(|_| AuthError::TokenInvalid)?;
        let kid = header.kid.ok_or(AuthError::TokenInvalid)?;
        let key = ring.verifying.get(&kid).ok_or(AuthError::TokenInvalid)?;
        let claims = jsonwebtoken::decode::<AccessClaims>(token, key, &self.validation)
            .map_err(|error| match error.kind() {
                ErrorKind::ExpiredSignature => AuthError::TokenExpired,
                _ => AuthError::TokenInvalid,
            })?
            .claims;
        self.in_time(&claims, now_ms)?;
        let verified = Verified {
            kid,
            claims: claims.clone(),
        };
        self.verified.insert(digest, Arc::new(verified));
        Ok(claims)
    }

    fn in_time(&self, claims: &AccessClaims, now_ms: i64) -> Result<(), AuthError> {
        let now = now_ms.div_euclid(1000);
        let skew = i64::try_from(self.settings.clock_skew.as_secs()).unwrap_or(i64::MAX);
        if now.saturating_sub(skew) >= claims.exp {
            Err(AuthError::TokenExpired)
        } else if now.saturating_add(skew) < claims.nbf {
            Err(AuthError::TokenInvalid)
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    use secrecy::ExposeSecret;

    use super::*;

    fn now_ms() -> i64 {
        let since = std::time::UNIX_EPOCH.elapsed().unwrap();
        i64::try_from(since.as_millis()).unwrap()
    }

    fn ids() -> (AccountId, SessionId) {
        (
            AccountId::from_parts(1, [1; 10]),
            SessionId::from_parts(2, [2; 10]),
        )
    }

    fn issuer(key: &SigningKey) -> TokenIssuer {
        TokenIssuer::new(Arc::new(KeyRing::new(key, &[])), TokenSettings::default())
    }

    fn token(issuer: &TokenIssuer, now_ms: i64) -> String {
        let (account, session) = ids();
        let issued = issuer.issue(account, session, now_ms).unwrap();
        issued.token.expose_secret().to_owned()
    }

    #[test]
    fn a_token_tells_account_and_session() {
        let issuer = issuer(&SigningKey::generate().unwrap());
        let now = now_ms();
        let claims = issuer.verify(&token(&issuer, now), now).unwrap();
        assert_eq!((claims.sub, claims.sid), ids());
        assert_eq!(claims.exp - claims.nbf, 900);
    }

    #[test]
    fn times_are_checked_with_the_skew_also_when_the_token_is_known() {
        let issuer = issuer(&SigningKey::generate().unwrap());
        let now = now_ms();
        let text = token(&issuer, now);
        for _ in 0..2 {
            assert!(issuer.verify(&text, now + 929_000).is_ok());
            let late = issuer.verify(&text, now + 931_000);
            assert!(matches!(late, Err(AuthError::TokenExpired)));
            let early = issuer.verify(&text, now - 32_000);
            assert!(matches!(early, Err(AuthError::TokenInvalid)));
            assert!(issuer.verify(&text, now - 29_000).is_ok());
        }
        let old = token(&issuer, now - 1_000_000);
        assert!(matches!(
            issuer.verify(&old, now),
            Err(AuthError::TokenExpired)
        ));
    }

    #[test]
    fn keys_rotate_with_an_overlap() {
        let (first, second) = (
            SigningKey::generate().unwrap(),
            SigningKey::generate().unwrap(),
        );
        let ring = Arc::new(KeyRing::new(&first, &[]));
        let issuer = TokenIssuer::new(Arc::clone(&ring), TokenSettings::default());
        let now = now_ms();
        let old = token(&issuer, now);
        ring.replace(&second, &[*first.public_key()]);
        assert!(issuer.verify(&old, now).is_ok());
        let new = token(&issuer, now);
        ring.replace(&second, &[]);
        assert!(
            issuer.verify(&old, now).is_err(),
            "known, but its key is gone"
        );
        assert!(issuer.verify(&new, now).is_ok());
    }

    #[test]
    fn tokens_of_others_are_refused() {
        let key = SigningKey::generate().unwrap();
        let ours = issuer(&key);
        let now = now_ms();
        let foreign_key = issuer(&SigningKey::generate().unwrap());
        let other = |settings| TokenIssuer::new(Arc::new(KeyRing::new(&key, &[])), settings);
        let audience = other(TokenSettings {
            audience: "other".to_owned(),
            ..TokenSettings::default()
        });
        let issuer = other(TokenSettings {
            issuer: "other".to_owned(),
            ..TokenSettings::default()
        });
        for theirs in [foreign_key, audience, issuer] {
            assert!(ours.verify(&token(&theirs, now), now).is_err());
        }
    }

    #[test]
    fn the_token_does_not_choose_its_algorithm() {
        let key = SigningKey::generate().unwrap();
        let issuer = issuer(&key);
        let now = now_ms();
        let good = token(&issuer, now);
        let payload = good.split('.').nth(1).unwrap();
        let claims: serde_json::Value =
            serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap();
        // Signed by the public key taken as an HMAC secret.
        let mut header = Header::new(Algorithm::HS256);
        header.kid = Some(key.kid().to_owned());
        let secret = EncodingKey::from_secret(key.public_key());
        let confused = jsonwebtoken::encode(&header, &claims, &secret).unwrap();
        // Not signed at all.
        let none = URL_SAFE_NO_PAD.encode(format!(r#"{{"alg":"none","kid":"{}"}}"#, key.kid()));
        for text in [
            confused,
            format!("{none}.{payload}."),
            good[..good.len() - 3].to_owned(),
        ] {
            assert!(matches!(
                issuer.verify(&text, now),
                Err(AuthError::TokenInvalid)
            ));
        }
    }

    #[test]
    fn a_stored_key_is_the_same_key() {
        let key = SigningKey::generate().unwrap();
        let again = SigningKey::from_pkcs8(key.pkcs8()).unwrap();
        assert_eq!(key.kid(), again.kid());
        assert!(SigningKey::from_pkcs8(b"junk").is_err());
    }
}
