//! What a host accepts as its identity, and what of it survives on disk.

use std::os::unix::fs::MetadataExt;

use rcgen::{BasicConstraints, IsCa, Issuer, PKCS_ECDSA_P256_SHA256, SanType};
use uuid::Uuid;

use super::*;

struct Authority {
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap().der().clone();
        Self {
            certificate,
            issuer: Issuer::new(params, key),
        }
    }

    fn pin(&self) -> [u8; 32] {
        spki_sha256(&self.certificate).unwrap()
    }

    fn reply(&self, identity: &PeerIdentity, key: &KeyPair) -> EnrollResponse {
        let domain = TrustDomain::default();
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![
            SanType::URI(identity.uri(&domain).try_into().unwrap()),
            SanType::DnsName(identity.dns_name(&domain).try_into().unwrap()),
        ];
        let leaf = params.signed_by(key, &self.issuer).unwrap();
        EnrollResponse {
            node_id: String::new(),
            certificate_chain_der: vec![leaf.der().to_vec(), self.certificate.to_vec()],
            trust_bundle_der: vec![self.certificate.to_vec()],
            trust_bundle_sequence: 1,
            expire_time: None,
            link_endpoint: "https://127.0.0.1:50052".into(),
        }
    }
}

fn key() -> KeyPair {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap()
}

fn node() -> PeerIdentity {
    PeerIdentity::Node {
        tenant: None,
        node: Uuid::now_v7(),
    }
}

#[test]
fn an_answer_for_another_key_name_or_authority_is_refused() {
    let (authority, key, domain) = (Authority::new(), key(), TrustDomain::default());
    let refused = |reply, pin| accept(reply, &key, pin, &domain).is_err();
    assert!(!refused(authority.reply(&node(), &key), authority.pin()));
    let other = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    assert!(refused(authority.reply(&node(), &other), authority.pin()));
    let service = PeerIdentity::control_plane("collector").unwrap();
    assert!(refused(authority.reply(&service, &key), authority.pin()));
    assert!(refused(
        authority.reply(&node(), &key),
        Authority::new().pin()
    ));
    assert!(refused(EnrollResponse::default(), authority.pin()));
}

#[test]
fn the_identity_reads_back_and_only_its_owner_may_read_it() {
    let folder = tempfile::tempdir().unwrap();
    let (authority, key, domain) = (Authority::new(), key(), TrustDomain::default());
    assert!(Identity::load(folder.path(), &domain).unwrap().is_none());
    let identity = accept(
        authority.reply(&node(), &key),
        &key,
        authority.pin(),
        &domain,
    )
    .unwrap();
    identity.save(folder.path()).unwrap();
    let read = Identity::load(folder.path(), &domain).unwrap().unwrap();
    assert_eq!(read.node, identity.node);
    assert_eq!(read.credentials.chain, identity.credentials.chain);
    assert_eq!(
        read.credentials.key.secret_der(),
        identity.credentials.key.secret_der()
    );
    let mode = std::fs::metadata(folder.path().join("identity.json"))
        .unwrap()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_damaged_identity_is_told_and_never_taken() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("identity.json"), "{}").unwrap();
    let error = Identity::load(folder.path(), &TrustDomain::default()).unwrap_err();
    assert!(
        error.to_string().contains("enrol this host again"),
        "{error}"
    );
}

#[test]
fn an_interrupted_enrolment_goes_on_with_the_same_key() {
    let folder = tempfile::tempdir().unwrap();
    let first = identity::pending_key(folder.path()).unwrap();
    let second = identity::pending_key(folder.path()).unwrap();
    assert_eq!(first.serialize_der(), second.serialize_der());
    identity::drop_pending_key(folder.path()).unwrap();
    identity::drop_pending_key(folder.path()).unwrap();
    assert_ne!(
        first.serialize_der(),
        identity::pending_key(folder.path())
            .unwrap()
            .serialize_der()
    );
}

#[tokio::test]
async fn without_a_token_the_host_is_told_what_to_set() {
    let folder = tempfile::tempdir().unwrap();
    let settings = EnrollmentSettings {
        url: None,
        token: None,
        ca_pin: None,
    };
    let error = enroll(folder.path(), &settings, &TrustDomain::default())
        .await
        .unwrap_err();
    assert!(error.to_string().contains("VPNPANEL_JOIN_TOKEN"));
}

#[test]
fn a_token_that_was_spent_is_not_asked_with_again_and_a_new_one_is() {
    let folder = tempfile::tempdir().unwrap();
    let (authority, key, domain) = (Authority::new(), key(), TrustDomain::default());
    let reply = authority.reply(&node(), &key);
    let mut identity = accept(reply, &key, authority.pin(), &domain).unwrap();
    identity.join_token_sha256 = Some(hash(&Secret::new("spent")));
    identity.enrollment_url = Some("https://panel.example:50053".to_owned());
    identity.save(folder.path()).unwrap();
    let read = Identity::load(folder.path(), &domain).unwrap().unwrap();
    assert_eq!(read.enrollment_url, identity.enrollment_url);
    let asked = |token: Option<&str>| {
        let settings = EnrollmentSettings {
            url: None,
            token: token.map(Secret::new),
            ca_pin: None,
        };
        is_asked_again(&read, &settings)
    };
    assert!(!asked(None) && !asked(Some("spent")) && asked(Some("new")));
}
