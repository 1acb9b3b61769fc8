//! Agents that say what no agent says: told so, and cut, before anything is written.

use bytes::{Buf, BufMut};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Code, Request, Status,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
};
use vpnpanel_api::agent::v1 as pb;
use vpnpanel_link::{Up, wire};
use vpnpanel_store::testing::TestStore;

use crate::{
    agent::{Disk, Link, counter, reason, row},
    fleet::{Fleet, attribution},
};

/// Sends any bytes as a message.
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining()).to_vec()))
    }
}

/// How a stream ends whose first message are these bytes.
async fn end_of(
    fleet: &Fleet,
    credentials: vpnpanel_runtime::tls::Credentials,
    bytes: Vec<u8>,
) -> Status {
    let (up, requests) = tokio::sync::mpsc::channel(1);
    up.send(bytes).await.unwrap();
    let mut client = tonic::client::Grpc::new(fleet.channel(Some(credentials)));
    client.ready().await.unwrap();
    let path = "/vpnpanel.agent.v1.NodeLinkService/Connect"
        .parse()
        .unwrap();
    let request = Request::new(ReceiverStream::new(requests));
    match client.streaming(request, path, Raw).await {
        Err(status) => status,
        Ok(response) => match response.into_inner().message().await {
            Ok(Some(_)) => panic!("an answer to garbage"),
            Ok(None) => Status::unknown("no status"),
            Err(status) => status,
        },
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_no_message_or_too_many_end_the_stream() {
    let fleet = Fleet::new(TestStore::sqlite().await).await;
    let node = fleet.node().await;
    for garbage in [
        vec![0xff; 64],
        vec![0x0a, 0xff, 0xff, 0xff, 0x7f],
        vec![0; 5 << 20],
    ] {
        let size = garbage.len();
        let status = end_of(&fleet, node.credentials.clone(), garbage).await;
        assert_eq!(
            reason(&status),
            (Code::InvalidArgument, "MALFORMED_FRAME".to_owned()),
            "{size} bytes: {status:?}"
        );
    }
    assert_eq!(fleet.store.stream_generation(node.id).await.unwrap(), None);
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fields_that_no_agent_writes_end_the_stream() {
    let fleet = Fleet::new(TestStore::sqlite().await).await;
    let node = fleet.node().await;
    let hello = |spoil: fn(&mut pb::Hello)| {
        let frame = wire::up_to_wire(Up::Hello(Box::new(Disk::new().hello())));
        let Some(pb::connect_request::Message::Hello(mut hello)) = frame.message else {
            panic!("Hello")
        };
        spoil(&mut hello);
        pb::ConnectRequest {
            message: Some(pb::connect_request::Message::Hello(hello)),
        }
    };
    let malformed = [
        hello(|hello| hello.boot_id.truncate(3)),
        hello(|hello| hello.spool_id.clear()),
        hello(|hello| hello.applied_digest = vec![1; 31]),
        hello(|hello| hello.epochs.resize(5_000, pb::SpoolEpoch::default())),
    ];
    for frame in malformed {
        let mut link = Link::open(fleet.channel(Some(node.credentials.clone())))
            .await
            .unwrap();
        link.send_frame(frame).await;
        let end = reason(&link.end().await);
        assert_eq!(end, (Code::InvalidArgument, "MALFORMED_FRAME".to_owned()));
    }
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_lies_about_its_digest_ends_the_stream_and_is_not_billed() {
    let fleet = Fleet::new(TestStore::sqlite().await).await;
    let (node, user) = (fleet.node().await, fleet.user(0).await);
    let mut disk = Disk::new();
    let (mut link, _) = Link::greet(fleet.channel(Some(node.credentials)), &disk).await;
    let mut batch = disk.write(vec![row(attribution(&user), counter(), 0, 100)]);
    batch.digest.0[0] ^= 1;
    link.send(Up::Batch(batch)).await;
    let end = reason(&link.end().await);
    assert_eq!(end, (Code::InvalidArgument, "MALFORMED_FRAME".to_owned()));
    assert_eq!(fleet.billed(&user).await, 0);
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_out_of_turn_end_the_stream() {
    let fleet = Fleet::new(TestStore::sqlite().await).await;
    let node = fleet.node().await;
    let violation = (Code::InvalidArgument, "PROTOCOL_VIOLATION".to_owned());
    let mut link = Link::open(fleet.channel(Some(node.credentials.clone())))
        .await
        .unwrap();
    link.send(Up::Goodbye("before Hello".to_owned())).await;
    assert_eq!(reason(&link.end().await), violation);
    let disk = Disk::new();
    let (mut link, _) = Link::greet(fleet.channel(Some(node.credentials.clone())), &disk).await;
    link.send(Up::Hello(Box::new(disk.hello()))).await;
    assert_eq!(reason(&link.end().await), violation);
    let mut future = disk.hello();
    (future.protocol_min, future.protocol_max) = (900, 901);
    let mut link = Link::open(fleet.channel(Some(node.credentials)))
        .await
        .unwrap();
    link.send(Up::Hello(Box::new(future))).await;
    let end = reason(&link.end().await);
    assert_eq!(
        end,
        (Code::FailedPrecondition, "PROTOCOL_UNSUPPORTED".to_owned())
    );
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_never_says_hello_is_cut() {
    let set = [("VPNPANEL_COLLECTOR_HELLO_TIMEOUT", "200ms")];
    let signer = crate::fleet::unreachable_signer();
    let fleet = Fleet::with(TestStore::sqlite().await, &set, signer).await;
    let node = fleet.node().await;
    let mut link = Link::open(fleet.channel(Some(node.credentials)))
        .await
        .unwrap();
    let end = reason(&link.end().await);
    assert_eq!(end, (Code::DeadlineExceeded, "HELLO_TIMEOUT".to_owned()));
    fleet.stop().await;
}
