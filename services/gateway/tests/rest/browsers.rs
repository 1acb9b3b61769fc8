//! Pages of other origins.

use std::time::Duration;

use http::Method;
use tower::ServiceExt as _;
use vpnpanel_gateway::{Hardening, Limits};
use vpnpanel_runtime::serve::{ConnectionInfo, OverTls};

use crate::support::Gateway;

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

#[tokio::test]
async fn a_preflight_grants_the_listed_methods_and_headers_alone() {
    let origin = ("origin", "https://panel.example.com");
    let gateway = Gateway::with(Limits::default(), &[origin.1]).await;
    let ask = async |method: &str, headers: &str| {
        let asked = [
            origin,
            ("access-control-request-method", method),
            ("access-control-request-headers", headers),
        ];
        let answer = gateway.send(Method::OPTIONS, "/v1/echo", &asked, "").await;
        let granted = |name: &str| answer.headers[name].to_str().unwrap().to_lowercase();
        let vary = answer.headers.get_all("vary").iter();
        assert!(vary.flat_map(|v| v.to_str()).any(|v| v.contains("origin")));
        (
            granted("access-control-allow-methods"),
            granted("access-control-allow-headers"),
        )
    };
    let (methods, headers) = ask("TRACE", "cookie").await;
    assert_eq!(methods, "get,post,patch,put,delete");
    assert_eq!(
        headers,
        "authorization,content-type,x-request-id,x-request-timeout,traceparent"
    );

    for stranger in [
        "null",
        "https://panel.example.com.evil.com",
        "http://panel.example.com",
        "https://panel.example.com:8443",
    ] {
        let mut asked = PREFLIGHT;
        asked[0].1 = stranger;
        let answer = gateway.send(Method::OPTIONS, "/v1/echo", &asked, "").await;
        let granted = answer.headers.get("access-control-allow-origin");
        assert_eq!(granted, None, "{stranger}");
    }
}

#[tokio::test]
async fn an_origin_that_no_browser_would_send_is_a_mistake_of_the_settings() {
    for wrong in [
        "*",
        "null",
        "panel.example.com",
        "https://panel.example.com/",
        "https://panel.example.com/x",
        "https://Panel.example.com",
        "https://user@panel.example.com",
        "ftp://panel.example.com",
    ] {
        assert!(Gateway::app(&[wrong]).into_router().is_err(), "{wrong}");
    }
}

#[tokio::test]
async fn every_answer_tells_browsers_to_keep_out() {
    let gateway = Gateway::with(Limits::default(), &["https://panel.example.com"]).await;
    for (method, path) in [
        (Method::GET, "/v1/headers"),
        (Method::GET, "/v1/fail/5"),
        (Method::GET, "/nothing/here"),
        (Method::DELETE, "/v1/echo"),
        (Method::OPTIONS, "/v1/echo"),
    ] {
        let preflight: &[_] = if method == Method::OPTIONS {
            &PREFLIGHT
        } else {
            &[]
        };
        let answer = gateway.send(method, path, preflight, "").await;
        for (name, value) in [
            ("cache-control", "no-store"),
            ("x-content-type-options", "nosniff"),
            ("x-frame-options", "DENY"),
            ("referrer-policy", "no-referrer"),
            (
                "content-security-policy",
                "default-src 'none'; frame-ancestors 'none'",
            ),
            ("cross-origin-opener-policy", "same-origin"),
            ("cross-origin-embedder-policy", "require-corp"),
            ("cross-origin-resource-policy", "same-origin"),
        ] {
            assert_eq!(answer.headers[name], value, "{path} {name}");
        }
        assert!(answer.headers.contains_key("permissions-policy"));
        assert!(!answer.headers.contains_key("strict-transport-security"));
    }
}

#[tokio::test]
async fn https_is_asked_to_stay_only_of_those_who_came_by_it() {
    let year = Duration::from_secs(365 * 86_400);
    let said = async |trusted: &str, remote: &str, tls: bool, headers: &[&str]| {
        let mut app = Gateway::app(&[]);
        app.hardening = Hardening::new(year, trusted.parse().unwrap());
        let mut request = http::Request::get("/v1/headers");
        for header in headers {
            request = request.header("x-forwarded-proto", *header);
        }
        let mut request = request.body(axum::body::Body::empty()).unwrap();
        let remote = format!("{remote}:1").parse().unwrap();
        request.extensions_mut().insert(ConnectionInfo { remote });
        if tls {
            request.extensions_mut().insert(OverTls);
        }
        let answer = app.into_router().unwrap().oneshot(request).await.unwrap();
        answer
            .headers()
            .get("strict-transport-security")
            .map(|value| value.to_str().unwrap().to_owned())
    };
    let told = Some("max-age=31536000".to_owned());
    assert_eq!(said("", "192.0.2.1", true, &[]).await, told);
    assert_eq!(
        said("10.0.0.0/8", "10.1.1.1", false, &["https"]).await,
        told
    );
    for (remote, headers) in [
        ("192.0.2.1", &["https"][..]),
        ("10.1.1.1", &[]),
        ("10.1.1.1", &["http"]),
        ("10.1.1.1", &["https", "http"]),
        ("10.1.1.1", &["https, http"]),
    ] {
        let answer = said("10.0.0.0/8", remote, false, headers).await;
        assert_eq!(answer, None, "{remote} {headers:?}");
    }
}
