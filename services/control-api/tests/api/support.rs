//! A management API on a database of its own, and callers of every role.

use std::sync::Arc;

use tonic::{Code, Request, Status};
use tonic_types::StatusExt;
use vpnpanel_api::{
    access::v1::{
        CreateGroupRequest, CreateInboundRequest, Group, Inbound, WireGuardSettings,
        group_service_client::GroupServiceClient, inbound::Settings,
        inbound_service_client::InboundServiceClient,
    },
    audit::v1::audit_service_client::AuditServiceClient,
    auth::v1::{LoginRequest, auth_service_client::AuthServiceClient},
    node::v1::{CreateNodeRequest, Node, node_service_client::NodeServiceClient},
    pki::v1::signer_service_client::SignerServiceClient,
    system::v1::system_service_client::SystemServiceClient,
    tenant::v1::tenant_service_client::TenantServiceClient,
    usage::v1::usage_service_client::UsageServiceClient,
    user::v1::{CreateUserRequest, User, user_service_client::UserServiceClient},
};
use vpnpanel_auth::{PasswordHasher, PasswordSettings, Role};
use vpnpanel_control_api::{Access, Authority, ControlApiSettings, Parts, Vault, build};
use vpnpanel_domain::{AccountId, TenantId, Zone};
use vpnpanel_pki::{MasterKey, Sealer};
use vpnpanel_runtime::{
    PeerIdentity, TrustDomain,
    rpc::InProcess,
    settings::{MapEnvironment, from_environment},
};
use vpnpanel_store::{NewAccount, NewTenant, Store, TenantLimits, fresh_id, testing::TestStore};

/// Which database the suite runs on; SQLite unless it is "postgres".
pub(crate) const DATABASE_VARIABLE: &str = "VPNPANEL_TEST_DATABASE";
pub(crate) const ONE_TIME_PASSWORD: &str = "given out once";
pub(crate) const PASSWORD: &str = "a password of their own";
pub(crate) const ADMIN: &str = "admin@localhost";

/// A management API and everything below it; gone when dropped.
pub(crate) struct Panel {
    pub(crate) store: Store,
    pub(crate) sealer: Arc<Sealer>,
    pub(crate) authority: Authority,
    router: axum::Router,
    hash: String,
    _database: TestStore,
}

impl Panel {
    /// After its first start; nobody has signed in.
    pub(crate) async fn start() -> Self {
        vpnpanel_runtime::install_crypto_provider();
        let database = match std::env::var(DATABASE_VARIABLE).as_deref() {
            Ok("postgres") => TestStore::postgres().await,
            _ => TestStore::sqlite().await,
        };
        let store = database.store.clone();
        let sealer = Arc::new(Sealer::new(&MasterKey::generate().unwrap()).unwrap());
        let vault = Vault::new(Arc::clone(&sealer));
        let settings: ControlApiSettings = from_environment(&MapEnvironment::from_iter([
            ("VPNPANEL_ARGON2_MEMORY", "64KiB"),
            ("VPNPANEL_ARGON2_TIME_COST", "1"),
            ("VPNPANEL_BOOTSTRAP_PASSWORD", ONE_TIME_PASSWORD),
        ]))
        .unwrap();
        let authority = Authority::open(&store, &vault, &TrustDomain::default()).await;
        let authority = authority.unwrap();
        let access = Access::open(&settings.tokens, &store, &vault)
            .await
            .unwrap();
        let parts = Parts {
            store: store.clone(),
            vault,
            authority: authority.clone(),
            access,
            tls: None,
            development: false,
        };
        let hasher = PasswordHasher::new(PasswordSettings::from(&settings.passwords)).unwrap();
        let built = build(settings, parts).await.unwrap();
        Self {
            store,
            sealer,
            authority,
            router: built.service.router("api").unwrap(),
            hash: hasher.hash(PASSWORD.into()).await.unwrap(),
            _database: database,
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

    /// An account with a role, signed in.
    pub(crate) async fn signed_in(&self, role: Role, tenant: Option<TenantId>) -> Caller {
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
        self.sign_in(&email, PASSWORD).await
    }

    pub(crate) async fn admin(&self) -> Caller {
        self.signed_in(Role::Admin, None).await
    }

    pub(crate) async fn sign_in(&self, email: &str, password: &str) -> Caller {
        let request = LoginRequest {
            email: email.to_owned(),
            password: password.to_owned(),
        };
        let tokens = self.anybody().auth().login(request).await.unwrap();
        self.with_token(&tokens.into_inner().access_token)
    }

    /// A caller without credentials.
    pub(crate) fn anybody(&self) -> Caller {
        Caller {
            transport: InProcess::anonymous(self.router.clone()),
            token: None,
        }
    }

    pub(crate) fn with_token(&self, token: &str) -> Caller {
        Caller {
            token: Some(token.to_owned()),
            ..self.anybody()
        }
    }

    /// A service of the control plane, by its certificate.
    pub(crate) fn service(&self, name: &str) -> Caller {
        let identity = PeerIdentity::control_plane(name).unwrap();
        Caller {
            transport: InProcess::of(self.router.clone(), identity),
            token: None,
        }
    }
}

/// Somebody who calls.
#[derive(Clone)]
pub(crate) struct Caller {
    pub(crate) transport: InProcess,
    token: Option<String>,
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
        tenants: TenantServiceClient,
        users: UserServiceClient,
        groups: GroupServiceClient,
        inbounds: InboundServiceClient,
        nodes: NodeServiceClient,
        usage: UsageServiceClient,
        system: SystemServiceClient,
        audit: AuditServiceClient,
        signer: SignerServiceClient,
    }

    /// The message with the caller's token.
    pub(crate) fn ask<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(token) = &self.token {
            let bearer = format!("Bearer {token}").parse().unwrap();
            request.metadata_mut().insert("authorization", bearer);
        }
        request
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
