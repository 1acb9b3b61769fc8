//! The certificate authority: one self-signed P-256 certificate that signs nodes and services.
//! Names are written here from a typed identity; nothing a requester says ends up in one.

use std::net::IpAddr;
use std::time::Duration;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType, SerialNumber,
    SubjectPublicKeyInfo,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use sha2::{Digest, Sha256};
use vpnpanel_runtime::tls::{Credentials, Peer};
use vpnpanel_runtime::{PeerIdentity, TrustDomain};
use x509_parser::prelude::{FromDer, X509Certificate};
use zeroize::Zeroizing;

use crate::{Error, Sealer};

/// Life of a service's certificate.
pub const SERVICE_VALIDITY: Duration = Duration::from_secs(30 * DAY);
/// Life of a node's certificate, unless an operator says otherwise.
pub const NODE_VALIDITY: Duration = Duration::from_secs(7 * DAY);
const AUTHORITY_VALIDITY: Duration = Duration::from_secs(3650 * DAY);
/// How far in the past a validity begins, for hosts whose clocks are behind: at most a tenth of it,
/// so that a short one is not half over when it is issued.
const BACKDATE: Duration = Duration::from_secs(5 * 60);
const DAY: u64 = 86_400;
const SERIAL_LEN: usize = 16;
const KEY_CONTEXT: &str = "certificate-authority-key";

/// An authority as it is kept: nothing in it is secret without the master key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredAuthority {
    /// The self-signed certificate, DER.
    pub certificate_der: Vec<u8>,
    /// The private key, sealed.
    pub sealed_key: Vec<u8>,
}

/// A certificate for somebody else's key.
#[derive(Debug, Clone)]
pub struct IssuedCertificate {
    /// Serial number, lowercase hexadecimal.
    pub serial: String,
    /// The certificate, then the authority's own: whoever pins the authority finds it here.
    pub chain: Vec<CertificateDer<'static>>,
    /// First instant at which it no longer holds, milliseconds of the Unix epoch.
    pub not_after_ms: i64,
}

/// A certificate of this installation that somebody presents outside of TLS. That they hold its
/// key is yet to be shown.
#[derive(Debug, Clone)]
pub struct OwnCertificate {
    /// Whom it names.
    pub peer: Peer,
    /// SHA-256 of its public key (SPKI).
    pub spki_sha256: [u8; 32],
    /// Its public key, an uncompressed point on P-256.
    public_key: Vec<u8>,
}

impl OwnCertificate {
    /// Whether the certificate's key signed `statement` (ECDSA on P-256 with SHA-256, ASN.1).
    pub fn has_signed(&self, statement: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &self.public_key)
            .verify(statement, signature)
            .is_ok()
    }
}

/// A service's certificate with the key that was made for it.
#[derive(Debug)]
pub struct ServiceCertificate {
    /// Chain and key, as TLS takes them.
    pub credentials: Credentials,
    /// First instant at which the certificate no longer holds, milliseconds of the Unix epoch.
    pub not_after_ms: i64,
}

/// Signs certificates of one installation.
pub struct CertificateAuthority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    trust_domain: TrustDomain,
}

