//! Signs in, renews and lists, as the real one does towards a client.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Server, ServerTlsConfig};
use tonic::{Code, Request, Response, Status};
use tonic_types::{ErrorDetails, StatusExt as _};
use vpnpanel_client::api::auth::v1::auth_service_server::{AuthService, AuthServiceServer};
use vpnpanel_client::api::auth::v1::*;
use vpnpanel_client::api::tenant::v1::tenant_service_server::{TenantService, TenantServiceServer};
use vpnpanel_client::api::tenant::v1::*;

/// What the server counts, and what the tests change.
#[derive(Debug, Default)]
pub(crate) struct State {
    /// Life of the next access token.
    pub(crate) life_ms: AtomicU64,
    /// Refresh tokens spent.
    pub(crate) renewals: AtomicUsize,
    /// Calls to GetTenant.
    pub(crate) calls: AtomicUsize,
    issued: AtomicUsize,
    valid: Mutex<HashSet<String>>,
    spendable: Mutex<HashSet<String>>,
}

impl State {
    /// Makes every access token worthless.
    pub(crate) fn revoke(&self) {
        self.valid.lock().unwrap().clear();
    }

    fn issue(&self) -> (String, String, Option<prost_types::Duration>) {
        let n = self.issued.fetch_add(1, Ordering::SeqCst);
        let (access, refresh) = (format!("access-{n}"), format!("refresh-{n}"));
        self.valid
            .lock()
            .unwrap()
            .insert(format!("Bearer {access}"));
        self.spendable.lock().unwrap().insert(refresh.clone());
        let life = Duration::from_millis(self.life_ms.load(Ordering::SeqCst));
        (access, refresh, Some(life.try_into().unwrap()))
    }

    fn check<T>(&self, request: &Request<T>) -> Result<(), Status> {
        let bearer = request
            .metadata()
            .get("authorization")
            .map(|v| v.to_str().unwrap());
        match bearer {
            Some("Bearer api-token") => Ok(()),
            Some(bearer) if self.valid.lock().unwrap().contains(bearer) => Ok(()),
            _ => Err(failure(Code::Unauthenticated, "TOKEN_REFUSED")),
        }
    }
}

fn failure(code: Code, reason: &str) -> Status {
    let details = ErrorDetails::with_error_info(reason, "vpnpanel", []);
    Status::with_error_details(code, "as tested", details)
}

pub(crate) struct ControlPlane {
    pub(crate) address: String,
    pub(crate) state: Arc<State>,
    server: tokio::task::JoinHandle<()>,
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl ControlPlane {
    /// With access tokens that live this long.
    pub(crate) async fn start(life: Duration) -> Self {
        let mut server = Self::serve(Server::builder()).await;
        server.address = format!("http://{}", server.address);
        server
            .state
            .life_ms
            .store(life.as_millis().try_into().unwrap(), Ordering::SeqCst);
        server
    }

    pub(crate) async fn start_tls(authority: &tls::Authority) -> Self {
        let tls = ServerTlsConfig::new().identity(authority.issue("localhost"));
        let mut server = Self::serve(Server::builder().tls_config(tls).unwrap()).await;
        let port = server.address.parse::<SocketAddr>().unwrap().port();
        server.address = format!("https://localhost:{port}");
        server
    }

    async fn serve(mut builder: Server) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let state = Arc::new(State::default());
        let router = builder
            .add_service(AuthServiceServer::from_arc(state.clone()))
            .add_service(TenantServiceServer::from_arc(state.clone()));
        let incoming = TcpListenerStream::new(listener);
        let server =
            tokio::spawn(async move { router.serve_with_incoming(incoming).await.unwrap() });
        Self {
            address,
            state,
            server,
        }
    }
}

/// Methods that no test calls, in the form that `async_trait` gives them.
macro_rules! not_tested {
    ($($method:ident($request:ty) -> $response:ty;)+) => {$(
        fn $method<'a, 'async_trait>(
            &'a self,
            _: Request<$request>,
        ) -> Answer<'async_trait, $response>
        where
            'a: 'async_trait,
            Self: 'async_trait,
        {
            Box::pin(async { Err(Status::unimplemented("not tested")) })
        }
    )+};
}

type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<Response<T>, Status>> + Send + 'a>>;

#[tonic::async_trait]
impl AuthService for State {
    async fn login(
        &self,
        request: Request<LoginRequest>,
    ) -> Result<Response<LoginResponse>, Status> {
        if request.get_ref().password != "right" {
            let metadata = [("attempts".to_owned(), "3".to_owned())];
            let mut details =
                ErrorDetails::with_error_info("SIGN_IN_REFUSED", "vpnpanel", metadata);
            details
                .set_retry_info(Some(Duration::from_secs(2)))
                .add_bad_request_violation("password", "is wrong");
            return Err(Status::with_error_details(
                Code::Unauthenticated,
                "refused",
                details,
            ));
        }
        let (access_token, refresh_token, expires_in) = self.issue();
        let password_change_required = false;
        Ok(Response::new(LoginResponse {
            access_token,
            refresh_token,
            expires_in,
            password_change_required,
            second_factor_required: false,
        }))
    }

