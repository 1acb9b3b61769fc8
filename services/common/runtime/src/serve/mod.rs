//! Listeners: accepts connections within bounds, finds out who is calling, serves a router, and ends
//! in order. Owned here because tonic's own server cannot reload TLS, bound handshakes, or turn off
//! Nagle's algorithm on accepted sockets.

mod browsers;
mod connection;
mod head;
mod io;
mod life;
mod places;
mod streams;
mod turns;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use browsers::BROWSER_HEADERS;

use crate::metrics::ListenerMetrics;
use crate::settings::{CidrList, ListenAddr};
use crate::tls::ServerTls;

/// Where a request's connection comes from; in the extensions of each request over a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionInfo {
    /// The other end of the socket.
    pub remote: SocketAddr,
}

/// The request came over TLS of this very process; in the extensions of each request that did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OverTls;

/// The bounds of one listener.
#[derive(Debug, Clone)]
pub struct ConnectionLimits {
    /// Open connections; further ones wait in the kernel's queue.
    pub max_connections: usize,
    /// Of those, how many from one address (an IPv6 network of 64 bits), or of one identity where
    /// clients show certificates; further ones are closed.
    pub max_connections_per_address: usize,
    /// Networks of proxies, whose connections are not counted by address.
    pub proxies: CidrList,
    /// TLS handshakes under way: they are the expensive part of a storm.
    pub max_handshakes: usize,
    /// Of those, how many from one address (an IPv6 network of 64 bits): whoever begins handshakes
    /// and leaves them holds up nobody else.
    pub max_handshakes_per_address: usize,
    /// How long a handshake may take, waiting for its turn included.
    pub handshake_deadline: Duration,
    /// How long a client may take to say what it wants: from connecting to its first request, and
    /// from the first byte of an HTTP/1 request to the end of its headers.
    pub header_deadline: Duration,
    /// How long a connection may lie idle between requests.
    pub idle_timeout: Duration,
    /// How long a client may take nothing of what is sent to it.
    pub write_deadline: Duration,
    /// Streams under way per HTTP/2 connection.
    pub max_concurrent_streams: u32,
    /// Calls that one connection may begin and give up within [`RESET_WINDOW`]; whoever
    /// does more is told to go away.
    pub max_resets: u32,
    /// Of those, how many before we looked at them ("rapid reset", CVE-2023-44487).
    pub max_unseen_resets: usize,
    /// An HTTP/2 ping is sent this often…
    pub keepalive_interval: Duration,
    /// …and the connection is closed when none comes back for so long.
    pub keepalive_timeout: Duration,
    /// The size of a request's headers, in bytes.
    pub max_header_bytes: u32,
    /// How many headers a request may have.
    pub max_headers: usize,
    /// The length of a request's path and query, in bytes.
    pub max_uri_bytes: usize,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self {
            max_connections: 16_384,
            max_connections_per_address: 1024,
            proxies: CidrList::default(),
            max_handshakes: 512,
            max_handshakes_per_address: 128,
            handshake_deadline: Duration::from_secs(10),
            header_deadline: Duration::from_secs(10),
            // Longer than proxies keep theirs, so that they close first.
            idle_timeout: Duration::from_secs(75),
            write_deadline: Duration::from_secs(30),
            max_concurrent_streams: 256,
            max_resets: 1000,
            max_unseen_resets: 20,
            keepalive_interval: Duration::from_secs(30),
            keepalive_timeout: Duration::from_secs(20),
            max_header_bytes: 16 << 10,
            max_headers: 100,
            max_uri_bytes: 8 << 10,
        }
    }
}

impl ConnectionLimits {
    /// The same for a listener that other services alone call: few, each with all the calls of its
    /// own callers on a few connections, and all that these give up.
    #[must_use]
    pub fn of_services(&self) -> Self {
        Self {
            max_connections: 1024,
            max_connections_per_address: 128,
            max_concurrent_streams: self.max_concurrent_streams.max(2048),
            max_resets: self.max_resets.max(100_000),
            max_unseen_resets: 2000,
            ..self.clone()
        }
    }
}

/// Over how long [`ConnectionLimits::max_resets`] counts.
pub const RESET_WINDOW: Duration = Duration::from_secs(10);

/// What a listener speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// HTTP/2 alone.
    Grpc,
    /// HTTP/1.1 and HTTP/2.
    Http,
}

/// Ends a listener: first gently, then for good.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ending {
    /// No new connections or requests; those under way go on.
    pub(crate) drain: CancellationToken,
    /// Connections are cut.
    pub(crate) cut: CancellationToken,
}

/// A bound address, not yet served.
#[derive(Debug)]
pub(crate) struct Listener {
    listener: TcpListener,
    protocol: Protocol,
    tls: Option<ServerTls>,
    limits: ConnectionLimits,
    metrics: ListenerMetrics,
}

impl Listener {
    pub(crate) async fn bind(
        address: ListenAddr,
        protocol: Protocol,
        tls: Option<ServerTls>,
        limits: ConnectionLimits,
        metrics: ListenerMetrics,
    ) -> std::io::Result<Self> {
        let listener = TcpListener::bind(address.0).await?;
        Ok(Self {
            listener,
            protocol,
            tls,
            limits,
            metrics,
        })
    }

    pub(crate) fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `ending` says so, and returns when the last connection is gone.
    pub(crate) async fn serve(self, router: Router, ending: Ending) {
        let connections = TaskTracker::new();
        let slots = Arc::new(Semaphore::new(self.limits.max_connections));
        let shared = Arc::new(connection::Shared::new(
            router,
            self.protocol,
            self.tls,
            self.limits,
            self.metrics,
            ending.clone(),
        ));
        while let Some(slot) = unless(&ending.drain, slots.clone().acquire_owned()).await {
            let Some(accepted) = unless(&ending.drain, accept(&self.listener)).await else {
                break;
            };
            let (stream, remote) = accepted;
            let Some(place) = shared.place(remote) else {
                continue;
            };
            let shared = Arc::clone(&shared);
            connections.spawn(async move {
                connection::run(shared, stream, remote, place).await;
                drop(slot);
            });
        }
        drop(self.listener);
        connections.close();
        connections.wait().await;
    }
}

/// The next connection. An accept that fails (a peer gone already, no descriptor left) is no end of
/// the listener: it waits a little and goes on.
async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok(accepted) => return accepted,
            Err(error) => {
                tracing::warn!(%error, "connection not accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// `future`'s output, or `None` once `token` is cancelled.
async fn unless<F: Future>(token: &CancellationToken, future: F) -> Option<F::Output> {
    token.run_until_cancelled(future).await
}
