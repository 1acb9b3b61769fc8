//! One accepted connection: handshake, then HTTP, until either side has had enough.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::Router;
use axum::response::Response;
use axum::routing::future::RouteFuture;
use bytes::Bytes;
use futures::future::{Either, Ready};
use http::header::{CONNECTION, TRANSFER_ENCODING};
use http::{HeaderValue, Request, Version};
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tower::Service as _;

use super::io::Watched;
use super::life::{Life, Reason, Verdict};
use super::places::{Place, Places};
use super::streams::{self, Pieces, Streams};
use super::turns::Turns;
use super::{ConnectionInfo, ConnectionLimits, Ending, OverTls, Protocol, head, unless};
use crate::metrics::ListenerMetrics;
use crate::tls::{Peer, ServerTls};

/// What the connections of one listener share.
pub(super) struct Shared {
    router: Router,
    protocol: Protocol,
    tls: Option<ServerTls>,
    limits: ConnectionLimits,
    places: Places,
    handshakes: Turns,
    metrics: ListenerMetrics,
    ending: Ending,
}

impl Shared {
    pub(super) fn new(
        router: Router,
        protocol: Protocol,
        tls: Option<ServerTls>,
        limits: ConnectionLimits,
        metrics: ListenerMetrics,
        ending: Ending,
    ) -> Self {
        let places = Places::new(limits.max_connections_per_address, limits.proxies.clone());
        let handshakes = Turns::new(limits.max_handshakes, limits.max_handshakes_per_address);
        // A router with its state given builds its routes once instead of at each call.
        Self {
            router: router.with_state(()),
            protocol,
            tls,
            limits,
            places,
            handshakes,
            metrics,
            ending,
        }
    }

    /// A place for a new connection; `None` when whoever it comes from has enough of them.
    pub(super) fn place(&self, remote: SocketAddr) -> Option<Place> {
        let place = self.places.of(remote.ip());
        if place.is_none() {
            self.note(Reason::Crowded, remote);
        }
        place
    }

    fn http(&self, life: &Arc<Life>) -> Builder<Streams> {
        let limits = &self.limits;
        let mut http = Builder::new(Streams {
            life: Arc::clone(life),
            patience: limits.write_deadline,
            metrics: self.metrics.clone(),
        });
        http.http1()
            .timer(TokioTimer::new())
            // Watched here: see `Life`.
            .header_read_timeout(None)
            .max_headers(limits.max_headers)
            .max_buf_size((limits.max_header_bytes as usize).max(8192));
        http.http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(limits.max_concurrent_streams)
            .max_pending_accept_reset_streams(limits.max_unseen_resets)
            .max_header_list_size(limits.max_header_bytes)
            .keep_alive_interval(limits.keepalive_interval)
            .keep_alive_timeout(limits.keepalive_timeout);
        match self.protocol {
            Protocol::Grpc => http.http2_only(),
            Protocol::Http => http,
        }
    }

    fn note(&self, reason: Reason, remote: SocketAddr) {
        let reason = reason.as_str();
        self.metrics.ended(reason);
        tracing::debug!(%remote, reason, "connection ended by us");
    }
}

pub(super) async fn run(shared: Arc<Shared>, stream: TcpStream, remote: SocketAddr, place: Place) {
    let _open = shared.metrics.opened();
    // Small frames wait up to 40 ms for an acknowledgement otherwise.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%remote, %error, "connection gone before it began");
        return;
    }
    let Some(tls) = &shared.tls else {
        return serve(&shared, stream, remote, None).await;
    };
    let handshake = async {
        let _turn = shared.handshakes.take(remote.ip()).await;
        tls.accept(stream).await
    };
    let handshake = tokio::time::timeout(shared.limits.handshake_deadline, handshake);
    match unless(&shared.ending.drain, handshake).await {
        Some(Ok(Ok((stream, peer)))) => match shared.places.known(place, peer.as_ref()) {
            Some(_place) => serve(&shared, stream, remote, peer).await,
            None => shared.note(Reason::Crowded, remote),
        },
        // Whoever knocks without a right key fills no log with it.
        Some(Ok(Err(error))) => {
            tracing::debug!(%remote, %error, "connection refused");
            shared.note(Reason::FailedHandshake, remote);
        }
        Some(Err(_elapsed)) => shared.note(Reason::SlowHandshake, remote),
        None => {}
    }
}

