//! Pages of other origins.

use http::Method;

use crate::support::Gateway;
use vpnpanel_gateway::Limits;

const PREFLIGHT: [(&str, &str); 3] = [
    ("origin", "https://panel.example.com"),
    ("access-control-request-method", "PATCH"),
    (
        "access-control-request-headers",
        "authorization,content-type",
    ),
];

#[tokio::test]
async fn no_origin_is_let_in_unless_named() {
    let gateway = Gateway::start().await;
    let answer = gateway
        .send(Method::OPTIONS, "/v1/echo", &PREFLIGHT, "")
        .await;
    assert!(!answer.headers.contains_key("access-control-allow-origin"));
    let answer = gateway
        .send(Method::GET, "/v1/echo", &PREFLIGHT[..1], "")
        .await;
    assert!(!answer.headers.contains_key("access-control-allow-origin"));
}

#[tokio::test]
async fn a_named_origin_is_let_in_without_credentials() {
    let origins = ["https://panel.example.com"];
    let gateway = Gateway::with(Limits::default(), &origins).await;
    let answer = gateway
        .send(Method::OPTIONS, "/v1/echo", &PREFLIGHT, "")
        .await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.headers["access-control-allow-origin"], origins[0]);
    assert!(
        !answer
            .headers
            .contains_key("access-control-allow-credentials")
    );

    let answer = gateway
        .send(Method::GET, "/v1/fail/5", &PREFLIGHT[..1], "")
        .await;
    assert_eq!(
        answer.headers["access-control-allow-origin"], origins[0],
        "errors too"
    );
    let exposed = answer.headers["access-control-expose-headers"]
        .to_str()
        .unwrap();
    assert!(exposed.contains("x-request-id"));

    let stranger = [("origin", "https://evil.example.com")];
    let answer = gateway.send(Method::GET, "/v1/echo", &stranger, "").await;
    assert!(!answer.headers.contains_key("access-control-allow-origin"));
}
