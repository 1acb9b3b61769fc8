use std::net::SocketAddr;
use std::time::Duration;

use axum::routing::post;
use axum::{Extension, Router};
use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use vpnpanel_runtime::settings::ListenAddr;
use vpnpanel_runtime::status::{ErrorCode, Failure};
use vpnpanel_runtime::tls::{self, ClientTls, Dialer, Peer, ServerTls, pinned_client, spki_sha256};
use vpnpanel_runtime::{Grpc, PeerIdentity, Service, Supervisor, TrustDomain};

use crate::authority::{Authority, collector, node};

const METHOD: &str = "/vpnpanel.auth.v1.AuthService/GetMe";

struct Server {
    supervisor: Supervisor,
    address: SocketAddr,
    tls: ServerTls,
}

/// A server with mutual TLS whose one method answers with the caller's identity and serial.
async fn serve(authority: &Authority) -> Server {
    let who = post(|Extension(peer): Extension<Peer>| async move {
        let words = format!("{} {:x?}", peer.identity(), peer.serial());
        Failure::new(ErrorCode::NotFound, "WHO", words)
            .into_status()
            .into_http::<axum::body::Body>()
    });
    let tls = ServerTls::mutual(
        authority.issue(&collector()),
        &authority.bundle(),
        TrustDomain::default(),
    )
    .unwrap();
    serve_with(Router::new().route(METHOD, who), tls).await
}

async fn serve_with(router: Router, tls: ServerTls) -> Server {
    let mut service = Service::new("probe");
    let grpc = Grpc::new(router)
        .listen(ListenAddr::any_loopback())
        .tls(tls.clone());
    service.grpc("link", grpc);
    let mut supervisor = Supervisor::new(Duration::from_secs(5), Duration::ZERO);
    let address = supervisor.start(service).await.unwrap().of("link").unwrap();
    Server {
        supervisor,
        address,
        tls,
    }
}

fn dial(tls: ClientTls, expected: PeerIdentity, address: SocketAddr) -> Channel {
    Dialer::new(tls, expected, TrustDomain::default())
        .unwrap()
        .channel(&address.to_string(), |endpoint| endpoint)
        .unwrap()
}

/// What the server says about the caller; its message is the answer.
async fn who(channel: Channel) -> Result<String, String> {
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.map_err(|error| format!("{error:?}"))?;
    let codec = tonic_health_codec::<HealthCheckRequest>();
    let path = http::uri::PathAndQuery::from_static(METHOD);
    let request = tonic::Request::new(HealthCheckRequest::default());
    match client.unary(request, path, codec).await {
        Ok(_) => Err("no such answer".to_owned()),
        Err(status) if status.code() == tonic::Code::NotFound => Ok(status.message().to_owned()),
        Err(status) => Err(format!("{status:?}")),
    }
}

/// Any codec does: the methods called here answer without a message.
fn tonic_health_codec<T: prost::Message + Default + 'static>() -> tonic_prost::ProstCodec<T, T> {
    tonic_prost::ProstCodec::default()
}

async fn healthy(channel: Channel) -> Result<(), String> {
    let mut client = HealthClient::new(channel);
    match client.check(HealthCheckRequest::default()).await {
        Ok(_) => Ok(()),
        Err(status) => Err(format!("{status:?}")),
    }
}

#[tokio::test]
async fn the_callers_identity_reaches_the_handler() {
    let authority = Authority::new();
    let server = serve(&authority).await;
    let identity = node();
    let tls = ClientTls::new(&authority.bundle(), Some(authority.issue(&identity))).unwrap();
    let answer = who(dial(tls, collector(), server.address)).await.unwrap();
    assert!(answer.starts_with(&identity.to_string()), "{answer}");
    server.supervisor.stop().await.unwrap();
}

#[tokio::test]
async fn callers_without_an_identity_of_ours_are_refused() {
    let (authority, foreign) = (Authority::new(), Authority::new());
    let server = serve(&authority).await;
    let domain = TrustDomain::default();
    let (uri, dns) = (node().uri(&domain), node().dns_name(&domain));
    let own = node();
    let refused = [
        ("none", None),
        ("foreign authority", Some(foreign.issue(&node()))),
        (
            "foreign trust domain",
            Some(authority.issue_names(
                &["spiffe://other.internal/control-plane/collector"],
                &["collector.control-plane.other.internal"],
            )),
        ),
        ("no URI name", Some(authority.issue_names(&[], &[&dns]))),
        (
            "another node's DNS name",
            Some(authority.issue_names(&[&uri], &[&dns])),
        ),
        (
            "two URI names",
            Some(authority.issue_names(&[&own.uri(&domain), &uri], &[&own.dns_name(&domain)])),
        ),
    ];
    for (what, credentials) in refused {
        let tls = ClientTls::new(&authority.bundle(), credentials).unwrap();
        assert!(
            who(dial(tls, collector(), server.address)).await.is_err(),
            "{what}"
        );
    }
    server.supervisor.stop().await.unwrap();
}

