//! What becomes of path, query and body.

use http::Method;
use serde_json::json;

use crate::support::Gateway;

#[tokio::test]
async fn a_body_becomes_the_message_and_comes_back_as_one() {
    let gateway = Gateway::start().await;
    let sent = json!({
        "text": "é\n", "big": "9007199254740993", "raw": "_-8", "kind": "KIND_ROUND",
        "nested": {"deeper": {"number": -1}}, "labels": {"b": "2", "a": "1"},
        "when": "2026-11-23T22:48:17.12Z", "howLong": "1.5s", "mask": "displayName,a.b",
        "wrappedFlag": false, "object": {"a": [1, null]}, "choice_big": 7
    });
    let answer = gateway.post("/v1/echo", &sent).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.headers["content-type"], "application/json");
    let json = answer.json();
    assert_eq!(json["text"], "é\n");
    assert_eq!(json["big"], "9007199254740993");
    assert_eq!(json["raw"], "/+8=");
    assert_eq!(json["kind"], "KIND_ROUND");
    assert_eq!(json["nested"]["deeper"]["number"], -1);
    assert_eq!(json["labels"], json!({"a": "1", "b": "2"}));
    assert_eq!(json["when"], "2026-11-23T22:48:17.120Z");
    assert_eq!(json["howLong"], "1.500s");
    assert_eq!(json["mask"], "displayName,a.b");
    assert_eq!(json["wrappedFlag"], false);
    assert_eq!(json["choiceBig"], "7");
    assert_eq!(json["flag"], false, "defaults are written");
}

#[tokio::test]
async fn the_same_over_http2_to_a_service_in_another_process() {
    let gateway = Gateway::over_http2().await;
    let answer = gateway.post("/v1/echo", &json!({"big": "7"})).await;
    assert_eq!(
        (answer.status.as_u16(), answer.json()["big"].as_str()),
        (200, Some("7"))
    );
    let answer = gateway.get("/v1/fail/5").await;
    assert_eq!(
        (answer.status.as_u16(), answer.reason().as_str()),
        (404, "AS_ASKED")
    );
}

#[tokio::test]
async fn a_query_reaches_fields_of_every_kind_in_either_spelling() {
    let gateway = Gateway::start().await;
    let query = "text=a%20b+c%2B&flag=true&small=-7&huge=18446744073709551615&ratio=0.5\
                 &precise=-Infinity&raw=AQI%3D&kind=KIND_SQUARE&kinds=KIND_ROUND&kinds=2\
                 &nested.deeper.name=x&nested.tags=a&nested.tags=b&bigs=1&bigs=2\
                 &when=2026-01-31T00:00:00Z&how_long=90s&mask=displayName,tags&wrappedBig=7\
                 &wrapped_text=w&labels[a.b]=c&labels%5Bd%5D=e&maybeText=&times=1970-01-01T00:00:00Z";
    let answer = gateway.get(&format!("/v1/echo?{query}")).await;
    assert_eq!(answer.status, 200, "{}", answer.json());
    let json = answer.json();
    assert_eq!(json["text"], "a b c+");
    assert_eq!(json["flag"], true);
    assert_eq!(json["small"], -7);
    assert_eq!(json["huge"], "18446744073709551615");
    assert_eq!(json["ratio"], 0.5);
    assert_eq!(json["precise"], "-Infinity");
    assert_eq!(json["raw"], "AQI=");
    assert_eq!(json["kind"], "KIND_SQUARE");
    assert_eq!(json["kinds"], json!(["KIND_ROUND", "KIND_SQUARE"]));
    assert_eq!(json["nested"]["deeper"]["name"], "x");
    assert_eq!(json["nested"]["tags"], json!(["a", "b"]));
    assert_eq!(json["bigs"], json!(["1", "2"]));
    assert_eq!(json["when"], "2026-01-31T00:00:00Z");
    assert_eq!(json["howLong"], "90s");
    assert_eq!(json["mask"], "displayName,tags");
    assert_eq!(json["wrappedBig"], "7");
    assert_eq!(json["wrappedText"], "w");
    assert_eq!(json["labels"], json!({"a.b": "c", "d": "e"}));
    assert_eq!(json["maybeText"], "");
    assert_eq!(json["times"], json!(["1970-01-01T00:00:00Z"]));
}

