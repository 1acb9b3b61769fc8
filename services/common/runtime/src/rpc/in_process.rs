//! Calling another service's router in the same process, with all its layers and no socket.

use std::convert::Infallible;
use std::task::{Context, Poll};

use axum::Router;
use axum::body::Body;
use axum::routing::future::RouteFuture;
use http::Request;
use tower::Service;

use crate::identity::PeerIdentity;

/// A router as its callers in the same process see it. Each request carries the caller's identity,
/// as a verified certificate would say it; over a socket nobody can claim one this way.
#[derive(Debug, Clone)]
pub struct InProcess {
    router: Router,
    caller: Option<PeerIdentity>,
}

impl InProcess {
    /// Calls made on behalf of somebody outside, such as the gateway's: no identity.
    pub fn anonymous(router: Router) -> Self {
        Self {
            router,
            caller: None,
        }
    }

    /// Calls that `caller` makes itself.
    pub fn of(router: Router, caller: PeerIdentity) -> Self {
        Self {
            router,
            caller: Some(caller),
        }
    }
}

impl Service<Request<tonic::body::Body>> for InProcess {
    type Response = axum::response::Response;
    type Error = Infallible;
    type Future = RouteFuture<Infallible>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // A router is ready always; its bounds are in its layers.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<tonic::body::Body>) -> Self::Future {
        let mut request = request.map(Body::new);
        if let Some(caller) = &self.caller {
            request.extensions_mut().insert(caller.clone());
        }
        self.router.call(request)
    }
}
