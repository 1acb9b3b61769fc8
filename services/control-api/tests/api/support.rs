//! A management API on a database of its own, and callers of every role.

use std::{net::SocketAddr, sync::Arc};

use tempfile::TempDir;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::{Code, Request, Status};
use tonic_types::StatusExt;
use vpnpanel_api::{
    access::v1::{
        CreateGroupRequest, CreateInboundRequest, Group, Inbound, WireGuardSettings,
        endpoint_template_service_client::EndpointTemplateServiceClient,
        group_service_client::GroupServiceClient, inbound::Settings,
        inbound_service_client::InboundServiceClient,
    },
    account::v1::{
        account_service_client::AccountServiceClient, role_service_client::RoleServiceClient,
    },
    audit::v1::audit_service_client::AuditServiceClient,
    auth::v1::{
        LoginRequest, auth_service_client::AuthServiceClient,
        signing_key_service_client::SigningKeyServiceClient,
    },
    node::v1::{CreateNodeRequest, Node, node_service_client::NodeServiceClient},
    operation::v1::operation_service_client::OperationServiceClient,
    pki::v1::signer_service_client::SignerServiceClient,
    plan::v1::plan_service_client::PlanServiceClient,
    subscription::v1::subscription_service_client::SubscriptionServiceClient,
    system::v1::system_service_client::SystemServiceClient,
    tenant::v1::tenant_service_client::TenantServiceClient,
    usage::v1::usage_service_client::UsageServiceClient,
    user::v1::{CreateUserRequest, User, user_service_client::UserServiceClient},
};
use vpnpanel_auth::{PasswordHasher, PasswordSettings, Role};
use vpnpanel_control_api::{
    Access, AccessArgs, Authority, CertificateRecords, ControlApiSettings, Operations, Parts,
    StoredAccounts, SubscriptionFetches, Vault, build,
};
use vpnpanel_domain::{AccountId, TenantId, Zone};
use vpnpanel_pki::{MasterKey, Sealer};
use vpnpanel_runtime::{
    PeerIdentity, TrustDomain,
    rpc::InProcess,
    serve::ConnectionInfo,
    settings::{MapEnvironment, from_environment},
    tls::{ClientTls, TrustBundle},
};
use vpnpanel_store::{NewAccount, NewTenant, Store, TenantLimits, fresh_id, testing::TestStore};

/// Which database the suite runs on; SQLite unless it is "postgres".
pub(crate) const DATABASE_VARIABLE: &str = "VPNPANEL_TEST_DATABASE";
pub(crate) const ONE_TIME_PASSWORD: &str = "given out only once";
pub(crate) const PASSWORD: &str = "a password of their own";
pub(crate) const ADMIN: &str = "admin@localhost";

/// A management API and everything below it; gone when dropped.
pub(crate) struct Panel {
    pub(crate) store: Store,
    pub(crate) sealer: Arc<Sealer>,
    pub(crate) authority: Authority,
    pub(crate) access: Access,
    router: axum::Router,
    pub(crate) operations: Operations,
    hash: String,
    pub(crate) database: Arc<TestStore>,
    pub(crate) certificates: CertificateRecords,
    pub(crate) subscription_fetches: SubscriptionFetches,
    _log: Arc<TempDir>,
    _stop: DropGuard,
}

impl Panel {
    /// After its first start; nobody has signed in.
    pub(crate) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// With settings of its own.
    pub(crate) async fn start_with(settings: &[(&str, &str)]) -> Self {
        let database = match std::env::var(DATABASE_VARIABLE).as_deref() {
            Ok("postgres") => TestStore::postgres().await,
            _ => TestStore::sqlite().await,
        };
        let sealer = Arc::new(Sealer::new(&MasterKey::generate().unwrap()).unwrap());
        let store = database.store.clone();
        let log = Arc::new(tempfile::tempdir().unwrap());
        Self::open(Arc::new(database), store, sealer, log, settings).await
    }