#[tokio::test]
async fn a_query_parameter_that_means_nothing_is_refused_by_name() {
    let gateway = Gateway::start().await;
    for (path, field, about) in [
        ("/v1/echo?nonsense=1", "nonsense", "no such query parameter"),
        (
            "/v1/echo?nested.nonsense=1",
            "nested.nonsense",
            "no such query parameter",
        ),
        (
            "/v1/echo?text.more=1",
            "text.more",
            "no such query parameter",
        ),
        (
            "/v1/echo?many.number=1",
            "many.number",
            "no such query parameter",
        ),
        ("/v1/echo?nested=x", "nested", "is a message"),
        (
            "/v1/echo?small=x",
            "small",
            "expected a 32-bit integer, got \"x\"",
        ),
        ("/v1/echo?flag", "flag", "expected true or false"),
        ("/v1/echo?text=a&text=b", "text", "given twice"),
        ("/v1/echo?labels=b", "labels", "is a map"),
        ("/v1/echo?text[a]=b", "text[a]", "is not a map"),
        (
            "/v1/echo?choiceText=a&choice_big=1",
            "choice_big",
            "together with choice_text",
        ),
        (
            "/v1/kinds/1/2/2026-01-01T00:00:00Z/AQ?big=3",
            "big",
            "is given by the path",
        ),
    ] {
        let answer = gateway.get(path).await;
        assert_eq!(answer.status, 400, "{path}");
        let json = answer.json();
        let violation = &json["details"][0]["fieldViolations"][0];
        let found = json["details"].as_array().unwrap().iter().find_map(|d| {
            d["fieldViolations"][0]["field"]
                .as_str()
                .map(|f| (f.to_owned(), d.clone()))
        });
        let (named, detail) = found.unwrap_or_else(|| panic!("{path}: {violation}"));
        assert_eq!(named, field, "{path}");
        let description = detail["fieldViolations"][0]["description"]
            .as_str()
            .unwrap();
        assert!(description.contains(about), "{path}: {description}");
    }
    for path in ["/v1/echo?text=%", "/v1/echo?text=%ff", "/v1/echo?%zz=1"] {
        assert_eq!(
            gateway.get(path).await.reason(),
            "MALFORMED_QUERY",
            "{path}"
        );
    }
    let answer = gateway.post("/v1/echo?text=a", &json!({})).await;
    assert_eq!(
        answer.status, 400,
        "a method whose body is everything has no query"
    );
}

#[tokio::test]
async fn path_values_are_parsed_by_their_fields_types() {
    let gateway = Gateway::start().await;
    let answer = gateway
        .get("/v1/kinds/KIND_ROUND/-9/2026-01-31T12:00:00Z/AQI")
        .await;
    let json = answer.json();
    assert_eq!(answer.status, 200, "{json}");
    assert_eq!(json["kind"], "KIND_ROUND");
    assert_eq!(json["big"], "-9");
    assert_eq!(json["when"], "2026-01-31T12:00:00Z");
    assert_eq!(json["raw"], "AQI=");

    let answer = gateway
        .get("/v1/kinds/KIND_ROUND/nine/2026-01-31T12:00:00Z/AQI")
        .await;
    assert_eq!(
        (answer.status.as_u16(), answer.reason().as_str()),
        (400, "INVALID_FIELD")
    );
}

#[tokio::test]
async fn a_path_value_may_span_segments_and_end_before_a_verb() {
    let gateway = Gateway::start().await;
    let answer = gateway
        .get("/v1/parents/a%2Fb/children/c%3Ad:echo?big=1")
        .await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.json()["text"], "parents/a%2Fb/children/c:d");
    assert_eq!(answer.json()["big"], "1");
}

#[tokio::test]
async fn a_body_of_one_field_leaves_the_rest_to_path_and_query() {
    let gateway = Gateway::start().await;
    let path = "/v1/echo/from%20path/42?count=3";
    let answer = gateway.json(Method::PUT, path, &json!({"name": "n"})).await;
    let json = answer.json();
    assert_eq!(answer.status, 200, "{json}");
    assert_eq!(json["text"], "from path");
    assert_eq!(json["count"], 3);
    assert_eq!(
        (&json["nested"]["number"], &json["nested"]["name"]),
        (&json!(42), &json!("n"))
    );

    let answer = gateway
        .json(Method::PUT, "/v1/echo/t/42?nested.name=x", &json!({}))
        .await;
    assert_eq!(answer.status, 400, "a field of the body in the query");
}

