//! Request bodies of gRPC: too long, too slow, too many.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::routing::post;
use futures::StreamExt as _;
use tokio::time::timeout;
use tonic::Code;
use vpnpanel_runtime::rpc::{BodyBudget, RpcLimits};
use vpnpanel_runtime::serve::ConnectionInfo;
use vpnpanel_runtime::{Grpc, Service};

use crate::wire::{PATIENCE, status};

const METHOD: &str = "/vpnpanel.auth.v1.AuthService/GetMe";

#[tokio::test]
async fn a_request_body_that_dawdles_ends_at_the_deadline_of_its_call() {
    let limits = RpcLimits {
        deadline: Duration::from_millis(20),
        ..RpcLimits::default()
    };
    let read = post(|request: Request| async move {
        let read = to_bytes(request.into_body(), usize::MAX).await;
        tonic::Status::ok(format!("{:?}", read.is_ok())).into_http::<Body>()
    });
    let mut service = Service::new("probe");
    let router = Router::new().route(METHOD, read);
    service.grpc("api", Grpc::new(router).rpc_limits(limits));
    let router = service.router("api").unwrap();
    let first = futures::stream::iter([Ok::<_, std::io::Error>("a beginning")]);
    let body = first.chain(futures::stream::pending());
    let request = Request::post(METHOD).body(Body::from_stream(body));
    let answer = tower::ServiceExt::oneshot(router, request.unwrap());
    let answer = timeout(PATIENCE, answer).await.expect("an answer");
    let answered = status(answer.unwrap()).await;
    assert_eq!(answered.code(), Code::DeadlineExceeded);
}

#[tokio::test]
async fn a_request_body_beyond_its_bound_is_an_error_of_the_call() {
    let limits = RpcLimits {
        bodies: BodyBudget::new(1000, 0),
        ..RpcLimits::default()
    };
    let read = post(|request: Request| async move {
        match to_bytes(request.into_body(), usize::MAX).await {
            Ok(_) => tonic::Status::not_found("read"),
            Err(error) => tonic::Status::from_error(error.into()),
        }
        .into_http::<Body>()
    });
    let mut service = Service::new("probe");
    let router = Router::new().route(METHOD, read);
    service.grpc("api", Grpc::new(router).rpc_limits(limits));
    let router = service.router("api").unwrap();
    for (bytes, expected) in [(1000, "read"), (1001, "the body is larger than 1000 bytes")] {
        let request = Request::post(METHOD).body(Body::from(vec![0; bytes]));
        let answer = tower::ServiceExt::oneshot(router.clone(), request.unwrap());
        let answered = status(answer.await.unwrap()).await;
        assert_eq!(answered.message(), expected);
    }
}

#[tokio::test]
async fn bodies_that_never_come_leave_room_for_other_addresses() {
    let limits = RpcLimits {
        max_waiting_bodies: 2,
        ..RpcLimits::default()
    };
    let read = post(|request: Request| async move {
        let _read = to_bytes(request.into_body(), usize::MAX).await;
        tonic::Status::ok("read").into_http::<Body>()
    });
    let mut service = Service::new("probe");
    let router = Router::new().route(METHOD, read);
    service.grpc("api", Grpc::new(router).rpc_limits(limits));
    let router = service.router("api").unwrap();
    let send = |address: &str, body: Body| {
        let remote: SocketAddr = format!("{address}:4711").parse().unwrap();
        let request = Request::post(METHOD).extension(ConnectionInfo { remote });
        tower::ServiceExt::oneshot(router.clone(), request.body(body).unwrap())
    };
    let never = || {
        let nothing = futures::stream::pending::<Result<&str, std::io::Error>>();
        Body::from_stream(nothing)
    };
    let mut held: Vec<_> = (0..2)
        .map(|_| Box::pin(send("192.0.2.1", never())))
        .collect();
    for waits in &mut held {
        assert!(futures::poll!(waits).is_pending());
    }
    let refused = status(send("192.0.2.1", "a body".into()).await.unwrap()).await;
    assert_eq!(refused.code(), Code::Unavailable, "{refused:?}");
    let read = async |address, body| status(send(address, body).await.unwrap()).await;
    assert_eq!(read("192.0.2.2", "a body".into()).await.message(), "read");
    // One without a body is waited for by nobody.
    assert_eq!(read("192.0.2.1", Body::empty()).await.message(), "read");
    held.pop();
    assert_eq!(read("192.0.2.1", "a body".into()).await.message(), "read");
}