#[tokio::test]
async fn where_services_alone_are_let_in_a_node_is_hung_up_on() {
    let authority = Authority::new();
    let credentials = authority.issue(&collector());
    let tls =
        ServerTls::services(credentials, &authority.bundle(), TrustDomain::default()).unwrap();
    let server = serve_with(Router::new(), tls).await;
    let gateway = PeerIdentity::control_plane("gateway").unwrap();
    for (caller, let_in) in [(gateway, true), (node(), false)] {
        let tls = ClientTls::new(&authority.bundle(), Some(authority.issue(&caller))).unwrap();
        let answer = healthy(dial(tls, collector(), server.address)).await;
        assert_eq!(answer.is_ok(), let_in, "{caller}");
    }
    server.supervisor.stop().await.unwrap();
}

#[tokio::test]
async fn where_certificates_are_optional_only_verified_ones_count() {
    let (authority, foreign) = (Authority::new(), Authority::new());
    let who_or_nobody = post(|peer: Option<Extension<Peer>>| async move {
        let words = peer.map_or("nobody".to_owned(), |peer| peer.identity().to_string());
        tonic::Status::not_found(words).into_http::<axum::body::Body>()
    });
    let router = Router::new().route(METHOD, who_or_nobody);
    let credentials = authority.issue(&collector());
    let tls =
        ServerTls::optional(credentials, &authority.bundle(), TrustDomain::default()).unwrap();
    let server = serve_with(router, tls).await;
    let ask = async |credentials| {
        let tls = ClientTls::new(&authority.bundle(), credentials).unwrap();
        who(dial(tls, collector(), server.address)).await
    };
    assert_eq!(ask(None).await.unwrap(), "nobody");
    let identity = node();
    let answer = ask(Some(authority.issue(&identity))).await.unwrap();
    assert_eq!(answer, identity.to_string());
    assert!(ask(Some(foreign.issue(&identity))).await.is_err());
    server.supervisor.stop().await.unwrap();
}

#[tokio::test]
async fn a_dialer_accepts_only_whom_it_expects() {
    let authority = Authority::new();
    let server = serve(&authority).await;
    let tls = ClientTls::new(&authority.bundle(), Some(authority.issue(&node()))).unwrap();
    let scheduler = PeerIdentity::control_plane("scheduler").unwrap();
    assert!(who(dial(tls, scheduler, server.address)).await.is_err());
    let foreign = Authority::new();
    let tls = ClientTls::new(&foreign.bundle(), Some(authority.issue(&node()))).unwrap();
    assert!(who(dial(tls, collector(), server.address)).await.is_err());
    server.supervisor.stop().await.unwrap();
}

#[tokio::test]
async fn new_certificates_serve_new_connections_and_old_ones_go_on() {
    let (old, new) = (Authority::new(), Authority::new());
    let server = serve(&old).await;
    let identity = node();
    let old_tls = ClientTls::new(&old.bundle(), Some(old.issue(&identity))).unwrap();
    let open = dial(old_tls.clone(), collector(), server.address);
    who(open.clone()).await.unwrap();

    server
        .tls
        .replace(new.issue(&collector()), &new.bundle())
        .unwrap();

    let new_tls = ClientTls::new(&new.bundle(), Some(new.issue(&identity))).unwrap();
    who(dial(new_tls, collector(), server.address))
        .await
        .unwrap();
    assert!(
        who(dial(old_tls, collector(), server.address))
            .await
            .is_err()
    );
    who(open).await.unwrap();
    server.supervisor.stop().await.unwrap();
}

#[tokio::test]
async fn a_pin_is_enough_to_trust_the_right_authority_and_no_other() {
    let (authority, other) = (Authority::new(), Authority::new());
    let tls = ServerTls::server_only(authority.issue(&collector())).unwrap();
    let server = serve_with(Router::new(), tls).await;
    let client = |pin_of: &Authority| {
        let pin = spki_sha256(&pin_of.certificate()).unwrap();
        ClientTls::from_config(pinned_client(pin).unwrap())
    };
    healthy(dial(client(&authority), collector(), server.address))
        .await
        .unwrap();
    assert!(
        healthy(dial(client(&other), collector(), server.address))
            .await
            .is_err()
    );
    let scheduler = PeerIdentity::control_plane("scheduler").unwrap();
    assert!(
        healthy(dial(client(&authority), scheduler, server.address))
            .await
            .is_err()
    );

    // A chain that merely shows the pinned authority, without being signed by it.
    let mut forged = other.issue(&collector());
    forged.chain.push(authority.certificate());
    let forger = serve_with(Router::new(), ServerTls::server_only(forged).unwrap()).await;
    assert!(
        healthy(dial(client(&authority), collector(), forger.address))
            .await
            .is_err()
    );
    server.supervisor.stop().await.unwrap();
    forger.supervisor.stop().await.unwrap();
}

#[test]
fn certificates_and_keys_survive_pem() {
    let credentials = Authority::new().issue(&node());
    let chain = tls::certificates_to_pem(&credentials.chain);
    assert_eq!(
        tls::certificates_from_pem(chain.as_bytes()).unwrap(),
        credentials.chain
    );
    let key = tls::key_to_pem(&credentials.key).unwrap();
    assert_eq!(tls::key_from_pem(key.as_bytes()).unwrap(), credentials.key);
    assert!(chain.lines().all(|line| line.len() <= 64));
    for junk in ["", "-----BEGIN CERTIFICATE-----\nAAAA\n", "nonsense"] {
        assert!(
            tls::certificates_from_pem(junk.as_bytes()).is_err(),
            "{junk}"
        );
    }
}
