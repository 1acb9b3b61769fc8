//! What comes back from a call that did not go well.

use http::Method;
use serde_json::json;
use vpnpanel_gateway::{Limits, Upstream};

use crate::support::Gateway;
use crate::support::service::OddService;

#[tokio::test]
async fn a_status_comes_back_whole_under_the_http_code_of_its_grpc_code() {
    let gateway = Gateway::start().await;
    for (code, name, http) in [
        (1, "CANCELLED", 499),
        (2, "UNKNOWN", 500),
        (3, "INVALID_ARGUMENT", 400),
        (4, "DEADLINE_EXCEEDED", 504),
        (5, "NOT_FOUND", 404),
        (6, "ALREADY_EXISTS", 409),
        (7, "PERMISSION_DENIED", 403),
        (8, "RESOURCE_EXHAUSTED", 429),
        (9, "FAILED_PRECONDITION", 400),
        (10, "ABORTED", 409),
        (11, "OUT_OF_RANGE", 400),
        (12, "UNIMPLEMENTED", 501),
        (13, "INTERNAL", 500),
        (14, "UNAVAILABLE", 503),
        (15, "DATA_LOSS", 500),
        (16, "UNAUTHENTICATED", 401),
    ] {
        let answer = gateway.get(&format!("/v1/fail/{code}")).await;
        assert_eq!(answer.status, http, "{name}");
        assert_eq!(answer.headers["content-type"], "application/json");
        assert_eq!(answer.headers["retry-after"], "2", "1.5 s, rounded up");
        assert_eq!(answer.headers.contains_key("www-authenticate"), http == 401);
        let json = answer.json();
        assert_eq!(
            (&json["code"], &json["status"]),
            (&json!(code), &json!(name))
        );
        assert_eq!(json["message"], "failed as asked");
        let details = json["details"].as_array().unwrap();
        let detail = |kind: &str| {
            let url = format!("type.googleapis.com/google.rpc.{kind}");
            details.iter().find(|d| d["@type"] == url.as_str()).cloned()
        };
        let info = detail("ErrorInfo").unwrap();
        assert_eq!(
            (&info["reason"], &info["domain"]),
            (&json!("AS_ASKED"), &json!("vpnpanel"))
        );
        assert_eq!(info["metadata"], json!({"limit": "7"}));
        assert_eq!(detail("RetryInfo").unwrap()["retryDelay"], "1.500s");
        let violation = &detail("BadRequest").unwrap()["fieldViolations"][0];
        assert_eq!(
            (&violation["field"], &violation["description"]),
            (&json!("thing.id"), &json!("is odd"))
        );
        assert_eq!(detail("DebugInfo"), None, "not for clients");
        assert!(!String::from_utf8_lossy(&answer.body).contains("secret.rs"));
    }
}

#[tokio::test]
async fn a_status_without_details_gets_an_error_info() {
    let gateway = Gateway::start().await;
    let answer = gateway.get("/v1/fail/9?bare=true").await;
    assert_eq!(
        (answer.status.as_u16(), answer.reason().as_str()),
        (400, "FAILED_PRECONDITION")
    );
    assert_eq!(answer.json()["message"], "bare");
}

#[tokio::test]
async fn paths_that_lead_nowhere_and_wrong_methods() {
    let gateway = Gateway::start().await;
    for path in [
        "/v1",
        "/v1/echo/",
        "/V1/echo",
        "/odd.v1.OddService/Echo",
        "/v1/hidden",
    ] {
        let answer = gateway.get(path).await;
        assert_eq!(
            (answer.status.as_u16(), answer.reason().as_str()),
            (404, "ROUTE_NOT_FOUND"),
            "{path}"
        );
        assert_eq!(answer.json()["code"], 5);
    }
    assert_eq!(
        gateway.get("/v1/echo/%ff/7").await.reason(),
        "MALFORMED_PATH"
    );

    let answer = gateway.send(Method::DELETE, "/v1/echo", &[], "").await;
    assert_eq!(
        (answer.status.as_u16(), answer.reason().as_str()),
        (405, "METHOD_NOT_ALLOWED")
    );
    assert_eq!(answer.headers["allow"], "GET, POST, HEAD, OPTIONS");

    let answer = gateway.send(Method::OPTIONS, "/v1/echo", &[], "").await;
    assert_eq!(answer.status, 204);
    assert_eq!(answer.headers["allow"], "GET, POST, HEAD, OPTIONS");
    assert_eq!(
        gateway
            .send(Method::OPTIONS, "/nowhere", &[], "")
            .await
            .status,
        404
    );
}

#[tokio::test]
async fn a_service_that_is_not_there_is_unavailable_and_nothing_more_is_said() {
    // A port that was just free, and that nobody listens on.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let channel = tonic::transport::Endpoint::from_shared(format!("http://{address}"))
        .unwrap()
        .connect_lazy();
    let upstream = Upstream::new(channel);
    let gateway = Gateway::before(OddService::default(), upstream, Limits::default(), &[]).await;
    for path in ["/v1/echo", "/v1/watch?count=1"] {
        let answer = gateway.get(path).await;
        assert_eq!(
            (answer.status.as_u16(), answer.reason().as_str()),
            (503, "SERVICE_UNREACHABLE")
        );
        assert_eq!(answer.headers["retry-after"], "1");
        assert!(!String::from_utf8_lossy(&answer.body).contains("127.0.0.1"));
    }
}

#[tokio::test]
async fn a_refusal_repeats_no_path_and_little_of_a_name() {
    let gateway = Gateway::start().await;
    for path in ["/sub/hush-hush/more", "/v1/hush-hush", "/hush-hush"] {
        let answer = gateway.get(path).await;
        assert_eq!(answer.status, 404);
        assert!(!String::from_utf8_lossy(&answer.body).contains("hush"));
    }
    let name = "n".repeat(50_000);
    for answer in [
        gateway
            .post("/v1/echo", &json!({ name.as_str(): "hush" }))
            .await,
        gateway
            .get(&format!("/v1/echo?{}=hush", &name[..4000]))
            .await,
    ] {
        assert!(answer.status.is_client_error());
        assert!(answer.body.len() < 1000, "{}", answer.body.len());
        assert!(!String::from_utf8_lossy(&answer.body).contains("hush"));
    }
}

#[tokio::test]
async fn a_method_of_any_length_is_repeated_in_part() {
    let gateway = Gateway::start().await;
    let method = Method::from_bytes("X".repeat(5000).as_bytes()).unwrap();
    let answer = gateway.send(method, "/v1/echo", &[], "").await;
    assert_eq!(
        (answer.status.as_u16(), answer.reason().as_str()),
        (405, "METHOD_NOT_ALLOWED")
    );
    let said = answer.json()["message"].as_str().unwrap().to_owned();
    let part = format!("{} is not served here, only ", "X".repeat(100));
    assert!(said.starts_with(&part), "{said}");
}
