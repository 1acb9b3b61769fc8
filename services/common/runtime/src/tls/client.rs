//! The client's side: dialing one identity at whatever address it has.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use arc_swap::ArcSwap;
use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint};

use super::{Credentials, Peer, PeerError, TlsError, TrustBundle, provider};
use crate::identity::{PeerIdentity, TrustDomain};

/// TCP and TLS together get this long, unless [`Dialer::deadline`] says otherwise.
const DIAL_DEADLINE: Duration = Duration::from_secs(10);

/// The TLS of a client. Clones share the configuration: [`ClientTls::replace`] on one changes all,
/// for the connections to come.
#[derive(Debug, Clone)]
pub struct ClientTls(Arc<ArcSwap<ClientConfig>>);

impl ClientTls {
    /// Trusts `bundle`, and shows `credentials` when there are any. TLS 1.3 only.
    ///
    /// # Errors
    /// When the parts do not fit together.
    pub fn new(bundle: &TrustBundle, credentials: Option<Credentials>) -> Result<Self, TlsError> {
        Ok(Self::from_config(client_config(bundle, credentials)?))
    }

    /// Any rustls configuration, such as [`super::pinned_client`].
    pub fn from_config(config: ClientConfig) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(config)))
    }

    /// Takes new certificates into use.
    ///
    /// # Errors
    /// When the parts do not fit together; the old configuration stays.
    pub fn replace(
        &self,
        bundle: &TrustBundle,
        credentials: Option<Credentials>,
    ) -> Result<(), TlsError> {
        self.0.store(Arc::new(client_config(bundle, credentials)?));
        Ok(())
    }
}

fn client_config(
    bundle: &TrustBundle,
    credentials: Option<Credentials>,
) -> Result<ClientConfig, TlsError> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(bundle.roots()?);
    let mut config = match credentials {
        Some(credentials) => builder.with_client_auth_cert(credentials.chain, credentials.key)?,
        None => builder.with_no_client_auth(),
    };
    config.resumption = rustls::client::Resumption::disabled();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

/// Why a dial failed.
#[derive(Debug, thiserror::Error)]
enum DialError {
    #[error("no host in {0}")]
    NoHost(Uri),
    #[error("not connected within {0:?}")]
    Deadline(Duration),
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("server certificate: {0}")]
    Peer(#[from] PeerError),
    #[error("the server is {found}, expected {expected}")]
    OtherIdentity {
        found: PeerIdentity,
        expected: PeerIdentity,
    },
}

/// Connects to one identity: the address says where, the certificate must say who.
#[derive(Debug, Clone)]
pub struct Dialer {
    tls: ClientTls,
    server_name: ServerName<'static>,
    expected: PeerIdentity,
    trust_domain: TrustDomain,
    deadline: Duration,
}

impl Dialer {
    /// Dials `expected`, a name within `trust_domain`.
    ///
    /// # Errors
    /// When the identity's DNS name cannot be asked for.
    pub fn new(
        tls: ClientTls,
        expected: PeerIdentity,
        trust_domain: TrustDomain,
    ) -> Result<Self, TlsError> {
        let name = expected.dns_name(&trust_domain);
        let server_name =
            ServerName::try_from(name.clone()).map_err(|_| TlsError::ServerName(name))?;
        Ok(Self {
            tls,
            server_name,
            expected,
            trust_domain,
            deadline: DIAL_DEADLINE,
        })
    }

    /// Bounds TCP connect and TLS handshake together.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// A channel that dials when it is first used, and again after a loss. `address` is
    /// `host:port`. Set keepalive and further bounds on `endpoint` as
    /// `|endpoint| endpoint.http2_keep_alive_interval(…)`.
    ///
    /// # Errors
    /// When `address` is no authority.
    pub fn channel(
        self,
        address: &str,
        tune: impl FnOnce(Endpoint) -> Endpoint,
    ) -> Result<Channel, tonic::transport::Error> {
        // The scheme speaks to tonic's own TLS, which is not used: ours is in the connector.
        let endpoint = Endpoint::from_shared(format!("http://{address}"))?;
        Ok(tune(endpoint).connect_with_connector_lazy(self))
    }

    async fn dial(self, uri: Uri) -> Result<TlsStream<TcpStream>, DialError> {
        let host = uri.host().ok_or_else(|| DialError::NoHost(uri.clone()))?;
        let port = uri.port_u16().unwrap_or(443);
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let stream = TcpStream::connect((host, port)).await?;
        stream.set_nodelay(true)?;
        let connector = TlsConnector::from(self.tls.0.load_full());
        let stream = connector.connect(self.server_name, stream).await?;
        let (_, connection) = stream.get_ref();
        let peer = Peer::from_chain(connection.peer_certificates(), &self.trust_domain)?;
        if *peer.identity() == self.expected {
            Ok(stream)
        } else {
            let (found, expected) = (peer.identity().clone(), self.expected);
            Err(DialError::OtherIdentity { found, expected })
        }
    }
}

type Dialing<T> = Pin<Box<dyn Future<Output = Result<T, tower::BoxError>> + Send>>;

impl tower::Service<Uri> for Dialer {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = tower::BoxError;
    type Future = Dialing<Self::Response>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let dialer = self.clone();
        Box::pin(async move {
            let deadline = dialer.deadline;
            match tokio::time::timeout(deadline, dialer.dial(uri)).await {
                Ok(dialed) => Ok(TokioIo::new(dialed?)),
                Err(_elapsed) => Err(DialError::Deadline(deadline).into()),
            }
        })
    }
}
