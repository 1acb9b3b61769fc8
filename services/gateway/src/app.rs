//! Everything the gateway answers, as one router: the contract's methods, the OpenAPI document,
//! the landing page, and around them what every answer has.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::middleware;
use axum::response::Response;
use axum::routing::get;
use bytes::Bytes;
use http::header::{
    ALLOW, AUTHORIZATION, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG,
    IF_NONE_MATCH, RETRY_AFTER,
};
use http::{HeaderName, HeaderValue, Method, Request, StatusCode};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::cors::{AllowOrigin, CorsLayer};
use vpnpanel_runtime::status::Failure;

use crate::error::GatewayError;
use crate::harden::{Hardening, harden};
use crate::observe::{RestMetrics, observe};
use crate::problem::Problem;
use crate::transcoder::Transcoder;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// A document that is the same for everybody and as long as the process lives.
#[derive(Debug, Clone)]
pub struct Document {
    body: Bytes,
    content_type: HeaderValue,
    policy: HeaderValue,
    etag: HeaderValue,
}

impl Document {
    /// A document with the content security policy a browser gets with it.
    pub(crate) fn new(
        body: impl Into<Bytes>,
        content_type: &'static str,
        policy: &'static str,
    ) -> Self {
        let body = body.into();
        let etag = format!("\"{:016x}\"", fingerprint(&body));
        Self {
            body,
            content_type: HeaderValue::from_static(content_type),
            policy: HeaderValue::from_static(policy),
            etag: HeaderValue::from_str(&etag).unwrap_or(HeaderValue::from_static("\"0\"")),
        }
    }

    fn answer(&self, request: &Request<Body>) -> Response {
        let fresh = request.headers().get(IF_NONE_MATCH) == Some(&self.etag);
        let body = if fresh {
            Body::empty()
        } else {
            Body::from(self.body.clone())
        };
        let mut response = Response::new(body);
        if fresh {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
        }
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, self.content_type.clone());
        headers.insert(CONTENT_SECURITY_POLICY, self.policy.clone());
        headers.insert(ETAG, self.etag.clone());
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        response
    }
}

/// What the router is made of.
#[derive(Debug)]
pub struct App {
    /// The contract's methods.
    pub transcoder: Transcoder,
    /// Documents by path.
    pub documents: Vec<(&'static str, Document)>,
    /// Origins whose pages may call the API from a browser; none by default.
    pub cors_origins: Vec<String>,
    /// What browsers are told about every answer.
    pub hardening: Hardening,
    /// Where requests are counted.
    pub metrics: RestMetrics,
}

impl App {
    /// The router. Whoever serves it puts the connection's `ConnectionInfo` into the requests.
    pub fn into_router(self) -> Result<Router, GatewayError> {
        let mut router = Router::new();
        for (path, document) in self.documents {
            let document = Arc::new(document);
            let transcoder = self.transcoder.clone();
            let serve = move |request: Request<Body>| {
                let document = Arc::clone(&document);
                async move { document.answer(&request) }
            };
            let refuse = move |request: Request<Body>| async move {
                let allowed = [Method::GET];
                transcoder.refuse(&Problem::method_not_allowed(request.method(), &allowed))
            };
            router = router.route(path, get(serve).fallback(refuse));
        }
        let transcoder = self.transcoder.clone();
        let panicked = {
            let transcoder = self.transcoder.clone();
            move |_: Box<dyn Any + Send>| transcoder.refuse(&Problem::from(Failure::internal()))
        };
        let mut router = router
            .fallback(transcode)
            .with_state(transcoder)
            .layer(CatchPanicLayer::custom(panicked));
        if !self.cors_origins.is_empty() {
            router = router.layer(cors(&self.cors_origins)?);
        }
        let router = router.layer(middleware::from_fn_with_state(self.hardening, harden));
        Ok(router.layer(middleware::from_fn_with_state(self.metrics, observe)))
    }
}

async fn transcode(State(transcoder): State<Transcoder>, request: Request<Body>) -> Response {
    transcoder.handle(request).await
}

/// Origins are named one by one. Credentials are never allowed: what authenticates is a header that
/// a page must put there itself, and no cookie that a browser would send along.
fn cors(origins: &[String]) -> Result<CorsLayer, GatewayError> {
    let mut allowed = Vec::with_capacity(origins.len());
    for origin in origins {
        allowed.push(origin_value(origin)?);
    }
    Ok(CorsLayer::new()
        .allow_origin(AllowOrigin::list(allowed))
        .allow_methods([
            Method::GET,
            Method::POST,
            Method::PATCH,
            Method::PUT,
            Method::DELETE,
        ])
        .allow_headers([
            AUTHORIZATION,
            CONTENT_TYPE,
            REQUEST_ID,
            HeaderName::from_static("x-request-timeout"),
            HeaderName::from_static("traceparent"),
        ])
        .expose_headers([REQUEST_ID, RETRY_AFTER, ETAG, ALLOW])
        .max_age(Duration::from_secs(600)))
}

/// `scheme://host[:port]`, as browsers send it. No wildcard: whoever opens the API to every page
/// should have to name them.
fn origin_value(origin: &str) -> Result<HeaderValue, GatewayError> {
    let refuse = || GatewayError::Origin {
        origin: origin.to_owned(),
    };
    let uri: http::Uri = origin.parse().map_err(|_| refuse())?;
    let web = matches!(uri.scheme_str(), Some("http" | "https"));
    let bare = uri.path() == "/" && uri.query().is_none() && !origin.ends_with('/');
    // Another spelling of what browsers send would never match.
    let spelled = !origin.contains('@') && !origin.contains(char::is_uppercase);
    if !web || !bare || !spelled {
        return Err(refuse());
    }
    HeaderValue::from_str(origin).map_err(|_| refuse())
}

/// FNV-1a: tells versions of a document apart, nothing more.
fn fingerprint(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