    /// Another replica of the same installation.
    pub(crate) async fn another(&self, settings: &[(&str, &str)]) -> Self {
        let (database, sealer) = (Arc::clone(&self.database), Arc::clone(&self.sealer));
        let store = database.another().await;
        Self::open(database, store, sealer, Arc::clone(&self._log), settings).await
    }

    async fn open(
        database: Arc<TestStore>,
        store: Store,
        sealer: Arc<Sealer>,
        log: Arc<TempDir>,
        settings: &[(&str, &str)],
    ) -> Self {
        vpnpanel_runtime::install_crypto_provider();
        let vault = Vault::new(Arc::clone(&sealer));
        let of_tests = [
            ("VPNPANEL_ARGON2_MEMORY", "64KiB"),
            ("VPNPANEL_ARGON2_TIME_COST", "1"),
            ("VPNPANEL_BOOTSTRAP_PASSWORD", ONE_TIME_PASSWORD),
        ];
        let environment = MapEnvironment::from_iter(of_tests.iter().chain(settings).copied());
        let mut control_api: ControlApiSettings = from_environment(&environment).unwrap();
        let proxies = settings
            .iter()
            .find(|(name, _)| *name == "VPNPANEL_TRUSTED_PROXIES");
        if let Some((_, networks)) = proxies {
            control_api.trusted_proxies.networks = networks.parse().unwrap();
        }
        let settings = control_api;
        let args: AccessArgs = from_environment(&environment).unwrap();
        let authority = Authority::open(&store, &vault, &TrustDomain::default()).await;
        let authority = authority.unwrap();
        let access = Access::shared(&args, &settings.tokens, &store, &vault)
            .await
            .unwrap();
        let stop = CancellationToken::new();
        let accounts = Arc::new(StoredAccounts::new(store.clone()));
        tokio::spawn(access.cache().clone().run(accounts, stop.clone()));
        tokio::spawn(access.clone().follow(stop.clone()));
        let certificates = CertificateRecords::open(log.path()).unwrap();
        let parts = Parts {
            store: store.clone(),
            vault,
            authority: authority.clone(),
            certificates: certificates.clone(),
            access: access.clone(),
            node_tls: Some(node_tls(&authority, &store)),
            tls: None,
            development: false,
        };
        let hasher = PasswordHasher::new(PasswordSettings::from(&settings.passwords)).unwrap();
        let built = build(settings, parts).await.unwrap();
        Self {
            store,
            sealer,
            authority,
            access,
            router: built.service.router("api").unwrap(),
            operations: built.operations,
            hash: hasher.hash(PASSWORD.into()).await.unwrap(),
            database,
            certificates,
            subscription_fetches: built.subscription_fetches.clone(),
            _log: log,
            _stop: stop.drop_guard(),
        }
    }

    /// The tenant that the first start made.
    pub(crate) async fn default_tenant(&self) -> TenantId {
        let page = vpnpanel_store::Page::first(1);
        self.store.tenants(None, page).await.unwrap()[0].id
    }

    pub(crate) async fn new_tenant(&self, name: &str) -> TenantId {
        let new = NewTenant {
            id: fresh_id(),
            name: name.to_owned(),
            time_zone: Zone::utc(),
            limits: TenantLimits::default(),
        };
        self.store.create_tenant(new, None).await.unwrap().id
    }

    /// An account with a role, and its e-mail address; its password is [`PASSWORD`].
    pub(crate) async fn account(
        &self,
        role: Role,
        tenant: Option<TenantId>,
    ) -> (AccountId, String) {
        let id: AccountId = fresh_id();
        let email = format!("{id}@example.com");
        let new = NewAccount {
            id,
            email: email.clone(),
            display_name: role.as_str().to_owned(),
            password_hash: Some(self.hash.clone()),
            password_change_required: false,
        };
        self.store.create_account(new).await.unwrap();
        self.store
            .set_membership(id, tenant, role.as_str())
            .await
            .unwrap();
        (id, email)
    }

