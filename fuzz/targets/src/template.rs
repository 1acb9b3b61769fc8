//! Path templates, and paths that are matched with them: a contract of one method whose template
//! is the input's first line, asked for the path in its second.

use std::convert::Infallible;
use std::sync::LazyLock;

use axum::body::Body;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Empty;
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint};
use prost_reflect::DescriptorPool;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet};
use tokio_util::sync::CancellationToken;
use tower::service_fn;
use vpnpanel_api::FILE_DESCRIPTOR_SET;
use vpnpanel_gateway::{Limits, Transcoder, Upstream, Upstreams};

/// `google.api.http`, the extension of MethodOptions.
const HTTP_RULE: u32 = 72_295_728;

/// A template and a path. Neither makes a panic, whatever the other is.
pub(crate) fn templates(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else {
        return false;
    };
    let mut lines = text.lines();
    let (template, path) = (lines.next().unwrap_or(""), lines.next().unwrap_or("/"));
    let mut pool = ANNOTATIONS.clone();
    if pool
        .decode_file_descriptor_proto(contract(template).as_slice())
        .is_err()
    {
        return false;
    }
    let upstream = Upstream::new(service_fn(|_: Request<tonic::body::Body>| async {
        let mut response = Response::new(Empty::<Bytes>::new());
        let headers = response.headers_mut();
        headers.insert(
            "content-type",
            http::HeaderValue::from_static("application/grpc"),
        );
        // DATA_LOSS, which nothing on the way would say.
        headers.insert("grpc-status", http::HeaderValue::from_static("15"));
        Ok::<_, Infallible>(response)
    }));
    let upstreams = Upstreams::new(upstream);
    let stop = CancellationToken::new();
    let Ok(transcoder) = Transcoder::new(&pool, &upstreams, Limits::default(), stop) else {
        return false;
    };
    let Ok(request) = Request::get(path).body(Body::empty()) else {
        return false;
    };
    let runtime = crate::runtime();
    let status = runtime.block_on(transcoder.handle(request)).status();
    // The service's own error is 500, and means that the path was matched.
    assert!(
        status == StatusCode::INTERNAL_SERVER_ERROR || status.is_client_error(),
        "{status}"
    );
    status == StatusCode::INTERNAL_SERVER_ERROR
}

/// The files that declare `google.api.http`.
static ANNOTATIONS: LazyLock<DescriptorPool> = LazyLock::new(|| {
    let all = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).expect("the contract");
    let google = all.file.into_iter().filter(|file| {
        let name = file.name();
        ["google/api/http.proto", "google/api/annotations.proto"].contains(&name)
            || name == "google/protobuf/descriptor.proto"
    });
    let mut pool = DescriptorPool::new();
    pool.add_file_descriptor_protos(google)
        .expect("the annotations");
    pool
});

/// The descriptor of a service of one method, `GET template`. prost's own types would lose the
/// option, so the service is encoded by hand.
fn contract(template: &str) -> Vec<u8> {
    let rule = delimited(2, template.as_bytes());
    let options = delimited(HTTP_RULE, &rule);
    let mut method = delimited(1, b"Get");
    method.extend(delimited(2, b".fuzz.Request"));
    method.extend(delimited(3, b".fuzz.Request"));
    method.extend(delimited(4, &options));
    let mut service = delimited(1, b"Fuzz");
    service.extend(delimited(2, &method));

    let text = |name: &str, number| FieldDescriptorProto {
        name: Some(name.to_owned()),
        number: Some(number),
        label: Some(Label::Optional.into()),
        r#type: Some(Type::String.into()),
        ..FieldDescriptorProto::default()
    };
    let inner = FieldDescriptorProto {
        r#type: Some(Type::Message.into()),
        type_name: Some(".fuzz.Request".to_owned()),
        ..text("user", 5)
    };
    let number = FieldDescriptorProto {
        r#type: Some(Type::Int64.into()),
        ..text("number", 6)
    };
    let message = DescriptorProto {
        name: Some("Request".to_owned()),
        field: vec![
            text("id", 1),
            text("tenant_id", 2),
            text("name", 3),
            text("path", 4),
            inner,
            number,
        ],
        ..DescriptorProto::default()
    };
    let file = FileDescriptorProto {
        name: Some("fuzz.proto".to_owned()),
        package: Some("fuzz".to_owned()),
        syntax: Some("proto3".to_owned()),
        dependency: vec!["google/api/annotations.proto".to_owned()],
        message_type: vec![message],
        ..FileDescriptorProto::default()
    };
    let mut bytes = file.encode_to_vec();
    bytes.extend(delimited(6, &service));
    bytes
}

/// A field of bytes on the wire.
fn delimited(number: u32, bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len() + 8);
    encode_key(number, WireType::LengthDelimited, &mut out);
    encode_varint(bytes.len() as u64, &mut out);
    out.extend_from_slice(bytes);
    out
}
