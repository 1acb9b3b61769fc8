//! What a request's head may be, looked at before anything else sees the request.

use axum::body::Body;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Request, Response, StatusCode};
use serde_json::json;

use super::{BROWSER_HEADERS, ConnectionLimits, Protocol};
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
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    for (name, value) in BROWSER_HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn browsers_are_told_the_same_about_a_refusal_as_about_any_answer() {
        let limits = ConnectionLimits {
            max_uri_bytes: 3,
            max_headers: 1,
            ..ConnectionLimits::default()
        };
        let long = Request::get("/long").body(()).unwrap();
        let many = Request::get("/").header("a", "1").header("b", "2");
        for (request, code) in [(long, 414), (many.body(()).unwrap(), 431)] {
            let answer = refuse(&request, Protocol::Http, &limits).unwrap();
            assert_eq!(answer.status(), code);
            for (name, value) in BROWSER_HEADERS {
                assert_eq!(answer.headers()[name], value);
            }
        }
    }
}
