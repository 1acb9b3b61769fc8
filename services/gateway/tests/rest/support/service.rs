//! The odd service, as tonic serves any: messages decoded and encoded by their descriptors.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use futures::{Stream, StreamExt, stream};
use prost::Message as _;
use prost_reflect::{DynamicMessage, MapKey, ReflectMessage as _, Value};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::metadata::MetadataMap;
use tonic::service::Routes;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status};
use tonic_types::{ErrorDetails, StatusExt};

use super::pool;

/// What the tests may ask the service about.
#[derive(Debug, Clone, Default)]
pub struct OddService {
    /// Signals each call that was dropped before its end.
    pub dropped: Arc<Notify>,
    /// Calls that began.
    pub calls: Arc<AtomicUsize>,
    /// Signals each call that began.
    pub begun: Arc<Notify>,
    /// Pieces of endless files that were taken.
    pub pieces: Arc<AtomicUsize>,
}

/// Tells when it is dropped unfinished.
struct Guard(Arc<Notify>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

type Messages = Pin<Box<dyn Stream<Item = Result<Bytes, Status>> + Send>>;

impl OddService {
    pub fn routes(&self) -> Routes {
        let service = self.clone();
        Routes::from(
            axum::Router::new().fallback(move |request: axum::extract::Request| {
                let service = service.clone();
                async move { service.dispatch(request).await }
            }),
        )
    }

    /// Serves on a port of its own; the channel leads there.
    pub async fn channel(&self) -> Channel {
        let address = self.listen().await;
        Endpoint::from_shared(format!("http://{address}"))
            .unwrap()
            .connect()
            .await
            .unwrap()
    }

    /// Serves on a port of its own.
    pub async fn listen(&self) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let routes = self.routes();
        tokio::spawn(
            tonic::transport::Server::builder()
                .add_routes(routes)
                .serve_with_incoming(tokio_stream::wrappers::TcpListenerStream::new(listener)),
        );
        address
    }

    async fn dispatch(&self, request: axum::extract::Request) -> http::Response<tonic::body::Body> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        self.begun.notify_one();
        let path = request.uri().path().to_owned();
        let mut grpc = tonic::server::Grpc::new(RawCodec);
        let service = self.clone();
        if path.ends_with("/Watch") || path.ends_with("/StreamFile") {
            let handler = tower::service_fn(move |request: Request<Bytes>| {
                let (service, path) = (service.clone(), path.clone());
                async move { service.stream(&path, request) }
            });
            return grpc.server_streaming(handler, request).await;
        }
        let handler = tower::service_fn(move |request: Request<Bytes>| {
            let (service, path) = (service.clone(), path.clone());
            async move { service.unary(&path, request).await }
        });
        grpc.unary(handler, request).await
    }

    async fn unary(&self, path: &str, request: Request<Bytes>) -> Result<Response<Bytes>, Status> {
        let method = path.rsplit('/').next().unwrap_or_default();
        match method {
            "Echo" | "ListNames" | "UpdateThing" => Ok(Response::new(request.into_inner())),
            "GetFile" => Ok(file(&decode("odd.v1.FileRequest", request.get_ref()))),
            "Fail" => Err(failure(&decode("odd.v1.FailRequest", request.get_ref()))),
            "Headers" => Ok(Response::new(labels(request.metadata()))),
            "Hang" => {
                let _guard = Guard(self.dropped.clone());
                std::future::pending().await
            }
            _ => Err(Status::unimplemented("")),
        }
    }

    /// A file that goes on for as long as somebody takes pieces of it.
    fn endless(&self) -> Messages {
        let pieces = self.pieces.clone();
        Box::pin(stream::repeat_with(move || {
            pieces.fetch_add(1, Ordering::SeqCst);
            Ok(http_body("text/plain", vec![b'x'; PIECE]))
        }))
    }

    fn stream(&self, path: &str, request: Request<Bytes>) -> Result<Response<Messages>, Status> {
        if path.ends_with("/StreamFile") {
            let asked = decode("odd.v1.FileRequest", request.get_ref());
            if field(&asked, "path").as_str() == Some("endless") {
                return Ok(Response::new(self.endless()));
            }
            let chunks = ["one ", "two ", "three"].map(|text| Ok(http_body("text/plain", text)));
            return Ok(Response::new(Box::pin(stream::iter(chunks))));
        }
        let request = decode("odd.v1.WatchRequest", request.get_ref());
        let count = field(&request, "count").as_i32().unwrap();
        let then = field(&request, "then").as_str().unwrap().to_owned();
        if count < 0 {
            return Err(Status::invalid_argument("cannot count down"));
        }
        let counted = stream::iter((0..count).map(|i| {
            let mut message = new("odd.v1.Everything");
            message.set_field_by_name("big", Value::I64(i.into()));
            Ok(message.encode_to_vec().into())
        }));
        let guard = Guard(self.dropped.clone());
        let last = stream::once(async move {
            let _guard = guard;
            match then.as_str() {
                "fail" => Some(Err(failure(&new("odd.v1.FailRequest")))),
                "wait" => std::future::pending().await,
                _ => None,
            }
        });
        Ok(Response::new(Box::pin(
            counted.chain(last.filter_map(std::future::ready)),
        )))
    }
}