impl CertificateAuthority {
    /// Makes a new authority, to be kept and then opened.
    ///
    /// # Errors
    /// When the system gives no randomness.
    pub fn create(
        trust_domain: &TrustDomain,
        sealer: &Sealer,
        now_ms: i64,
    ) -> Result<StoredAuthority, Error> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = name(&format!("vpnpanel authority {trust_domain}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.serial_number = Some(serial()?);
        set_validity(&mut params, now_ms, AUTHORITY_VALIDITY)?;
        let certificate = params.self_signed(&key)?;
        let key_der = Zeroizing::new(key.serialize_der());
        let sealed_key = sealer.seal(KEY_CONTEXT, &key_der)?;
        Ok(StoredAuthority {
            certificate_der: certificate.der().to_vec(),
            sealed_key,
        })
    }

    /// Opens a kept authority.
    ///
    /// # Errors
    /// [`Error::Unsealable`] under another master key, [`Error::Certificate`] for damaged data.
    pub fn open(
        stored: &StoredAuthority,
        trust_domain: TrustDomain,
        sealer: &Sealer,
    ) -> Result<Self, Error> {
        let key_der = sealer.open(KEY_CONTEXT, &stored.sealed_key)?;
        let key = KeyPair::from_pkcs8_der_and_sign_algo(
            &PrivatePkcs8KeyDer::from(key_der.as_slice()),
            &PKCS_ECDSA_P256_SHA256,
        )?;
        let certificate = CertificateDer::from(stored.certificate_der.clone());
        let (_, parsed) = X509Certificate::from_der(&certificate)
            .map_err(|_| Error::Certificate("it is not X.509"))?;
        if parsed.public_key().raw != key.subject_public_key_info() {
            return Err(Error::Certificate("its key is another one"));
        }
        let issuer = Issuer::from_ca_cert_der(&certificate, key)?;
        Ok(Self {
            issuer,
            certificate,
            trust_domain,
        })
    }

    /// Every certificate that peers must trust, the authority's own for now.
    pub fn trust_bundle(&self) -> Vec<CertificateDer<'static>> {
        vec![self.certificate.clone()]
    }

    /// First instant at which the authority's own certificate no longer holds, milliseconds of
    /// the Unix epoch.
    ///
    /// # Errors
    /// [`Error::Certificate`] for damaged data; [`CertificateAuthority::open`] has read it before.
    pub fn not_after_ms(&self) -> Result<i64, Error> {
        let (_, parsed) = X509Certificate::from_der(&self.certificate)
            .map_err(|_| Error::Certificate("it is not X.509"))?;
        Ok(parsed.validity().not_after.timestamp().saturating_mul(1000))
    }

    /// The installation's name space.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// What an install command pins: SHA-256 over the authority's public key (RFC 7469, 2.4, in
    /// hexadecimal).
    pub fn pin(&self) -> String {
        hex::encode(Sha256::digest(self.issuer.key().subject_public_key_info()))
    }

    /// Signs a public key, SubjectPublicKeyInfo in DER, for a node or a service.
    ///
    /// # Errors
    /// A key that is not one.
    pub fn issue(
        &self,
        identity: &PeerIdentity,
        public_key: &[u8],
        validity: Duration,
        now_ms: i64,
    ) -> Result<IssuedCertificate, Error> {
        let key = SubjectPublicKeyInfo::from_der(public_key)?;
        self.sign(identity, &key, &[], validity, now_ms)
    }

    /// Reads a certificate that this authority signed, whether or not it has ended.
    ///
    /// # Errors
    /// [`Error::Foreign`] when it did not, or the certificate names nobody of the trust domain.
    pub fn recognise(&self, certificate: &[u8]) -> Result<OwnCertificate, Error> {
        let (rest, leaf) = X509Certificate::from_der(certificate).map_err(|_| Error::Foreign)?;
        let (_, own) = X509Certificate::from_der(&self.certificate)
            .map_err(|_| Error::Certificate("it is not X.509"))?;
        if !rest.is_empty() || leaf.is_ca() || leaf.issuer() != own.subject() {
            return Err(Error::Foreign);
        }
        leaf.verify_signature(Some(own.public_key()))
            .map_err(|_| Error::Foreign)?;
        let peer = Peer::from_certificate(&CertificateDer::from(certificate), &self.trust_domain)
            .map_err(|_| Error::Foreign)?;
        Ok(OwnCertificate {
            peer,
            spki_sha256: Sha256::digest(leaf.public_key().raw).into(),
            public_key: leaf.public_key().subject_public_key.data.to_vec(),
        })
    }

