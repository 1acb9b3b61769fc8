//! The node's identity on disk: one file, mode 0600, replaced whole, so that key and certificate
//! never part.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde::{Deserialize, Serialize};
use vpnpanel_domain::NodeId;
use vpnpanel_runtime::TrustDomain;
use vpnpanel_runtime::tls::{Credentials, Peer, TrustBundle};
use zeroize::Zeroizing;

use super::{EnrollmentError, Issued};

const FILE: &str = "identity.json";
const PENDING_KEY: &str = "enrolling.key";

/// Who this node is, and whom it trusts.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The node.
    pub node: NodeId,
    /// Where the node link is, `https://host:port`.
    pub link_endpoint: String,
    /// Certificate chain and key.
    pub credentials: Credentials,
    /// Whom to trust.
    pub trust_bundle: TrustBundle,
    /// Sequence number of the trust bundle.
    pub trust_bundle_sequence: u64,
    /// Where the host enrolled; unknown to identities of early versions.
    pub enrollment_url: Option<String>,
    /// SHA-256 of the join token that was spent for it, hexadecimal.
    pub join_token_sha256: Option<String>,
    /// When the certificate begins, Unix seconds.
    pub not_before_unix: i64,
    /// When the certificate ends, Unix seconds.
    pub not_after_unix: i64,
}

#[derive(Serialize, Deserialize)]
struct Kept {
    node_id: NodeId,
    link_endpoint: String,
    key_pkcs8: String,
    certificate_chain: Vec<String>,
    trust_bundle: Vec<String>,
    trust_bundle_sequence: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    enrollment_url: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    join_token_sha256: Option<String>,
}

impl Identity {
    /// Reads the identity of a data folder; `None` when the host never enrolled.
    ///
    /// # Errors
    /// A file that cannot be read or is damaged.
    pub fn load(
        data_dir: &Path,
        trust_domain: &TrustDomain,
    ) -> Result<Option<Self>, EnrollmentError> {
        let path = data_dir.join(FILE);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => Zeroizing::new(text),
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(EnrollmentError::file(path)(error)),
        };
        let damaged = |reason| EnrollmentError::Damaged {
            path: path.clone(),
            reason,
        };
        let kept: Kept = serde_json::from_str(&text).map_err(|_| damaged("not JSON of ours"))?;
        let decode = |text: &String| STANDARD.decode(text).map_err(|_| damaged("not base64"));
        let certificates = |texts: &[String]| {
            texts
                .iter()
                .map(|t| decode(t).map(CertificateDer::from))
                .collect::<Result<Vec<_>, _>>()
        };
        let chain = certificates(&kept.certificate_chain)?;
        let leaf = chain.first().ok_or_else(|| damaged("no certificate"))?;
        let peer = Peer::from_certificate(leaf, trust_domain)
            .map_err(|_| damaged("the certificate names nobody of this trust domain"))?;
        if peer.identity().node().map(NodeId::from) != Some(kept.node_id) {
            return Err(damaged("the certificate is another node's"));
        }
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(decode(&kept.key_pkcs8)?));
        Ok(Some(Self {
            node: kept.node_id,
            link_endpoint: kept.link_endpoint,
            trust_bundle: TrustBundle::new(certificates(&kept.trust_bundle)?)?,
            trust_bundle_sequence: kept.trust_bundle_sequence,
            enrollment_url: kept.enrollment_url,
            join_token_sha256: kept.join_token_sha256,
            not_before_unix: peer.not_before_unix(),
            not_after_unix: peer.not_after_unix(),
            credentials: Credentials { chain, key },
        }))
    }

    /// This node's identity with another certificate, for a new key.
    ///
    /// # Errors
    /// A certificate that is for another key or another node, or a trust bundle of before.
    pub fn renewed(
        &self,
        issued: Issued,
        key: &KeyPair,
        trust_domain: &TrustDomain,
    ) -> Result<Self, EnrollmentError> {
        if issued.trust_bundle_sequence < self.trust_bundle_sequence {
            return Err(EnrollmentError::Reply("its trust bundle is an old one"));
        }
        let trust_bundle_sequence = issued.trust_bundle_sequence;
        let accepted = issued.accept(key, trust_domain)?;
        if accepted.node != self.node {
            return Err(EnrollmentError::Reply("its certificate is another node's"));
        }
        Ok(Self {
            node: self.node,
            link_endpoint: self.link_endpoint.clone(),
            trust_bundle_sequence,
            enrollment_url: self.enrollment_url.clone(),
            join_token_sha256: self.join_token_sha256.clone(),
            not_before_unix: accepted.not_before_unix,
            not_after_unix: accepted.not_after_unix,
            credentials: accepted.credentials,
            trust_bundle: accepted.trust_bundle,
        })
    }

    /// Writes it, durable before this returns.
    ///
    /// # Errors
    /// A folder that cannot be written.
    pub fn save(&self, data_dir: &Path) -> Result<(), EnrollmentError> {
        let encode = |der: &CertificateDer<'_>| STANDARD.encode(der);
        let kept = Kept {
            node_id: self.node,
            link_endpoint: self.link_endpoint.clone(),
            key_pkcs8: STANDARD.encode(self.credentials.key.secret_der()),
            certificate_chain: self.credentials.chain.iter().map(encode).collect(),
            trust_bundle: self
                .trust_bundle
                .certificates()
                .iter()
                .map(encode)
                .collect(),
            trust_bundle_sequence: self.trust_bundle_sequence,
            enrollment_url: self.enrollment_url.clone(),
            join_token_sha256: self.join_token_sha256.clone(),
        };
        let path = data_dir.join(FILE);
        let text = serde_json::to_string_pretty(&kept).map_err(|_| EnrollmentError::Damaged {
            path: path.clone(),
            reason: "it cannot be written as JSON",
        })?;
        replace(&path, Zeroizing::new(text).as_bytes())
    }
}

/// The key of an enrolment under way: made once, the same until it is done.
pub(super) fn pending_key(data_dir: &Path) -> Result<KeyPair, EnrollmentError> {
    let path = data_dir.join(PENDING_KEY);
    match std::fs::read(&path) {
        Ok(der) => {
            let der = Zeroizing::new(der);
            let der = PrivatePkcs8KeyDer::from(der.as_slice());
            let key = KeyPair::from_pkcs8_der_and_sign_algo(&der, &PKCS_ECDSA_P256_SHA256);
            key.map_err(|_| EnrollmentError::Damaged {
                path: path.clone(),
                reason: "no private key in it; remove it",
            })
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            std::fs::create_dir_all(data_dir).map_err(EnrollmentError::file(data_dir))?;
            let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
            replace(&path, &Zeroizing::new(key.serialize_der()))?;
            Ok(key)
        }
        Err(error) => Err(EnrollmentError::file(path)(error)),
    }
}

pub(super) fn drop_pending_key(data_dir: &Path) -> Result<(), EnrollmentError> {
    let path = data_dir.join(PENDING_KEY);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(EnrollmentError::file(path)(error))
        }
        _ => Ok(()),
    }
}

/// Written beside, synced, renamed: a crash leaves the old file or the new one.
fn replace(path: &Path, bytes: &[u8]) -> Result<(), EnrollmentError> {
    let beside: PathBuf = path.with_extension("new");
    let write = || -> std::io::Result<()> {
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&beside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&beside, path)?;
        if let Some(folder) = path.parent() {
            File::open(folder)?.sync_all()?;
        }
        Ok(())
    };
    write().map_err(EnrollmentError::file(path))
}
