//! Clients that ask for much: bodies that never come, times without end.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use futures::future::select;
use http::{Method, Request};
use http_body::Frame;
use http_body_util::StreamBody;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use vpnpanel_gateway::Limits;

use crate::support::Gateway;

/// Long enough for a busy machine, short enough for a failing test.
const SOON: Duration = Duration::from_secs(20);

/// A request whose body is waited for, and what the gateway says to its head.
async fn begin(gateway: &Gateway) -> (TcpStream, String) {
    let mut stream = TcpStream::connect(gateway.address).await.unwrap();
    let head = "POST /v1/echo HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\
                expect: 100-continue\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut said = vec![0; 4096];
    let read = timeout(SOON, stream.read(&mut said)).await.unwrap();
    let said = String::from_utf8_lossy(&said[..read.unwrap()]).into_owned();
    (stream, said)
}

#[tokio::test]
async fn bodies_that_never_come_leave_room_for_calls() {
    let limits = Limits {
        max_calls: 1,
        max_waiting_bodies: 2,
        ..Limits::default()
    };
    let gateway = Gateway::with(limits, &[]).await;
    let mut held = Vec::new();
    for _ in 0..2 {
        let (stream, said) = begin(&gateway).await;
        assert!(said.starts_with("HTTP/1.1 100"), "{said}");
        held.push(stream);
    }
    // Whoever keeps bodies back is turned away; calls without one find their place.
    let (_, said) = begin(&gateway).await;
    assert!(said.starts_with("HTTP/1.1 503"), "{said}");
    assert_eq!(gateway.get("/v1/echo").await.status, 200);
    // A body that comes makes room for another.
    let mut first = held.swap_remove(0);
    first.write_all(b"{        }").await.unwrap();
    let mut said = vec![0; 4096];
    let read = timeout(SOON, first.read(&mut said)).await.unwrap().unwrap();
    assert!(said[..read].starts_with(b"HTTP/1.1 200"));
    let (_, said) = begin(&gateway).await;
    assert!(said.starts_with("HTTP/1.1 100"), "{said}");
}

#[tokio::test]
async fn an_absurd_timeout_is_refused_not_a_panic() {
    let gateway = Gateway::start().await;
    for path in ["/v1/watch?count=1", "/v1/echo"] {
        for (name, value) in [
            ("x-request-timeout", "1e12"),
            ("x-request-timeout", "1e19"),
            ("x-request-timeout", "86401"),
            ("grpc-timeout", "99999999H"),
        ] {
            let answer = gateway.send(Method::GET, path, &[(name, value)], "").await;
            assert_eq!(
                (answer.status.as_u16(), answer.reason().as_str()),
                (400, "MALFORMED_HEADER"),
                "{path} {name}: {value}"
            );
        }
        let longest = [("x-request-timeout", "86400")];
        let answer = gateway.send(Method::GET, path, &longest, "").await;
        assert_eq!(answer.status, 200, "{path}");
    }
}

#[tokio::test]
async fn a_connection_has_few_bodies_on_their_way() {
    let limits = Limits {
        max_waiting_bodies_per_connection: 1,
        ..Limits::default()
    };
    let gateway = Gateway::with(limits, &[]).await;
    let stream = TokioIo::new(TcpStream::connect(gateway.address).await.unwrap());
    let (mut client, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), stream)
            .await
            .unwrap();
    tokio::spawn(connection);
    let mut kept_back = || {
        let pieces = futures::stream::pending::<Result<Frame<Bytes>, Infallible>>();
        let request = Request::post("http://localhost/v1/echo").body(StreamBody::new(pieces));
        client.send_request(request.unwrap())
    };
    let (first, second) = (kept_back(), kept_back());
    let (answer, other) = timeout(SOON, select(Box::pin(first), Box::pin(second)))
        .await
        .expect("an answer")
        .factor_first();
    assert_eq!(answer.unwrap().status(), 503);
    // Its address may well have more.
    let (_, said) = begin(&gateway).await;
    assert!(said.starts_with("HTTP/1.1 100"), "{said}");
    drop(other);
}
