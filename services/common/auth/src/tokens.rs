//! Access tokens: Ed25519 JWTs (RFC 7519, RFC 8037). The algorithm belongs to the key, never to
//! the token; a token names its key by `kid`, so that keys rotate with an overlap.

use std::{sync::Arc, time::Duration};

use jsonwebtoken::{Algorithm, Header, Validation};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;
use vpnpanel_domain::{AccountId, SessionId, TenantId};

use crate::{
    AuthError, KeyRing,
    keys::{Ring, is_key_id},
};

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

impl TokenSettings {
    /// How long a key has to be accepted after it has signed last: as long as its tokens live on
    /// the slowest clock, and the moment until every replica signs with the next one.
    pub fn key_overlap(&self) -> Duration {
        self.access_lifetime + 2 * self.clock_skew + Duration::from_secs(60)
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
    /// The one tenant that the token is for; without it, all of the account's memberships.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<TenantId>,
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

/// Issues access tokens and checks them.
#[derive(Debug)]
pub struct TokenIssuer {
    ring: Arc<KeyRing>,
    settings: TokenSettings,
    validation: Validation,
    verified: moka::sync::Cache<[u8; 32], Arc<Verified>>,
}

/// What a look at a token says.
enum Checked {
    /// It was judged.
    Known(Result<AccessClaims, AuthError>),
    /// It names a key that is not in force here.
    UnknownKey,
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
        // Times are compared here, by the clock that is passed in: see `in_time`.
        validation.validate_exp = false;
        validation.validate_nbf = false;
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

    /// The keys in force.
    pub fn keys(&self) -> &KeyRing {
        &self.ring
    }

    /// Issues an access token at `now_ms`, milliseconds of the Unix epoch, for one tenant where
    /// it is given.
    ///
    /// # Errors
    /// [`AuthError::Key`], [`AuthError::Random`].
    pub fn issue(
        &self,
        account: AccountId,
        session: SessionId,
        tenant: Option<TenantId>,
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
            tenant,
            iat: now,
            nbf: now,
            exp: now.saturating_add(life),
        };
        let ring = self.ring.current();
        let mut header = Header::new(Algorithm::EdDSA);
        header.kid = Some(ring.kid.clone());
        let token = jsonwebtoken::encode(&header, &claims, &ring.signing)
            .map_err(|e| AuthError::Key(e.to_string()))?;
        Ok(IssuedToken {
            token: token.into(),
            expires_in: self.settings.access_lifetime,
        })
    }

    /// Checks a token at `now_ms`: signature by a key in force, issuer, audience, times. A key
    /// that is not known here is looked for, because another replica may have made it just now.
    ///
    /// # Errors
    /// [`AuthError::TokenInvalid`], [`AuthError::TokenExpired`].
    pub async fn verify(&self, token: &str, now_ms: i64) -> Result<AccessClaims, AuthError> {
        if let Checked::Known(result) = self.check(token, now_ms) {
            return result;
        }
        self.ring.reload_for_unknown().await;
        match self.check(token, now_ms) {
            Checked::Known(result) => result,
            Checked::UnknownKey => Err(AuthError::TokenInvalid),
        }
    }

    fn check(&self, token: &str, now_ms: i64) -> Checked {
        let digest: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        let ring = self.ring.current();
        if let Some(verified) = self.verified.get(&digest)
            && ring.verifying(&verified.kid, now_ms).is_some()
        {
            let in_time = self.in_time(&verified.claims, now_ms);
            return Checked::Known(in_time.map(|()| verified.claims.clone()));
        }
        let kid = jsonwebtoken::decode_header(token)
            .ok()
            .and_then(|header| header.kid)
            .filter(|kid| is_key_id(kid));
        let Some(kid) = kid else {
            return Checked::Known(Err(AuthError::TokenInvalid));
        };
        if ring.verifying(&kid, now_ms).is_none() {
            return Checked::UnknownKey;
        }
        let claims = self.decode(&ring, &kid, token, now_ms);
        if let Ok(claims) = &claims {
            let claims = claims.clone();
            self.verified
                .insert(digest, Arc::new(Verified { kid, claims }));
        }
        Checked::Known(claims)
    }

    fn decode(
        &self,
        ring: &Ring,
        kid: &str,
        token: &str,
        now_ms: i64,
    ) -> Result<AccessClaims, AuthError> {
        let key = ring.verifying(kid, now_ms).ok_or(AuthError::TokenInvalid)?;
        let claims = jsonwebtoken::decode::<AccessClaims>(token, key, &self.validation)
            .map_err(|_| AuthError::TokenInvalid)?
            .claims;
        self.in_time(&claims, now_ms)?;
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
mod tests;
