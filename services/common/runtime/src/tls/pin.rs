//! Trust by pin: the first contact of an agent, which knows only the SHA-256 of the authority's
//! public key. The server shows its whole chain; the authority in it must match the pin, and must
//! have signed the leaf for the name that was asked for.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use sha2::Digest as _;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::{PeerError, TlsError, provider};

/// The SHA-256 of a certificate's SubjectPublicKeyInfo (the pin of RFC 7469).
///
/// # Errors
/// When the bytes are no certificate.
pub fn spki_sha256(certificate: &CertificateDer<'_>) -> Result<[u8; 32], PeerError> {
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|_| PeerError::Malformed)?;
    Ok(sha2::Sha256::digest(parsed.public_key().raw).into())
}

/// A client that trusts whichever authority has the public key pinned by `pin`.
///
/// # Errors
/// When rustls cannot do TLS 1.3, which does not happen.
pub fn pinned_client(pin: [u8; 32]) -> Result<ClientConfig, TlsError> {
    let verifier = PinnedAuthority {
        pin,
        provider: provider(),
    };
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    config.resumption = rustls::client::Resumption::disabled();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

#[derive(Debug)]
struct PinnedAuthority {
    pin: [u8; 32],
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for PinnedAuthority {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let unknown = || Error::InvalidCertificate(CertificateError::UnknownIssuer);
        // A public key is no secret: comparing it needs no constant time.
        let authority = chain
            .iter()
            .find(|certificate| spki_sha256(certificate).is_ok_and(|pin| pin == self.pin))
            .ok_or_else(unknown)?;
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone().into_owned())?;
        let verifier =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), self.provider.clone())
                .build()
                .map_err(|_| unknown())?;
        verifier.verify_server_cert(leaf, chain, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is not spoken here".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
