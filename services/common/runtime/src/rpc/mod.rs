//! The layers around every gRPC router, the same over a socket and in process: request id, span,
//! metrics and one log line per call, panics caught, admission and deadlines, client address.

mod admission;
mod body;
mod client_address;
mod in_process;
mod observe;
mod request_id;

use std::any::Any;

use axum::Router;
use axum::middleware::{from_fn, from_fn_with_state};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::request_id::{PropagateRequestIdLayer, SetRequestIdLayer};
use tower_http::trace::TraceLayer;

pub use admission::RpcLimits;
pub use body::{BodyAllowance, BodyBudget, BodyRefusal, MAX_AWAITED_PER_ADDRESS};
pub use client_address::{
    ClientAddress, ForwardedHeader, TrustedProxies, UnknownHeader, client_address,
};
pub use in_process::InProcess;
pub use request_id::{REQUEST_ID_HEADER, RequestId, accept_request_id, request_id};

use crate::metrics::Metrics;
use crate::status::Failure;

/// The largest message that a server decodes, unless its service says otherwise: put it on each
/// generated server with `.max_decoding_message_size(…)`.
pub const MAX_MESSAGE_BYTES: usize = 4 << 20;

/// Puts the layers around `router`.
pub fn assemble(
    router: Router,
    service: &'static str,
    limits: &RpcLimits,
    metrics: &Metrics,
) -> Router {
    let admission = admission::Admission::new(limits);
    // The last layer added is the outermost.
    router
        .layer(CatchPanicLayer::custom(answer_panic))
        .layer(from_fn_with_state(admission, admission::admit))
        .layer(observe::ObserveLayer::new(metrics.rpc().clone()))
        .layer(PropagateRequestIdLayer::new(REQUEST_ID_HEADER))
        .layer(
            TraceLayer::new_for_grpc()
                .make_span_with(observe::RpcSpan::new(service))
                .on_request(())
                .on_response(())
                .on_body_chunk(())
                .on_eos(())
                .on_failure(()),
        )
        .layer(SetRequestIdLayer::new(
            REQUEST_ID_HEADER,
            request_id::NewRequestId,
        ))
        .layer(from_fn(request_id::drop_unfit))
}

/// A panic is our fault and this call's end, not the process's; the panic hook has logged it.
fn answer_panic(_panic: Box<dyn Any + Send>) -> axum::response::Response {
    Failure::internal().into_status().into_http()
}
