//! What an attacker sends: requests that mean one thing to one reader and another to the next, and
//! requests that cost more than they should.

use http::Method;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use vpnpanel_gateway::Limits;

use crate::support::Gateway;

/// The status of the answer to a request as it is written.
async fn raw(gateway: &Gateway, head: &str) -> u16 {
    let mut stream = TcpStream::connect(gateway.address).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = vec![0; 4096];
    let read = stream.read(&mut answer).await.unwrap();
    let answer = String::from_utf8_lossy(&answer[..read]).into_owned();
    answer.split(' ').nth(1).unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_name_given_twice_is_refused_at_any_depth() {
    let gateway = Gateway::start().await;
    let headers = [("content-type", "application/json")];
    for body in [
        r#"{"text":"a","text":"b"}"#,
        r#"{"text":"a","te\u0078t":"b"}"#,
        r#"{"nested":{"tags":[],"tags":[]}}"#,
        r#"{"labels":{"a":"1","a":"2"}}"#,
        r#"{"object":{"a":[{"b":1,"b":2}]}}"#,
    ] {
        let answer = gateway.send(Method::POST, "/v1/echo", &headers, body).await;
        let refused = (answer.status.as_u16(), answer.reason());
        assert_eq!(refused, (400, "MALFORMED_JSON".to_owned()), "{body}");
    }
}

#[tokio::test]
async fn numbers_beyond_all_bounds_and_deep_documents_are_refused() {
    let gateway = Gateway::start().await;
    let headers = [("content-type", "application/json")];
    let deep = format!(
        r#"{{"object":{{"a":{}{}}}}}"#,
        "[".repeat(100_000),
        "]".repeat(100_000)
    );
    for body in [
        r#"{"ratio":1e400}"#,
        r#"{"precise":-1e400}"#,
        r#"{"big":1e300}"#,
        &deep,
    ] {
        let body = body.to_owned();
        let answer = gateway.send(Method::POST, "/v1/echo", &headers, body).await;
        assert_eq!(answer.status, 400);
    }
}

#[tokio::test]
async fn bodies_that_never_come_leave_room_for_other_addresses() {
    let trusted_proxies = vpnpanel_runtime::rpc::TrustedProxies {
        networks: "127.0.0.1".parse().unwrap(),
        ..Default::default()
    };
    let gateway = Gateway::with(
        Limits {
            trusted_proxies,
            ..Limits::default()
        },
        &[],
    )
    .await;
    let mut held = Vec::new();
    for _ in 0..Limits::default().max_waiting_bodies {
        let mut stream = TcpStream::connect(gateway.address).await.unwrap();
        let head = "POST /v1/echo HTTP/1.1\r\nhost: x\r\nx-forwarded-for: 192.0.2.1\r\n\
                    expect: 100-continue\r\ncontent-length: 10\r\n\r\n";
        stream.write_all(head.as_bytes()).await.unwrap();
        // Asked for its body: it is waited for.
        let mut asked = [0; 25];
        stream.read_exact(&mut asked).await.unwrap();
        held.push(stream);
    }
    let body = json!({"text": "x"}).to_string();
    let from = |address| [("x-forwarded-for", address)];
    let send = async |address, body: &str| {
        let body = body.to_owned();
        gateway
            .send(Method::POST, "/v1/echo", &from(address), body)
            .await
    };
    let answer = send("192.0.2.1", &body).await;
    assert_eq!(
        (answer.status.as_u16(), answer.reason().as_str()),
        (503, "OVERLOADED")
    );
    assert_eq!(send("192.0.2.2", &body).await.status, 200);
    let bodiless = gateway
        .send(Method::GET, "/v1/echo", &from("192.0.2.1"), "")
        .await;
    assert_eq!(bodiless.status, 200);
}

#[tokio::test]
async fn odd_methods_and_targets_reach_no_method() {
    let gateway = Gateway::start().await;
    for (line, status) in [
        ("TRACE /v1/echo", 405),
        ("CONNECT evil.example.com:443", 404),
        ("OPTIONS *", 404),
        ("BREW /v1/echo", 405),
        ("GET http://evil.example.com/v1/echo", 200),
        ("HEAD /v1/echo", 200),
        ("GET //v1/echo", 404),
        ("GET /v1/../v1/echo", 404),
        ("GET /v1/%2e%2e/v1/echo", 404),
        ("GET /v1%2Fecho", 404),
        ("GET /v1/%2565cho", 404),
        ("GET /v1/%C0%AFecho", 400),
        ("GET /v1/%zz", 400),
        ("GET /v1/parents/a/children/b%3Aecho", 404),
    ] {
        let head = format!("{line} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        assert_eq!(raw(&gateway, &head).await, status, "{line}");
    }
}

#[tokio::test]
async fn no_header_overrides_the_method_and_null_is_no_origin() {
    let gateway = Gateway::with(Limits::default(), &["https://panel.example.com"]).await;
    for name in [
        "x-http-method-override",
        "x-http-method",
        "x-method-override",
    ] {
        let answer = gateway
            .send(Method::PUT, "/v1/echo", &[(name, "GET")], "")
            .await;
        assert_eq!(answer.status, 405, "{name}");
    }
    let answer = gateway
        .send(Method::GET, "/v1/echo", &[("origin", "null")], "")
        .await;
    assert!(!answer.headers.contains_key("access-control-allow-origin"));
    assert!(Gateway::app(&["null"]).into_router().is_err());
}