#[tokio::test]
async fn a_body_that_contradicts_the_path_is_refused() {
    let gateway = Gateway::start().await;
    for (body, status) in [(json!({"number": 42}), 200), (json!({"number": 41}), 400)] {
        let answer = gateway.json(Method::PUT, "/v1/echo/t/42", &body).await;
        assert_eq!(answer.status, status, "{body}");
    }
}

#[tokio::test]
async fn a_patch_without_a_mask_changes_what_its_body_names() {
    let gateway = Gateway::start().await;
    let body = json!({
        "id": "7", "displayName": "", "nested": {"number": 1, "deeper": {"name": "x"}},
        "expireTime": null, "tags": [], "etag": "abc"
    });
    let answer = gateway.json(Method::PATCH, "/v1/things/7", &body).await;
    let json = answer.json();
    assert_eq!(answer.status, 200, "{json}");
    let mut mask: Vec<&str> = json["updateMask"].as_str().unwrap().split(',').collect();
    mask.sort_unstable();
    assert_eq!(
        mask,
        [
            "displayName",
            "expireTime",
            "nested.deeper.name",
            "nested.number",
            "tags"
        ]
    );

    let path = "/v1/things/7?updateMask=display_name&dryRun=true";
    let json = gateway.json(Method::PATCH, path, &body).await.json();
    assert_eq!(json["updateMask"], "displayName", "an explicit mask stands");
    assert_eq!(json["dryRun"], true);
}

#[tokio::test]
async fn a_body_that_is_not_the_methods_is_refused() {
    let gateway = Gateway::start().await;
    let json_type = [("content-type", "application/json")];
    for (body, reason) in [
        ("{", "MALFORMED_JSON"),
        ("{\"text\": \"a\"} x", "MALFORMED_JSON"),
        ("\u{feff}{}", "MALFORMED_JSON"),
        ("[]", "INVALID_BODY"),
        ("{\"nope\": 1}", "INVALID_FIELD"),
    ] {
        let answer = gateway
            .send(Method::POST, "/v1/echo", &json_type, body)
            .await;
        assert_eq!(
            (answer.status.as_u16(), answer.reason().as_str()),
            (400, reason),
            "{body}"
        );
    }
    let answer = gateway
        .send(Method::GET, "/v1/echo", &json_type, "{}")
        .await;
    assert_eq!(answer.reason(), "UNEXPECTED_BODY");
    assert_eq!(
        gateway
            .service
            .calls
            .load(std::sync::atomic::Ordering::SeqCst),
        0
    );
}

#[tokio::test]
async fn only_json_is_taken_for_json() {
    let gateway = Gateway::start().await;
    let send = async |headers: &[(&str, &str)]| {
        gateway.send(Method::POST, "/v1/echo", headers, "{}").await
    };
    for good in [
        "application/json",
        "Application/JSON; charset=utf-8",
        "application/merge-patch+json",
        // What curl -d says of any body.
        "application/x-www-form-urlencoded",
    ] {
        assert_eq!(send(&[("content-type", good)]).await.status, 200, "{good}");
    }
    assert_eq!(send(&[]).await.status, 200);
    for bad in ["text/plain", "application/jsonp", "multipart/form-data"] {
        let answer = send(&[("content-type", bad)]).await;
        assert_eq!(answer.status, 415, "{bad}");
        assert_eq!(answer.reason(), "UNSUPPORTED_MEDIA_TYPE");
    }
    let compressed = [
        ("content-type", "application/json"),
        ("content-encoding", "gzip"),
    ];
    assert_eq!(send(&compressed).await.status, 415);
}

#[tokio::test]
async fn an_empty_body_is_an_empty_message() {
    let gateway = Gateway::start().await;
    let answer = gateway.send(Method::POST, "/v1/echo", &[], "").await;
    assert_eq!(
        (answer.status.as_u16(), answer.json()["text"].as_str()),
        (200, Some(""))
    );
}

#[tokio::test]
async fn a_document_nested_too_deeply_is_refused() {
    let gateway = Gateway::start().await;
    for depth in [70, 10_000] {
        let body = format!(
            "{}{}",
            "{\"nested\":{\"deeper\":".repeat(depth),
            "}".repeat(2 * depth)
        );
        let headers = [("content-type", "application/json")];
        let answer = gateway.send(Method::POST, "/v1/echo", &headers, body).await;
        assert_eq!(answer.status, 400, "{depth}");
    }
}
