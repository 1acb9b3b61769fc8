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
    clients: Clients,
}

/// What clients show.
#[derive(Debug, Clone)]
enum Clients {
    Anonymous,
    /// Browsers and other programs of the open internet.
    Public,
    /// A certificate of this trust domain, or none at all.
    Either(TrustDomain),
    /// A certificate of this trust domain.
    Verified(TrustDomain),
    /// A certificate of this trust domain that names a service of the control plane.
    Services(TrustDomain),
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
        Self::new(credentials, bundle, Clients::Verified(trust_domain))
    }

    /// As [`ServerTls::mutual`], for services of the control plane alone: nodes, which have
    /// certificates of the same authority, are hung up on.
    ///
    /// # Errors
    /// When the parts do not fit together.
    pub fn services(
        credentials: Credentials,
        bundle: &TrustBundle,
        trust_domain: TrustDomain,
    ) -> Result<Self, TlsError> {
        Self::new(credentials, bundle, Clients::Services(trust_domain))
    }

    /// Clients may show such a certificate, and are anonymous otherwise: for a port that both
    /// people and services of the control plane call.
    ///
    /// # Errors
    /// When the parts do not fit together.
    pub fn optional(
        credentials: Credentials,
        bundle: &TrustBundle,
        trust_domain: TrustDomain,
    ) -> Result<Self, TlsError> {
        Self::new(credentials, bundle, Clients::Either(trust_domain))
    }

    /// Only the server shows a certificate. TLS 1.3 only.
    ///
    /// # Errors
    /// When key and certificate do not fit together.
    pub fn server_only(credentials: Credentials) -> Result<Self, TlsError> {
        Self::without_bundle(credentials, Clients::Anonymous)
    }

    /// For the open internet (the panel with a public certificate): TLS 1.2 too, HTTP/1.1 and
    /// HTTP/2.
    ///
    /// # Errors
    /// When key and certificate do not fit together.
    pub fn public(credentials: Credentials) -> Result<Self, TlsError> {
        Self::without_bundle(credentials, Clients::Public)
    }

    /// Takes new certificates into use. `bundle` is used where clients must show one.
    ///
    /// # Errors
    /// When the parts do not fit together; the old configuration stays.
    pub fn replace(&self, credentials: Credentials, bundle: &TrustBundle) -> Result<(), TlsError> {
        self.config
            .store(Arc::new(self.clients.config(credentials, Some(bundle))?));
        Ok(())
    }

    /// Takes a new certificate into use where clients show none.
    ///
    /// # Errors
    /// When key and certificate do not fit together, or clients must show certificates, which
    /// takes a bundle to check them against; the old configuration stays.
    pub fn replace_certificate(&self, credentials: Credentials) -> Result<(), TlsError> {
        self.config
            .store(Arc::new(self.clients.config(credentials, None)?));
        Ok(())
    }

    fn without_bundle(credentials: Credentials, clients: Clients) -> Result<Self, TlsError> {
        let config = clients.config(credentials, None)?;
        Ok(Self {
            config: Arc::new(ArcSwap::from_pointee(config)),
            clients,
        })
    }

    fn new(
        credentials: Credentials,
        bundle: &TrustBundle,
        clients: Clients,
    ) -> Result<Self, TlsError> {
        let config = clients.config(credentials, Some(bundle))?;
        Ok(Self {
            config: Arc::new(ArcSwap::from_pointee(config)),
            clients,
        })
    }

    pub(crate) async fn accept(
        &self,
        stream: TcpStream,
    ) -> Result<(TlsStream<TcpStream>, Option<Peer>), HandshakeError> {
        let acceptor = TlsAcceptor::from(self.config.load_full());
        let stream = acceptor.accept(stream).await?;
        let chain = stream.get_ref().1.peer_certificates();
        let peer = match &self.clients {
            Clients::Verified(domain) => Some(Peer::from_chain(chain, domain)?),
            Clients::Services(domain) => Some(Peer::from_chain(chain, domain)?.service()?),
            Clients::Either(domain) if chain.is_some() => Some(Peer::from_chain(chain, domain)?),
            Clients::Either(_) | Clients::Anonymous | Clients::Public => None,
        };
        Ok((stream, peer))
    }
}

impl Clients {
    fn config(
        &self,
        credentials: Credentials,
        bundle: Option<&TrustBundle>,
    ) -> Result<ServerConfig, TlsError> {
        let verifier = || {
            let roots = bundle.ok_or(TlsError::EmptyBundle)?.roots()?;
            Ok::<_, TlsError>(WebPkiClientVerifier::builder_with_provider(
                roots,
                provider(),
            ))
        };
        let verifier = match self {
            Self::Anonymous => return server_only_config(credentials),
            Self::Public => return public_config(credentials),
            Self::Either(_) => verifier()?.allow_unauthenticated().build()?,
            Self::Verified(_) | Self::Services(_) => verifier()?.build()?,
        };
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(verifier)
            .with_single_cert(credentials.chain, credentials.key)?;
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(config)
    }
}

fn server_only_config(credentials: Credentials) -> Result<ServerConfig, TlsError> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(credentials.chain, credentials.key)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

fn public_config(credentials: Credentials) -> Result<ServerConfig, TlsError> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(credentials.chain, credentials.key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}
