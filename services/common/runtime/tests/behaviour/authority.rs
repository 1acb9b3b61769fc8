//! A certificate authority for tests; the product's own lives in `vpnpanel-pki`.

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use vpnpanel_runtime::tls::{Credentials, TrustBundle};
use vpnpanel_runtime::{PeerIdentity, TrustDomain, install_crypto_provider};

pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub(crate) fn new() -> Self {
        install_crypto_provider();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub(crate) fn certificate(&self) -> CertificateDer<'static> {
        self.0.der().clone()
    }

    pub(crate) fn bundle(&self) -> TrustBundle {
        TrustBundle::new(vec![self.certificate()]).unwrap()
    }

    pub(crate) fn issue(&self, identity: &PeerIdentity) -> Credentials {
        let domain = TrustDomain::default();
        self.issue_names(&[&identity.uri(&domain)], &[&identity.dns_name(&domain)])
    }

    /// The chain shows the authority too, as servers of the product do for pinning clients.
    pub(crate) fn issue_names(&self, uris: &[&str], dns: &[&str]) -> Credentials {
        self.sign(CertificateParams::default(), uris, dns)
    }

    /// A certificate whose time is over.
    pub(crate) fn issue_ended(&self, dns: &str) -> Credentials {
        let mut params = CertificateParams::default();
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2021, 1, 1);
        self.sign(params, &[], &[dns])
    }

    fn sign(&self, mut params: CertificateParams, uris: &[&str], dns: &[&str]) -> Credentials {
        let key = KeyPair::generate().unwrap();
        params.subject_alt_names = uris
            .iter()
            .map(|uri| SanType::URI((*uri).try_into().unwrap()))
            .chain(
                dns.iter()
                    .map(|name| SanType::DnsName((*name).try_into().unwrap())),
            )
            .collect();
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let leaf = params.signed_by(&key, &self.0).unwrap();
        Credentials {
            chain: vec![leaf.der().clone(), self.certificate()],
            key: PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        }
    }
}

pub(crate) fn node() -> PeerIdentity {
    PeerIdentity::Node {
        tenant: None,
        node: uuid::Uuid::now_v7(),
    }
}

pub(crate) fn collector() -> PeerIdentity {
    PeerIdentity::control_plane("collector").unwrap()
}