const PIECE: usize = 64 << 10;

fn new(name: &str) -> DynamicMessage {
    DynamicMessage::new(pool().get_message_by_name(name).unwrap())
}

fn decode(name: &str, bytes: &Bytes) -> DynamicMessage {
    DynamicMessage::decode(pool().get_message_by_name(name).unwrap(), bytes.clone()).unwrap()
}

fn field(message: &DynamicMessage, name: &str) -> Value {
    message.get_field_by_name(name).unwrap().into_owned()
}

fn http_body(content_type: &str, data: impl Into<Bytes>) -> Bytes {
    let mut body = new("google.api.HttpBody");
    body.set_field_by_name("content_type", Value::String(content_type.to_owned()));
    body.set_field_by_name("data", Value::Bytes(data.into()));
    body.encode_to_vec().into()
}

/// What was sent comes back; without, the path does.
fn file(request: &DynamicMessage) -> Response<Bytes> {
    if request.has_field_by_name("content") {
        let content = field(request, "content");
        return Response::new(content.as_message().unwrap().encode_to_vec().into());
    }
    let path = field(request, "path");
    let mut response = Response::new(http_body(
        "text/plain; charset=utf-8",
        path.as_str().unwrap().to_owned(),
    ));
    let metadata = response.metadata_mut();
    metadata.insert("content-disposition", "attachment".parse().unwrap());
    metadata.insert("etag", "\"of the file\"".parse().unwrap());
    metadata.insert("x-internal", "secret".parse().unwrap());
    response
}

fn failure(request: &DynamicMessage) -> Status {
    let code = field(request, "code").as_i32().unwrap();
    let code = if code == 0 {
        Code::Unavailable
    } else {
        Code::from_i32(code)
    };
    if field(request, "bare").as_bool() == Some(true) {
        return Status::new(code, "bare");
    }
    let metadata: HashMap<String, String> = [("limit".to_owned(), "7".to_owned())].into();
    let mut details = ErrorDetails::with_error_info("AS_ASKED", "vpnpanel", metadata);
    details
        .set_retry_info(Some(Duration::from_millis(1500)))
        .set_debug_info(vec!["secret.rs:7".to_owned()], "not for you")
        .add_bad_request_violation("thing.id", "is odd");
    Status::with_error_details(code, "failed as asked", details)
}

fn labels(metadata: &MetadataMap) -> Bytes {
    let mut labels = HashMap::new();
    for (name, value) in metadata.clone().into_headers() {
        let Some(name) = name else { continue };
        let value = value.to_str().unwrap().to_owned();
        labels.insert(
            MapKey::String(name.as_str().to_owned()),
            Value::String(value),
        );
    }
    let mut message = new("odd.v1.Everything");
    message.set_field_by_name("labels", Value::Map(labels));
    assert_eq!(message.descriptor().full_name(), "odd.v1.Everything");
    message.encode_to_vec().into()
}

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
}

impl Decoder for RawCodec {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, src: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(src.copy_to_bytes(src.remaining())))
    }
}
