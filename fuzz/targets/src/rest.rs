//! REST: from a request to a message, and from a message to JSON. Behind the gateway stands a
//! service that answers every method with bytes of the target's choice.

use std::cell::RefCell;
use std::convert::Infallible;
use std::sync::LazyLock;

use axum::body::Body;
use bytes::{BufMut, Bytes, BytesMut};
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;
use vpnpanel_gateway::{Limits, Transcoder, Upstream, Upstreams};

thread_local! {
    /// What the service answers to calls of this thread.
    static ANSWER: RefCell<Bytes> = const { RefCell::new(Bytes::new()) };
}

static GATEWAY: LazyLock<(Runtime, Transcoder)> = LazyLock::new(|| {
    let service = tower::service_fn(|_: Request<tonic::body::Body>| {
        std::future::ready(Ok::<_, Infallible>(answer()))
    });
    let transcoder = Transcoder::new(
        vpnpanel_api::pool(),
        &Upstreams::new(Upstream::new(service)),
        Limits::default(),
        CancellationToken::new(),
    );
    (crate::runtime(), transcoder.expect("the contract"))
});

/// One message as gRPC frames it, and that all is well.
fn answer() -> Response<tonic::body::Body> {
    let message = ANSWER.with_borrow(Bytes::clone);
    let mut frame = BytesMut::with_capacity(message.len() + 5);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).expect("a short message"));
    frame.extend_from_slice(&message);
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let body = Full::new(frame.freeze()).with_trailers(std::future::ready(Some(Ok(trailers))));
    let mut response = Response::new(tonic::body::Body::new(body));
    let grpc = HeaderValue::from_static("application/grpc");
    response.headers_mut().insert(CONTENT_TYPE, grpc);
    response
}

/// A request as text: `GET /path?query`, lines of headers, an empty line, the body. Accepted is
/// what reaches the service; everything else is the client's error and said as JSON.
pub(crate) fn requests(data: &[u8]) -> bool {
    let Some(request) = request(data) else {
        return false;
    };
    ANSWER.set(Bytes::new());
    let (status, content_type, body) = call(request);
    assert!(
        status == StatusCode::OK || status.is_client_error(),
        "{status} {body:?}"
    );
    assert_json(&content_type, &body);
    status == StatusCode::OK
}

/// A request line and headers as above, an empty line, then the message that the service answers.
pub(crate) fn answers(data: &[u8]) -> bool {
    let gap = data.windows(2).position(|two| two == b"\n\n");
    let (head, message) = match gap {
        Some(at) => (&data[..at], &data[at + 2..]),
        None => (data, &[][..]),
    };
    let Some(request) = request(head) else {
        return false;
    };
    ANSWER.set(Bytes::copy_from_slice(message));
    let (status, content_type, body) = call(request);
    // A service that answers nonsense is broken, and the gateway says no more than that.
    let known = status == StatusCode::OK
        || status == StatusCode::INTERNAL_SERVER_ERROR
        || status.is_client_error();
    assert!(known, "{status} {body:?}");
    assert_json(&content_type, &body);
    status == StatusCode::OK
}

fn request(data: &[u8]) -> Option<Request<Body>> {
    let gap = data.windows(2).position(|two| two == b"\n\n");
    let (head, body) = match gap {
        Some(at) => (&data[..at], &data[at + 2..]),
        None => (data.strip_suffix(b"\n").unwrap_or(data), &[][..]),
    };
    let mut lines = head.split(|byte| *byte == b'\n');
    let line = std::str::from_utf8(lines.next()?).ok()?;
    let (method, target) = line.split_once(' ')?;
    let mut request = Request::builder().method(method).uri(target);
    for line in lines {
        let at = line.iter().position(|byte| *byte == b':')?;
        let name = HeaderName::from_bytes(&line[..at]).ok()?;
        let value = HeaderValue::from_bytes(line[at + 1..].trim_ascii()).ok()?;
        request = request.header(name, value);
    }
    request.body(Body::from(body.to_vec())).ok()
}

fn call(request: Request<Body>) -> (StatusCode, String, Bytes) {
    let (runtime, transcoder) = &*GATEWAY;
    runtime.block_on(async {
        let response = transcoder.handle(request).await;
        let status = response.status();
        let content_type = response.headers().get(CONTENT_TYPE);
        let content_type = content_type.and_then(|value| value.to_str().ok());
        let content_type = content_type.unwrap_or_default().to_owned();
        let body = response.into_body().collect().await;
        (status, content_type, body.expect("a body").to_bytes())
    })
}

fn assert_json(content_type: &str, body: &[u8]) {
    if content_type == "application/json" && !body.is_empty() {
        let json: Result<serde_json::Value, _> = serde_json::from_slice(body);
        assert!(json.is_ok(), "{:?}", String::from_utf8_lossy(body));
    }
}
