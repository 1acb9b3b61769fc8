//! TLS between the processes of an installation, and towards the world.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::json;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::process::Process;
use crate::rest::{Answer, call, call_over};

const PASSWORD: &str = "one time, and no more";
const NAME: &str = "panel.example.com";

async fn listener(process: &Process, name: &str) -> SocketAddr {
    let listeners = process.listeners().await;
    let found = listeners.iter().find(|((_, listener), _)| listener == name);
    *found
        .unwrap_or_else(|| panic!("no listener {name}: {listeners:?}"))
        .1
}

async fn login(gateway: SocketAddr) -> Answer {
    let body = json!({"email": "admin@localhost", "password": PASSWORD});
    call(gateway, "POST", "/v1/auth/login", &[], &body.to_string()).await
}

async fn gateway(data: &Path, control_api: String, scheduler: String) -> (Process, SocketAddr) {
    let settings = [
        ("VPNPANEL_CONTROL_API_ENDPOINT", control_api.as_str()),
        ("VPNPANEL_SCHEDULER_ENDPOINT", scheduler.as_str()),
    ];
    let process = Process::start(&["gateway"], data, &settings);
    let address = listener(&process, "rest").await;
    (process, address)
}

#[tokio::test(flavor = "multi_thread")]
async fn services_call_each_other_by_certificates_where_asked_to() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path();
    let settings = [("VPNPANEL_BOOTSTRAP_PASSWORD", PASSWORD)];
    let control_api = Process::start(&["control-api"], data, &settings);
    let api = listener(&control_api, "services").await;
    let settings = [("VPNPANEL_SCHEDULER_SERVICES_LISTEN", "127.0.0.1:0")];
    let scheduler = Process::start(&["scheduler"], data, &settings);
    let jobs = listener(&scheduler, "services").await;

    let (process, address) =
        gateway(data, format!("https://{api}"), format!("https://{jobs}")).await;
    let answer = login(address).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let token = answer.json()["accessToken"].as_str().unwrap().to_owned();
    let bearer = [format!("authorization: Bearer {token}")];
    let answer = call(address, "GET", "/v1/jobs", &bearer, "").await;
    // It is the scheduler that answers: the one-time password permits nothing else.
    assert_eq!(answer.status, 403, "{}", answer.text);
    let admin = listener(&process, "admin").await;
    let metrics = call(admin, "GET", "/metrics", &[], "").await.text;
    assert!(metrics.contains("certificate_expiry_timestamp_seconds{listener=\"identity\"}"));
    let mut said = process.stop().await;

    // Somebody else at the address of control-api, and a caller that shows nothing.
    for control_api in [format!("https://{jobs}"), format!("http://{api}")] {
        let (process, address) = gateway(data, control_api, format!("https://{jobs}")).await;
        let answer = login(address).await;
        assert_eq!(answer.status, 503, "{}", answer.text);
        assert!(answer.text.contains("SERVICE_UNREACHABLE"));
        said += &process.stop().await;
    }
    said += &scheduler.stop().await;
    said += &control_api.stop().await;
    let keys = keys_of_services(data);
    assert!(keys.len() >= 2, "{keys:?}");
    assert!(!keys.iter().any(|key| said.contains(key)));
}

/// What the services of the installation keep secret in its folder.
fn keys_of_services(data: &Path) -> Vec<String> {
    let (mut folders, mut keys) = (vec![data.to_owned()], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.file_name().is_some_and(|name| name == "master.key") {
                keys.push(std::fs::read_to_string(&path).unwrap().trim().to_owned());
            } else if let Ok(text) = std::fs::read_to_string(&path)
                && let Some((_, key)) = text.split_once("PRIVATE KEY-----\n")
            {
                keys.push(key.lines().next().unwrap().to_owned());
            }
        }
    }
    keys
}

