//! Authentication, in front of every service: a tower layer reads the bearer token, and leaves
//! what it found in the request's extensions. It refuses nobody for a wrong token, because methods
//! that need no credentials must not fail for a stale one; the guard decides. Who calls too often
//! is refused here, before anything else is done.

use std::{
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
};

use futures::future::BoxFuture;
use http::{Extensions, HeaderMap, Request, Response, header::AUTHORIZATION};
use tonic::Status;
use tower::{Layer, Service};
use vpnpanel_domain::{AccountId, TenantId};
use vpnpanel_runtime::clock::Clock;

use crate::{
    ApiToken, ApiTokenSource, AuthError, Held, Policy, Principal, Standing, StandingCache,
    TokenIssuer, admission::Admission, api_token::ApiTokens, guard, principal::Reach,
    revocation::Credential,
};

/// No token that is issued here is longer.
const MAX_TOKEN_BYTES: usize = 4096;

/// What the layer found out about the caller.
#[derive(Debug, Clone)]
pub enum Authentication {
    /// No credentials came.
    Anonymous,
    /// The access token is right.
    Verified(Arc<Principal>),
    /// Credentials came and are not right.
    Refused(Refusal),
}

/// Why credentials are not right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Not a token of ours.
    Invalid,
    /// It ran out.
    Expired,
    /// Its session was ended, or the API token revoked.
    SessionEnded,
    /// Could not be told: accounts cannot be looked up.
    Unknown,
}

impl From<Refusal> for AuthError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Invalid => Self::TokenInvalid,
            Refusal::Expired => Self::TokenExpired,
            Refusal::SessionEnded => Self::SessionEnded,
            Refusal::Unknown => Self::Source("see the log of the first failure".into()),
        }
    }
}

/// Turns a request's headers into a caller.
pub struct Authenticator {
    tokens: Arc<TokenIssuer>,
    standings: StandingCache,
    policy: Arc<dyn Policy>,
    clock: Clock,
    pub(crate) admission: Admission,
    api_tokens: Option<ApiTokens>,
}

impl std::fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authenticator").finish_non_exhaustive()
    }
}

impl Authenticator {
    /// Puts the parts together.
    pub fn new(
        tokens: Arc<TokenIssuer>,
        standings: StandingCache,
        policy: Arc<dyn Policy>,
        clock: Clock,
    ) -> Self {
        Self {
            tokens,
            standings,
            policy,
            clock,
            admission: Admission::default(),
            api_tokens: None,
        }
    }

    /// Accepts API tokens too.
    #[must_use]
    pub fn api_tokens(mut self, source: Arc<dyn ApiTokenSource>) -> Self {
        self.api_tokens = Some(ApiTokens::new(source));
        self
    }

    /// The caller of a request with these headers.
    pub async fn authenticate(&self, headers: &HeaderMap) -> Authentication {
        let mut sent = headers.get_all(AUTHORIZATION).iter();
        let Some(header) = sent.next() else {
            return Authentication::Anonymous;
        };
        // Of two, a proxy may have looked at the other one.
        let alone = sent.next().is_none();
        let token = header.to_str().ok().filter(|_| alone).and_then(bearer);
        let Some(token) = token else {
            return Authentication::Refused(Refusal::Invalid);
        };
        match self.verify(token).await {
            Ok(principal) => Authentication::Verified(Arc::new(principal)),
            Err(refusal) => Authentication::Refused(refusal),
        }
    }

    /// Whether a caller who was let in would be now: for answers that go on for a while. What
    /// the credential permitted then is the most that it permits.
    ///
    /// # Errors
    /// What the caller would be told now.
    pub async fn still_permits(
        &self,
        principal: &Principal,
        permission: &'static str,
        scope: Option<TenantId>,
    ) -> Result<(), AuthError> {
        let (account, credential) = (principal.account, principal.credential);
        let standing = self.standing(account, credential).await?;
        let held = self.held(&standing).await?;
        let now = Principal::new(account, credential, principal.reach, &standing, held);
        let pending = now.password_change_required || now.second_factor_required;
        if pending || !now.permits(permission, scope) || !principal.permits(permission, scope) {
            return Err(AuthError::PermissionDenied { permission });
        }
        Ok(())
    }

    async fn verify(&self, token: &str) -> Result<Principal, Refusal> {
        if ApiToken::is_meant_by(token) {
            return self.verify_api_token(token).await;
        }
        let claims = self
            .tokens
            .verify(token, self.clock.unix_millis())
            .await
            .map_err(|error| match error {
                AuthError::TokenExpired => Refusal::Expired,
                _ => Refusal::Invalid,
            })?;
        let credential = Credential::Session(claims.sid);
        let standing = self.standing(claims.sub, credential).await?;
        let held = self.held(&standing).await?;
        let reach = claims.tenant.map_or(Reach::Account, Reach::Tenant);
        Ok(Principal::new(
            claims.sub, credential, reach, &standing, held,
        ))
    }

