//! Whose connections a listener holds, and how many of each.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;
use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use vpnpanel_runtime::serve::ConnectionLimits;
use vpnpanel_runtime::settings::ListenAddr;
use vpnpanel_runtime::tls::{ClientTls, Dialer, ServerTls};
use vpnpanel_runtime::{Grpc, Http, PeerIdentity, Service, Supervisor, TrustDomain};

use crate::authority::{Authority, collector, node};
use crate::wire::{PATIENCE, get as fetch};

fn supervisor(limits: ConnectionLimits) -> Supervisor {
    Supervisor::new(Duration::from_secs(5), Duration::ZERO).connection_limits(limits)
}

fn one_of_each_address() -> ConnectionLimits {
    ConnectionLimits {
        max_connections_per_address: 1,
        ..ConnectionLimits::default()
    }
}

/// A connection from one of this host's own addresses that was answered once; `None` when it was
/// closed instead.
async fn answered(from: &str, to: SocketAddr) -> Option<TcpStream> {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(format!("{from}:0").parse().unwrap()).unwrap();
    let mut stream = socket.connect(to).await.unwrap();
    // It may be closed by now.
    let _gone = stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
    let mut answer = [0; 12];
    let read = timeout(PATIENCE, stream.read_exact(&mut answer)).await;
    let read = read.expect("an answer, or an end");
    read.ok().map(|_| {
        assert_eq!(&answer, b"HTTP/1.1 200");
        stream
    })
}

#[tokio::test]
async fn an_address_leaves_connections_to_others() {
    let mut service = Service::new("probe");
    service.admin(ListenAddr::any_loopback());
    let router = Router::new().route("/", get(|| async { "here" }));
    let http = Http::new(router, ListenAddr::any_loopback());
    service.http("rest", http.proxies("127.0.0.3".parse().unwrap()));
    let mut supervisor = supervisor(ConnectionLimits {
        max_connections_per_address: 2,
        ..ConnectionLimits::default()
    });
    let addresses = supervisor.start(service).await.unwrap();
    let rest = addresses.of("rest").unwrap();

    let first = answered("127.0.0.1", rest).await.expect("room");
    let second = answered("127.0.0.1", rest).await.expect("room");
    assert!(answered("127.0.0.1", rest).await.is_none());
    let other = answered("127.0.0.2", rest).await.expect("room for others");
    let mut proxied = Vec::new();
    for _ in 0..3 {
        proxied.push(answered("127.0.0.3", rest).await.expect("not counted"));
    }
    let metrics = fetch(addresses.of("admin").unwrap(), "/metrics").await.1;
    let line = "connections_ended_total{listener=\"rest\",reason=\"too_many_of_caller\"} 1";
    assert!(metrics.contains(line), "{metrics}");

    drop(first);
    let again = async {
        while answered("127.0.0.1", rest).await.is_none() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, again).await.expect("room again");
    drop((second, other, proxied));
    supervisor.stop().await.unwrap();
}

#[tokio::test]
async fn a_handshake_that_fails_is_counted() {
    let authority = Authority::new();
    let tls = ServerTls::public(authority.issue(&collector())).unwrap();
    let mut service = Service::new("probe");
    service.admin(ListenAddr::any_loopback());
    let http = Http::new(Router::new(), ListenAddr::any_loopback());
    service.http("rest", http.tls(tls));
    let mut supervisor = supervisor(ConnectionLimits::default());
    let addresses = supervisor.start(service).await.unwrap();
    let rest = addresses.of("rest").unwrap();
    assert!(answered("127.0.0.1", rest).await.is_none());
    let metrics = fetch(addresses.of("admin").unwrap(), "/metrics").await.1;
    let line = "connections_ended_total{listener=\"rest\",reason=\"failed_handshake\"} 1";
    assert!(metrics.contains(line), "{metrics}");
    supervisor.stop().await.unwrap();
}

fn dial(authority: &Authority, caller: &PeerIdentity, address: SocketAddr) -> Channel {
    let tls = ClientTls::new(&authority.bundle(), Some(authority.issue(caller))).unwrap();
    Dialer::new(tls, collector(), TrustDomain::default())
        .unwrap()
        .channel(&address.to_string(), |endpoint| endpoint)
        .unwrap()
}

async fn is_answered(channel: &Channel) -> bool {
    let mut client = HealthClient::new(channel.clone());
    let answer = timeout(PATIENCE, client.check(HealthCheckRequest::default())).await;
    answer.expect("an answer, or an end").is_ok()
}

#[tokio::test]
async fn whoever_shows_a_certificate_is_counted_by_it_and_not_by_an_address() {
    let authority = Authority::new();
    let credentials = authority.issue(&collector());
    let tls = ServerTls::mutual(credentials, &authority.bundle(), TrustDomain::default());
    let mut service = Service::new("probe");
    let grpc = Grpc::new(Router::new()).listen(ListenAddr::any_loopback());
    service.grpc("link", grpc.tls(tls.unwrap()));
    let mut supervisor = supervisor(one_of_each_address());
    let address = supervisor.start(service).await.unwrap().of("link").unwrap();

    let (one, another) = (node(), node());
    let first = dial(&authority, &one, address);
    let second = dial(&authority, &another, address);
    assert!(is_answered(&first).await && is_answered(&second).await);
    let third = dial(&authority, &one, address);
    assert!(!is_answered(&third).await);
    assert!(is_answered(&first).await && is_answered(&second).await);
    drop((first, second, third));
    supervisor.stop().await.unwrap();
}

#[tokio::test]
async fn services_find_their_places_however_few_the_public_has() {
    let authority = Authority::new();
    let credentials = authority.issue(&collector());
    let tls = ServerTls::services(credentials, &authority.bundle(), TrustDomain::default());
    let mut service = Service::new("probe");
    let grpc = Grpc::new(Router::new()).listen(ListenAddr::any_loopback());
    service.grpc("api", grpc);
    assert!(service.listen_also("services", "api", ListenAddr::any_loopback(), tls.unwrap()));
    let mut supervisor = supervisor(ConnectionLimits {
        max_connections: 1,
        ..one_of_each_address()
    });
    let addresses = supervisor.start(service).await.unwrap();
    let public = TcpStream::connect(addresses.of("api").unwrap()).await;
    let mut open = Vec::new();
    for name in ["gateway", "gateway", "scheduler"] {
        let caller = PeerIdentity::control_plane(name).unwrap();
        let channel = dial(&authority, &caller, addresses.of("services").unwrap());
        assert!(is_answered(&channel).await, "{name}");
        open.push(channel);
    }
    drop((public.unwrap(), open));
    supervisor.stop().await.unwrap();
}
