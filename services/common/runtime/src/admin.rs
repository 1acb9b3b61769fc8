//! The admin listener of a service: `/health`, `/health/live`, `/metrics`. It answers while the
//! service drains, and knows nothing of tenants.

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use serde_json::{Map, Value, json};

use crate::metrics::Metrics;
use crate::readiness::Readiness;

/// The admin routes.
pub fn router(readiness: Readiness, metrics: Metrics) -> Router {
    Router::new()
        .route("/health", get(health).with_state(readiness))
        .route(
            "/health/live",
            get(|| async { axum::Json(json!({ "status": "live" })) }),
        )
        .route("/metrics", get(scrape).with_state(metrics))
}

async fn health(State(readiness): State<Readiness>) -> impl IntoResponse {
    let report = readiness.report().await;
    let checks: Map<String, Value> = report
        .checks
        .into_iter()
        .map(|(name, result)| {
            (
                name.to_owned(),
                result.map_or_else(Value::from, |()| Value::from("ok")),
            )
        })
        .collect();
    let (code, status) = if report.ready {
        (StatusCode::OK, "ready")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready")
    };
    (
        code,
        axum::Json(json!({ "status": status, "checks": checks })),
    )
}

async fn scrape(State(metrics): State<Metrics>) -> impl IntoResponse {
    let open_metrics = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, open_metrics)], metrics.encode())
}
