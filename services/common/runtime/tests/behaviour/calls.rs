use std::io;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use axum::Router;
use axum::routing::post;
use tokio::sync::Notify;
use tonic::Code;
use tonic::codegen::http::HeaderMap;
use tonic_types::StatusExt as _;
use tracing_subscriber::layer::SubscriberExt as _;
use vpnpanel_runtime::logs::JsonLayer;
use vpnpanel_runtime::rpc::{InProcess, RpcLimits};
use vpnpanel_runtime::status::{ErrorCode, Failure};
use vpnpanel_runtime::{Grpc, PeerIdentity, Service};

use crate::wire::{call, status};

const HEALTH: &str = "/grpc.health.v1.Health/Check";

/// A service with one method, at a path of the contract, which answers as `handler` does.
fn service(handler: axum::routing::MethodRouter, limits: RpcLimits) -> (Service, Router) {
    let mut service = Service::new("probe");
    let router = Router::new().route("/vpnpanel.auth.v1.AuthService/GetMe", handler);
    service.grpc("api", Grpc::new(router).rpc_limits(limits));
    let router = service.router("api").unwrap();
    (service, router)
}

const METHOD: &str = "/vpnpanel.auth.v1.AuthService/GetMe";

fn not_found() -> axum::routing::MethodRouter {
    post(|| async {
        Failure::new(ErrorCode::NotFound, "USER_NOT_FOUND", "no such user")
            .into_status()
            .into_http::<axum::body::Body>()
    })
}

#[tokio::test]
async fn a_request_id_that_is_fit_is_returned() {
    let (_service, router) = service(not_found(), RpcLimits::default());
    let response = call(&router, METHOD, &[("x-request-id", "abc-123")]).await;
    assert_eq!(response.headers()["x-request-id"], "abc-123");
}

#[tokio::test]
async fn a_request_id_is_made_where_none_is_fit() {
    let (_service, router) = service(not_found(), RpcLimits::default());
    let long = "x".repeat(65);
    for unfit in ["", "two words", "a\tb", "\u{e9}", long.as_str()] {
        let response = call(&router, METHOD, &[("x-request-id", unfit)]).await;
        let id = response.headers()["x-request-id"].to_str().unwrap();
        assert!(uuid::Uuid::try_parse(id).is_ok(), "{unfit} {id}");
    }
    let two = call(
        &router,
        METHOD,
        &[("x-request-id", "a"), ("x-request-id", "b")],
    )
    .await;
    assert!(uuid::Uuid::try_parse(two.headers()["x-request-id"].to_str().unwrap()).is_ok());
}

#[tokio::test]
async fn a_caller_in_process_has_the_identity_it_was_built_with() {
    let who = post(|caller: Option<axum::Extension<PeerIdentity>>| async move {
        let words = caller.map_or("nobody".to_owned(), |caller| caller.to_string());
        tonic::Status::not_found(words).into_http::<axum::body::Body>()
    });
    let (_service, router) = service(who, RpcLimits::default());
    let ask = async |mut callee: InProcess| {
        let request = http::Request::post(METHOD)
            .body(tonic::body::Body::empty())
            .unwrap();
        status(tower::Service::call(&mut callee, request).await.unwrap()).await
    };
    let collector = PeerIdentity::control_plane("collector").unwrap();
    let known = ask(InProcess::of(router.clone(), collector)).await;
    assert_eq!(known.message(), "control-plane/collector");
    assert_eq!(ask(InProcess::anonymous(router)).await.message(), "nobody");
}

#[tokio::test]
async fn a_panic_is_an_internal_error_and_not_the_end() {
    async fn panicking() -> HeaderMap {
        panic!("planted")
    }
    let (_service, router) = service(post(panicking), RpcLimits::default());
    for _ in 0..2 {
        let status = status(call(&router, METHOD, &[]).await).await;
        assert_eq!(status.code(), Code::Internal);
        assert_eq!(status.get_details_error_info().unwrap().reason, "INTERNAL");
        assert!(!status.message().contains("planted"));
    }
}

