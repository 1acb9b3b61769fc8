//! The management API: tenants, users, groups, inbounds, nodes, usage, sign-in, and the signer of
//! node certificates.

mod access;
mod access_settings;
mod accounts;
mod api_tokens;
mod audit;
mod authority;
mod bootstrap;
mod caller;
mod certificate_log;
mod context;
mod dashboards;
mod direct;
mod error;
mod handlers;
mod held_back;
mod inbound_settings;
mod one_time;
mod operations;
mod policy;
mod presentation;
mod rates;
mod reader;
mod seal;
mod second_factor;
mod services;
mod settings;
mod signing_keys;
mod subscription;
mod wire;
mod wireguard;
mod xray;

use std::sync::Arc;

use tonic::service::Routes;
use vpnpanel_api::{
    FILE_DESCRIPTOR_SET, Guarded,
    access::v1::{
        endpoint_template_service_server::EndpointTemplateServiceServer,
        group_service_server::GroupServiceServer, inbound_service_server::InboundServiceServer,
    },
    account::v1::{
        account_service_server::AccountServiceServer, role_service_server::RoleServiceServer,
    },
    audit::v1::audit_service_server::AuditServiceServer,
    auth::v1::{
        auth_service_server::AuthServiceServer, signing_key_service_server::SigningKeyServiceServer,
    },
    node::v1::node_service_server::NodeServiceServer,
    operation::v1::operation_service_server::OperationServiceServer,
    pki::v1::signer_service_server::SignerServiceServer,
    plan::v1::plan_service_server::PlanServiceServer,
    subscription::v1::subscription_service_server::SubscriptionServiceServer,
    system::v1::system_service_server::SystemServiceServer,
    tenant::v1::tenant_service_server::TenantServiceServer,
    usage::v1::usage_service_server::UsageServiceServer,
    user::v1::user_service_server::UserServiceServer,
};
use vpnpanel_auth::{AuthGuard, AuthLayer, PasswordHasher, PasswordSettings, PasswordSignIn};
use vpnpanel_runtime::{
    Grpc, Service, reflection,
    rpc::RpcLimits,
    tls::{CertificateFiles, ClientTls, ServerTls},
};
use vpnpanel_store::Store;

pub use access::Access;
pub use access_settings::AccessArgs;
pub use accounts::StoredAccounts;
pub use authority::Authority;
pub use bootstrap::FirstAdministrator;
pub use certificate_log::{CertificateRecords, Reconciled};
pub use error::Error;
pub use operations::Operations;
pub use seal::Vault;
pub use settings::{
    BootstrapSettings, ControlApiSettings, PasswordArgs, SubscriptionSettings, TokenArgs,
};
pub use subscription::SubscriptionFetches;

use crate::{
    context::Context, direct::Direct, held_back::HeldBack, services::Api, subscription::Links,
};

/// What the service stands on.
#[derive(Debug)]
pub struct Parts {
    /// The database, migrated.
    pub store: Store,
    /// Seals secrets in it.
    pub vault: Vault,
    /// Signs nodes.
    pub authority: Authority,
    /// What was issued and revoked, apart from the database.
    pub certificates: CertificateRecords,
    /// Decides who may call what.
    pub access: Access,
    /// What this service shows to agents that it calls; without it everything goes over their links.
    pub node_tls: Option<ClientTls>,
    /// TLS of the listener, where the settings name no certificate files. Without client
    /// certificates nobody can show the one that the signer asks for, other than callers in the
    /// same process.
    pub tls: Option<ServerTls>,
    /// Reflection needs no permission.
    pub development: bool,
}

/// The service (its gRPC router is `api`), and what its first start made.
#[derive(Debug)]
pub struct ControlApi {
    /// Ready to be started.
    pub service: Service,
    /// Set at the very first start: to be told to whoever started the process.
    pub first_administrator: Option<FirstAdministrator>,
    /// What the service works on beside its calls; it does so by itself.
    pub operations: Operations,
    /// What the service writes down as long as it runs; to be written down by whoever serves its
    /// router alone.
    pub subscription_fetches: SubscriptionFetches,
}

