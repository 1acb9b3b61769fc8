//! Calls any method by its path, and says what became of it.

use bytes::{Buf, BufMut, Bytes};
use http_body_util::BodyExt;
use tonic::{
    Code, Request, Status,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    codegen::http::{self, uri::PathAndQuery},
};
use tonic_types::StatusExt;
use tower::ServiceExt;
use vpnpanel_runtime::rpc::InProcess;

pub(crate) use crate::bindings::HttpRequest;

/// What became of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) code: Code,
    /// Of the ErrorInfo; empty when it went well.
    pub(crate) reason: String,
}

impl Answer {
    pub(crate) fn of(code: Code, reason: &str) -> Self {
        let reason = reason.to_owned();
        Self { code, reason }
    }
}

impl From<Status> for Answer {
    fn from(status: Status) -> Self {
        let details = status.get_error_details();
        let reason = details.error_info().map(|info| info.reason.clone());
        Self {
            code: status.code(),
            reason: reason.unwrap_or_else(|| format!("none: {}", status.message())),
        }
    }
}

/// Calls a method with an encoded message, by one `authorization` header for each credential.
pub(crate) async fn grpc(
    transport: &InProcess,
    credentials: &[String],
    path: &'static str,
    message: Bytes,
) -> Answer {
    match grpc_message(transport, credentials, path, message).await {
        Ok(_) => Answer::of(Code::Ok, ""),
        Err(status) => status.into(),
    }
}

/// The same; gives the first message of the answer, empty where there is none.
pub(crate) async fn grpc_message(
    transport: &InProcess,
    credentials: &[String],
    path: &'static str,
    message: Bytes,
) -> Result<Bytes, Status> {
    others_first().await;
    let mut client = Grpc::new(transport.clone());
    client.ready().await.unwrap();
    let mut request = Request::new(tokio_stream::once(message));
    for credential in credentials {
        let value = credential.parse().unwrap();
        request.metadata_mut().append("authorization", value);
    }
    let path = PathAndQuery::from_static(path);
    let answer = client.streaming(request, path, Raw).await?;
    Ok(answer.into_inner().message().await?.unwrap_or_default())
}

/// Calls the gateway.
pub(crate) async fn rest(
    gateway: &axum::Router,
    credentials: &[String],
    call: HttpRequest,
) -> Answer {
    others_first().await;
    let mut request = http::Request::builder().method(call.method).uri(&call.uri);
    for credential in credentials {
        request = request.header("authorization", credential);
    }
    if !call.body.is_empty() {
        request = request.header("content-type", "application/json");
    }
    let request = request.body(axum::body::Body::from(call.body)).unwrap();
    let (head, body) = gateway.clone().oneshot(request).await.unwrap().into_parts();
    // What is permitted may go on for as long as somebody reads.
    if head.status.is_success() {
        return Answer::of(Code::Ok, "");
    }
    let body = body.collect().await.unwrap().to_bytes();
    let problem: serde_json::Value = serde_json::from_slice(&body)
        .unwrap_or_else(|_| panic!("{}: {} {body:?}", call.uri, head.status));
    let code = Code::from(i32::try_from(problem["code"].as_i64().unwrap()).unwrap());
    let expected = match code {
        Code::Unauthenticated => 401,
        Code::PermissionDenied => 403,
        Code::NotFound => 404,
        _ => head.status.as_u16(),
    };
    assert_eq!(head.status.as_u16(), expected, "{}: {problem}", call.uri);
    let info = problem["details"]
        .as_array()
        .and_then(|details| details.iter().find_map(|detail| detail["reason"].as_str()));
    Answer::of(code, info.expect("every error has an ErrorInfo"))
}

/// Lets other tasks run, and the runtime look at its sockets. A call in this process that needs no
/// database waits for nothing: a caller of hundreds in a row would hold its thread for seconds, and
/// where every thread has such a caller, nobody hears what the database answers.
async fn others_first() {
    tokio::task::yield_now().await;
}

/// Messages as their bytes.
#[derive(Debug, Clone, Copy)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}
