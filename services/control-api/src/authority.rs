//! The certificate authority of the installation, out of the store; made at the first start.

use std::sync::Arc;

use vpnpanel_pki::{CertificateAuthority, StoredAuthority};
use vpnpanel_runtime::TrustDomain;
use vpnpanel_store::{NewAuthority, Store};

use crate::{Error, seal::Vault};

/// The authority that signs nodes and services.
const KIND: &str = "internal";

/// The authority in force, and what the store knows of it.
#[derive(Debug, Clone)]
pub struct Authority {
    /// Signs.
    pub signer: Arc<CertificateAuthority>,
    /// Its row.
    pub id: uuid::Uuid,
    /// Its number, which is that of the trust bundle that begins with it.
    pub sequence: u64,
}

impl Authority {
    /// Opens the active authority; makes it where there is none. Of several processes that start
    /// at once all get the same.
    ///
    /// # Errors
    /// When the store fails, or the key was sealed under another master key.
    pub async fn open(
        store: &Store,
        vault: &Vault,
        trust_domain: &TrustDomain,
    ) -> Result<Self, Error> {
        let open = |stored: &StoredAuthority| {
            CertificateAuthority::open(stored, trust_domain.clone(), vault.sealer())
        };
        let row = match store.active_authority(KIND).await? {
            Some(row) => row,
            None => {
                let made =
                    CertificateAuthority::create(trust_domain, vault.sealer(), store.now_ms())?;
                let new = NewAuthority {
                    kind: KIND.to_owned(),
                    not_after_ms: open(&made)?.not_after_ms()?,
                    certificate_der: made.certificate_der,
                    sealed_private_key: made.sealed_key,
                };
                store.ensure_authority(new).await?
            }
        };
        let signer = open(&StoredAuthority {
            certificate_der: row.certificate_der,
            sealed_key: row.sealed_private_key,
        })?;
        Ok(Self {
            signer: Arc::new(signer),
            id: row.id,
            sequence: row.sequence,
        })
    }
}
