//! Bounds: sizes, times, how much at once.

use std::time::Duration;

use http::Method;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use vpnpanel_gateway::Limits;
use vpnpanel_runtime::rpc::{BodyBudget, TrustedProxies};

use crate::support::Gateway;

#[tokio::test]
async fn a_body_over_the_limit_is_refused_declared_or_not() {
    let limits = Limits {
        bodies: BodyBudget::new(100, 0),
        ..Limits::default()
    };
    let gateway = Gateway::with(limits, &[]).await;
    let fits = json!({"text": "x".repeat(80)});
    assert_eq!(gateway.post("/v1/echo", &fits).await.status, 200);
    let answer = gateway
        .post("/v1/echo", &json!({"text": "x".repeat(200)}))
        .await;
    assert_eq!(
        (answer.status.as_u16(), answer.reason().as_str()),
        (413, "BODY_TOO_LARGE")
    );

    // In chunks, so that no length is declared.
    let mut stream = TcpStream::connect(gateway.address).await.unwrap();
    let chunk = format!("40\r\n{}\r\n", "x".repeat(64)).repeat(3);
    let head = "POST /v1/echo HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n";
    stream
        .write_all(format!("{head}{chunk}").as_bytes())
        .await
        .unwrap();
    assert!(response(&mut stream).await.starts_with("HTTP/1.1 413"));
}

#[tokio::test]
async fn a_body_that_dawdles_is_given_up() {
    let limits = Limits {
        body_timeout: Duration::from_millis(50),
        ..Limits::default()
    };
    let gateway = Gateway::with(limits, &[]).await;
    let mut stream = TcpStream::connect(gateway.address).await.unwrap();
    let head = "POST /v1/echo HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n{";
    stream.write_all(head.as_bytes()).await.unwrap();
    assert!(response(&mut stream).await.starts_with("HTTP/1.1 408"));
}

#[tokio::test]
async fn large_bodies_together_are_bounded_and_small_ones_get_through() {
    let limits = Limits {
        bodies: BodyBudget::new(1 << 20, 100 << 10),
        ..Limits::default()
    };
    let gateway = Gateway::with(limits, &[]).await;
    let large = json!({"text": "x".repeat(150 << 10)});
    let held = gateway.post("/v1/hang", &large);
    tokio::pin!(held);
    tokio::select! {
        _ = &mut held => panic!("answered"),
        () = gateway.service.begun.notified() => {}
    }
    let answer = gateway.post("/v1/echo", &large).await;
    assert_eq!(
        (answer.status.as_u16(), answer.reason().as_str()),
        (503, "OVERLOADED")
    );
    let small = json!({"text": "x"});
    assert_eq!(gateway.post("/v1/echo", &small).await.status, 200);
}

async fn response(stream: &mut TcpStream) -> String {
    let mut buffer = vec![0; 4096];
    let read = timeout(Duration::from_secs(20), stream.read(&mut buffer))
        .await
        .unwrap()
        .unwrap();
    String::from_utf8_lossy(&buffer[..read]).into_owned()
}

#[tokio::test]
async fn a_call_ends_at_its_deadline() {
    let limits = Limits {
        default_timeout: Duration::from_millis(20),
        ..Limits::default()
    };
    let gateway = Gateway::with(limits, &[]).await;
    let answer = gateway.post("/v1/hang", &json!({})).await;
    assert_eq!(
        (answer.status.as_u16(), answer.reason().as_str()),
        (504, "DEADLINE_EXCEEDED")
    );
    timeout(Duration::from_secs(20), gateway.service.dropped.notified())
        .await
        .unwrap();
}

#[tokio::test]
async fn a_client_may_ask_for_a_deadline_up_to_the_longest() {
    let limits = Limits {
        max_timeout: Duration::from_secs(30),
        ..Limits::default()
    };
    let gateway = Gateway::with(limits, &[]).await;
    for (name, value, passed) in [
        ("x-request-timeout", "2.5", "2500000u"),
        ("grpc-timeout", "250m", "250000u"),
        ("x-request-timeout", "10000s", "30000000u"),
    ] {
        let answer = gateway
            .send(Method::GET, "/v1/headers", &[(name, value)], "")
            .await;
        assert_eq!(
            answer.json()["labels"]["grpc-timeout"],
            passed,
            "{name}: {value}"
        );
    }
    let answer = gateway
        .send(Method::GET, "/v1/headers", &[("grpc-timeout", "soon")], "")
        .await;
    assert_eq!(
        (answer.status.as_u16(), answer.reason().as_str()),
        (400, "MALFORMED_HEADER")
    );
}

#[tokio::test]
async fn more_calls_than_allowed_are_turned_away_and_streams_are_counted_apart() {
    let limits = Limits {
        max_calls: 1,
        max_streams: 1,
        ..Limits::default()
    };
    let gateway = Gateway::with(limits, &[]).await;
    let stream = gateway
        .open(Method::GET, "/v1/watch?then=wait", &[], "")
        .await;
    assert_eq!(stream.status(), 200);
    gateway.service.begun.notified().await;
    let busy = gateway.get("/v1/watch?count=1").await;
    assert_eq!(
        (busy.status.as_u16(), busy.reason().as_str()),
        (503, "OVERLOADED")
    );
    assert_eq!(busy.headers["retry-after"], "1");

    {
        let body = json!({});
        let hanging = gateway.post("/v1/hang", &body);
        tokio::pin!(hanging);
        tokio::select! {
            _ = &mut hanging => panic!("answered"),
            () = gateway.service.begun.notified() => {}
        }
        assert_eq!(gateway.get("/v1/echo").await.status, 503);
    }
    gateway.service.dropped.notified().await;
    // The place is free again as soon as the connection is noticed to be gone.
    assert_eq!(gateway.get("/v1/echo").await.status, 200);
}

#[tokio::test]
async fn an_address_leaves_streams_to_others() {
    let limits = Limits {
        max_streams_per_address: 1,
        trusted_proxies: TrustedProxies {
            networks: "127.0.0.0/8".parse().unwrap(),
            ..TrustedProxies::default()
        },
        ..Limits::default()
    };
    let gateway = Gateway::with(limits, &[]).await;
    let stream = async |from| {
        let headers = [("x-forwarded-for", from)];
        let path = "/v1/watch?count=1&then=wait";
        gateway.open(Method::GET, path, &headers, "").await
    };
    let held = stream("2001:db8::1").await;
    assert_eq!(held.status(), 200);
    assert_eq!(stream("2001:db8::2").await.status(), 503);
    assert_eq!(stream("2001:db8:0:1::1").await.status(), 200);
    drop(held);
    let again = async {
        while stream("2001:db8::2").await.status() != 200 {
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(20), again)
        .await
        .expect("a place again");
}
