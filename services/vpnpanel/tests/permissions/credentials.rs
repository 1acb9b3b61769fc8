//! Credentials that are right, and every kind that is not.

use std::{collections::BTreeSet, sync::Arc};

use async_trait::async_trait;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use prost::Message;
use secrecy::ExposeSecret;
use vpnpanel_api::auth::v1::{LoginRequest, LoginResponse, LogoutRequest};
use vpnpanel_auth::{
    ApiToken, KeyRing, KeySet, KeySource, SigningKey, SourceError, TokenIssuer, TokenSettings,
};
use vpnpanel_domain::{AccountId, SessionId, TenantId};
use vpnpanel_pki::context;
use vpnpanel_runtime::rpc::InProcess;
use vpnpanel_store::{ApiTokenOwner, NewApiToken, NewSession, Proof, SigningKeyState, fresh_id};

use crate::{calls, fixture::PASSWORD, stage::Stage};

const HOUR_MS: i64 = 3_600_000;

/// What a session token is made of by hand.
pub(crate) struct Forge {
    key: SigningKey,
    account: AccountId,
    session: SessionId,
    now_ms: i64,
}

/// One key alone.
struct Only(SigningKey);

#[async_trait]
impl KeySource for Only {
    async fn keys(&self) -> Result<KeySet, SourceError> {
        Ok(KeySet {
            signing: self.0.clone(),
            others: Vec::new(),
        })
    }
}

impl Forge {
    /// Of a session of an administrator that is in force, by the key that is in force: nothing
    /// but what is forged is wrong.
    pub(crate) async fn new(stage: &Stage) -> Self {
        let (account, _) = stage.account(&[(None, "admin")]).await;
        let keys = stage.store.signing_keys().await.unwrap();
        let mut active = keys
            .into_iter()
            .filter(|key| key.state == SigningKeyState::Active);
        let active = active.next().unwrap();
        let sealed = &active.sealed_private_key;
        let private = stage
            .sealer
            .open(&context::signing_key(&active.kid), sealed);
        let now_ms = stage.store.now_ms();
        let session = NewSession {
            id: fresh_id(),
            account_id: account,
            user_agent: String::new(),
            address: String::new(),
            expires_at_ms: now_ms + HOUR_MS,
            proof: Proof::default(),
        };
        let session = stage.store.create_session(session, &[0; 32]).await.unwrap();
        Self {
            key: SigningKey::from_pkcs8(&private.unwrap()).unwrap(),
            account,
            session: session.unwrap().id,
            now_ms,
        }
    }

    async fn issued(&self, key: &SigningKey, settings: TokenSettings, at_ms: i64) -> String {
        let ring = KeyRing::open(Arc::new(Only(key.clone()))).await.unwrap();
        let issuer = TokenIssuer::new(Arc::new(ring), settings);
        let issued = issuer.issue(self.account, self.session, None, at_ms);
        issued.unwrap().token.expose_secret().to_owned()
    }

    /// As the product would issue it.
    pub(crate) async fn right(&self) -> String {
        self.issued(&self.key, TokenSettings::default(), self.now_ms)
            .await
    }

    pub(crate) async fn expired(&self) -> String {
        let then = self.now_ms - HOUR_MS;
        self.issued(&self.key, TokenSettings::default(), then).await
    }

    pub(crate) async fn not_yet_valid(&self) -> String {
        let then = self.now_ms + HOUR_MS;
        self.issued(&self.key, TokenSettings::default(), then).await
    }

    pub(crate) async fn of_another_audience(&self) -> String {
        let settings = TokenSettings {
            audience: "another".to_owned(),
            ..TokenSettings::default()
        };
        self.issued(&self.key, settings, self.now_ms).await
    }

    pub(crate) async fn of_another_issuer(&self) -> String {
        let settings = TokenSettings {
            issuer: "another".to_owned(),
            ..TokenSettings::default()
        };
        self.issued(&self.key, settings, self.now_ms).await
    }

    pub(crate) async fn of_an_unknown_key(&self) -> String {
        let key = SigningKey::generate().unwrap();
        self.issued(&key, TokenSettings::default(), self.now_ms)
            .await
    }

    /// Signed by another key, which it calls by the id of ours.
    pub(crate) async fn of_a_key_by_our_id(&self) -> String {
        let [_, claims, _] = parts(&self.right().await);
        let stranger = SigningKey::generate().unwrap();
        self.signed(
            Algorithm::EdDSA,
            &claims,
            &EncodingKey::from_ed_der(stranger.pkcs8()),
        )
    }

