//! The one module that knows PEM. rustls-pemfile is archived upstream (RUSTSEC-2025-0134); what it
//! does is small and stays behind these two functions.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
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

/// Certificates as a PEM text (RFC 7468).
pub fn certificates_to_pem(certificates: &[CertificateDer<'_>]) -> String {
    certificates
        .iter()
        .map(|certificate| block("CERTIFICATE", certificate))
        .collect()
}

/// A PKCS #8 private key as a PEM text (RFC 7468); `None` for keys in older forms.
pub fn key_to_pem(key: &PrivateKeyDer<'_>) -> Option<String> {
    match key {
        PrivateKeyDer::Pkcs8(key) => Some(block("PRIVATE KEY", key.secret_pkcs8_der())),
        _ => None,
    }
}

fn block(label: &str, der: &[u8]) -> String {
    let encoded = STANDARD.encode(der);
    let mut text = format!("-----BEGIN {label}-----\n");
    let mut rest = encoded.as_str();
    while !rest.is_empty() {
        let (line, more) = rest.split_at(rest.len().min(64));
        text.push_str(line);
        text.push('\n');
        rest = more;
    }
    text.push_str(&format!("-----END {label}-----\n"));
    text
}