    async fn refresh(
        &self,
        request: Request<RefreshRequest>,
    ) -> Result<Response<RefreshResponse>, Status> {
        self.renewals.fetch_add(1, Ordering::SeqCst);
        if !self
            .spendable
            .lock()
            .unwrap()
            .remove(&request.get_ref().refresh_token)
        {
            return Err(failure(Code::Unauthenticated, "REFRESH_TOKEN_REUSED"));
        }
        let (access_token, refresh_token, expires_in) = self.issue();
        Ok(Response::new(RefreshResponse {
            access_token,
            refresh_token,
            expires_in,
        }))
    }

    async fn logout(
        &self,
        request: Request<LogoutRequest>,
    ) -> Result<Response<LogoutResponse>, Status> {
        self.check(&request)?;
        self.revoke();
        Ok(Response::new(LogoutResponse {}))
    }

    async fn get_me(
        &self,
        request: Request<GetMeRequest>,
    ) -> Result<Response<GetMeResponse>, Status> {
        self.check(&request)?;
        Ok(Response::new(GetMeResponse::default()))
    }

    not_tested! {
        change_password(ChangePasswordRequest) -> ChangePasswordResponse;
        list_sessions(ListSessionsRequest) -> ListSessionsResponse;
        revoke_session(RevokeSessionRequest) -> RevokeSessionResponse;
        revoke_other_sessions(RevokeOtherSessionsRequest) -> RevokeOtherSessionsResponse;
        get_totp(GetTotpRequest) -> GetTotpResponse;
        enroll_totp(EnrollTotpRequest) -> EnrollTotpResponse;
        confirm_totp(ConfirmTotpRequest) -> ConfirmTotpResponse;
        disable_totp(DisableTotpRequest) -> DisableTotpResponse;
        regenerate_recovery_codes(RegenerateRecoveryCodesRequest)
            -> RegenerateRecoveryCodesResponse;
        create_api_token(CreateApiTokenRequest) -> CreateApiTokenResponse;
        list_api_tokens(ListApiTokensRequest) -> ListApiTokensResponse;
        revoke_api_token(RevokeApiTokenRequest) -> RevokeApiTokenResponse;
        list_tenant_api_tokens(ListTenantApiTokensRequest) -> ListTenantApiTokensResponse;
        revoke_tenant_api_token(RevokeTenantApiTokenRequest) -> RevokeTenantApiTokenResponse;
    }
}

#[tonic::async_trait]
impl TenantService for State {
    async fn list_tenants(
        &self,
        request: Request<ListTenantsRequest>,
    ) -> Result<Response<ListTenantsResponse>, Status> {
        self.check(&request)?;
        let request = request.into_inner();
        let start: usize = request.page_token.parse().unwrap_or(0);
        let end = (start + usize::try_from(request.page_size).unwrap()).min(10);
        let tenants = (start..end).map(|n| Tenant {
            name: n.to_string(),
            ..Default::default()
        });
        Ok(Response::new(ListTenantsResponse {
            tenants: tenants.collect(),
            next_page_token: if end < 10 {
                end.to_string()
            } else {
                String::new()
            },
        }))
    }

    async fn get_tenant(
        &self,
        request: Request<GetTenantRequest>,
    ) -> Result<Response<GetTenantResponse>, Status> {
        let calls = self.calls.fetch_add(1, Ordering::SeqCst);
        match request.get_ref().tenant_id.as_str() {
            "flaky" if calls >= 2 => Ok(Response::new(GetTenantResponse::default())),
            "nowhere" => Err(failure(Code::NotFound, "TENANT_NOT_FOUND")),
            _ => Err(failure(Code::Unavailable, "OVERLOADED")),
        }
    }

    not_tested! {
        create_tenant(CreateTenantRequest) -> CreateTenantResponse;
        get_tenant_limits(GetTenantLimitsRequest) -> GetTenantLimitsResponse;
        update_tenant(UpdateTenantRequest) -> UpdateTenantResponse;
        set_tenant_limits(SetTenantLimitsRequest) -> SetTenantLimitsResponse;
        suspend_tenant(SuspendTenantRequest) -> SuspendTenantResponse;
        resume_tenant(ResumeTenantRequest) -> ResumeTenantResponse;
        add_member(AddMemberRequest) -> AddMemberResponse;
        list_members(ListMembersRequest) -> ListMembersResponse;
        update_member(UpdateMemberRequest) -> UpdateMemberResponse;
        remove_member(RemoveMemberRequest) -> RemoveMemberResponse;
    }
}

/// Certificates of an authority made for one test.
pub(crate) mod tls {
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
    use tonic::transport::Identity;

    pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

    impl Authority {
        pub(crate) fn new() -> Self {
            let mut params = CertificateParams::new(Vec::new()).unwrap();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
        }

        pub(crate) fn pem(&self) -> String {
            self.0.pem()
        }

        pub(crate) fn issue(&self, name: &str) -> Identity {
            let key = KeyPair::generate().unwrap();
            let params = CertificateParams::new([name.to_owned()]).unwrap();
            let certificate = params.signed_by(&key, &self.0).unwrap();
            Identity::from_pem(certificate.pem(), key.serialize_pem())
        }
    }
}
