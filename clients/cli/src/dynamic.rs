//! Calls of any method of the contract, by its name: messages are made from the descriptor.

use prost::Message as _;
use prost_reflect::{DeserializeOptions, DynamicMessage, MessageDescriptor, MethodDescriptor};
use serde_json::Value;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::{Request, Status, Streaming};
use vpnpanel_client::Authorized;

use crate::failure::Failure;

/// `package.Service/Method`.
pub(crate) fn method(name: &str) -> Result<MethodDescriptor, Failure> {
    let unknown = || {
        Failure::Usage(format!(
            "there is no method {name:?}; `vpnctl methods` lists them"
        ))
    };
    let (service, method) = name
        .trim_start_matches('/')
        .split_once('/')
        .ok_or_else(unknown)?;
    let service = vpnpanel_api::pool()
        .get_service_by_name(service)
        .ok_or_else(unknown)?;
    service
        .methods()
        .find(|m| m.name() == method)
        .ok_or_else(unknown)
}

/// A message from protojson.
pub(crate) fn message(
    descriptor: MessageDescriptor,
    json: Value,
) -> Result<DynamicMessage, Failure> {
    let name = descriptor.full_name().to_owned();
    let options = DeserializeOptions::new().deny_unknown_fields(true);
    DynamicMessage::deserialize_with_options(descriptor, json, &options)
        .map_err(|e| Failure::Usage(format!("this is no {name}: {e}")))
}

/// Calls a method that takes one message, and hands on each message of its answer.
pub(crate) async fn call(
    channel: Authorized,
    method: &MethodDescriptor,
    request: Value,
    mut each: impl FnMut(DynamicMessage) -> Result<(), Failure>,
) -> Result<(), Failure> {
    if method.is_client_streaming() {
        return Err(Failure::Usage(format!(
            "{} takes a stream of messages, which is for agents",
            method.full_name()
        )));
    }
    let request = Request::new(message(method.input(), request)?);
    let path = format!("/{}/{}", method.parent_service().full_name(), method.name());
    let path = http::uri::PathAndQuery::try_from(path)
        .map_err(|e| Failure::Usage(format!("this is no method: {e}")))?;
    let codec = Dynamic(method.output());
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready()
        .await
        .map_err(|e| Status::unavailable(format!("the control plane cannot be reached: {e}")))?;
    if method.is_server_streaming() {
        let answer = grpc.server_streaming(request, path, codec).await?;
        let mut stream: Streaming<DynamicMessage> = answer.into_inner();
        while let Some(message) = stream.message().await? {
            each(message)?;
        }
        return Ok(());
    }
    each(grpc.unary(request, path, codec).await?.into_inner())
}

/// The codec of a method, by the message that answers it.
struct Dynamic(MessageDescriptor);

impl Codec for Dynamic {
    type Encode = DynamicMessage;
    type Decode = DynamicMessage;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self(self.0.clone())
    }

    fn decoder(&mut self) -> Self {
        Self(self.0.clone())
    }
}

impl Encoder for Dynamic {
    type Item = DynamicMessage;
    type Error = Status;

    fn encode(&mut self, item: DynamicMessage, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        item.encode(to)
            .map_err(|e| Status::internal(format!("the request cannot be encoded: {e}")))
    }
}

impl Decoder for Dynamic {
    type Item = DynamicMessage;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<DynamicMessage>, Status> {
        DynamicMessage::decode(self.0.clone(), from)
            .map(Some)
            .map_err(|e| Status::internal(format!("the answer cannot be decoded: {e}")))
    }
}
