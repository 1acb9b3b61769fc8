//! The services behind the gateway: anything that takes a gRPC request over `http` types — channels
//! to another process, or the routes of one in this process.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use bytes::Bytes;
use tonic::Status;
use tonic::client::Grpc;
use tonic::codec::{BufferSettings, Codec, DecodeBuf, Decoder, EncodeBuf, Encoder, Streaming};
use tower::util::BoxCloneSyncService;
use tower::{BoxError, Service, ServiceExt};

use bytes::{Buf, BufMut};
use http::uri::PathAndQuery;

/// One gRPC service, or several behind one address.
#[derive(Clone)]
pub struct Upstream {
    calls: Connected,
    /// What streams go over, in turn; what the calls do if empty.
    streams: Arc<[Connected]>,
    next: Arc<AtomicUsize>,
}

type Connected = BoxCloneSyncService<
    http::Request<tonic::body::Body>,
    http::Response<tonic::body::Body>,
    Status,
>;

impl std::fmt::Debug for Upstream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Upstream").finish_non_exhaustive()
    }
}

impl Upstream {
    /// Wraps a tonic `Channel`, tonic `Routes`, or a stack of layers around either.
    pub fn new<S, B>(service: S) -> Self
    where
        S: Service<http::Request<tonic::body::Body>, Response = http::Response<B>>
            + Clone
            + Send
            + Sync
            + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send + 'static,
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        Self {
            calls: connected(service),
            streams: Arc::default(),
            next: Arc::default(),
        }
    }

    /// Sends streams over `services`, each in its turn, and calls alone over the first: on one
    /// connection, streams that nobody reads would keep what calls wait for.
    #[must_use]
    pub fn streams_over<S, B>(mut self, services: impl IntoIterator<Item = S>) -> Self
    where
        S: Service<http::Request<tonic::body::Body>, Response = http::Response<B>>
            + Clone
            + Send
            + Sync
            + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send + 'static,
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        self.streams = services.into_iter().map(connected).collect();
        self
    }

    fn for_a_stream(&self) -> Connected {
        let turn = self.next.fetch_add(1, Relaxed);
        let chosen = turn
            .checked_rem(self.streams.len())
            .and_then(|at| self.streams.get(at));
        chosen.unwrap_or(&self.calls).clone()
    }

    /// Calls a unary method with an encoded message; answers with one.
    pub(crate) async fn unary(
        &self,
        path: PathAndQuery,
        request: tonic::Request<Bytes>,
        max_message: usize,
    ) -> Result<tonic::Response<Bytes>, Status> {
        let mut grpc = Grpc::new(self.calls.clone()).max_decoding_message_size(max_message);
        grpc.ready().await?;
        grpc.unary(request, path, RawCodec).await
    }

    /// Calls a server-streaming method with an encoded message.
    pub(crate) async fn server_streaming(
        &self,
        path: PathAndQuery,
        request: tonic::Request<Bytes>,
        max_message: usize,
    ) -> Result<tonic::Response<Streaming<Bytes>>, Status> {
        let mut grpc = Grpc::new(self.for_a_stream()).max_decoding_message_size(max_message);
        grpc.ready().await?;
        grpc.server_streaming(request, path, RawCodec).await
    }
}

fn connected<S, B>(service: S) -> Connected
where
    S: Service<http::Request<tonic::body::Body>, Response = http::Response<B>>
        + Clone
        + Send
        + Sync
        + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let service = service
        .map_err(|error: S::Error| Status::from_error(error.into()))
        .map_response(|response: http::Response<B>| response.map(tonic::body::Body::new));
    BoxCloneSyncService::new(service)
}

/// Which upstream serves which package.
#[derive(Debug, Clone)]
pub struct Upstreams {
    default: Upstream,
    packages: Vec<(String, Upstream)>,
}

impl Upstreams {
    /// `default` serves every package that is not named otherwise.
    pub fn new(default: Upstream) -> Self {
        Self {
            default,
            packages: Vec::new(),
        }
    }

    /// Sends `package` and the packages below it (`vpnpanel.scheduler` covers
    /// `vpnpanel.scheduler.v1`) to another upstream.
    #[must_use]
    pub fn with_package(mut self, package: &str, upstream: Upstream) -> Self {
        self.packages.push((format!("{package}."), upstream));
        self
    }

    /// The upstream of a service, by its full name.
    pub(crate) fn of_service(&self, full_name: &str) -> Upstream {
        let longest = self
            .packages
            .iter()
            .filter(|(prefix, _)| full_name.starts_with(prefix.as_str()))
            .max_by_key(|(prefix, _)| prefix.len());
        longest
            .map_or(&self.default, |(_, upstream)| upstream)
            .clone()
    }
}

/// Messages pass as they are encoded; the gateway reads and writes their bytes itself.
#[derive(Debug, Clone, Copy)]
struct RawCodec;

impl Codec for RawCodec {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for RawCodec {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, dst: &mut EncodeBuf<'_>) -> Result<(), Status> {
        dst.put(item);
        Ok(())
    }

    fn buffer_settings(&self) -> BufferSettings {
        // Requests are small; tonic would set 8 KiB aside for each.
        BufferSettings::new(1024, 32 * 1024)
    }
}

impl Decoder for RawCodec {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, src: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(src.copy_to_bytes(src.remaining())))
    }
}
