//! What access tokens withstand: time, other keys, and forgery.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::EncodingKey;
use secrecy::ExposeSecret;
use serde_json::json;

use super::*;
use crate::{SigningKey, VerifyingKey, keys::tests::Keys};

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

fn open(key: &SigningKey) -> VerifyingKey {
    VerifyingKey {
        public: *key.public_key(),
        until_ms: None,
    }
}

async fn over(keys: &Arc<Keys>, settings: TokenSettings) -> TokenIssuer {
    let ring = KeyRing::open(Arc::clone(keys) as _).await.unwrap();
    TokenIssuer::new(Arc::new(ring), settings)
}

async fn issuer(key: &SigningKey) -> TokenIssuer {
    over(&Keys::of(key), TokenSettings::default()).await
}

fn token(issuer: &TokenIssuer, now_ms: i64) -> String {
    let (account, session) = ids();
    let issued = issuer.issue(account, session, None, now_ms).unwrap();
    issued.token.expose_secret().to_owned()
}

/// The claims of a token that is good, to be signed otherwise.
fn claims(token: &str) -> serde_json::Value {
    let payload = token.split('.').nth(1).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap()
}

/// A token with any header at all, signed by the key.
fn signed(key: &SigningKey, header: &serde_json::Value, claims: &serde_json::Value) -> String {
    signed_text(key, &header.to_string(), claims)
}

/// The same with a header that need not be JSON.
fn signed_text(key: &SigningKey, header: &str, claims: &serde_json::Value) -> String {
    let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
    let message = format!("{}.{}", part(header), part(&claims.to_string()));
    let secret = EncodingKey::from_ed_der(key.pkcs8());
    let signature =
        jsonwebtoken::crypto::sign(message.as_bytes(), &secret, Algorithm::EdDSA).unwrap();
    format!("{message}.{signature}")
}

#[tokio::test]
async fn a_token_tells_account_session_and_tenant() {
    let issuer = issuer(&SigningKey::generate().unwrap()).await;
    let now = now_ms();
    let text = token(&issuer, now);
    let found = issuer.verify(&text, now).await.unwrap();
    assert_eq!((found.sub, found.sid), ids());
    assert_eq!((found.exp - found.nbf, found.tenant), (900, None));
    assert!(claims(&text).get("tenant").is_none());
    let tenant = TenantId::from_parts(3, [3; 10]);
    let narrow = issuer.issue(ids().0, ids().1, Some(tenant), now).unwrap();
    let found = issuer.verify(narrow.token.expose_secret(), now).await;
    assert_eq!(found.unwrap().tenant, Some(tenant));
}

#[tokio::test]
async fn clocks_may_differ_by_the_skew_in_both_directions_also_for_a_known_token() {
    let issuer = issuer(&SigningKey::generate().unwrap()).await;
    let now = now_ms();
    let text = token(&issuer, now);
    for _ in 0..2 {
        assert!(issuer.verify(&text, now + 929_000).await.is_ok());
        let late = issuer.verify(&text, now + 931_000).await;
        assert!(matches!(late, Err(AuthError::TokenExpired)));
        let early = issuer.verify(&text, now - 32_000).await;
        assert!(matches!(early, Err(AuthError::TokenInvalid)));
        assert!(issuer.verify(&text, now - 29_000).await.is_ok());
    }
    let old = token(&issuer, now - 1_000_000);
    let refused = issuer.verify(&old, now).await;
    assert!(matches!(refused, Err(AuthError::TokenExpired)));
}

#[tokio::test]
async fn keys_rotate_with_an_overlap() {
    let (first, second) = (
        SigningKey::generate().unwrap(),
        SigningKey::generate().unwrap(),
    );
    let keys = Keys::of(&first);
    let issuer = over(&keys, TokenSettings::default()).await;
    let now = now_ms();
    let old = token(&issuer, now);
    let until_ms = Some(now + 60_000);
    let retiring = VerifyingKey {
        until_ms,
        ..open(&first)
    };
    keys.put(&second, &[retiring]);
    issuer.keys().reload().await.unwrap();
    assert!(issuer.verify(&old, now).await.is_ok());
    let new = token(&issuer, now);
    let later = issuer.verify(&old, now + 60_000).await;
    assert!(later.is_err(), "its key has retired, read again or not");
    assert!(issuer.verify(&new, now).await.is_ok());
}

#[tokio::test]
async fn a_token_of_a_removed_key_is_refused_also_when_it_is_known() {
    let (first, second) = (
        SigningKey::generate().unwrap(),
        SigningKey::generate().unwrap(),
    );
    let keys = Keys::of(&first);
    let issuer = over(&keys, TokenSettings::default()).await;
    let now = now_ms();
    let old = token(&issuer, now);
    assert!(issuer.verify(&old, now).await.is_ok());
    keys.put(&second, &[]);
    issuer.keys().reload().await.unwrap();
    let refused = issuer.verify(&old, now).await;
    assert!(matches!(refused, Err(AuthError::TokenInvalid)));
    assert!(issuer.verify(&token(&issuer, now), now).await.is_ok());
}