    /// Makes a key pair and a certificate for a service of the control plane. `addresses` are
    /// further names under which clients reach it, beside the one made from its identity.
    ///
    /// # Errors
    /// A service name that is no DNS label.
    pub fn issue_service(
        &self,
        service: &str,
        addresses: &[IpAddr],
        now_ms: i64,
    ) -> Result<ServiceCertificate, Error> {
        let identity = PeerIdentity::control_plane(service)
            .map_err(|_| Error::Certificate("a service's name is a DNS label"))?;
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let issued = self.sign(&identity, &key, addresses, SERVICE_VALIDITY, now_ms)?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        Ok(ServiceCertificate {
            credentials: Credentials {
                chain: issued.chain,
                key,
            },
            not_after_ms: issued.not_after_ms,
        })
    }

    fn sign(
        &self,
        identity: &PeerIdentity,
        key: &impl PublicKeyData,
        addresses: &[IpAddr],
        validity: Duration,
        now_ms: i64,
    ) -> Result<IssuedCertificate, Error> {
        let mut params = CertificateParams::default();
        params.distinguished_name = name(&identity.to_string());
        params.subject_alt_names = vec![
            SanType::URI(identity.uri(&self.trust_domain).try_into()?),
            SanType::DnsName(identity.dns_name(&self.trust_domain).try_into()?),
        ];
        params
            .subject_alt_names
            .extend(addresses.iter().map(|a| SanType::IpAddress(*a)));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ClientAuth,
            ExtendedKeyUsagePurpose::ServerAuth,
        ];
        params.use_authority_key_identifier_extension = true;
        let number = serial()?;
        let text = hex::encode(number.as_ref());
        params.serial_number = Some(number);
        let not_after_ms = set_validity(&mut params, now_ms, validity)?;
        let leaf = params.signed_by(key, &self.issuer)?;
        Ok(IssuedCertificate {
            serial: text,
            chain: vec![leaf.der().clone(), self.certificate.clone()],
            not_after_ms,
        })
    }
}

impl std::fmt::Debug for CertificateAuthority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CertificateAuthority")
            .field("pin", &self.pin())
            .finish_non_exhaustive()
    }
}

fn name(common_name: &str) -> DistinguishedName {
    // RFC 5280: a common name has at most 64 characters; identities are read from the SAN alone.
    let mut name = DistinguishedName::new();
    name.push(
        DnType::CommonName,
        common_name.chars().take(64).collect::<String>(),
    );
    name
}

/// RFC 5280, 4.1.2.2: positive and at most 20 octets; ours has 127 random bits.
fn serial() -> Result<SerialNumber, Error> {
    let mut bytes = [0; SERIAL_LEN];
    getrandom::fill(&mut bytes).map_err(|_| Error::Randomness)?;
    // A leading zero bit keeps it positive, a one after it keeps all 16 octets in its encoding.
    bytes[0] = (bytes[0] & 0x3f) | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}

