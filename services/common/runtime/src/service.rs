//! A service as its crate builds it: listeners, tasks, checks. Nothing runs until a
//! [`crate::Supervisor`] starts it.

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::pin::Pin;

use axum::Router;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;
use crate::readiness::Readiness;
use crate::rpc::{self, RpcLimits};
use crate::serve::{ConnectionLimits, Protocol};
use crate::settings::{CidrList, ListenAddr};
use crate::tls::{CertificateFiles, ServerTls};

/// A gRPC router and how it is served.
#[derive(Debug)]
pub struct Grpc {
    router: Router,
    listen: Option<ListenAddr>,
    tls: Option<ServerTls>,
    rpc: RpcLimits,
    connections: Option<ConnectionLimits>,
}

impl Grpc {
    /// Serves `routes`: `tonic::service::Routes`, or a router made from them with the service's own
    /// layers (authentication) around it.
    pub fn new(routes: impl Into<GrpcRoutes>) -> Self {
        Self {
            router: routes.into().0,
            listen: None,
            tls: None,
            rpc: RpcLimits::default(),
            connections: None,
        }
    }

    /// Listens on `address`; without one the router is only called in process.
    #[must_use]
    pub fn listen(mut self, address: ListenAddr) -> Self {
        self.listen = Some(address);
        self
    }

    /// Listens with TLS.
    #[must_use]
    pub fn tls(mut self, tls: ServerTls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Bounds calls.
    #[must_use]
    pub fn rpc_limits(mut self, limits: RpcLimits) -> Self {
        self.rpc = limits;
        self
    }

    /// Bounds connections otherwise than the process's settings say.
    #[must_use]
    pub fn connection_limits(mut self, limits: ConnectionLimits) -> Self {
        self.connections = Some(limits);
        self
    }

    /// Adds open reflection, for development.
    ///
    /// # Errors
    /// When the contract's descriptors do not decode.
    pub fn reflection(mut self) -> Result<Self, crate::reflection::ReflectionError> {
        self.router = crate::reflection::mount(self.router, vpnpanel_api::FILE_DESCRIPTOR_SET)?;
        Ok(self)
    }
}

/// A router whose every route is gRPC.
#[derive(Debug)]
pub struct GrpcRoutes(Router);

impl From<tonic::service::Routes> for GrpcRoutes {
    fn from(routes: tonic::service::Routes) -> Self {
        Self(routes.into_axum_router())
    }
}

impl From<Router> for GrpcRoutes {
    fn from(router: Router) -> Self {
        Self(router)
    }
}

/// An HTTP router and how it is served. Its layers are its own: the gateway's are not gRPC's.
#[derive(Debug)]
pub struct Http {
    pub(crate) router: Router,
    pub(crate) listen: ListenAddr,
    pub(crate) tls: Option<ServerTls>,
    pub(crate) connections: Option<ConnectionLimits>,
    pub(crate) proxies: CidrList,
}

impl Http {
    /// Serves `router` on `listen`.
    pub fn new(router: Router, listen: ListenAddr) -> Self {
        Self {
            router,
            listen,
            tls: None,
            connections: None,
            proxies: CidrList::default(),
        }
    }

    /// Listens with TLS.
    #[must_use]
    pub fn tls(mut self, tls: ServerTls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Bounds connections otherwise than the process's settings say.
    #[must_use]
    pub fn connection_limits(mut self, limits: ConnectionLimits) -> Self {
        self.connections = Some(limits);
        self
    }

    /// Does not count the connections of proxies in `networks` by their address.
    #[must_use]
    pub fn proxies(mut self, networks: CidrList) -> Self {
        self.proxies = networks;
        self
    }
}

pub(crate) struct Server {
    pub(crate) name: &'static str,
    pub(crate) router: Router,
    pub(crate) listen: ListenAddr,
    pub(crate) protocol: Protocol,
    pub(crate) tls: Option<ServerTls>,
    pub(crate) bounds: Bounds,
    pub(crate) proxies: CidrList,
}

/// What bounds the connections of a listener. Each counts its own.
pub(crate) enum Bounds {
    /// What the process's settings say.
    Settings,
    /// The same, made for other services.
    Services,
    Own(Box<ConnectionLimits>),
}

impl Bounds {
    fn or_settings(own: Option<ConnectionLimits>) -> Self {
        own.map_or(Self::Settings, |own| Self::Own(Box::new(own)))
    }

    pub(crate) fn limits(self, settings: &ConnectionLimits) -> ConnectionLimits {
        match self {
            Self::Settings => settings.clone(),
            Self::Services => settings.of_services(),
            Self::Own(own) => *own,
        }
    }
}

type TaskFuture = Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;

pub(crate) struct Task {
    pub(crate) name: &'static str,
    pub(crate) run: Box<dyn FnOnce(CancellationToken) -> TaskFuture + Send>,
    /// It may end by itself.
    pub(crate) finite: bool,
}

/// A service, ready to be started.
pub struct Service {
    pub(crate) name: &'static str,
    pub(crate) metrics: Metrics,
    pub(crate) readiness: Readiness,
    pub(crate) draining: CancellationToken,
    pub(crate) health: tonic_health::server::HealthReporter,
    pub(crate) admin: Option<ListenAddr>,
    routers: Vec<(&'static str, Router)>,
    pub(crate) servers: Vec<Server>,
    pub(crate) tasks: Vec<Task>,
}

impl Service {
    /// A service without anything; `name` is the `service` of its logs and metrics.
    pub fn new(name: &'static str) -> Self {
        Self {
            name,
            metrics: Metrics::new(name),
            readiness: Readiness::default(),
            draining: CancellationToken::new(),
            health: tonic_health::server::HealthReporter::new(),
            admin: None,
            routers: Vec::new(),
            servers: Vec::new(),
            tasks: Vec::new(),
        }
    }