    /// An account with a role, signed in.
    pub(crate) async fn signed_in(&self, role: Role, tenant: Option<TenantId>) -> Caller {
        let (_, email) = self.account(role, tenant).await;
        self.sign_in(&email, PASSWORD).await
    }

    pub(crate) async fn admin(&self) -> Caller {
        self.signed_in(Role::Admin, None).await
    }

    pub(crate) async fn sign_in(&self, email: &str, password: &str) -> Caller {
        let request = LoginRequest {
            email: email.to_owned(),
            password: password.to_owned(),
            ..LoginRequest::default()
        };
        let tokens = self.anybody().auth().login(request).await.unwrap();
        self.with_token(&tokens.into_inner().access_token)
    }

    /// A caller without credentials.
    pub(crate) fn anybody(&self) -> Caller {
        Caller {
            transport: InProcess::anonymous(self.router.clone()),
            token: None,
            said_address: None,
        }
    }

    /// A caller without credentials whose connection comes from an address.
    pub(crate) fn connected_from(&self, remote: &str) -> Caller {
        let connection = ConnectionInfo {
            remote: SocketAddr::new(remote.parse().unwrap(), 4711),
        };
        let router = self.router.clone().layer(axum::Extension(connection));
        Caller {
            transport: InProcess::anonymous(router),
            ..self.anybody()
        }
    }

    pub(crate) fn with_token(&self, token: &str) -> Caller {
        self.anybody().with_token(token)
    }

    /// A service of the control plane, by its certificate.
    pub(crate) fn service(&self, name: &str) -> Caller {
        let identity = PeerIdentity::control_plane(name).unwrap();
        Caller {
            transport: InProcess::of(self.router.clone(), identity),
            ..self.anybody()
        }
    }
}

/// What control-api shows to agents.
fn node_tls(authority: &Authority, store: &Store) -> ClientTls {
    let signer = &authority.signer;
    let made = signer
        .issue_service("control-api", &[], store.now_ms())
        .unwrap();
    let trust = TrustBundle::new(signer.trust_bundle()).unwrap();
    ClientTls::new(&trust, Some(made.credentials)).unwrap()
}

/// Somebody who calls.
#[derive(Clone)]
pub(crate) struct Caller {
    pub(crate) transport: InProcess,
    token: Option<String>,
    said_address: Option<String>,
}

macro_rules! clients {
    ($($name:ident: $client:ident,)+) => {$(
        pub(crate) fn $name(&self) -> $client<InProcess> {
            $client::new(self.transport.clone())
        }
    )+};
}

impl Caller {
    clients! {
        auth: AuthServiceClient,
        accounts: AccountServiceClient,
        roles: RoleServiceClient,
        tenants: TenantServiceClient,
        users: UserServiceClient,
        groups: GroupServiceClient,
        inbounds: InboundServiceClient,
        endpoint_templates: EndpointTemplateServiceClient,
        nodes: NodeServiceClient,
        plans: PlanServiceClient,
        operations: OperationServiceClient,
        usage: UsageServiceClient,
        system: SystemServiceClient,
        audit: AuditServiceClient,
        signer: SignerServiceClient,
        subscriptions: SubscriptionServiceClient,
        signing_keys: SigningKeyServiceClient,
    }

    /// The caller's token.
    pub(crate) fn token(&self) -> &str {
        self.token.as_deref().unwrap_or_default()
    }

