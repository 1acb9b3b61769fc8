//! What is seen of a request: its id, its span, one line in the log, and its figures. Logs and
//! metrics name the route, never the path: paths hold ids, and a subscription's is a secret.

use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::extract::State;
use axum::middleware::Next;
use axum::response::Response;
use http::{HeaderValue, Method, Request, StatusCode};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use tracing::Instrument as _;
use vpnpanel_runtime::metrics::Metrics;
use vpnpanel_runtime::rpc::{REQUEST_ID_HEADER, accept_request_id};
use vpnpanel_runtime::traces;

use crate::transcoder::MatchedRoute;

/// The gateway's figures.
#[derive(Debug, Clone)]
pub struct RestMetrics {
    handled: Family<HandledLabels, Counter>,
    duration: Histogram,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HandledLabels {
    method: &'static str,
    route: Route,
    code: u16,
}

/// A template of the contract, or one word for everything else.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Route(Option<Arc<str>>);

impl Route {
    fn as_str(&self) -> &str {
        self.0.as_deref().unwrap_or("other")
    }
}

impl prometheus_client::encoding::EncodeLabelValue for Route {
    fn encode(
        &self,
        encoder: &mut prometheus_client::encoding::LabelValueEncoder<'_>,
    ) -> Result<(), std::fmt::Error> {
        self.as_str().encode(encoder)
    }
}

impl RestMetrics {
    /// Registers the figures.
    pub fn register(metrics: &Metrics) -> Self {
        let figures = Self {
            handled: Family::default(),
            duration: Histogram::new(exponential_buckets(0.0005, 2.0, 15)),
        };
        metrics.register(
            "rest_requests",
            "REST requests that were answered, by HTTP method, route and code",
            figures.handled.clone(),
        );
        metrics.register(
            "rest_request_duration_seconds",
            "Time until the answer to a REST request began",
            figures.duration.clone(),
        );
        figures
    }
}

/// The outermost layer around the router.
pub(crate) async fn observe(
    State(metrics): State<RestMetrics>,
    mut request: Request<Body>,
    next: Next,
) -> Response {
    let started = Instant::now();
    let id = accept_request_id(request.headers_mut());
    let method = label(request.method());
    let span = tracing::error_span!(
        parent: None,
        "rest",
        service = "gateway",
        request_id = id.to_str().unwrap_or_default(),
        otel.kind = "server",
    );
    traces::adopt_caller(&span, request.headers(), traces::Caller::Stranger);
    let mut response = next.run(request).instrument(span.clone()).await;
    let route = Route(
        response
            .extensions()
            .get::<MatchedRoute>()
            .map(|r| r.template.clone()),
    );
    let (took, code) = (started.elapsed(), response.status());
    metrics.duration.observe(took.as_secs_f64());
    span.in_scope(|| log(method, &route, code, took.as_micros()));
    metrics
        .handled
        .get_or_create(&HandledLabels {
            method,
            route,
            code: code.as_u16(),
        })
        .inc();
    set_request_id(&mut response, id);
    response
}

fn set_request_id(response: &mut Response, id: HeaderValue) {
    response.headers_mut().insert(REQUEST_ID_HEADER, id);
}

fn log(method: &'static str, route: &Route, code: StatusCode, micros: u128) {
    let took_ms = micros as f64 / 1e3;
    let (route, code) = (route.as_str(), code.as_u16());
    if code == 500 {
        tracing::warn!(method, route, code, took_ms, "rest request answered");
    } else {
        tracing::info!(method, route, code, took_ms, "rest request answered");
    }
}

/// The method as a label that nobody can grow.
fn label(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        "OPTIONS" => "OPTIONS",
        _ => "other",
    }
}