fn set_validity(
    params: &mut CertificateParams,
    now_ms: i64,
    validity: Duration,
) -> Result<i64, Error> {
    // X.509 has whole seconds.
    let now = Duration::from_secs(u64::try_from(now_ms).map_err(|_| Error::Time)? / 1000);
    let ends = now.checked_add(validity).ok_or(Error::Time)?;
    if ends > Duration::from_secs(250_000_000_000) {
        return Err(Error::Time);
    }
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + now.saturating_sub(BACKDATE.min(validity / 10));
    params.not_after = epoch + ends;
    i64::try_from(ends.as_millis()).map_err(|_| Error::Time)
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::{MasterKey, NOW_MS};

    fn sealer() -> Sealer {
        Sealer::new(&MasterKey::from_bytes([7; 32])).unwrap()
    }

    fn authority() -> CertificateAuthority {
        let domain = TrustDomain::default();
        let stored = CertificateAuthority::create(&domain, &sealer(), NOW_MS).unwrap();
        CertificateAuthority::open(&stored, domain, &sealer()).unwrap()
    }

    #[test]
    fn a_kept_authority_opens_to_the_same_pin_and_only_with_its_key() {
        let domain = TrustDomain::default();
        let stored = CertificateAuthority::create(&domain, &sealer(), NOW_MS).unwrap();
        let opened = CertificateAuthority::open(&stored, domain.clone(), &sealer()).unwrap();
        let certificate = CertificateDer::from(stored.certificate_der.clone());
        let pin = vpnpanel_runtime::tls::spki_sha256(&certificate).unwrap();
        assert_eq!(opened.pin(), hex::encode(pin));
        let other = Sealer::new(&MasterKey::from_bytes([8; 32])).unwrap();
        assert!(matches!(
            CertificateAuthority::open(&stored, domain, &other),
            Err(Error::Unsealable)
        ));
    }

    #[test]
    fn a_leaf_names_its_identity_and_is_signed_by_the_authority() {
        let authority = authority();
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let identity = PeerIdentity::Node {
            tenant: None,
            node: Uuid::now_v7(),
        };
        let issued = authority
            .issue(
                &identity,
                &key.subject_public_key_info(),
                NODE_VALIDITY,
                NOW_MS,
            )
            .unwrap();
        let (_, leaf) = X509Certificate::from_der(&issued.chain[0]).unwrap();
        let (_, root) = X509Certificate::from_der(&issued.chain[1]).unwrap();
        leaf.verify_signature(Some(root.public_key())).unwrap();
        assert_eq!(leaf.raw_serial_as_string().replace(':', ""), issued.serial);
        let sans = leaf.subject_alternative_name().unwrap().unwrap();
        let text = format!("{:?}", sans.value.general_names);
        assert!(
            text.contains(&identity.uri(authority.trust_domain())),
            "{text}"
        );
        assert!(!leaf.is_ca());
        assert_eq!(
            leaf.validity().not_after.timestamp() * 1000,
            issued.not_after_ms
        );
        assert!(leaf.validity().not_before.timestamp() * 1000 < NOW_MS);
    }

    #[test]
    fn serial_numbers_are_positive_and_keep_their_length() {
        for _ in 0..100 {
            let number = serial().unwrap();
            assert_eq!(number.as_ref().len(), SERIAL_LEN);
            assert!(number.as_ref()[0] & 0x80 == 0);
        }
    }

    #[test]
    fn junk_is_no_public_key() {
        let identity = PeerIdentity::Node {
            tenant: None,
            node: Uuid::now_v7(),
        };
        let issued = authority().issue(&identity, b"junk", NODE_VALIDITY, NOW_MS);
        assert!(issued.is_err());
    }

    #[test]
    fn an_own_certificate_is_recognised_after_its_end_and_a_foreign_one_never() {
        let (authority, other) = (authority(), authority());
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let identity = PeerIdentity::Node {
            tenant: None,
            node: Uuid::now_v7(),
        };
        let public_key = key.subject_public_key_info();
        let long_ago = NOW_MS - 365 * 86_400_000;
        let issued = authority
            .issue(&identity, &public_key, NODE_VALIDITY, long_ago)
            .unwrap();
        let own = authority.recognise(&issued.chain[0]).unwrap();
        assert_eq!(*own.peer.identity(), identity);
        let signature = rcgen::SigningKey::sign(&key, b"statement").unwrap();
        assert!(own.has_signed(b"statement", &signature));
        assert!(!own.has_signed(b"another", &signature));
        assert!(!own.has_signed(b"statement", b"junk"));
        for foreign in [&issued.chain[0][..], &authority.certificate, b"junk"] {
            assert!(matches!(other.recognise(foreign), Err(Error::Foreign)));
        }
        assert!(authority.recognise(&authority.certificate).is_err());
        let mut altered = issued.chain[0].to_vec();
        let last = altered.len() - 1;
        altered[last] ^= 1;
        assert!(authority.recognise(&altered).is_err());
    }

    #[test]
    fn a_short_life_is_not_half_over_when_it_begins() {
        let mut params = CertificateParams::default();
        let ends = set_validity(&mut params, NOW_MS, Duration::from_secs(60)).unwrap();
        assert_eq!(ends, NOW_MS + 60_000);
        assert_eq!(
            params.not_before.unix_timestamp(),
            NOW_MS / 1000 - 6,
            "a tenth, not five minutes"
        );
    }
}
