//! What is seen of a call: its span, its figures, and one line in the log when it ended, however it
//! ended (trailers, refusal, or a client that went away).

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use axum::body::HttpBody;
use bytes::Bytes;
use http::{Extensions, HeaderMap, Request, Response};
use http_body::{Frame, SizeHint};
use tonic::Code;
use tower::{Layer, Service};
use tower_http::trace::MakeSpan;
use tracing::Span;

use super::request_id::request_id;
use crate::identity::PeerIdentity;
use crate::metrics::{HandledLabels, MethodLabels, RpcMetrics};
use crate::serve::ConnectionInfo;
use crate::tls::Peer;
use crate::traces;

/// Makes the span of a call. At error level, because its fields belong on warnings too, whatever
/// the filter.
#[derive(Debug, Clone, Copy)]
pub(super) struct RpcSpan {
    service: &'static str,
}

impl RpcSpan {
    pub(super) fn new(service: &'static str) -> Self {
        Self { service }
    }
}

impl<B> MakeSpan<B> for RpcSpan {
    fn make_span(&mut self, request: &Request<B>) -> Span {
        let span = tracing::error_span!(
            parent: None,
            "rpc",
            service = self.service,
            request_id = request_id(request.extensions()),
            method = method_label(request.uri().path()),
            tenant_id = tracing::field::Empty,
            node_id = tracing::field::Empty,
            peer = tracing::field::Empty,
            otel.kind = "server",
            otel.name = method_label(request.uri().path()),
        );
        if let Some(peer) = request.extensions().get::<Peer>() {
            span.record("peer", tracing::field::display(peer.identity()));
            if let Some(node) = peer.identity().node() {
                span.record("node_id", tracing::field::display(node));
            }
        }
        traces::adopt_caller(&span, request.headers(), caller(request.extensions()));
        span
    }
}

/// A service of ours calls within the process, without a connection, or shows its certificate.
fn caller(extensions: &Extensions) -> traces::Caller {
    let ours = match extensions.get::<Peer>().map(Peer::identity) {
        Some(identity) => matches!(identity, PeerIdentity::ControlPlane { .. }),
        None => extensions.get::<ConnectionInfo>().is_none(),
    };
    match ours {
        true => traces::Caller::Service,
        false => traces::Caller::Stranger,
    }
}

/// The method as a label: one of the contract's, or one word for all others.
fn method_label(path: &str) -> &'static str {
    if let Some(method) = vpnpanel_api::method(path) {
        return method.path.trim_start_matches('/');
    }
    if path.starts_with("/grpc.health.v1.Health/") {
        "grpc.health.v1.Health"
    } else if path.starts_with("/grpc.reflection.") {
        "grpc.reflection"
    } else {
        "other"
    }
}

#[derive(Debug, Clone)]
pub(super) struct ObserveLayer(RpcMetrics);

impl ObserveLayer {
    pub(super) fn new(metrics: RpcMetrics) -> Self {
        Self(metrics)
    }
}

impl<S> Layer<S> for ObserveLayer {
    type Service = Observe<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Observe {
            inner,
            metrics: self.0.clone(),
        }
    }
}

#[derive(Debug, Clone)]
pub(super) struct Observe<S> {
    inner: S,
    metrics: RpcMetrics,
}

impl<S, A, B> Service<Request<A>> for Observe<S>
where
    S: Service<Request<A>, Response = Response<B>>,
{
    type Response = Response<ObservedBody<B>>;
    type Error = S::Error;
    type Future = ObservedCall<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<A>) -> Self::Future {
        let record = Record::start(self.metrics.clone(), method_label(request.uri().path()));
        ObservedCall {
            call: self.inner.call(request),
            record: Some(record),
        }
    }
}

pin_project_lite::pin_project! {
    pub(super) struct ObservedCall<F> {
        #[pin]
        call: F,
        record: Option<Record>,
    }
}

impl<F, B, E> Future for ObservedCall<F>
where
    F: Future<Output = Result<Response<B>, E>>,
{
    type Output = Result<Response<ObservedBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let response = ready!(this.call.poll(cx))?;
        let mut record = this.record.take();
        if let Some(code) = code_of(response.headers())
            && let Some(record) = record.take()
        {
            record.finish(code);
        }
        Poll::Ready(Ok(response.map(|body| ObservedBody { body, record })))
    }
}

pin_project_lite::pin_project! {
    pub(super) struct ObservedBody<B> {
        #[pin]
        body: B,
        record: Option<Record>,
    }
}

impl<B: HttpBody<Data = Bytes>> HttpBody for ObservedBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.project();
        let frame = ready!(this.body.poll_frame(cx));
        let ended = match &frame {
            Some(Ok(frame)) => frame
                .trailers_ref()
                .map(|trailers| code_of(trailers).unwrap_or(Code::Unknown)),
            Some(Err(_)) | None => Some(Code::Unknown),
        };
        if let Some(code) = ended
            && let Some(record) = this.record.take()
        {
            record.finish(code);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

fn code_of(headers: &HeaderMap) -> Option<Code> {
    headers
        .get("grpc-status")
        .map(|value| Code::from_bytes(value.as_bytes()))
}

/// One call under way. Dropped unfinished, it was cancelled.
struct Record {
    metrics: RpcMetrics,
    method: &'static str,
    started: Instant,
    span: Span,
    finished: bool,
}

impl Record {
    fn start(metrics: RpcMetrics, method: &'static str) -> Self {
        metrics
            .in_flight
            .get_or_create(&MethodLabels { method })
            .inc();
        Self {
            metrics,
            method,
            started: Instant::now(),
            span: Span::current(),
            finished: false,
        }
    }

    fn finish(mut self, code: Code) {
        self.end(code);
    }

    fn end(&mut self, code: Code) {
        self.finished = true;
        let (method, took) = (self.method, self.started.elapsed());
        let label = MethodLabels { method };
        self.metrics.in_flight.get_or_create(&label).dec();
        self.metrics
            .duration
            .get_or_create(&label)
            .observe(took.as_secs_f64());
        let code = code_name(code);
        self.metrics
            .handled
            .get_or_create(&HandledLabels { method, code })
            .inc();
        self.span.in_scope(|| log(method, code, took));
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        if !self.finished {
            self.end(Code::Cancelled);
        }
    }
}

fn log(method: &'static str, code: &'static str, took: Duration) {
    let took_ms = took.as_micros() as f64 / 1e3;
    match code {
        "INTERNAL" | "UNKNOWN" | "DATA_LOSS" => tracing::warn!(code, took_ms, "rpc handled"),
        // Probes knock every few seconds.
        _ if method == "grpc.health.v1.Health" => tracing::debug!(code, took_ms, "rpc handled"),
        _ => tracing::info!(code, took_ms, "rpc handled"),
    }
}

fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}
