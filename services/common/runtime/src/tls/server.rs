//! The server's side: a configuration that is replaced in place, and who may connect.

use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::server::WebPkiClientVerifier;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::{Credentials, Peer, PeerError, TlsError, TrustBundle, provider};
use crate::identity::TrustDomain;

/// The TLS of one listener. Clones share the configuration: [`ServerTls::replace`] on one changes
/// all, for the handshakes to come; connections under way go on.
#[derive(Debug, Clone)]
pub struct ServerTls {
    config: Arc<ArcSwap<ServerConfig>>,
    /// Set when clients must show a certificate of this trust domain.
    clients: Option<TrustDomain>,
}

/// Why a connection did not come about.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HandshakeError {
    #[error("handshake: {0}")]
    Tls(#[from] std::io::Error),
    #[error("client certificate: {0}")]
    Peer(#[from] PeerError),
}

impl ServerTls {
    /// Clients must show a certificate that one of `bundle` signed and that names an identity of
    /// `trust_domain`. TLS 1.3 only; no session resumption, so that each connection proves it anew.
    ///
    /// # Errors
    /// When the parts do not fit together.
    pub fn mutual(
        credentials: Credentials,
        bundle: &TrustBundle,
        trust_domain: TrustDomain,
    ) -> Result<Self, TlsError> {
        let config = mutual_config(credentials, bundle)?;
        Ok(Self {
            config: Arc::new(ArcSwap::from_pointee(config)),
            clients: Some(trust_domain),
        })
    }

    /// Only the server shows a certificate. TLS 1.3 only.
    ///
    /// # Errors
    /// When key and certificate do not fit together.
    pub fn server_only(credentials: Credentials) -> Result<Self, TlsError> {
        let config = server_only_config(credentials)?;
        Ok(Self {
            config: Arc::new(ArcSwap::from_pointee(config)),
            clients: None,
        })
    }

    /// Any rustls configuration that asks clients for nothing.
    pub fn from_config(config: ServerConfig) -> Self {
        Self {
            config: Arc::new(ArcSwap::from_pointee(config)),
            clients: None,
        }
    }

    /// Takes new certificates into use. `bundle` is used where clients must show one.
    ///
    /// # Errors
    /// When the parts do not fit together; the old configuration stays.
    pub fn replace(&self, credentials: Credentials, bundle: &TrustBundle) -> Result<(), TlsError> {
        let config = match self.clients {
            Some(_) => mutual_config(credentials, bundle)?,
            None => server_only_config(credentials)?,
        };
        self.config.store(Arc::new(config));
        Ok(())
    }

    pub(crate) async fn accept(
        &self,
        stream: TcpStream,
    ) -> Result<(TlsStream<TcpStream>, Option<Peer>), HandshakeError> {
        let acceptor = TlsAcceptor::from(self.config.load_full());
        let stream = acceptor.accept(stream).await?;
        let peer = match &self.clients {
            Some(trust_domain) => {
                let (_, connection) = stream.get_ref();
                Some(Peer::from_chain(
                    connection.peer_certificates(),
                    trust_domain,
                )?)
            }
            None => None,
        };
        Ok((stream, peer))
    }
}

/// A configuration for the open internet (the panel with a public certificate): TLS 1.2 too,
/// HTTP/1.1 and HTTP/2.
///
/// # Errors
/// When key and certificate do not fit together.
pub fn public_server_config(credentials: Credentials) -> Result<ServerConfig, TlsError> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(credentials.chain, credentials.key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

fn mutual_config(credentials: Credentials, bundle: &TrustBundle) -> Result<ServerConfig, TlsError> {
    let verifier =
        WebPkiClientVerifier::builder_with_provider(bundle.roots()?, provider()).build()?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(credentials.chain, credentials.key)?;
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

fn server_only_config(credentials: Credentials) -> Result<ServerConfig, TlsError> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(credentials.chain, credentials.key)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}
