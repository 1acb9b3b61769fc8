//! Streams without the product: tonic, mutual TLS, one message each way. What the product's streams
//! cost is measured beside them, on the same machine in the same minute.

use std::path::Path;
use std::time::{Duration, Instant};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use tokio::process::Command;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status, Streaming};
use vpnpanel_api::agent::v1::node_link_service_client::NodeLinkServiceClient;
use vpnpanel_api::agent::v1::node_link_service_server::{NodeLinkService, NodeLinkServiceServer};
use vpnpanel_api::agent::v1::{ConnectRequest, ConnectResponse};
use vpnpanel_pki::{CertificateAuthority, MasterKey, Sealer};
use vpnpanel_runtime::clock::Clock;
use vpnpanel_runtime::tls::{
    ClientTls, Credentials, Dialer, TlsError, TrustBundle, certificates_to_pem, key_to_pem,
};
use vpnpanel_runtime::{PeerIdentity, TrustDomain};

use crate::error::Error;
use crate::installation::free_ports;
use crate::process::Process;
use crate::settings::BareServer;

const CERTIFICATE: &str = "server.pem";
const KEY: &str = "server.key";
const AUTHORITY: &str = "authority.pem";
/// Dials under way at the same time: what the kernel's queue of a listener holds.
const AT_ONCE: usize = 512;
const START: Duration = Duration::from_secs(30);

/// The server's process, and how to reach it.
#[derive(Debug)]
pub(crate) struct Bare {
    pub(crate) process: Process,
    dialer: Dialer,
    port: u16,
}

/// A stream that is open.
#[derive(Debug)]
pub(crate) struct Open {
    _up: mpsc::Sender<ConnectRequest>,
    _down: Streaming<ConnectResponse>,
}

impl Bare {
    /// Starts the server with certificates of its own.
    pub(crate) async fn start(folder: &Path) -> Result<Self, Error> {
        let folder = folder.join("bare");
        std::fs::create_dir_all(&folder).map_err(Error::io(folder.display().to_string()))?;
        let (server, client, bundle) = certificates()?;
        let write = |name: &str, text: &str| {
            let path = folder.join(name);
            std::fs::write(&path, text).map_err(Error::io(path.display().to_string()))
        };
        write(CERTIFICATE, &certificates_to_pem(&server.chain))?;
        let key = key_to_pem(&server.key).ok_or(TlsError::Absent("key"))?;
        write(KEY, &key)?;
        write(AUTHORITY, &certificates_to_pem(bundle.certificates()))?;
        let [port] = free_ports()?;
        let program = std::env::current_exe().map_err(Error::io("this program"))?;
        let mut command = Command::new(program);
        command
            .args(["fleet", "bare-server", "--folder"])
            .arg(&folder)
            .args(["--listen", &format!("0.0.0.0:{port}")]);
        let process = Process::start(command, &folder.join("bare.log"))?;
        let bare = Self {
            process,
            dialer: Dialer::new(
                ClientTls::new(&bundle, Some(client))?,
                PeerIdentity::control_plane("collector")?,
                TrustDomain::default(),
            )?,
            port,
        };
        let began = Instant::now();
        loop {
            match bare.open_one(0).await {
                Ok(_) => return Ok(bare),
                Err(error) if began.elapsed() > START => return Err(error),
                Err(_not_yet) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    /// Opens so many streams, each on a connection of its own.
    pub(crate) async fn open(&self, streams: u32) -> Result<(Vec<Open>, Duration), Error> {
        let began = Instant::now();
        let open = stream::iter(0..streams)
            .map(|index| self.open_one(index))
            .buffer_unordered(AT_ONCE)
            .try_collect()
            .await?;
        Ok((open, began.elapsed()))
    }

    async fn open_one(&self, index: u32) -> Result<Open, Error> {
        let address = format!("127.0.0.{}:{}", 1 + index / 20_000, self.port);
        let channel = self.dialer.clone().channel(&address, |endpoint| endpoint)?;
        let (up, waiting) = mpsc::channel(1);
        // The receiver is there: the channel has room for one.
        let _sent = up.try_send(ConnectRequest::default());
        let opening = async {
            let mut down = NodeLinkServiceClient::new(channel)
                .connect(ReceiverStream::new(waiting))
                .await?
                .into_inner();
            down.message().await?;
            Ok::<_, Status>(down)
        };
        let down = opening
            .await
            .map_err(|status| Error::BareStream(Box::new(status)))?;
        Ok(Open {
            _up: up,
            _down: down,
        })
    }
}

/// Of the server, of a client, and whom both trust.
fn certificates() -> Result<(Credentials, Credentials, TrustBundle), Error> {
    let (now, domain) = (Clock::system().unix_millis(), TrustDomain::default());
    let sealer = Sealer::new(&MasterKey::from_bytes(rand::random()))?;
    let stored = CertificateAuthority::create(&domain, &sealer, now)?;
    let authority = CertificateAuthority::open(&stored, domain, &sealer)?;
    let bundle = TrustBundle::new(authority.trust_bundle())?;
    let of = |name: &str| authority.issue_service(name, &[], now);
    Ok((
        of("collector")?.credentials,
        of("node")?.credentials,
        bundle,
    ))
}

/// Answers each stream once, and holds it.
#[derive(Debug)]
struct Answers;

#[tonic::async_trait]
impl NodeLinkService for Answers {
    type ConnectStream = ReceiverStream<Result<ConnectResponse, Status>>;

    async fn connect(
        &self,
        request: Request<Streaming<ConnectRequest>>,
    ) -> Result<Response<Self::ConnectStream>, Status> {
        let mut up = request.into_inner();
        let (down, waiting) = mpsc::channel(1);
        tokio::spawn(async move {
            while let Ok(Some(_)) = up.message().await {
                if down.send(Ok(ConnectResponse::default())).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(waiting)))
    }
}

/// Serves until it is killed.
pub(crate) async fn serve(settings: BareServer) -> Result<(), Error> {
    let read = |name: &str| {
        let path = settings.folder.join(name);
        std::fs::read(&path).map_err(Error::io(path.display().to_string()))
    };
    let tls = ServerTlsConfig::new()
        .identity(Identity::from_pem(read(CERTIFICATE)?, read(KEY)?))
        .client_ca_root(Certificate::from_pem(read(AUTHORITY)?));
    crate::open_files::allow_most()?;
    Server::builder()
        .tls_config(tls)?
        .add_service(NodeLinkServiceServer::new(Answers))
        .serve(settings.listen.0)
        .await?;
    Ok(())
}
