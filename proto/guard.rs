//! The seam between the contract and authorization: generated wrappers call a [`Guard`] with
//! what the method declares and the tenant the request names, then validate, then the handler.

use std::future::Future;

use tonic::{Extensions, Request, Status, metadata::MetadataMap};
use tonic_types::{ErrorDetails, StatusExt};

use crate::{METHODS, Method, Validate};

/// A call that waits for authorization.
#[derive(Debug)]
pub struct Call<'a> {
    /// The method and what it declares.
    pub method: &'static Method,
    /// The tenant that the request names, as it was sent; `None` is the platform.
    pub tenant: Option<&'a str>,
    /// The request's metadata.
    pub metadata: &'a MetadataMap,
    /// What the layers in front found out about the caller; a guard may add to it.
    pub extensions: &'a mut Extensions,
}

/// Decides whether a call may go on. Everything that is not expressly permitted is refused.
pub trait Guard: Send + Sync + 'static {
    /// Permits the call, or says why not.
    fn check(&self, call: Call<'_>) -> impl Future<Output = Result<(), Status>> + Send;
}

impl<G: Guard> Guard for std::sync::Arc<G> {
    fn check(&self, call: Call<'_>) -> impl Future<Output = Result<(), Status>> + Send {
        G::check(self, call)
    }
}

/// A service behind a guard. Implements the server trait of every service that `S` implements.
/// Handlers find the method that is called, a `&'static` [`Method`], in the request's extensions.
#[derive(Debug, Clone)]
pub struct Guarded<S, G> {
    inner: S,
    guard: G,
}

impl<S, G: Guard> Guarded<S, G> {
    /// Puts `guard` in front of `inner`.
    pub fn new(inner: S, guard: G) -> Self {
        Self { inner, guard }
    }

    /// Authorizes, then validates; gives the request back for the handler.
    async fn admit<M: Validate + Send + Sync>(
        &self,
        method: &'static Method,
        request: Request<M>,
        tenant: impl FnOnce(&M) -> Option<&str> + Send,
    ) -> Result<Request<M>, Status> {
        let (metadata, mut extensions, message) = request.into_parts();
        let call = Call {
            method,
            tenant: tenant(&message),
            metadata: &metadata,
            extensions: &mut extensions,
        };
        self.guard.check(call).await?;
        extensions.insert(method);
        message.validate().map_err(|violations| {
            let mut details = ErrorDetails::with_error_info("INVALID_FIELDS", "vpnpanel", []);
            for violation in &violations {
                details.add_bad_request_violation(&violation.field, &violation.message);
            }
            let first = violations
                .first()
                .map(|v| format!("{}: {}", v.field, v.message));
            Status::with_error_details(
                tonic::Code::InvalidArgument,
                first.unwrap_or_default(),
                details,
            )
        })?;
        Ok(Request::from_parts(metadata, extensions, message))
    }

    /// Authorizes a stream of requests; the handler validates each message as it comes.
    async fn admit_stream<M: Send>(
        &self,
        method: &'static Method,
        request: Request<tonic::Streaming<M>>,
        _tenant: impl FnOnce(&M) -> Option<&str> + Send,
    ) -> Result<Request<tonic::Streaming<M>>, Status> {
        let (metadata, mut extensions, stream) = request.into_parts();
        let call = Call {
            method,
            tenant: None,
            metadata: &metadata,
            extensions: &mut extensions,
        };
        self.guard.check(call).await?;
        extensions.insert(method);
        Ok(Request::from_parts(metadata, extensions, stream))
    }
}

include!(concat!(env!("OUT_DIR"), "/guarded.rs"));