    /// Signed by the public key, which everybody knows, taken as a shared secret.
    pub(crate) async fn by_a_shared_secret(&self) -> String {
        let [_, claims, _] = parts(&self.right().await);
        let secret = EncodingKey::from_secret(self.key.public_key());
        self.signed(Algorithm::HS256, &claims, &secret)
    }

    pub(crate) async fn unsigned(&self) -> String {
        let [_, claims, _] = parts(&self.right().await);
        let header = format!(r#"{{"alg":"none","kid":"{}"}}"#, self.key.kid());
        format!("{}.{claims}.", URL_SAFE_NO_PAD.encode(header))
    }

    /// The right signature below other claims.
    pub(crate) async fn altered(&self) -> String {
        let right = self.right().await;
        let [header, claims, signature] = parts(&right);
        let claims = URL_SAFE_NO_PAD.decode(claims).unwrap();
        let claims = String::from_utf8(claims).unwrap();
        let later = claims.replace("\"aud\":\"vpnpanel\"", "\"aud\":\"vpnpanel\",\"x\":1");
        assert_ne!(claims, later);
        format!("{header}.{}.{signature}", URL_SAFE_NO_PAD.encode(later))
    }

    fn signed(&self, algorithm: Algorithm, claims: &str, key: &EncodingKey) -> String {
        let mut header = Header::new(algorithm);
        header.kid = Some(self.key.kid().to_owned());
        let header = URL_SAFE_NO_PAD.encode(serde_json::to_string(&header).unwrap());
        let message = format!("{header}.{claims}");
        let signature = jsonwebtoken::crypto::sign(message.as_bytes(), key, algorithm).unwrap();
        format!("{message}.{signature}")
    }
}

fn parts(token: &str) -> [String; 3] {
    let parts: Vec<String> = token.split('.').map(str::to_owned).collect();
    parts.try_into().unwrap()
}

impl Stage {
    /// Signs in; gives the access token.
    pub(crate) async fn sign_in(&self, email: &str, tenant: Option<TenantId>) -> String {
        let request = LoginRequest {
            email: email.to_owned(),
            password: PASSWORD.to_owned(),
            tenant_id: tenant.map(|id| id.to_string()).unwrap_or_default(),
            ..LoginRequest::default()
        };
        let path = "/vpnpanel.auth.v1.AuthService/Login";
        let answer = self.anonymously(path, &[], &request).await;
        let tokens = LoginResponse::decode(answer).unwrap();
        tokens.access_token
    }

    pub(crate) async fn sign_out(&self, token: &str) {
        let path = "/vpnpanel.auth.v1.AuthService/Logout";
        let credentials = [format!("Bearer {token}")];
        self.anonymously(path, &credentials, &LogoutRequest {})
            .await;
    }

    async fn anonymously<M: Message>(
        &self,
        path: &'static str,
        credentials: &[String],
        request: &M,
    ) -> bytes::Bytes {
        let router = self.router("vpnpanel.auth.v1.AuthService");
        let transport = InProcess::anonymous(router);
        let message = request.encode_to_vec().into();
        calls::grpc_message(&transport, credentials, path, message)
            .await
            .unwrap()
    }

    /// An API token of an account.
    pub(crate) async fn api_token(
        &self,
        account: AccountId,
        tenant_id: Option<TenantId>,
        permissions: &BTreeSet<String>,
    ) -> String {
        self.ended_api_token(account, tenant_id, permissions, HOUR_MS, false)
            .await
    }

    /// The same, with a life of so long, or ended by hand.
    pub(crate) async fn ended_api_token(
        &self,
        account: AccountId,
        tenant_id: Option<TenantId>,
        permissions: &BTreeSet<String>,
        life_ms: i64,
        revoked: bool,
    ) -> String {
        let token = ApiToken::generate().unwrap();
        let new = NewApiToken {
            id: fresh_id(),
            account_id: account,
            tenant_id,
            name: "some".to_owned(),
            hint: token.hint(),
            hash: token.hash(),
            permissions: permissions.clone(),
            expires_at_ms: self.store.now_ms() + life_ms,
        };
        let made = self.store.create_api_token(new).await.unwrap();
        if revoked {
            let owner = ApiTokenOwner::Account(account);
            self.store.revoke_api_token(owner, made.id).await.unwrap();
        }
        token.expose().to_owned()
    }
}
