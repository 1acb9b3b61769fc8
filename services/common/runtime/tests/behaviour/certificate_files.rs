//! A listener's certificate in files that are replaced while it serves.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use vpnpanel_runtime::settings::ListenAddr;
use vpnpanel_runtime::tls::{
    CertificateFiles, Credentials, ServerTls, certificates_to_pem, key_to_pem,
};
use vpnpanel_runtime::{Http, Service, Supervisor};

use crate::authority::Authority;
use crate::wire::{PATIENCE, get as fetch};

const NAME: &str = "panel.example.com";
const LOOK: Duration = Duration::from_millis(10);

struct Served {
    supervisor: Supervisor,
    address: SocketAddr,
    admin: SocketAddr,
}

async fn serve(files: &CertificateFiles) -> Served {
    let tls = ServerTls::public(files.read().unwrap()).unwrap();
    let mut service = Service::new("probe");
    service.admin(ListenAddr::any_loopback());
    let router = Router::new().route("/", get(|| async { "here" }));
    service.http(
        "rest",
        Http::new(router, ListenAddr::any_loopback()).tls(tls.clone()),
    );
    let (files, metrics) = (files.clone(), service.metrics().clone());
    service.task("certificate-files", move |stop| async move {
        files.watch_every(LOOK, "rest", tls, metrics, stop).await;
        Ok::<(), String>(())
    });
    let mut supervisor = Supervisor::new(Duration::from_secs(5), Duration::ZERO);
    let addresses = supervisor.start(service).await.unwrap();
    Served {
        supervisor,
        address: addresses.of("rest").unwrap(),
        admin: addresses.of("admin").unwrap(),
    }
}

impl Served {
    async fn metric(&self, line: &str) {
        let seen = async {
            while !fetch(self.admin, "/metrics").await.1.contains(line) {
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, seen).await.expect(line);
    }

    /// Connects until the server shows `leaf`.
    async fn shows(&self, authorities: &[&Authority], leaf: &CertificateDer<'_>) {
        let seen = async {
            loop {
                let stream = connect(self.address, authorities, &[b"h2"]).await;
                if shown(&stream) == *leaf {
                    return;
                }
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, seen).await.expect("the new certificate");
    }
}

fn write(folder: &Path, credentials: &Credentials) -> CertificateFiles {
    let files = CertificateFiles {
        certificate: folder.join("tls.crt"),
        key: folder.join("tls.key"),
    };
    let chain = certificates_to_pem(&credentials.chain);
    std::fs::write(&files.certificate, chain).unwrap();
    std::fs::write(&files.key, key_to_pem(&credentials.key).unwrap()).unwrap();
    files
}

async fn connect(
    address: SocketAddr,
    authorities: &[&Authority],
    protocols: &[&[u8]],
) -> TlsStream<TcpStream> {
    let mut roots = rustls::RootCertStore::empty();
    for authority in authorities {
        roots.add(authority.certificate()).unwrap();
    }
    let mut config = rustls::ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    TlsConnector::from(Arc::new(config))
        .connect(
            ServerName::try_from(NAME).unwrap(),
            TcpStream::connect(address).await.unwrap(),
        )
        .await
        .unwrap()
}

fn shown(stream: &TlsStream<TcpStream>) -> CertificateDer<'static> {
    stream.get_ref().1.peer_certificates().unwrap()[0].clone()
}

async fn ask(stream: &mut TlsStream<TcpStream>) -> String {
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    let mut answer = vec![0; 4096];
    let read = timeout(PATIENCE, stream.read(&mut answer)).await;
    String::from_utf8_lossy(&answer[..read.unwrap().unwrap()]).into_owned()
}

#[tokio::test]
async fn a_replaced_certificate_is_shown_to_new_connections_and_old_ones_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let (old, new) = (Authority::new(), Authority::new());
    let files = write(folder.path(), &old.issue_names(&[], &[NAME]));
    let served = serve(&files).await;
    let mut open = connect(served.address, &[&old], &[b"http/1.1"]).await;
    assert!(ask(&mut open).await.ends_with("here"));

    let replacement = new.issue_names(&[], &[NAME]);
    write(folder.path(), &replacement);
    served.shows(&[&old, &new], &replacement.chain[0]).await;
    assert!(
        ask(&mut open).await.ends_with("here"),
        "the open one goes on"
    );
    drop(open);
    served.supervisor.stop().await.unwrap();
}

#[tokio::test]
async fn a_bad_file_leaves_the_old_certificate_and_is_reported_until_it_is_mended() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let first = authority.issue_names(&[], &[NAME]);
    let files = write(folder.path(), &first);
    let served = serve(&files).await;
    served
        .metric("certificate_refused{listener=\"rest\"} 0")
        .await;
    let end = first.not_after_unix().unwrap();
    let expiry = format!("certificate_expiry_timestamp_seconds{{listener=\"rest\"}} {end}");
    served.metric(&expiry).await;

    let refused = "certificate_refused{listener=\"rest\"} 1";
    let accepted = "certificate_refused{listener=\"rest\"} 0";
    let spoil: [&dyn Fn(); 4] = [
        &|| std::fs::write(&files.certificate, "nonsense").unwrap(),
        // A key of another certificate.
        &|| {
            let other = authority.issue_names(&[], &[NAME]);
            std::fs::write(&files.key, key_to_pem(&other.key).unwrap()).unwrap();
        },
        &|| {
            write(folder.path(), &authority.issue_ended(NAME));
        },
        &|| std::fs::remove_file(&files.key).unwrap(),
    ];
    for spoil in spoil {
        spoil();
        served.metric(refused).await;
        let stream = connect(served.address, &[&authority], &[b"h2"]).await;
        assert_eq!(shown(&stream), first.chain[0]);
        write(folder.path(), &first);
        served.metric(accepted).await;
    }
    served.supervisor.stop().await.unwrap();
}

#[tokio::test]
async fn the_client_chooses_between_http_2_and_http_1() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let files = write(folder.path(), &authority.issue_names(&[], &[NAME]));
    let served = serve(&files).await;
    for (offered, chosen) in [
        (&[&b"h2"[..], b"http/1.1"][..], Some(&b"h2"[..])),
        (&[b"http/1.1"], Some(b"http/1.1")),
        (&[], None),
    ] {
        let stream = connect(served.address, &[&authority], offered).await;
        assert_eq!(stream.get_ref().1.alpn_protocol(), chosen);
    }
    served.supervisor.stop().await.unwrap();
}
