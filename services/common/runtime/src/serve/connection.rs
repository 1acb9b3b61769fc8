//! One accepted connection: handshake, then HTTP, until either side has had enough.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::future::RouteFuture;
use http::Request;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tower::Service as _;

use super::{ConnectionInfo, ConnectionLimits, Ending, Protocol, unless};
use crate::tls::{Peer, ServerTls};

/// What the connections of one listener share.
pub(super) struct Shared {
    router: Router,
    tls: Option<ServerTls>,
    handshake_deadline: Duration,
    http: Builder<TokioExecutor>,
    handshakes: Semaphore,
    ending: Ending,
}

impl Shared {
    pub(super) fn new(
        router: Router,
        protocol: Protocol,
        tls: Option<ServerTls>,
        limits: &ConnectionLimits,
        ending: Ending,
    ) -> Self {
        let mut http = Builder::new(TokioExecutor::new());
        http.http1()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.header_deadline)
            .max_buf_size((limits.max_header_bytes as usize).max(8192));
        http.http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(limits.max_concurrent_streams)
            .max_header_list_size(limits.max_header_bytes)
            .keep_alive_interval(limits.keepalive_interval)
            .keep_alive_timeout(limits.keepalive_timeout);
        if protocol == Protocol::Grpc {
            http = http.http2_only();
        }
        let handshakes = Semaphore::new(limits.max_handshakes);
        // A router with its state given builds its routes once instead of at each call.
        Self {
            router: router.with_state(()),
            tls,
            handshake_deadline: limits.handshake_deadline,
            http,
            handshakes,
            ending,
        }
    }
}

pub(super) async fn run(shared: Arc<Shared>, stream: TcpStream, remote: SocketAddr) {
    // Small frames wait up to 40 ms for an acknowledgement otherwise.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%remote, %error, "connection gone before it began");
        return;
    }
    let Some(tls) = &shared.tls else {
        return serve(&shared, stream, remote, None).await;
    };
    let handshake = async {
        // Closed never: the semaphore lives as long as the listener.
        let _turn = shared.handshakes.acquire().await;
        tls.accept(stream).await
    };
    let handshake = tokio::time::timeout(shared.handshake_deadline, handshake);
    match unless(&shared.ending.drain, handshake).await {
        Some(Ok(Ok((stream, peer)))) => serve(&shared, stream, remote, peer).await,
        Some(Ok(Err(error))) => tracing::info!(%remote, %error, "connection refused"),
        Some(Err(_elapsed)) => tracing::info!(%remote, "connection refused: no handshake in time"),
        None => {}
    }
}

async fn serve<I>(shared: &Shared, stream: I, remote: SocketAddr, peer: Option<Peer>)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = Caller {
        router: shared.router.clone(),
        connection: ConnectionInfo { remote },
        peer,
    };
    let connection = shared.http.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let served = tokio::select! {
        served = connection.as_mut() => served,
        () = shared.ending.drain.cancelled() => {
            connection.as_mut().graceful_shutdown();
            tokio::select! {
                served = connection.as_mut() => served,
                () = shared.ending.cut.cancelled() => Ok(()),
            }
        }
    };
    if let Err(error) = served {
        tracing::debug!(%remote, error = &*error, "connection ended");
    }
}

/// The router, with what is known about the caller put on every request.
struct Caller {
    router: Router,
    connection: ConnectionInfo,
    peer: Option<Peer>,
}

impl hyper::service::Service<Request<Incoming>> for Caller {
    type Response = axum::response::Response;
    type Error = Infallible;
    type Future = RouteFuture<Infallible>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        request.extensions_mut().insert(self.connection);
        if let Some(peer) = &self.peer {
            request.extensions_mut().insert(peer.clone());
        }
        self.router.clone().call(request)
    }
}
