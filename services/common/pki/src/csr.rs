//! Certificate signing requests (PKCS #10, RFC 2986). Only the public key is taken from one, after
//! its signature has shown that the sender holds the private key; names, extensions and
//! attributes of the request are ignored.

use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::oid_registry::{OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY};
use x509_parser::prelude::FromDer;

use crate::Error;

/// Larger requests are not even parsed.
pub const MAX_LEN: usize = 8 * 1024;

/// An uncompressed P-256 point (SEC 1, 2.3.3).
const POINT_LEN: usize = 65;

/// The public key of a request as SubjectPublicKeyInfo (RFC 5280), DER.
///
/// # Errors
/// [`Error::Csr`] for a request that is too long, malformed, not signed by its own key, or whose
/// key is not ECDSA on P-256.
pub fn public_key(der: &[u8]) -> Result<Vec<u8>, Error> {
    if der.len() > MAX_LEN {
        return Err(Error::Csr("it is longer than 8 KiB"));
    }
    let (rest, request) =
        X509CertificationRequest::from_der(der).map_err(|_| Error::Csr("it is not PKCS #10"))?;
    if !rest.is_empty() {
        return Err(Error::Csr("bytes follow the request"));
    }
    let key = &request.certification_request_info.subject_pki;
    let curve = key
        .algorithm
        .parameters
        .as_ref()
        .and_then(|p| p.as_oid().ok());
    let point = &key.subject_public_key.data;
    if key.algorithm.algorithm != OID_KEY_TYPE_EC_PUBLIC_KEY
        || curve != Some(OID_EC_P256)
        || point.len() != POINT_LEN
        || point.first() != Some(&4)
    {
        return Err(Error::Csr("its key is not ECDSA on P-256"));
    }
    request
        .verify_signature()
        .map_err(|_| Error::Csr("its signature is wrong"))?;
    Ok(key.raw.to_vec())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{CertificateParams, KeyPair, PublicKeyData};

    use super::*;

    fn request(key: &KeyPair) -> Vec<u8> {
        let params = CertificateParams::new(vec!["not-used.example".to_owned()]).unwrap();
        params.serialize_request(key).unwrap().der().to_vec()
    }

    #[test]
    fn the_key_of_a_signed_request_is_taken() {
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        assert_eq!(
            public_key(&request(&key)).unwrap(),
            key.subject_public_key_info()
        );
    }

    #[test]
    fn other_keys_and_tampered_requests_are_refused() {
        let p384 = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
        assert!(public_key(&request(&p384)).is_err());
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let mut tampered = request(&key);
        let last = tampered.len() - 1;
        tampered[last] ^= 1;
        assert!(public_key(&tampered).is_err());
        let mut longer = request(&key);
        longer.push(0);
        assert!(public_key(&longer).is_err());
        assert!(public_key(&vec![0x30; MAX_LEN + 1]).is_err());
    }

    proptest! {
        #[test]
        fn junk_is_refused_without_a_panic(junk in proptest::collection::vec(any::<u8>(), 0..600)) {
            prop_assert!(public_key(&junk).is_err());
        }

        #[test]
        fn a_flipped_byte_never_gives_another_key(at in 0usize..400, bit in 0u8..8) {
            let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
            let mut der = request(&key);
            let at = at % der.len();
            der[at] ^= 1 << bit;
            if let Ok(found) = public_key(&der) {
                prop_assert_eq!(found, key.subject_public_key_info());
            }
        }
    }
}