#[tokio::test]
async fn a_key_that_another_replica_has_made_is_found_at_once() {
    let (first, second) = (
        SigningKey::generate().unwrap(),
        SigningKey::generate().unwrap(),
    );
    let keys = Keys::of(&first);
    let here = over(&keys, TokenSettings::default()).await;
    keys.put(&second, &[open(&first)]);
    let there = over(&keys, TokenSettings::default()).await;
    let now = now_ms();
    assert!(here.verify(&token(&there, now), now).await.is_ok());
}

#[tokio::test]
async fn tokens_of_others_are_refused() {
    let key = SigningKey::generate().unwrap();
    let ours = issuer(&key).await;
    let now = now_ms();
    let foreign_key = issuer(&SigningKey::generate().unwrap()).await;
    let keys = Keys::of(&key);
    let audience = TokenSettings {
        audience: "other".to_owned(),
        ..TokenSettings::default()
    };
    let of_issuer = TokenSettings {
        issuer: "other".to_owned(),
        ..TokenSettings::default()
    };
    let (audience, of_issuer) = (over(&keys, audience).await, over(&keys, of_issuer).await);
    for theirs in [foreign_key, audience, of_issuer] {
        assert!(ours.verify(&token(&theirs, now), now).await.is_err());
    }
}

#[tokio::test]
async fn the_token_does_not_choose_its_algorithm() {
    let key = SigningKey::generate().unwrap();
    let issuer = issuer(&key).await;
    let now = now_ms();
    let good = token(&issuer, now);
    let payload = good.split('.').nth(1).unwrap();
    let mut forged = Vec::new();
    // Signed by the public key taken as an HMAC secret, raw and in its text forms.
    let public = key.public_key();
    let texts = [URL_SAFE_NO_PAD.encode(public), hex(public)];
    for algorithm in [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512] {
        let mut header = Header::new(algorithm);
        header.kid = Some(key.kid().to_owned());
        for secret in [public.as_slice(), texts[0].as_bytes(), texts[1].as_bytes()] {
            let secret = EncodingKey::from_secret(secret);
            forged.push(jsonwebtoken::encode(&header, &claims(&good), &secret).unwrap());
        }
    }
    // Not signed at all.
    for none in ["none", "None", "NONE", ""] {
        let header = json!({"alg": none, "kid": key.kid()}).to_string();
        forged.push(format!("{}.{payload}.", URL_SAFE_NO_PAD.encode(header)));
    }
    // Rightly signed, under another name.
    for alg in ["HS256", "RS256", "ES256", "none", "eddsa"] {
        let header = json!({"alg": alg, "kid": key.kid()});
        forged.push(signed(&key, &header, &claims(&good)));
    }
    // Cut.
    forged.push(good[..good.len() - 3].to_owned());
    for text in forged {
        let refused = issuer.verify(&text, now).await;
        assert!(matches!(refused, Err(AuthError::TokenInvalid)), "{text}");
    }
    let right = json!({"alg": "EdDSA", "kid": key.kid()});
    let right = signed(&key, &right, &claims(&good));
    assert!(issuer.verify(&right, now).await.is_ok(), "the forger works");
}

#[tokio::test]
async fn a_kid_is_nothing_but_the_name_of_a_key() {
    let key = SigningKey::generate().unwrap();
    let keys = Keys::of(&key);
    let issuer = over(&keys, TokenSettings::default()).await;
    let now = now_ms();
    let good = token(&issuer, now);
    let before = keys.reads();
    let mut kids = vec![
        json!("../../../../dev/null"),
        json!("/etc/passwd"),
        json!("x' UNION SELECT 'key'; --"),
        json!("' OR '1'='1"),
        json!(format!("{}\u{0}", key.kid())),
        json!(key.kid().to_uppercase() + "g"),
        json!(""),
        json!("a".repeat(100_000)),
        json!(null),
        json!(7),
        json!([key.kid()]),
        json!({"kid": key.kid()}),
    ];
    kids.push(json!(&key.kid()[1..]));
    for kid in kids {
        let header = json!({"alg": "EdDSA", "kid": kid});
        let text = signed(&key, &header, &claims(&good));
        let refused = issuer.verify(&text, now).await;
        assert!(matches!(refused, Err(AuthError::TokenInvalid)), "{kid}");
    }
    let absent = json!({"alg": "EdDSA"});
    let absent = signed(&key, &absent, &claims(&good));
    assert!(issuer.verify(&absent, now).await.is_err());
    // Said twice, in either order: which one counts is not for readers to differ about.
    for kids in [[key.kid(), "other"], ["other", key.kid()], [key.kid(); 2]] {
        let [first, second] = kids;
        let header = format!(r#"{{"alg":"EdDSA","kid":"{first}","kid":"{second}"}}"#);
        let twice = signed_text(&key, &header, &claims(&good));
        let refused = issuer.verify(&twice, now).await;
        assert!(matches!(refused, Err(AuthError::TokenInvalid)), "{header}");
    }
    // A key of the token's own is not looked at either.
    let theirs = SigningKey::generate().unwrap();
    let x = URL_SAFE_NO_PAD.encode(theirs.public_key());
    let jwk = json!({"kty": "OKP", "crv": "Ed25519", "x": x});
    let header = json!({"alg": "EdDSA", "kid": key.kid(), "jwk": jwk});
    let text = signed(&theirs, &header, &claims(&good));
    assert!(issuer.verify(&text, now).await.is_err());
    assert_eq!(keys.reads(), before, "none of these is looked up");
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
