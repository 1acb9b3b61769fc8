//! The one module that reads PEM. rustls-pemfile is archived upstream (RUSTSEC-2025-0134); what it
//! does is small and stays behind these two functions.

use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::TlsError;

/// The certificates of a PEM text, in order.
///
/// # Errors
/// Malformed PEM, or no certificate in it.
pub fn certificates_from_pem(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certificates = rustls_pemfile::certs(&mut &*pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(TlsError::Pem)?;
    if certificates.is_empty() {
        return Err(TlsError::Absent("certificate"));
    }
    Ok(certificates)
}

/// The first private key of a PEM text (PKCS #8, SEC 1 or PKCS #1).
///
/// # Errors
/// Malformed PEM, or no key in it.
pub fn key_from_pem(pem: &[u8]) -> Result<PrivateKeyDer<'static>, TlsError> {
    rustls_pemfile::private_key(&mut &*pem)
        .map_err(TlsError::Pem)?
        .ok_or(TlsError::Absent("private key"))
}