#[tokio::test]
async fn the_shorter_of_both_deadlines_holds() {
    let limits = RpcLimits {
        deadline: Duration::from_millis(20),
        ..RpcLimits::default()
    };
    let (_service, router) = service(post(std::future::pending::<HeaderMap>), limits);
    for headers in [&[][..], &[("grpc-timeout", "1H")]] {
        let status = status(call(&router, METHOD, headers).await).await;
        assert_eq!(status.code(), Code::DeadlineExceeded);
    }
    let (_service, router) = service(
        post(std::future::pending::<HeaderMap>),
        RpcLimits::default(),
    );
    let status_of =
        async |timeout| status(call(&router, METHOD, &[("grpc-timeout", timeout)]).await).await;
    assert_eq!(status_of("10m").await.code(), Code::DeadlineExceeded);
    assert_eq!(status_of("soon").await.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_call_too_many_is_asked_to_come_again() {
    let (entered, release) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let handler = {
        let (entered, release) = (entered.clone(), release.clone());
        post(move || async move {
            entered.notify_one();
            release.notified().await;
            Failure::internal()
                .into_status()
                .into_http::<axum::body::Body>()
        })
    };
    let limits = RpcLimits {
        max_in_flight: 1,
        ..RpcLimits::default()
    };
    let (_service, router) = service(handler, limits);
    let first = tokio::spawn({
        let router = router.clone();
        async move { status(call(&router, METHOD, &[]).await).await }
    });
    entered.notified().await;
    let refused = status(call(&router, METHOD, &[]).await).await;
    assert_eq!(refused.code(), Code::Unavailable);
    assert!(
        refused
            .get_details_retry_info()
            .unwrap()
            .retry_delay
            .is_some()
    );
    release.notify_one();
    assert_eq!(first.await.unwrap().code(), Code::Internal);
}

#[tokio::test]
async fn calls_are_counted_by_method_and_code_and_strangers_share_one_label() {
    let (service, router) = service(not_found(), RpcLimits::default());
    call(&router, METHOD, &[]).await;
    for path in ["/no.such.Service/A", "/no.such.Service/B"] {
        let _unserved = call(&router, path, &[]).await;
    }
    let health = call(&router, HEALTH, &[]).await;
    let _unread = status(health).await;
    let text = service.metrics().encode();
    let counted = |method: &str, code: &str| {
        format!("rpc_server_handled_total{{method=\"{method}\",code=\"{code}\"}}")
    };
    let method = "vpnpanel.auth.v1.AuthService/GetMe";
    assert!(
        text.contains(&format!("{} 1", counted(method, "NOT_FOUND"))),
        "{text}"
    );
    assert!(
        text.contains("rpc_server_in_flight{method=\"other\"} 0"),
        "{text}"
    );
    assert!(text.contains("method=\"grpc.health.v1.Health\""), "{text}");
    assert!(!text.contains("no.such.Service"), "{text}");
}

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// One subscriber for all threads: scoped ones race with tests that have none about whether a
/// place in the code is of interest.
fn lines_of_all_tests() -> &'static Lines {
    static LINES: OnceLock<Lines> = OnceLock::new();
    LINES.get_or_init(|| {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::registry()
            .with(tracing_subscriber::filter::LevelFilter::INFO)
            .with(JsonLayer::new("vpnpanel", move || writer.clone()));
        tracing::subscriber::set_global_default(subscriber).unwrap();
        lines
    })
}

#[tokio::test]
async fn a_call_is_logged_once_with_its_request_id() {
    let lines = lines_of_all_tests();
    let (_service, router) = service(not_found(), RpcLimits::default());
    let id = uuid::Uuid::now_v7().to_string();
    call(&router, METHOD, &[("x-request-id", &id)]).await;
    let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    let found: Vec<&str> = text.lines().filter(|line| line.contains(&id)).collect();
    assert_eq!(found.len(), 1, "{found:?}");
    let line: serde_json::Value = serde_json::from_str(found[0]).unwrap();
    assert_eq!(line["event"], "rpc handled");
    assert_eq!(line["service"], "probe");
    assert_eq!(line["request_id"], id.as_str());
    assert_eq!(line["method"], "vpnpanel.auth.v1.AuthService/GetMe");
    assert_eq!(line["code"], "NOT_FOUND");
}
