use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::post;
use tokio::sync::{Notify, oneshot};
use tonic::transport::Endpoint;
use tonic_health::pb::HealthCheckRequest;
use vpnpanel_runtime::settings::ListenAddr;
use vpnpanel_runtime::supervisor::RunError;
use vpnpanel_runtime::{Grpc, Service, Supervisor};

use crate::wire::get;

const METHOD: &str = "/vpnpanel.auth.v1.AuthService/GetMe";

fn supervisor(deadline: Duration) -> Supervisor {
    Supervisor::new(deadline, Duration::ZERO)
}

#[tokio::test]
async fn a_service_that_stops_is_not_ready_while_it_finishes() {
    let (stopping, finish) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let mut service = Service::new("probe");
    service.admin(ListenAddr::any_loopback());
    service.task("work", {
        let (stopping, finish) = (stopping.clone(), finish.clone());
        move |stop| async move {
            stop.cancelled().await;
            stopping.notify_one();
            finish.notified().await;
            Ok::<_, String>(())
        }
    });
    let mut supervisor = supervisor(Duration::from_secs(20));
    let admin = supervisor
        .start(service)
        .await
        .unwrap()
        .of("admin")
        .unwrap();
    assert_eq!(get(admin, "/health").await.0, 200);
    let (stop, asked) = oneshot::channel::<()>();
    let run = tokio::spawn(supervisor.run(async {
        asked.await.unwrap();
    }));
    stop.send(()).unwrap();
    stopping.notified().await;
    let (code, body) = get(admin, "/health").await;
    assert_eq!(code, 503);
    assert!(body.contains("the process is stopping"), "{body}");
    assert_eq!(get(admin, "/health/live").await.0, 200);
    finish.notify_one();
    run.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_task_that_fails_panics_or_leaves_ends_the_process() {
    let cases: [(&str, fn() -> Result<(), String>); 3] = [
        ("disk full", || Err("disk full".to_owned())),
        ("panicked", || panic!("planted")),
        ("ended before it was asked to", || Ok(())),
    ];
    for (expected, end) in cases {
        let mut service = Service::new("probe");
        service.task("work", move |_stop| async move { end() });
        let mut supervisor = supervisor(Duration::from_secs(5));
        supervisor.start(service).await.unwrap();
        match supervisor.run(std::future::pending()).await {
            Err(RunError::Task {
                service: "probe",
                task: "work",
                reason,
            }) => {
                assert_eq!(reason, expected);
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_finite_task_may_leave() {
    let mut service = Service::new("probe");
    let (left, leaving) = oneshot::channel();
    service.finite_task("once", move |_stop| async move {
        left.send(()).map_err(|()| "nobody waits")
    });
    let mut supervisor = supervisor(Duration::from_secs(5));
    supervisor.start(service).await.unwrap();
    supervisor
        .run(async { leaving.await.unwrap() })
        .await
        .unwrap();
}

/// A service whose method waits to be released, and tells when it was entered.
fn slow(entered: &Arc<Notify>, release: &Arc<Notify>) -> Service {
    let (entered, release) = (entered.clone(), release.clone());
    let handler = post(move || async move {
        entered.notify_one();
        release.notified().await;
        tonic::Status::not_found("late but there").into_http::<axum::body::Body>()
    });
    let mut service = Service::new("probe");
    let router = Router::new().route(METHOD, handler);
    service.grpc("api", Grpc::new(router).listen(ListenAddr::any_loopback()));
    service
}

async fn call(address: std::net::SocketAddr) -> tonic::Status {
    let channel = Endpoint::from_shared(format!("http://{address}"))
        .unwrap()
        .connect_lazy();
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.unwrap();
    let codec = tonic_prost::ProstCodec::<HealthCheckRequest, HealthCheckRequest>::default();
    let path = http::uri::PathAndQuery::from_static(METHOD);
    let request = tonic::Request::new(HealthCheckRequest::default());
    client.unary(request, path, codec).await.unwrap_err()
}

#[tokio::test]
async fn a_call_under_way_is_answered_before_the_end() {
    let (entered, release) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let service = slow(&entered, &release);
    let draining = service.draining();
    let mut supervisor = supervisor(Duration::from_secs(20));
    let address = supervisor.start(service).await.unwrap().of("api").unwrap();
    let answer = tokio::spawn(call(address));
    entered.notified().await;
    let stopped = tokio::spawn(supervisor.stop());
    draining.cancelled().await;
    release.notify_one();
    assert_eq!(answer.await.unwrap().message(), "late but there");
    stopped.await.unwrap().unwrap();
}

#[tokio::test]
async fn what_does_not_end_by_the_deadline_is_cut() {
    let (entered, release) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let mut supervisor = supervisor(Duration::from_millis(50));
    let address = supervisor
        .start(slow(&entered, &release))
        .await
        .unwrap()
        .of("api")
        .unwrap();
    let answer = tokio::spawn(call(address));
    entered.notified().await;
    assert!(matches!(
        supervisor.stop().await,
        Err(RunError::Deadline(_))
    ));
    assert_ne!(answer.await.unwrap().message(), "late but there");
}