    /// An API token permits what it lists, as far as its account holds it now.
    async fn verify_api_token(&self, text: &str) -> Result<Principal, Refusal> {
        let tokens = self.api_tokens.as_ref().ok_or(Refusal::Invalid)?;
        let token = ApiToken::parse(text).ok_or(Refusal::Invalid)?;
        let grant = tokens.grant(&token).await.map_err(|error| {
            tracing::error!(event = "api_token_lookup_failed", error = %error);
            Refusal::Unknown
        })?;
        let grant = grant.ok_or(Refusal::Invalid)?;
        let credential = Credential::ApiToken(grant.id);
        let standing = self.standing(grant.account, credential).await?;
        let mut held = self.held(&standing).await?;
        for held in &mut held {
            let permitted = held.permissions.intersection(&grant.permissions);
            held.permissions = Arc::new(permitted.cloned().collect());
        }
        let reach = grant.tenant.map_or(Reach::Platform, Reach::Tenant);
        tokens.source.used(grant.id);
        Ok(Principal::new(
            grant.account,
            credential,
            reach,
            &standing,
            held,
        ))
    }

    async fn standing(
        &self,
        account: AccountId,
        credential: Credential,
    ) -> Result<Arc<Standing>, Refusal> {
        self.standings
            .standing(account, credential)
            .await
            .map_err(|error| {
                tracing::error!(event = "account_lookup_failed", account_id = %account, error = %error);
                Refusal::Unknown
            })?
            .ok_or(Refusal::SessionEnded)
    }

    /// What the roles of an account permit, wherever it has one.
    async fn held(&self, standing: &Standing) -> Result<Vec<Held>, Refusal> {
        let mut held = Vec::with_capacity(standing.memberships.len());
        for membership in &standing.memberships {
            let permissions = self.policy.permissions(&membership.role).await;
            let permissions = permissions.map_err(|error| {
                tracing::error!(event = "policy_lookup_failed", role = membership.role, error = %error);
                Refusal::Unknown
            })?;
            if let Some(permissions) = permissions {
                held.push(Held {
                    tenant: membership.tenant,
                    role: membership.role.clone(),
                    permissions,
                    suspended: membership.suspended,
                });
            }
        }
        Ok(held)
    }
}

/// The token of `Bearer <token>` (RFC 6750, section 2.1); the scheme's case does not matter.
fn bearer(header: &str) -> Option<&str> {
    let (scheme, token) = header.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && token.len() <= MAX_TOKEN_BYTES).then_some(token)
}

/// Puts [`Authentication`] into the extensions of every request.
#[derive(Debug, Clone)]
pub struct AuthLayer {
    authenticator: Arc<Authenticator>,
    gate: Option<Gate>,
}

/// Paths outside of the contract, which no guard stands before.
#[derive(Debug, Clone, Copy)]
struct Gate {
    prefix: &'static str,
    permission: &'static str,
}

impl AuthLayer {
    /// A layer that asks `authenticator`.
    pub fn new(authenticator: Arc<Authenticator>) -> Self {
        Self {
            authenticator,
            gate: None,
        }
    }

    /// Refuses paths that begin with `prefix` to callers without `permission` on the platform:
    /// for services outside of the contract, such as reflection.
    #[must_use]
    pub fn gate(mut self, prefix: &'static str, permission: &'static str) -> Self {
        self.gate = Some(Gate { prefix, permission });
        self
    }
}

impl Gate {
    fn check(self, path: &str, extensions: &Extensions) -> Result<(), AuthError> {
        if !path.starts_with(self.prefix) {
            return Ok(());
        }
        let Self { permission, .. } = self;
        let principal = guard::principal(extensions)?;
        let pending = principal.password_change_required || principal.second_factor_required;
        if !pending && principal.permits(permission, None) {
            return Ok(());
        }
        Err(guard::explained(
            AuthError::PermissionDenied { permission },
            permission,
            extensions,
        ))
    }
}

impl<S> Layer<S> for AuthLayer {
    type Service = AuthService<S>;

    fn layer(&self, inner: S) -> AuthService<S> {
        AuthService {
            inner,
            authenticator: Arc::clone(&self.authenticator),
            gate: self.gate,
        }
    }
}

/// A service behind an [`AuthLayer`].
#[derive(Debug, Clone)]
pub struct AuthService<S> {
    inner: S,
    authenticator: Arc<Authenticator>,
    gate: Option<Gate>,
}

