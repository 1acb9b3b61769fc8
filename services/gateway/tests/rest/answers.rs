//! What comes back from a call that went well.

use http::Method;
use serde_json::json;

use crate::support::Gateway;

#[tokio::test]
async fn the_answer_may_be_one_field_of_the_response() {
    let gateway = Gateway::start().await;
    let answer = gateway.get("/v1/names?texts=a&texts=b").await;
    assert_eq!(answer.json(), json!(["a", "b"]));
    assert_eq!(gateway.get("/v1/names").await.json(), json!([]));

    let body = json!({"displayName": "d", "dataLimitBytes": 5});
    let answer = gateway
        .json(Method::PATCH, "/v1/things/7:short", &body)
        .await;
    assert_eq!(answer.json()["id"], "7");
    assert_eq!(answer.json()["dataLimitBytes"], "5");
}

#[tokio::test]
async fn an_http_body_is_given_as_it_is() {
    let gateway = Gateway::start().await;
    let answer = gateway.get("/v1/files/a/b%2Fc").await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.headers["content-type"], "text/plain; charset=utf-8");
    assert_eq!(answer.body, "a/b%2Fc");
    assert_eq!(answer.headers["content-disposition"], "attachment");
    assert!(
        !answer.headers.contains_key("x-internal"),
        "only listed metadata comes back"
    );
}

#[tokio::test]
async fn what_the_client_has_is_not_given_once_more() {
    let gateway = Gateway::start().await;
    for (method, tag, status) in [
        (Method::GET, "\"of the file\"", 304),
        (Method::HEAD, "\"of the file\"", 304),
        (Method::GET, "\"of another\"", 200),
    ] {
        let headers = [("if-none-match", tag)];
        let answer = gateway.send(method, "/v1/files/a/b", &headers, "").await;
        assert_eq!(answer.status, status, "{tag}");
        assert_eq!(answer.headers["etag"], "\"of the file\"");
        assert_eq!(answer.headers["content-disposition"], "attachment");
        assert_eq!(answer.body.is_empty(), status == 304);
    }
}

#[tokio::test]
async fn an_http_body_is_taken_as_it_is() {
    let gateway = Gateway::start().await;
    let sent: &[u8] = &[0, 255, b'{', 0];
    let headers = [("content-type", "image/x-odd")];
    let answer = gateway
        .send(Method::POST, "/v1/files/a/b", &headers, sent)
        .await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.headers["content-type"], "image/x-odd");
    assert_eq!(answer.body, sent);
}

#[tokio::test]
async fn every_answer_is_kept_from_caches_frames_and_guesses() {
    let gateway = Gateway::start().await;
    for path in ["/v1/echo", "/nowhere", "/v1/files/page.html"] {
        let answer = gateway.get(path).await;
        assert_eq!(answer.headers["cache-control"], "no-store", "{path}");
        assert_eq!(
            answer.headers["x-content-type-options"], "nosniff",
            "{path}"
        );
        assert_eq!(answer.headers["x-frame-options"], "DENY", "{path}");
        assert_eq!(answer.headers["referrer-policy"], "no-referrer", "{path}");
        let policy = answer.headers["content-security-policy"].to_str().unwrap();
        assert!(policy.contains("default-src 'none'"), "{path}");
        assert!(!answer.headers.contains_key("server"), "{path}");
    }
}

#[tokio::test]
async fn a_request_id_is_passed_on_and_returned_or_made() {
    let gateway = Gateway::start().await;
    let send = async |id: &str| {
        gateway
            .send(Method::GET, "/v1/headers", &[("x-request-id", id)], "")
            .await
    };
    let answer = send("my-id.1").await;
    assert_eq!(answer.headers["x-request-id"], "my-id.1");
    assert_eq!(answer.json()["labels"]["x-request-id"], "my-id.1");
    for unfit in ["", "has space", "x\"y", &"a".repeat(500)] {
        let answer = send(unfit).await;
        let made = answer.headers["x-request-id"].to_str().unwrap();
        assert_eq!(made.len(), 36, "{unfit:?} → {made:?}");
        assert_eq!(answer.json()["labels"]["x-request-id"], made);
    }
    assert_eq!(
        gateway.get("/nowhere").await.headers["x-request-id"].len(),
        36
    );
}

#[tokio::test]
async fn only_known_headers_reach_the_service() {
    let gateway = Gateway::start().await;
    let sent = [
        ("authorization", "Bearer secret"),
        ("accept-language", "fa"),
        ("user-agent", "curl/8"),
        ("cookie", "a=b"),
        ("grpc-encoding", "gzip"),
        ("x-tenant-id", "other"),
        ("x-forwarded-for", "6.6.6.6"),
        ("te", "trailers"),
    ];
    let labels = gateway
        .send(Method::GET, "/v1/headers", &sent, "")
        .await
        .json()["labels"]
        .clone();
    assert_eq!(labels["authorization"], "Bearer secret");
    assert_eq!(labels["accept-language"], "fa");
    assert_eq!(labels["x-forwarded-user-agent"], "curl/8");
    assert_eq!(
        labels["x-forwarded-for"], "127.0.0.1",
        "the peer, not what it says"
    );
    for absent in ["cookie", "grpc-encoding", "x-tenant-id"] {
        assert_eq!(labels.get(absent), None, "{absent}");
    }
    assert_eq!(
        labels["grpc-timeout"], "15000000u",
        "the default deadline goes along"
    );
}

#[tokio::test]
async fn head_is_get_without_its_body() {
    let gateway = Gateway::start().await;
    let answer = gateway
        .send(Method::HEAD, "/v1/echo?text=abc", &[], "")
        .await;
    assert_eq!(answer.status, 200);
    assert!(answer.body.is_empty());
    assert_ne!(answer.headers["content-length"], "0");
}

#[tokio::test]
async fn another_package_is_served_by_another_upstream() {
    use vpnpanel_gateway::{Limits, Transcoder, Upstream, Upstreams};

    use crate::support::service::OddService;

    let (first, second) = (OddService::default(), OddService::default());
    let upstreams = Upstreams::new(Upstream::new(first.routes()))
        .with_package("odd", Upstream::new(second.routes()))
        .with_package("od", Upstream::new(first.routes()));
    let transcoder = Transcoder::new(
        crate::support::pool(),
        &upstreams,
        Limits::default(),
        tokio_util::sync::CancellationToken::new(),
    )
    .unwrap();
    let request = http::Request::get("/v1/headers")
        .body(axum::body::Body::empty())
        .unwrap();
    assert_eq!(transcoder.handle(request).await.status(), 200);
    let calls = |s: &OddService| s.calls.load(std::sync::atomic::Ordering::SeqCst);
    assert_eq!((calls(&first), calls(&second)), (0, 1));
}
