//! What a request's head may be, looked at before anything else sees the request.

use axum::body::Body;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderValue, Request, Response, StatusCode};
use serde_json::json;

use super::{ConnectionLimits, Protocol};
use crate::status::{ERROR_DOMAIN, ErrorCode, Failure};

/// The answer to a head beyond the bounds. The sizes of single headers and of all together are
/// hyper's to bound, while it reads them.
pub(super) fn refuse<B>(
    request: &Request<B>,
    protocol: Protocol,
    limits: &ConnectionLimits,
) -> Option<Response<Body>> {
    let target = request
        .uri()
        .path_and_query()
        .map_or("", |uri| uri.as_str());
    let (http, reason, message) = if target.len() > limits.max_uri_bytes {
        let message = format!(
            "the path and query are longer than {} bytes",
            limits.max_uri_bytes
        );
        (StatusCode::URI_TOO_LONG, "URI_TOO_LONG", message)
    } else if request.headers().len() > limits.max_headers {
        let message = format!("more than {} headers", limits.max_headers);
        let code = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        (code, "TOO_MANY_HEADERS", message)
    } else {
        return None;
    };
    Some(match protocol {
        Protocol::Grpc => Failure::new(ErrorCode::InvalidArgument, reason, message)
            .into_status()
            .into_http(),
        Protocol::Http => rest(http, reason, &message),
    })
}

/// A google.rpc.Status in JSON, as all errors of REST are.
fn rest(http: StatusCode, reason: &str, message: &str) -> Response<Body> {
    let body = json!({
        "code": tonic::Code::InvalidArgument as i32,
        "message": message,
        "status": "INVALID_ARGUMENT",
        "details": [{
            "@type": "type.googleapis.com/google.rpc.ErrorInfo",
            "reason": reason,
            "domain": ERROR_DOMAIN,
        }],
    });
    let mut response = Response::new(Body::from(body.to_string()));
    *response.status_mut() = http;
    for (name, value) in [
        (CONTENT_TYPE, "application/json"),
        (CACHE_CONTROL, "no-store"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ] {
        response
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
    }
    response
}
