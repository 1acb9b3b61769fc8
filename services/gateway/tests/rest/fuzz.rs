//! Nonsense from outside: an answer each time, never a panic (which would be a 500), never a call
//! that the service could not have been asked for.

use std::sync::OnceLock;

use axum::body::Body;
use http::{Method, Request};
use http_body_util::BodyExt;
use proptest::prelude::*;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;
use vpnpanel_gateway::{Limits, Transcoder, Upstream, Upstreams};

use crate::support::pool;
use crate::support::service::OddService;

fn segment() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("v1".to_owned()),
        Just("echo".to_owned()),
        Just("files".to_owned()),
        Just("things".to_owned()),
        Just("kinds".to_owned()),
        "[a-zA-Z0-9%:._~!$&'()*+,;=@-]{0,8}",
        "(%[0-9a-fA-F]{0,2}){0,4}",
    ]
}

fn query() -> impl Strategy<Value = String> {
    let name = prop_oneof![
        proptest::sample::select(
            pool()
                .get_message_by_name("odd.v1.Everything")
                .unwrap()
                .fields()
                .map(|f| f.name().to_owned())
                .collect::<Vec<_>>()
        ),
        Just("nested.deeper.deeper.tags".to_owned()),
        Just("labels[a]".to_owned()),
        "[a-z.%\\[\\]]{0,8}",
    ];
    let value = prop_oneof!["[0-9TZ:.+-]{0,12}", "[a-zA-Z0-9%+=&.,-]{0,12}"];
    prop::collection::vec((name, value), 0..4).prop_map(|pairs| {
        pairs
            .iter()
            .map(|(n, v)| format!("{n}={v}"))
            .collect::<Vec<_>>()
            .join("&")
    })
}

fn method() -> impl Strategy<Value = Method> {
    proptest::sample::select(vec![
        Method::GET,
        Method::POST,
        Method::PUT,
        Method::PATCH,
        Method::DELETE,
        Method::OPTIONS,
    ])
}

fn transcoder() -> &'static (Runtime, Transcoder) {
    static TRANSCODER: OnceLock<(Runtime, Transcoder)> = OnceLock::new();
    TRANSCODER.get_or_init(|| {
        let upstreams = Upstreams::new(Upstream::new(OddService::default().routes()));
        let stop = CancellationToken::new();
        let transcoder = Transcoder::new(pool(), &upstreams, Limits::default(), stop).unwrap();
        (Runtime::new().unwrap(), transcoder)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_request_gets_an_answer(
        method in method(),
        segments in prop::collection::vec(segment(), 0..6),
        query in query(),
        body in prop_oneof![
            Just(Vec::new()),
            prop::collection::vec(any::<u8>(), 0..40),
            "[{}\\[\\]\",:a-z0-9]{0,40}".prop_map(String::into_bytes),
        ],
    ) {
        let path = format!("/{}", segments.join("/"));
        prop_assume!(!path.starts_with("/v1/hang"));
        let uri = format!("{path}?{query}");
        prop_assume!(uri.parse::<http::Uri>().is_ok());
        let (runtime, transcoder) = transcoder();
        let (status, body) = runtime.block_on(async {
            let request = Request::builder().method(method).uri(&uri).body(Body::from(body));
            let (parts, body) = transcoder.handle(request.unwrap()).await.into_parts();
            (parts.status, body.collect().await.unwrap().to_bytes())
        });
        prop_assert_ne!(status, 500);
        if status.is_client_error() {
            let json: serde_json::Value = serde_json::from_slice(&body).unwrap();
            prop_assert!(json["details"][0].is_object(), "{}", json);
        }
    }
}