async fn serve<I>(shared: &Arc<Shared>, stream: I, remote: SocketAddr, peer: Option<Peer>)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let life = Arc::new(Life::new(shared.protocol == Protocol::Grpc));
    let service = Caller {
        shared: Arc::clone(shared),
        life: Arc::clone(&life),
        connection: ConnectionInfo { remote },
        peer,
    };
    let stream = TokioIo::new(Watched::new(stream, Arc::clone(&life)));
    let http = shared.http(&life);
    let connection = http.serve_connection(stream, service);
    tokio::pin!(connection);
    let (mut told, mut draining) = (false, false);
    let served = loop {
        let patience = match life.verdict(&shared.limits, told) {
            Verdict::Wait(patience) => patience,
            Verdict::Close(reason) => {
                shared.note(reason, remote);
                told = true;
                connection.as_mut().graceful_shutdown();
                shared.limits.header_deadline
            }
            Verdict::Cut(reason) => {
                shared.note(reason, remote);
                break Ok(());
            }
        };
        tokio::select! {
            served = connection.as_mut() => break served,
            () = tokio::time::sleep(patience) => {}
            () = shared.ending.cut.cancelled() => break Ok(()),
            () = shared.ending.drain.cancelled(), if !draining => {
                draining = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    };
    if let Err(error) = served {
        tracing::debug!(%remote, error = &*error, "connection ended");
    }
}

/// The router, with what is known about the caller put on every request.
struct Caller {
    shared: Arc<Shared>,
    life: Arc<Life>,
    connection: ConnectionInfo,
    peer: Option<Peer>,
}

/// Whether an HTTP/1 request's body is in chunks. Its connection serves nobody after it: where a
/// proxy in front goes by a `content-length` beside, which hyper does not let us see, what it takes
/// for a body would be the next request of somebody else (RFC 9112, 6.1).
fn is_chunked(request: &Request<Incoming>) -> bool {
    request.version() < Version::HTTP_2 && request.headers().contains_key(TRANSFER_ENCODING)
}

type Answering = Either<Ready<Result<Response, Infallible>>, RouteFuture<Infallible>>;

impl hyper::service::Service<Request<Incoming>> for Caller {
    type Response = http::Response<Answer>;
    type Error = Infallible;
    type Future = Underway;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        let guard = Guard::new(&self.life);
        let close = is_chunked(&request);
        let shared = &self.shared;
        let version = request.version();
        let call = match head::refuse(&request, shared.protocol, &shared.limits) {
            Some(refusal) => Either::Left(futures::future::ready(Ok(refusal))),
            None => {
                let extensions = request.extensions_mut();
                extensions.insert(self.connection);
                if shared.tls.is_some() {
                    extensions.insert(OverTls);
                }
                if let Some(peer) = &self.peer {
                    extensions.insert(peer.clone());
                }
                Either::Right(shared.router.clone().call(request))
            }
        };
        Underway {
            call,
            version,
            guard: Some(guard),
            close,
        }
    }
}

/// Tells the connection's [`Life`] of a request, from its head to the end of its answer.
struct Guard {
    life: Arc<Life>,
    answered: bool,
}

impl Guard {
    fn new(life: &Arc<Life>) -> Self {
        life.request_began();
        Self {
            life: Arc::clone(life),
            answered: false,
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.life.request_ended(self.answered);
    }
}

pin_project_lite::pin_project! {
    /// A request that is not answered yet; dropped before, it was given up by the client.
    struct Underway {
        #[pin]
        call: Answering,
        version: Version,
        guard: Option<Guard>,
        close: bool,
    }
}

impl Future for Underway {
    type Output = Result<http::Response<Answer>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let Ok(mut response) = ready!(streams::note(this.call.poll(cx)));
        if *this.close {
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(CONNECTION, close);
        }
        let mut guard = this.guard.take();
        if let Some(guard) = &mut guard {
            guard.answered = true;
        }
        Poll::Ready(Ok(response.map(|body| Answer {
            body: Pieces::new(body, *this.version),
            _guard: guard,
        })))
    }
}

pin_project_lite::pin_project! {
    /// An answer's body.
    struct Answer {
        #[pin]
        body: Pieces,
        _guard: Option<Guard>,
    }
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.project().body.poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