impl<S, B, R> Service<Request<B>> for AuthService<S>
where
    S: Service<Request<B>, Response = Response<R>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
    B: Send + 'static,
    R: Default + Send + 'static,
{
    type Response = Response<R>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<R>, Infallible>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        // The instance that was polled ready goes with the call, its clone stays.
        let fresh = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, fresh);
        let authenticator = Arc::clone(&self.authenticator);
        let gate = self.gate;
        Box::pin(async move {
            let mut extensions = std::mem::take(request.extensions_mut());
            let admitted = authenticator
                .admit(request.headers(), &mut extensions)
                .await;
            *request.extensions_mut() = extensions;
            let gated = admitted.and_then(|()| match gate {
                Some(gate) => gate.check(request.uri().path(), request.extensions()),
                None => Ok(()),
            });
            if let Err(refused) = gated {
                return Ok(Status::from(refused).into_http());
            }
            inner.call(request).await
        })
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;
    use vpnpanel_domain::SessionId;

    use super::*;

    #[test]
    fn a_gate_opens_to_the_permission_on_the_platform_only() {
        let gate = Gate {
            prefix: "/grpc.reflection.",
            permission: "system.reflect",
        };
        let holder = |tenant| {
            Authentication::Verified(Arc::new(Principal {
                account: AccountId::from_parts(1, [0; 10]),
                credential: Credential::Session(SessionId::from_parts(1, [0; 10])),
                reach: Reach::Account,
                password_change_required: false,
                second_factor_required: false,
                held: vec![Held {
                    suspended: false,
                    tenant,
                    role: "admin".to_owned(),
                    permissions: Arc::new(["system.reflect".to_owned()].into()),
                }],
            }))
        };
        let code = |path, found: &Authentication| {
            let mut extensions = Extensions::new();
            extensions.insert(found.clone());
            gate.check(path, &extensions)
                .map_or_else(|e| Status::from(e).code(), |()| Code::Ok)
        };
        let path = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
        let tenant = vpnpanel_domain::TenantId::from_parts(1, [0; 10]);
        assert_eq!(code(path, &holder(None)), Code::Ok);
        assert_eq!(code(path, &holder(Some(tenant))), Code::PermissionDenied);
        assert_eq!(
            code(path, &Authentication::Anonymous),
            Code::Unauthenticated
        );
        assert_eq!(code("/other", &Authentication::Anonymous), Code::Ok);
    }

    #[test]
    fn only_bearer_credentials_are_read() {
        assert_eq!(bearer("Bearer abc"), Some("abc"));
        assert_eq!(bearer("bearer  abc "), Some("abc"));
        assert_eq!(bearer("Basic abc"), None);
        assert_eq!(bearer("abc"), None);
        assert_eq!(bearer(&format!("Bearer {}", "a".repeat(5000))), None);
    }

    #[tokio::test]
    async fn two_authorization_headers_are_nobodys() {
        use crate::{
            BuiltinPolicy, KeyRing, SigningKey, StandingSource, TokenSettings, keys::tests::Keys,
        };
        struct Anybody;
        #[async_trait::async_trait]
        impl StandingSource for Anybody {
            async fn standing(
                &self,
                _account: AccountId,
                _credential: Credential,
            ) -> Result<Option<Standing>, crate::SourceError> {
                Ok(Some(Standing {
                    password_change_required: false,
                    second_factor_owed: Vec::new(),
                    memberships: Vec::new(),
                }))
            }
        }
        let keys = Keys::of(&SigningKey::generate().unwrap());
        let ring = KeyRing::open(keys).await.unwrap();
        let tokens = Arc::new(TokenIssuer::new(Arc::new(ring), TokenSettings::default()));
        let clock = Clock::system();
        let (account, session) = (
            AccountId::from_parts(1, [0; 10]),
            SessionId::from_parts(1, [0; 10]),
        );
        let issued = tokens.issue(account, session, None, clock.unix_millis());
        let bearer = secrecy::ExposeSecret::expose_secret(&issued.unwrap().token).to_owned();
        let bearer: http::HeaderValue = format!("Bearer {bearer}").parse().unwrap();
        let standings = StandingCache::new(Arc::new(Anybody), std::time::Duration::from_secs(1));
        let policy = Arc::new(BuiltinPolicy::default());
        let authenticator = Authenticator::new(tokens, standings, policy, clock);

        let mut headers = HeaderMap::new();
        headers.append(AUTHORIZATION, bearer.clone());
        let one = authenticator.authenticate(&headers).await;
        assert!(matches!(one, Authentication::Verified(_)));
        headers.append(AUTHORIZATION, bearer);
        let two = authenticator.authenticate(&headers).await;
        assert!(matches!(two, Authentication::Refused(Refusal::Invalid)));
    }
}