#[tokio::test(flavor = "multi_thread")]
async fn gateway_and_control_api_show_the_certificate_they_are_given() {
    let folder = tempfile::tempdir().unwrap();
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec![NAME.to_owned()]).unwrap();
    let certificate = params.self_signed(&key).unwrap();
    let (chain_file, key_file) = (folder.path().join("tls.crt"), folder.path().join("tls.key"));
    std::fs::write(&chain_file, certificate.pem()).unwrap();
    std::fs::write(&key_file, key.serialize_pem()).unwrap();
    let (chain, key) = (chain_file.to_str().unwrap(), key_file.to_str().unwrap());
    let settings = [
        ("VPNPANEL_GATEWAY_TLS_CERT", chain),
        ("VPNPANEL_GATEWAY_TLS_KEY", key),
        ("VPNPANEL_CONTROL_API_TLS_CERT", chain),
        ("VPNPANEL_CONTROL_API_TLS_KEY", key),
        ("VPNPANEL_GATEWAY_HSTS", "1d"),
    ];
    let process = Process::start(&["up"], folder.path(), &settings);
    let listeners = process.listeners().await;
    let of = |service: &str, name: &str| listeners[&(service.to_owned(), name.to_owned())];

    let stream = connect(of("gateway", "rest"), certificate.der(), b"http/1.1").await;
    let answer = call_over(stream, "GET", "/", &[], "").await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.headers["strict-transport-security"], "max-age=86400");
    let stream = connect(of("control-api", "api"), certificate.der(), b"h2").await;
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));

    for service in ["gateway", "control-api"] {
        let metrics = call(of(service, "admin"), "GET", "/metrics", &[], "").await;
        assert!(
            metrics.text.contains("certificate_refused{listener=\""),
            "{service}: {}",
            metrics.text
        );
    }
    // As other folders of secrets do, this one lets everybody on the host read.
    process
        .until("the key's permissions are told of", |line| {
            line["event"] == "everybody on this host can read the private key"
        })
        .await;
    std::fs::write(&key_file, KeyPair::generate().unwrap().serialize_pem()).unwrap();
    process
        .until("the wrong key is told of", |line| {
            line["event"] == "certificates not reloaded"
        })
        .await;
    let stream = connect(of("gateway", "rest"), certificate.der(), b"h2").await;
    drop(stream);
    let said = process.stop().await;
    assert!(
        said.contains("panel and REST      https://127.0.0.1"),
        "{said}"
    );
}

#[tokio::test]
async fn certificate_files_that_do_not_fit_are_told_of_at_start() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec![NAME.to_owned()]).unwrap();
    let chain = file("tls.crt", &params.self_signed(&key).unwrap().pem());
    let other = file("other.key", &KeyPair::generate().unwrap().serialize_pem());
    let nonsense = file("nonsense.key", "nonsense");
    let absent = folder.path().join("absent.key");
    for key in [other.as_str(), &nonsense, absent.to_str().unwrap()] {
        for (service, variable) in [
            ("gateway", "VPNPANEL_GATEWAY_TLS"),
            ("control-api", "VPNPANEL_CONTROL_API_TLS"),
        ] {
            let names = [format!("{variable}_CERT"), format!("{variable}_KEY")];
            let settings = [(names[0].as_str(), chain.as_str()), (&names[1], key)];
            let data = folder.path().join("data");
            std::fs::create_dir_all(&data).unwrap();
            let (code, said) = Process::start(&[service], &data, &settings).wait().await;
            assert_eq!(code, Some(2), "{said}");
            assert!(said.contains(&format!("{variable}_CERT: ")), "{said}");
        }
    }
    let settings = [("VPNPANEL_GATEWAY_TLS_CERT", chain.as_str())];
    let mut process = Process::start(&["gateway"], folder.path(), &settings);
    let (code, said) = process.wait().await;
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("both the certificate and its key"), "{said}");
}

async fn connect(
    address: SocketAddr,
    certificate: &CertificateDer<'static>,
    protocol: &[u8],
) -> tokio_rustls::client::TlsStream<TcpStream> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![protocol.to_vec()];
    TlsConnector::from(Arc::new(config))
        .connect(
            ServerName::try_from(NAME).unwrap(),
            TcpStream::connect(address).await.unwrap(),
        )
        .await
        .unwrap()
}