    /// The service's name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The service's metrics, to register further ones.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Cancelled when the service begins to stop. Long streams watch it, tell the other end to go
    /// elsewhere, and end; a stream that does not is cut at the deadline.
    pub fn draining(&self) -> CancellationToken {
        self.draining.clone()
    }

    /// Answers `/health`, `/health/live` and `/metrics` on `address`.
    pub fn admin(&mut self, address: ListenAddr) -> &mut Self {
        self.admin = Some(address);
        self
    }

    /// Adds a readiness check; its error is shown on the admin port.
    pub fn check<F, E>(
        &mut self,
        name: &'static str,
        check: impl Fn() -> F + Send + Sync + 'static,
    ) -> &mut Self
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: fmt::Display,
    {
        self.readiness.check(name, check);
        self
    }

    /// Adds a task that runs as long as the service does: it ends soon after its token is
    /// cancelled, which happens when all listeners are done. Its failure, or its end before that,
    /// ends the process.
    pub fn task<F, E>(
        &mut self,
        name: &'static str,
        run: impl FnOnce(CancellationToken) -> F + Send + 'static,
    ) -> &mut Self
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: fmt::Display,
    {
        self.push(name, run, false)
    }

    /// Adds a task that may end by itself; its failure ends the process all the same.
    pub fn finite_task<F, E>(
        &mut self,
        name: &'static str,
        run: impl FnOnce(CancellationToken) -> F + Send + 'static,
    ) -> &mut Self
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: fmt::Display,
    {
        self.push(name, run, true)
    }

    /// Keeps the certificate of the listener `listener` as `files` have it.
    pub fn certificate_files(
        &mut self,
        listener: &'static str,
        files: CertificateFiles,
        tls: ServerTls,
    ) -> &mut Self {
        let metrics = self.metrics.clone();
        self.task("certificate-files", move |stop| async move {
            files.watch(listener, tls, metrics, stop).await;
            Ok::<(), Infallible>(())
        })
    }

    /// Adds a gRPC router, with all layers and grpc.health.v1 around it.
    pub fn grpc(&mut self, name: &'static str, grpc: Grpc) -> &mut Self {
        let health = tonic_health::pb::health_server::HealthServer::new(
            tonic_health::server::HealthService::from_health_reporter(self.health.clone()),
        );
        let router = grpc
            .router
            .route_service("/grpc.health.v1.Health/{*rest}", health);
        let router = rpc::assemble(router, self.name, &grpc.rpc, &self.metrics).with_state(());
        self.routers.push((name, router.clone()));
        if let Some(listen) = grpc.listen {
            self.servers.push(Server {
                name,
                router,
                listen,
                protocol: Protocol::Grpc,
                tls: grpc.tls,
                bounds: Bounds::or_settings(grpc.connections),
                proxies: grpc.rpc.trusted_proxies.networks,
            });
        }
        self
    }

    /// Serves the gRPC router `router` on one more address with TLS: mutual for other services,
    /// beside a plain one for people, for instance. Its connections have bounds of their own, made for
    /// services. False when there is no such router.
    pub fn listen_also(
        &mut self,
        name: &'static str,
        router: &str,
        address: ListenAddr,
        tls: ServerTls,
    ) -> bool {
        let Some(router) = self.router(router) else {
            return false;
        };
        self.servers.push(Server {
            name,
            router,
            listen: address,
            protocol: Protocol::Grpc,
            tls: Some(tls),
            bounds: Bounds::Services,
            proxies: CidrList::default(),
        });
        true
    }

    /// The gRPC router `name`, assembled: calling it in process is the same as calling it over its
    /// listener, layers included.
    pub fn router(&self, name: &str) -> Option<Router> {
        self.routers
            .iter()
            .find(|(added, _)| *added == name)
            .map(|(_, router)| router.clone())
    }

    /// Adds an HTTP listener.
    pub fn http(&mut self, name: &'static str, http: Http) -> &mut Self {
        self.servers.push(Server {
            name,
            router: http.router,
            listen: http.listen,
            protocol: Protocol::Http,
            tls: http.tls,
            bounds: Bounds::or_settings(http.connections),
            proxies: http.proxies,
        });
        self
    }

    fn push<F, E>(
        &mut self,
        name: &'static str,
        run: impl FnOnce(CancellationToken) -> F + Send + 'static,
        finite: bool,
    ) -> &mut Self
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: fmt::Display,
    {
        let run = Box::new(move |stop| -> TaskFuture {
            let task = run(stop);
            Box::pin(async move { task.await.map_err(|error| error.to_string()) })
        });
        self.tasks.push(Task { name, run, finite });
        self
    }
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}
