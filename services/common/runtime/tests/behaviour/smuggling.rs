//! Requests that a proxy in front may read otherwise than we do.

use axum::Router;
use axum::body::Bytes;
use axum::routing::post;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use vpnpanel_runtime::settings::ListenAddr;
use vpnpanel_runtime::{Http, Service, Supervisor};

use crate::wire::PATIENCE;

#[tokio::test]
async fn nothing_is_served_behind_a_request_whose_end_is_open_to_doubt() {
    let router = Router::new().route("/", post(|body: Bytes| async move { body }));
    let mut service = Service::new("probe");
    service.http("rest", Http::new(router, ListenAddr::any_loopback()));
    let mut supervisor = Supervisor::new(Duration::from_secs(5), Duration::ZERO);
    let address = supervisor.start(service).await.unwrap().of("rest").unwrap();
    let hidden = "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 6\r\n\r\nhidden";
    for (headers, status) in [
        ("content-length: 5\r\ntransfer-encoding: chunked", "200"),
        ("transfer-encoding: chunked\r\ncontent-length: 5", "200"),
        ("transfer-encoding: chunked", "200"),
        ("transfer-encoding: chunked, identity", "400"),
        ("transfer-encoding: xchunked", "400"),
        ("transfer-encoding : chunked", "400"),
        ("content-length: 0\r\ncontent-length: 5", "400"),
        ("content-length: +5", "400"),
        ("content-length: 0, 5", "400"),
        ("x: a\r\n content-length: 5", "400"),
        ("x: a\0b", "400"),
        ("x: a\rb: c", "400"),
    ] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("POST / HTTP/1.1\r\nhost: x\r\n{headers}\r\n\r\n0\r\n\r\n{hidden}");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answers = Vec::new();
        let read = timeout(PATIENCE, stream.read_to_end(&mut answers));
        // What was not read may reset the connection.
        let _ended = read.await.expect("hung up on");
        let answers = String::from_utf8_lossy(&answers).into_owned();
        assert!(
            answers.starts_with(&format!("HTTP/1.1 {status}")),
            "{headers:?}: {answers}"
        );
        assert_eq!(
            answers.matches("HTTP/1.1").count(),
            1,
            "{headers:?}: {answers}"
        );
        assert!(!answers.contains("hidden"), "{headers:?}: {answers}");
    }
    supervisor.stop().await.unwrap();
}
