use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tonic::transport::Endpoint;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use vpnpanel_runtime::serve::ConnectionLimits;
use vpnpanel_runtime::settings::ListenAddr;
use vpnpanel_runtime::tls::ServerTls;
use vpnpanel_runtime::{Grpc, Service, Supervisor};

use crate::authority::{Authority, collector};
use crate::wire::{PATIENCE, get};

fn supervisor() -> Supervisor {
    Supervisor::new(Duration::from_secs(5), Duration::ZERO)
}

fn empty() -> tonic::service::Routes {
    tonic::service::Routes::default()
}

#[tokio::test]
async fn every_grpc_server_answers_health_and_reflection() {
    let mut service = Service::new("probe");
    service.grpc(
        "api",
        Grpc::new(empty())
            .listen(ListenAddr::any_loopback())
            .reflection()
            .unwrap(),
    );
    let mut supervisor = supervisor();
    let address = supervisor.start(service).await.unwrap().of("api").unwrap();
    let channel = Endpoint::from_shared(format!("http://{address}"))
        .unwrap()
        .connect()
        .await
        .unwrap();
    let mut health = HealthClient::new(channel.clone());
    let mut watch = health
        .watch(HealthCheckRequest::default())
        .await
        .unwrap()
        .into_inner();
    loop {
        let answer = watch.message().await.unwrap().unwrap();
        if answer.status == tonic_health::ServingStatus::Serving as i32 {
            break;
        }
    }
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
    let request = tonic_reflection::pb::v1::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut answers = ServerReflectionClient::new(channel)
        .server_reflection_info(tokio_stream::iter([request]))
        .await
        .unwrap()
        .into_inner();
    let answer = answers.message().await.unwrap().unwrap();
    let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else {
        panic!("{answer:?}");
    };
    assert!(
        list.service
            .iter()
            .any(|s| s.name == "vpnpanel.auth.v1.AuthService")
    );
    drop((watch, answers, health));
    supervisor.stop().await.unwrap();
}

#[tokio::test]
async fn whoever_does_not_shake_hands_is_hung_up_on() {
    let authority = Authority::new();
    let tls = ServerTls::server_only(authority.issue(&collector())).unwrap();
    let limits = ConnectionLimits {
        handshake_deadline: Duration::from_millis(30),
        ..ConnectionLimits::default()
    };
    let mut service = Service::new("probe");
    service.grpc(
        "api",
        Grpc::new(empty())
            .listen(ListenAddr::any_loopback())
            .tls(tls)
            .connection_limits(limits),
    );
    let mut supervisor = supervisor();
    let address = supervisor.start(service).await.unwrap().of("api").unwrap();
    let mut silent = TcpStream::connect(address).await.unwrap();
    let mut nothing = [0; 1];
    let read = tokio::time::timeout(PATIENCE, silent.read(&mut nothing))
        .await
        .unwrap();
    assert_eq!(read.unwrap(), 0);
    supervisor.stop().await.unwrap();
}

#[tokio::test]
async fn the_admin_port_tells_health_life_and_metrics() {
    let mut service = Service::new("probe");
    service.admin(ListenAddr::any_loopback());
    service.check("database", || async { Err("connection refused") });
    let mut supervisor = supervisor();
    let address = supervisor
        .start(service)
        .await
        .unwrap()
        .of("admin")
        .unwrap();
    let (code, body) = get(address, "/health").await;
    assert_eq!(code, 503);
    assert!(
        body.contains(r#""database":"connection refused""#),
        "{body}"
    );
    assert_eq!(get(address, "/health/live").await.0, 200);
    let (code, body) = get(address, "/metrics").await;
    assert_eq!(code, 200);
    assert!(body.contains(r#"service_info{service="probe""#), "{body}");
    supervisor.stop().await.unwrap();
}

#[tokio::test]
async fn an_address_in_use_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let mut service = Service::new("probe");
    service.grpc("api", Grpc::new(empty()).listen(ListenAddr(address)));
    let error = supervisor().start(service).await.unwrap_err().to_string();
    assert!(
        error.starts_with(&format!("probe: cannot listen on {address} (api)")),
        "{error}"
    );
}