/// Builds the management API, and makes what a first start needs.
///
/// # Errors
/// When the store fails, or settings make no sense.
pub async fn build(settings: ControlApiSettings, parts: Parts) -> Result<ControlApi, Error> {
    let Parts {
        store,
        vault,
        authority,
        certificates,
        access,
        node_tls,
        tls,
        development,
    } = parts;
    let node_certificate_life = settings.node_certificate_lifetime()?;
    let own = match CertificateFiles::of(settings.tls_certificate, settings.tls_key)? {
        Some(files) => Some((ServerTls::server_only(files.read()?)?, files)),
        None => None,
    };
    // Before anybody is served: who enrolled since the backup that the database is comes back, and
    // who was revoked does not.
    let direct = Direct::new(node_tls, authority.signer.trust_domain().clone());
    let reconciled = certificates.reconcile(&store, &authority).await?;
    // Devices of before Xray have nothing to show there.
    while store.seed_devices(&|id| Ok(vault.new_seed(id)?)).await? {}
    let fetches = SubscriptionFetches::new(store.clone());
    let hasher = PasswordHasher::new(PasswordSettings::from(&settings.passwords))?;
    let accounts = Arc::new(StoredAccounts::new(store.clone()));
    let context = Context {
        store: store.clone(),
        vault,
        authority,
        certificates,
        direct,
        password_sign_in: PasswordSignIn::new(accounts, hasher.clone()),
        hasher: hasher.clone(),
        tokens: Arc::clone(&access.tokens),
        standings: access.standings.clone(),
        limits: access.limits.clone(),
        held_back: HeldBack::default(),
        policy: access.policy.clone(),
        access: access.clone(),
        api_token_max_life: settings.api_token_max_lifetime.0,
        node_certificate_life,
        operations: tokio::sync::Notify::new(),
        links: Links::new(&settings.subscriptions),
        fetches: fetches.clone(),
        dashboards: dashboards::Dashboards::new(store.clone()),
        rates: rates::RateWatch::new(store.clone()),
        enrollment_url: settings
            .enrollment_url
            .to_string()
            .trim_end_matches('/')
            .to_owned(),
    };
    let guard = access.guard();
    let context = Arc::new(context);
    // Users of before subscriptions have no link.
    context.link_subscriptions().await?;
    let operations = Operations::new(Arc::clone(&context));
    let watched = Arc::clone(&context);
    let router = routes(Api(context), &guard).into_axum_router();
    let router = reflection::mount(router, FILE_DESCRIPTOR_SET)?;
    let mut layer = AuthLayer::new(Arc::clone(guard.authenticator()));
    if !development {
        layer = layer.gate(reflection::PATH_PREFIX, "system.reflect");
    }
    let mut grpc = Grpc::new(router.layer(layer))
        .listen(settings.listen)
        .rpc_limits(RpcLimits {
            trusted_proxies: settings.trusted_proxies,
            ..RpcLimits::default()
        });
    let mut service = Service::new("control-api");
    if let Some((tls, files)) = own {
        grpc = grpc.tls(tls.clone());
        service.certificate_files("api", files, tls);
    } else if let Some(tls) = tls {
        grpc = grpc.tls(tls);
    }
    service.admin(settings.admin_listen);
    let work = operations.clone();
    service.task("operations", |stop| async move {
        work.run(stop).await;
        Ok::<(), std::convert::Infallible>(())
    });
    service.task("rates", |stop| async move {
        watched.rates.keep_looking(stop).await;
        Ok::<(), std::convert::Infallible>(())
    });
    reconciled.register(service.metrics());
    service.check("database", {
        let store = store.clone();
        move || {
            let store = store.clone();
            async move { store.ping().await }
        }
    });
    service.grpc("api", grpc);
    service.task("subscription-fetches", {
        let fetches = fetches.clone();
        move |stop| async move {
            fetches.keep_writing(stop).await;
            Ok::<(), Error>(())
        }
    });
    // The last that can fail: whoever called tells the password at once.
    let first_administrator = bootstrap::first_start(&store, &hasher, &settings.bootstrap).await?;
    // The roles may have been seeded just now.
    access.policy.forget().await;
    Ok(ControlApi {
        service,
        first_administrator,
        operations,
        subscription_fetches: fetches,
    })
}

/// Every service of the management API behind the guard.
fn routes(api: Api, guard: &AuthGuard) -> Routes {
    let guarded = || Guarded::new(api.clone(), guard.clone());
    Routes::new(AuthServiceServer::new(guarded()))
        .add_service(SigningKeyServiceServer::new(guarded()))
        .add_service(TenantServiceServer::new(guarded()))
        .add_service(AccountServiceServer::new(guarded()))
        .add_service(RoleServiceServer::new(guarded()))
        .add_service(UserServiceServer::new(guarded()))
        .add_service(PlanServiceServer::new(guarded()))
        .add_service(OperationServiceServer::new(guarded()))
        .add_service(SubscriptionServiceServer::new(guarded()))
        .add_service(GroupServiceServer::new(guarded()))
        .add_service(InboundServiceServer::new(guarded()))
        .add_service(EndpointTemplateServiceServer::new(guarded()))
        .add_service(NodeServiceServer::new(guarded()))
        .add_service(UsageServiceServer::new(guarded()))
        .add_service(SystemServiceServer::new(guarded()))
        .add_service(AuditServiceServer::new(guarded()))
        .add_service(SignerServiceServer::new(guarded()))
}
