//! `x-request-id`: taken from the caller when it is fit for a log line, made otherwise, and returned.

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use http::{HeaderMap, HeaderName, HeaderValue, Request as HttpRequest};
use tower_http::request_id::MakeRequestId;
use uuid::Uuid;

pub use tower_http::request_id::RequestId;

/// The header's name.
pub const REQUEST_ID_HEADER: HeaderName = HeaderName::from_static("x-request-id");

/// Longer ids are replaced: they would be repeated on every line of the log.
const MAX_LENGTH: usize = 64;

/// The id of the request that carries these extensions; empty outside of the layers.
pub fn request_id(extensions: &http::Extensions) -> &str {
    extensions
        .get::<RequestId>()
        .and_then(|id| id.header_value().to_str().ok())
        .unwrap_or_default()
}

#[derive(Debug, Clone, Copy)]
pub(super) struct NewRequestId;

impl MakeRequestId for NewRequestId {
    fn make_request_id<B>(&mut self, _request: &HttpRequest<B>) -> Option<RequestId> {
        let id = Uuid::now_v7().to_string();
        HeaderValue::try_from(id).ok().map(RequestId::new)
    }
}

/// The id of a request by its headers, for servers that are not gRPC: the caller's where it is fit,
/// a new one otherwise, which the headers then hold.
pub fn accept_request_id(headers: &mut HeaderMap) -> HeaderValue {
    if let Some(id) = fit_id(headers) {
        return id.clone();
    }
    // The text of a UUID is a header value.
    let id = HeaderValue::try_from(Uuid::now_v7().to_string())
        .unwrap_or(HeaderValue::from_static("unknown"));
    headers.insert(REQUEST_ID_HEADER, id.clone());
    id
}

/// Removes an id that nobody should have to read, so that one is made.
pub(super) async fn drop_unfit(mut request: Request, next: Next) -> Response {
    if fit_id(request.headers()).is_none() {
        request.headers_mut().remove(REQUEST_ID_HEADER);
    }
    next.run(request).await
}

fn fit_id(headers: &HeaderMap) -> Option<&HeaderValue> {
    let mut ids = headers.get_all(REQUEST_ID_HEADER).iter();
    match (ids.next(), ids.next()) {
        (Some(id), None) if is_fit(id) => Some(id),
        _ => None,
    }
}

fn is_fit(value: &HeaderValue) -> bool {
    (1..=MAX_LENGTH).contains(&value.len())
        && value
            .as_bytes()
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || b"-_.:/+=".contains(b))
}
