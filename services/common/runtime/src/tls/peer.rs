//! Who a verified certificate belongs to. rustls checks chain, dates and key usage; this reads the
//! names, strictly, and nothing else in the product does.

use std::sync::Arc;

use rustls_pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::identity::{IdentityError, PeerIdentity, TrustDomain};

/// The other end of an mTLS connection; in the extensions of each of its requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer(Arc<Facts>);

#[derive(Debug, PartialEq, Eq)]
struct Facts {
    identity: PeerIdentity,
    serial: Vec<u8>,
    not_before_unix: i64,
    not_after_unix: i64,
}

/// Why a certificate names no peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// The peer showed none.
    #[error("the peer showed no certificate")]
    Absent,
    /// The bytes are no X.509 certificate.
    #[error("malformed")]
    Malformed,
    /// Not exactly one URI name.
    #[error("expected exactly one URI name")]
    UriNames,
    /// The URI name is not one of ours.
    #[error("{0}")]
    Identity(#[from] IdentityError),
    /// The DNS name does not say the same as the URI name.
    #[error("the DNS name does not belong to the URI name")]
    DnsName,
    /// It is a node's, where services alone are let in.
    #[error("a node, where services of the control plane alone are let in")]
    Node,
}

impl Peer {
    /// Reads a certificate whose chain was verified before.
    ///
    /// # Errors
    /// When it is malformed, or does not carry exactly one identity of `trust_domain` under both of
    /// its names.
    pub fn from_certificate(
        certificate: &CertificateDer<'_>,
        trust_domain: &TrustDomain,
    ) -> Result<Self, PeerError> {
        let (rest, parsed) =
            X509Certificate::from_der(certificate).map_err(|_| PeerError::Malformed)?;
        if !rest.is_empty() {
            return Err(PeerError::Malformed);
        }
        let names = parsed
            .subject_alternative_name()
            .map_err(|_| PeerError::Malformed)?
            .ok_or(PeerError::UriNames)?;
        let mut uris = names
            .value
            .general_names
            .iter()
            .filter_map(|name| match name {
                GeneralName::URI(uri) => Some(*uri),
                _ => None,
            });
        let (Some(uri), None) = (uris.next(), uris.next()) else {
            return Err(PeerError::UriNames);
        };
        let identity = PeerIdentity::parse_uri(uri, trust_domain)?;
        let expected = identity.dns_name(trust_domain);
        let named = names
            .value
            .general_names
            .iter()
            .any(|name| matches!(name, GeneralName::DNSName(dns) if *dns == expected));
        if !named {
            return Err(PeerError::DnsName);
        }
        Ok(Self(Arc::new(Facts {
            identity,
            serial: parsed.tbs_certificate.serial.to_bytes_be(),
            not_before_unix: parsed.validity().not_before.timestamp(),
            not_after_unix: parsed.validity().not_after.timestamp(),
        })))
    }

    /// Reads the leaf of a verified chain.
    ///
    /// # Errors
    /// As [`Peer::from_certificate`], and when there is no leaf.
    pub fn from_chain(
        chain: Option<&[CertificateDer<'_>]>,
        trust_domain: &TrustDomain,
    ) -> Result<Self, PeerError> {
        let leaf = chain.and_then(<[_]>::first).ok_or(PeerError::Absent)?;
        Self::from_certificate(leaf, trust_domain)
    }

    /// The peer, when it is a service of the control plane.
    pub(super) fn service(self) -> Result<Self, PeerError> {
        match self.identity() {
            PeerIdentity::ControlPlane { .. } => Ok(self),
            PeerIdentity::Node { .. } => Err(PeerError::Node),
        }
    }

    /// Who it is.
    pub fn identity(&self) -> &PeerIdentity {
        &self.0.identity
    }

    /// The certificate's serial number: big-endian, without leading zeros.
    pub fn serial(&self) -> &[u8] {
        &self.0.serial
    }

    /// When the certificate begins, in Unix seconds.
    pub fn not_before_unix(&self) -> i64 {
        self.0.not_before_unix
    }

    /// When the certificate ends, in Unix seconds.
    pub fn not_after_unix(&self) -> i64 {
        self.0.not_after_unix
    }
}