    /// The message with the caller's token.
    pub(crate) fn ask<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(token) = &self.token {
            let bearer = format!("Bearer {token}").parse().unwrap();
            request.metadata_mut().insert("authorization", bearer);
        }
        if let Some(address) = &self.said_address {
            let said = address.parse().unwrap();
            request.metadata_mut().insert("x-forwarded-for", said);
        }
        request
    }

    /// The same with credentials.
    pub(crate) fn with_token(&self, token: &str) -> Self {
        Self {
            token: Some(token.to_owned()),
            ..self.clone()
        }
    }

    /// The same over another's connection.
    pub(crate) fn over(&self, other: &Self) -> Self {
        Self {
            transport: other.transport.clone(),
            ..self.clone()
        }
    }

    /// The same, saying to be called by an address, as a proxy would.
    pub(crate) fn saying(&self, address: &str) -> Self {
        Self {
            said_address: Some(address.to_owned()),
            ..self.clone()
        }
    }

    pub(crate) async fn new_node(&self, name: &str, tenant: Option<TenantId>) -> Node {
        let request = CreateNodeRequest {
            tenant_id: tenant.map(|id| id.to_string()).unwrap_or_default(),
            node: Some(Node {
                name: name.to_owned(),
                address: format!("{name}.example.com"),
                ..Node::default()
            }),
            request_id: String::new(),
        };
        let made = self.nodes().create_node(self.ask(request)).await.unwrap();
        made.into_inner().node.unwrap()
    }

    /// An inbound of the platform that is offered to tenants.
    pub(crate) async fn new_inbound(&self, name: &str, port: u32) -> Inbound {
        let request = CreateInboundRequest {
            inbound: Some(Inbound {
                name: name.to_owned(),
                offered_to_tenants: true,
                settings: Some(Settings::Wireguard(WireGuardSettings {
                    port,
                    ..WireGuardSettings::default()
                })),
                ..Inbound::default()
            }),
            ..CreateInboundRequest::default()
        };
        let made = self.inbounds().create_inbound(self.ask(request)).await;
        made.unwrap().into_inner().inbound.unwrap()
    }

    pub(crate) async fn new_group(&self, tenant: TenantId, name: &str, inbounds: &[&str]) -> Group {
        let request = CreateGroupRequest {
            tenant_id: tenant.to_string(),
            group: Some(Group {
                name: name.to_owned(),
                inbound_ids: inbounds.iter().map(|&id| id.to_owned()).collect(),
                ..Group::default()
            }),
            request_id: String::new(),
        };
        let made = self.groups().create_group(self.ask(request)).await.unwrap();
        made.into_inner().group.unwrap()
    }

    pub(crate) async fn new_user(&self, tenant: TenantId, name: &str, groups: &[&str]) -> User {
        let request = create_user(tenant, name, groups);
        let made = self.users().create_user(self.ask(request)).await.unwrap();
        made.into_inner().user.unwrap()
    }
}

pub(crate) fn create_user(tenant: TenantId, name: &str, groups: &[&str]) -> CreateUserRequest {
    CreateUserRequest {
        tenant_id: tenant.to_string(),
        user: Some(User {
            username: name.to_owned(),
            group_ids: groups.iter().map(|&id| id.to_owned()).collect(),
            ..User::default()
        }),
        request_id: String::new(),
    }
}

/// Code and ErrorInfo reason of a refusal.
#[track_caller]
pub(crate) fn refusal<T: std::fmt::Debug>(result: Result<T, Status>) -> (Code, String) {
    let status = result.unwrap_err();
    let details = status.get_error_details();
    let info = details.error_info().expect("every error has an ErrorInfo");
    assert_eq!(info.domain, "vpnpanel");
    (status.code(), info.reason.clone())
}

#[track_caller]
pub(crate) fn assert_refused<T: std::fmt::Debug>(
    result: Result<T, Status>,
    code: Code,
    reason: &str,
) {
    assert_eq!(refusal(result), (code, reason.to_owned()));
}

/// Paths of the fields that a request was refused for.
#[track_caller]
pub(crate) fn fields<T: std::fmt::Debug>(result: Result<T, Status>) -> Vec<String> {
    let status = result.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    let details = status.get_error_details();
    let bad = details.bad_request().expect("field violations");
    bad.field_violations
        .iter()
        .map(|v| v.field.clone())
        .collect()
}
