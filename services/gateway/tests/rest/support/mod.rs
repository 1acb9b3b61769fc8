//! A real tonic service over the odd contract, a gateway in front of it, and a plain HTTP client.
#![allow(dead_code, unreachable_pub)]

pub mod client;
pub mod service;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::OnceLock;

use axum::extract::{ConnectInfo, Request};
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use prost_reflect::DescriptorPool;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use vpnpanel_gateway::app::App;
use vpnpanel_gateway::{
    Hardening, Limits, RestMetrics, Transcoder, Upstream, UpstreamSettings, Upstreams,
};
use vpnpanel_runtime::metrics::Metrics;
use vpnpanel_runtime::serve::ConnectionInfo;
use vpnpanel_runtime::settings::{MapEnvironment, from_environment};

use service::OddService;

/// The contract of `tests/proto/odd.proto`.
pub fn pool() -> &'static DescriptorPool {
    static POOL: OnceLock<DescriptorPool> = OnceLock::new();
    POOL.get_or_init(|| {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let third_party = here.join("../../proto/third_party");
        let mut compiler = protox::Compiler::new([here.join("tests/proto"), third_party]).unwrap();
        compiler.include_source_info(true).include_imports(true);
        compiler.open_file("odd.proto").unwrap();
        DescriptorPool::decode(compiler.encode_file_descriptor_set().as_slice()).unwrap()
    })
}

/// A gateway under test, on a port of its own.
pub struct Gateway {
    pub address: SocketAddr,
    pub service: OddService,
    pub stop: CancellationToken,
    server: tokio::task::JoinHandle<()>,
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Gateway {
    /// With the service in process.
    pub async fn start() -> Self {
        Self::with(Limits::default(), &[]).await
    }

    pub async fn with(limits: Limits, origins: &[&str]) -> Self {
        let service = OddService::default();
        let upstream = Upstream::new(service.routes());
        Self::before(service, upstream, limits, origins).await
    }

    /// What a gateway is made of, not served.
    pub fn app(origins: &[&str]) -> App {
        let upstream = Upstream::new(OddService::default().routes());
        app(
            &Upstreams::new(upstream),
            Limits::default(),
            origins,
            CancellationToken::new(),
        )
    }

    /// With the service behind a socket.
    pub async fn over_http2() -> Self {
        let service = OddService::default();
        let upstream = Upstream::new(service.channel().await);
        Self::before(service, upstream, Limits::default(), &[]).await
    }

    /// In front of anything.
    pub async fn before(
        service: OddService,
        upstream: Upstream,
        limits: Limits,
        origins: &[&str],
    ) -> Self {
        Self::before_all(service, &Upstreams::new(upstream), limits, origins).await
    }

    /// With the service in another process, called as the settings say.
    pub async fn calling_out(limits: Limits) -> Self {
        let service = OddService::default();
        let endpoint = format!("http://{}", service.listen().await);
        let environment = MapEnvironment::from_iter([("VPNPANEL_CONTROL_API_ENDPOINT", endpoint)]);
        let settings = from_environment::<UpstreamSettings>(&environment).unwrap();
        let upstreams = vpnpanel_gateway::upstreams(&settings, None).unwrap();
        Self::before_all(service, &upstreams, limits, &[]).await
    }

    async fn before_all(
        service: OddService,
        upstreams: &Upstreams,
        limits: Limits,
        origins: &[&str],
    ) -> Self {
        let stop = CancellationToken::new();
        let app = app(upstreams, limits, origins, stop.clone());
        let router = app.into_router().unwrap().layer(from_fn(note_connection));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            axum::serve(
                listener,
                router.into_make_service_with_connect_info::<SocketAddr>(),
            )
            .await
            .unwrap()
        });
        Self {
            address,
            service,
            stop,
            server,
        }
    }
}

fn app(upstreams: &Upstreams, limits: Limits, origins: &[&str], stop: CancellationToken) -> App {
    App {
        transcoder: Transcoder::new(pool(), upstreams, limits, stop).unwrap(),
        documents: Vec::new(),
        cors_origins: origins.iter().map(|o| (*o).to_owned()).collect(),
        hardening: Hardening::default(),
        metrics: RestMetrics::register(&Metrics::new("gateway")),
    }
}

/// The runtime's listener puts the connection on each request; axum's does it by its own type.
async fn note_connection(
    ConnectInfo(remote): ConnectInfo<SocketAddr>,
    mut request: Request,
    next: Next,
) -> Response {
    request.extensions_mut().insert(ConnectionInfo { remote });
    next.run(request).await
}
