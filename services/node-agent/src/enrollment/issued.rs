//! What the control plane gives: at enrolment and at each renewal the same is asked of it.

use rcgen::{KeyPair, PublicKeyData as _};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use vpnpanel_domain::NodeId;
use vpnpanel_runtime::TrustDomain;
use vpnpanel_runtime::tls::{Credentials, Peer, TrustBundle};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::EnrollmentError;

/// A certificate and whom to trust, as they came.
#[derive(Debug, Clone)]
pub struct Issued {
    /// The certificate, then intermediates.
    pub chain: Vec<CertificateDer<'static>>,
    /// Every authority to trust.
    pub trust_bundle: Vec<CertificateDer<'static>>,
    /// Sequence number of the trust bundle.
    pub trust_bundle_sequence: u64,
}

/// The same, found good.
pub(super) struct Accepted {
    pub(super) node: NodeId,
    pub(super) credentials: Credentials,
    pub(super) trust_bundle: TrustBundle,
    pub(super) not_before_unix: i64,
    pub(super) not_after_unix: i64,
}

impl Issued {
    /// The certificate must carry our key and a node's name, and be signed by an authority of the
    /// bundle.
    pub(super) fn accept(
        self,
        key: &KeyPair,
        trust_domain: &TrustDomain,
    ) -> Result<Accepted, EnrollmentError> {
        let leaf = self
            .chain
            .first()
            .ok_or(EnrollmentError::Reply("it holds no certificate"))?;
        let malformed = |_| EnrollmentError::Reply("its certificate is malformed");
        let (_, parsed) = X509Certificate::from_der(leaf).map_err(malformed)?;
        if parsed.public_key().raw != key.subject_public_key_info() {
            return Err(EnrollmentError::Reply("its certificate is for another key"));
        }
        if !self.trust_bundle.iter().any(|ca| has_signed(ca, &parsed)) {
            return Err(EnrollmentError::Reply(
                "its certificate is not by an authority of its trust bundle",
            ));
        }
        let peer = Peer::from_certificate(leaf, trust_domain).map_err(|_| {
            EnrollmentError::Reply("its certificate names nobody of this trust domain")
        })?;
        let node = peer
            .identity()
            .node()
            .map(NodeId::from)
            .ok_or(EnrollmentError::Reply("its certificate is not a node's"))?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        Ok(Accepted {
            node,
            not_before_unix: peer.not_before_unix(),
            not_after_unix: peer.not_after_unix(),
            trust_bundle: TrustBundle::new(self.trust_bundle)?,
            credentials: Credentials {
                chain: self.chain,
                key,
            },
        })
    }
}

fn has_signed(authority: &CertificateDer<'_>, leaf: &X509Certificate<'_>) -> bool {
    X509Certificate::from_der(authority)
        .is_ok_and(|(_, ca)| leaf.verify_signature(Some(ca.public_key())).is_ok())
}
