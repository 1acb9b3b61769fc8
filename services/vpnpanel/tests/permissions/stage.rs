//! An installation in this process: every service of the control plane, and the gateway before it.

use std::sync::Arc;

use axum::Router;
use tempfile::TempDir;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::service::Routes;
use vpnpanel_auth::{PasswordHasher, PasswordSettings};
use vpnpanel_collector::Dependencies;
use vpnpanel_control_api::{
    Access, Authority, CertificateRecords, ControlApiSettings, Parts, Vault, build,
};
use vpnpanel_gateway::{Limits, RestMetrics, Transcoder, Upstream, Upstreams, app::App};
use vpnpanel_node_agent::control;
use vpnpanel_pki::{MasterKey, Sealer};
use vpnpanel_runtime::{
    PeerIdentity, TrustDomain,
    metrics::Metrics,
    rpc::InProcess,
    settings::{MapEnvironment, from_environment},
    tls::{ServerTls, TrustBundle},
};
use vpnpanel_scheduler::SigningKeys;
use vpnpanel_store::{Store, testing::TestStore};

use crate::fixture::PASSWORD;

/// Which database it runs on; SQLite unless it is "postgres".
pub(crate) const DATABASE_VARIABLE: &str = "VPNPANEL_TEST_DATABASE";

/// An installation; gone when dropped.
pub(crate) struct Stage {
    pub(crate) store: Store,
    pub(crate) sealer: Arc<Sealer>,
    /// Hash of [`PASSWORD`].
    pub(crate) hash: String,
    /// The gateway.
    pub(crate) rest: Router,
    api: Router,
    jobs: Router,
    link: Router,
    enrolment: Router,
    /// What a node serves.
    node: Router,
    _database: TestStore,
    _log: TempDir,
    _stop: DropGuard,
}

impl Stage {
    pub(crate) async fn set() -> Self {
        vpnpanel_runtime::install_crypto_provider();
        let database = match std::env::var(DATABASE_VARIABLE).as_deref() {
            Ok("postgres") => TestStore::postgres().await,
            _ => TestStore::sqlite().await,
        };
        let store = database.store.clone();
        let sealer = Arc::new(Sealer::new(&MasterKey::generate().unwrap()).unwrap());
        let vault = Vault::new(Arc::clone(&sealer));
        let environment = MapEnvironment::from_iter([
            ("VPNPANEL_ARGON2_MEMORY", "64KiB"),
            ("VPNPANEL_ARGON2_TIME_COST", "1"),
        ]);
        let settings: ControlApiSettings = from_environment(&environment).unwrap();
        let passwords = PasswordSettings::from(&settings.passwords);
        let hasher = PasswordHasher::new(passwords).unwrap();
        let authority = Authority::open(&store, &vault, &TrustDomain::default()).await;
        let authority = authority.unwrap();
        let access = Access::open(&settings.tokens, &store, &vault)
            .await
            .unwrap();
        let stop = CancellationToken::new();
        tokio::spawn(access.clone().follow(stop.clone()));

        let log = tempfile::tempdir().unwrap();
        let parts = Parts {
            store: store.clone(),
            vault: vault.clone(),
            authority: authority.clone(),
            certificates: CertificateRecords::open(log.path()).unwrap(),
            access: access.clone(),
            node_tls: None,
            tls: None,
            development: false,
        };
        let built = build(settings, parts).await.unwrap();
        let api = built.service.router("api").unwrap();
        let jobs = vpnpanel_scheduler::build(
            from_environment(&environment).unwrap(),
            store.clone(),
            access.guard(),
            SigningKeys {
                make: Arc::new(vault.clone()),
                overlap: access.key_overlap(),
            },
            false,
        );
        let jobs = jobs.await.unwrap().router("api").unwrap();
        let collector = PeerIdentity::control_plane("collector").unwrap();
        let trust = TrustBundle::new(authority.signer.trust_bundle()).unwrap();
        let made = authority
            .signer
            .issue_service("collector", &[], store.now_ms());
        let credentials = made.unwrap().credentials;
        let domain = TrustDomain::default();
        let collector = vpnpanel_collector::build(
            from_environment(&environment).unwrap(),
            Dependencies {
                store: store.clone(),
                sealer: Arc::clone(&sealer),
                guard: access.guard(),
                signer: InProcess::of(api.clone(), collector),
                link_tls: ServerTls::mutual(credentials.clone(), &trust, domain).unwrap(),
                reflection: Some(access.guard().layer(false)),
                enrolment_tls: ServerTls::server_only(credentials).unwrap(),
            },
        );
        let collector = collector.await.unwrap();

        let (_, status) = tokio::sync::watch::channel(Default::default());
        let (asked, _) = tokio::sync::mpsc::channel(1);
        let upstream = |router: &Router| Upstream::new(InProcess::anonymous(router.clone()));
        let upstreams =
            Upstreams::new(upstream(&api)).with_package("vpnpanel.scheduler", upstream(&jobs));
        let pool = vpnpanel_api::pool();
        let transcoder =
            Transcoder::new(pool, &upstreams, Limits::default(), stop.clone()).unwrap();
        let app = App {
            transcoder,
            documents: Vec::new(),
            cors_origins: Vec::new(),
            hardening: vpnpanel_gateway::Hardening::default(),
            metrics: RestMetrics::register(&Metrics::new("gateway")),
        };
        Self {
            hash: hasher.hash(PASSWORD.into()).await.unwrap(),
            store,
            sealer,
            rest: app.into_router().unwrap(),
            api,
            jobs,
            link: collector.router("link").unwrap(),
            enrolment: collector.router("enrolment").unwrap(),
            node: Routes::new(control::server(status, asked)).into_axum_router(),
            _database: database,
            _log: log,
            _stop: stop.drop_guard(),
        }
    }

    /// The router that serves a service.
    pub(crate) fn router(&self, service: &str) -> Router {
        let router = match service {
            "vpnpanel.agent.v1.NodeControlService" => &self.node,
            "vpnpanel.agent.v1.NodeLinkService" => &self.link,
            "vpnpanel.agent.v1.EnrollmentService" => &self.enrolment,
            "vpnpanel.scheduler.v1.SchedulerService" => &self.jobs,
            _ => &self.api,
        };
        router.clone()
    }
}
