//! Certificate signing requests, certificates that peers show, and PEM files.

use rustls_pki_types::CertificateDer;
use vpnpanel_pki::csr;
use vpnpanel_runtime::tls::{
    Peer, certificates_from_pem, certificates_to_pem, key_from_pem, key_to_pem, spki_sha256,
};
use vpnpanel_runtime::{PeerIdentity, TrustDomain};

/// SubjectPublicKeyInfo of a P-256 key (RFC 5480): the head that all have, and the point.
const P256_SPKI_LEN: usize = 91;

/// A request in DER. What is taken from one is a P-256 key that stands in it.
pub(crate) fn requests(data: &[u8]) -> bool {
    let Ok(key) = csr::public_key(data) else {
        return false;
    };
    assert_eq!(key.len(), P256_SPKI_LEN);
    assert!(data.windows(key.len()).any(|part| part == key));
    true
}

/// A certificate in DER. Who is read from it has both names in it, in their one spelling.
pub(crate) fn certificates(data: &[u8]) -> bool {
    let certificate = CertificateDer::from(data);
    let domain = TrustDomain::default();
    let Ok(peer) = Peer::from_certificate(&certificate, &domain) else {
        // No panic here either.
        let _ = spki_sha256(&certificate);
        return false;
    };
    let (uri, name) = (
        peer.identity().uri(&domain),
        peer.identity().dns_name(&domain),
    );
    let holds = |text: &str| data.windows(text.len()).any(|part| part == text.as_bytes());
    assert!(holds(&uri) && holds(&name), "{uri} {name}");
    let again = PeerIdentity::parse_uri(&uri, &domain).expect("its own spelling");
    assert_eq!(&again, peer.identity());
    assert!(spki_sha256(&certificate).is_ok());
    true
}

/// A PEM file. What is read is written and read again to the same.
pub(crate) fn pem(data: &[u8]) -> bool {
    let certificates = certificates_from_pem(data);
    if let Ok(certificates) = &certificates {
        let text = certificates_to_pem(certificates);
        let again = certificates_from_pem(text.as_bytes()).expect("what was written");
        assert_eq!(&again, certificates);
    }
    let key = key_from_pem(data);
    if let Ok(key) = &key
        && let Some(text) = key_to_pem(key)
    {
        let again = key_from_pem(text.as_bytes()).expect("what was written");
        assert_eq!(again.secret_der(), key.secret_der());
    }
    certificates.is_ok() || key.is_ok()
}
