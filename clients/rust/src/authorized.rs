//! A channel that puts the session's token on each call.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::header::AUTHORIZATION;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tower::{BoxError, Service};

use crate::session::Session;

/// What the stubs of a [`crate::Client`] call through.
#[derive(Debug, Clone)]
pub struct Authorized {
    channel: Channel,
    session: Arc<Session>,
}

impl Authorized {
    pub(crate) fn new(channel: Channel, session: Arc<Session>) -> Self {
        Self { channel, session }
    }
}

type Request = http::Request<tonic::body::Body>;
type Response = http::Response<tonic::body::Body>;

impl Service<Request> for Authorized {
    type Response = Response;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.channel.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, mut request: Request) -> Self::Future {
        // The channel that is ready makes the call; its clone is not.
        let clone = self.channel.clone();
        let mut channel = std::mem::replace(&mut self.channel, clone);
        let session = Arc::clone(&self.session);
        Box::pin(async move {
            if let Some(bearer) = session.bearer().await? {
                request.headers_mut().entry(AUTHORIZATION).or_insert(bearer);
            }
            let response = channel.call(request).await?;
            let status = Status::from_header_map(response.headers());
            if status.is_some_and(|status| status.code() == Code::Unauthenticated) {
                session.refused();
            }
            Ok(response)
        })
    }
}
