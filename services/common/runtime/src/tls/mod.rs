//! TLS for servers and clients of this product: TLS 1.3 between our own processes, verified
//! identities out of certificates, and configurations that are replaced without a restart.

mod client;
mod files;
mod peer;
mod pem;
mod pin;
mod reload;
mod renewal;
mod server;

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;

pub use client::{ClientTls, Dialer};
pub use files::CertificateFiles;
pub use peer::{Peer, PeerError};
pub use pem::{certificates_from_pem, certificates_to_pem, key_from_pem, key_to_pem};
pub use pin::{pinned_client, spki_sha256};
pub use reload::watch_files;
pub use renewal::renewal_statement;
pub use server::ServerTls;

/// What is wrong with certificates, keys or configurations.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// A PEM text is malformed.
    #[error("malformed PEM: {0}")]
    Pem(std::io::Error),
    /// A PEM text lacks what was asked for.
    #[error("no {0} in the PEM text")]
    Absent(&'static str),
    /// The parts do not fit together.
    #[error("tls: {0}")]
    Rustls(#[from] rustls::Error),
    /// The trust anchors cannot be used.
    #[error("tls: {0}")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
    /// A certificate does not name a peer.
    #[error("certificate: {0}")]
    Peer(#[from] PeerError),
    /// The bundle has no certificate.
    #[error("the trust bundle is empty")]
    EmptyBundle,
    /// A certificate without a key, or a key without a certificate.
    #[error("set both the certificate and its key, or neither")]
    Half,
    /// A certificate that clients would refuse by now.
    #[error("the certificate ended at Unix time {0}")]
    Ended(i64),
    /// A name that TLS cannot ask for.
    #[error("not a server name: {0}")]
    ServerName(String),
}

/// A certificate with its chain, and the private key. `Debug` shows no key.
#[derive(Debug)]
pub struct Credentials {
    /// The leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    /// The leaf's key.
    pub key: PrivateKeyDer<'static>,
}

impl Clone for Credentials {
    fn clone(&self) -> Self {
        Self {
            chain: self.chain.clone(),
            key: self.key.clone_key(),
        }
    }
}

impl Credentials {
    /// Reads a chain and a key from PEM files.
    ///
    /// # Errors
    /// Unreadable or malformed files.
    pub fn from_files(chain: &Path, key: &Path) -> Result<Self, TlsError> {
        Ok(Self {
            chain: certificates_from_pem(&read(chain)?)?,
            key: key_from_pem(&read(key)?)?,
        })
    }

    /// When the certificate ends, in Unix seconds.
    ///
    /// # Errors
    /// When the leaf is no certificate.
    pub fn not_after_unix(&self) -> Result<i64, TlsError> {
        Ok(self.leaf()?.validity().not_after.timestamp())
    }

    /// The host names and addresses that the certificate is for, in its order.
    ///
    /// # Errors
    /// When the leaf is no certificate.
    pub fn names(&self) -> Result<Vec<String>, TlsError> {
        let leaf = self.leaf()?;
        let malformed = |_| TlsError::Peer(PeerError::Malformed);
        let names = leaf.subject_alternative_name().map_err(malformed)?;
        let names = names.iter().flat_map(|names| &names.value.general_names);
        Ok(names
            .filter_map(|name| match name {
                GeneralName::DNSName(name) => Some((*name).to_owned()),
                GeneralName::IPAddress(bytes) => address(bytes).map(|it| it.to_string()),
                _ => None,
            })
            .collect())
    }

    fn leaf(&self) -> Result<X509Certificate<'_>, TlsError> {
        let leaf = self.chain.first().ok_or(TlsError::Absent("certificate"))?;
        let (_, parsed) = x509_parser::parse_x509_certificate(leaf)
            .map_err(|_| TlsError::Peer(PeerError::Malformed))?;
        Ok(parsed)
    }
}

/// The certificates that are trusted as authorities. A list from the start: during a rotation
/// there are two.
#[derive(Debug, Clone)]
pub struct TrustBundle(Vec<CertificateDer<'static>>);

impl TrustBundle {
    /// A bundle of at least one certificate.
    ///
    /// # Errors
    /// When empty, or when one is not a certificate.
    pub fn new(certificates: Vec<CertificateDer<'static>>) -> Result<Self, TlsError> {
        if certificates.is_empty() {
            return Err(TlsError::EmptyBundle);
        }
        let bundle = Self(certificates);
        bundle.roots()?;
        Ok(bundle)
    }

    /// Reads a bundle from a PEM file.
    ///
    /// # Errors
    /// An unreadable, malformed or empty file.
    pub fn from_file(path: &Path) -> Result<Self, TlsError> {
        Self::new(certificates_from_pem(&read(path)?)?)
    }

    /// The certificates.
    pub fn certificates(&self) -> &[CertificateDer<'static>] {
        &self.0
    }

    fn roots(&self) -> Result<Arc<RootCertStore>, TlsError> {
        let mut roots = RootCertStore::empty();
        for certificate in &self.0 {
            roots.add(certificate.clone())?;
        }
        Ok(Arc::new(roots))
    }
}

/// aws-lc-rs, named rather than taken from the process, so that a forgotten
/// [`crate::install_crypto_provider`] cannot choose another.
fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// An address out of the bytes of a name.
fn address(bytes: &[u8]) -> Option<IpAddr> {
    let ipv4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    ipv4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from))
        .ok()
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|source| TlsError::Read {
        path: path.display().to_string(),
        source,
    })
}
