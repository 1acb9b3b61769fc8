//! `x-request-id`: taken from the caller when it is fit for a log line, made otherwise, and returned.

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use http::{HeaderName, HeaderValue, Request as HttpRequest};
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

/// Removes an id that nobody should have to read, so that one is made.
pub(super) async fn drop_unfit(mut request: Request, next: Next) -> Response {
    let fit = request.headers().get(REQUEST_ID_HEADER).is_some_and(is_fit);
    if !fit
        || request
            .headers()
            .get_all(REQUEST_ID_HEADER)
            .iter()
            .nth(1)
            .is_some()
    {
        request.headers_mut().remove(REQUEST_ID_HEADER);
    }
    next.run(request).await
}

fn is_fit(value: &HeaderValue) -> bool {
    (1..=MAX_LENGTH).contains(&value.len())
        && value
            .as_bytes()
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || b"-_.:/+=".contains(b))
}
