//! The keys of access tokens, between the store, where they are sealed, and the auth crate.

use async_trait::async_trait;
use vpnpanel_auth::{KeySet, KeySource, SigningKey, SourceError, VerifyingKey};
use vpnpanel_pki::context;
use vpnpanel_store::{MakeSigningKey, NewSigningKey, SigningKeyState, Store};

use crate::{Error, seal::Vault};

/// The keys of the store; makes the first one where there is none.
#[derive(Debug, Clone)]
pub(crate) struct StoredKeys {
    store: Store,
    vault: Vault,
}

impl StoredKeys {
    pub(crate) fn new(store: Store, vault: Vault) -> Self {
        Self { store, vault }
    }

    async fn read(&self) -> Result<KeySet, Error> {
        let keys = self.store.signing_keys().await?;
        let active = keys.iter().find(|key| key.state == SigningKeyState::Active);
        let active = match active {
            Some(active) => active.clone(),
            None => {
                self.store
                    .ensure_signing_key(self.vault.signing_key()?)
                    .await?
            }
        };
        let sealed = &active.sealed_private_key;
        let private = self
            .vault
            .open(&context::signing_key(&active.kid), sealed)?;
        let others = keys.iter().filter(|key| key.kid != active.kid).map(|key| {
            let public = key.public_key.as_slice().try_into();
            Ok(VerifyingKey {
                public: public.map_err(|_| Error::Corrupt("a public key is not 32 bytes long"))?,
                until_ms: key.retire_at_ms,
            })
        });
        Ok(KeySet {
            others: others.collect::<Result<_, Error>>()?,
            signing: SigningKey::from_pkcs8(&private)?,
        })
    }
}

#[async_trait]
impl KeySource for StoredKeys {
    async fn keys(&self) -> Result<KeySet, SourceError> {
        Ok(self.read().await?)
    }
}

impl Vault {
    /// A fresh signing key, its private half sealed.
    fn signing_key(&self) -> Result<NewSigningKey, Error> {
        let made = SigningKey::generate()?;
        Ok(NewSigningKey {
            kid: made.kid().to_owned(),
            public_key: made.public_key().to_vec(),
            sealed_private_key: self.seal(&context::signing_key(made.kid()), made.pkcs8())?,
        })
    }
}

/// The store asks for keys while it rotates them.
impl MakeSigningKey for Vault {
    fn make_signing_key(&self) -> Result<NewSigningKey, Box<dyn std::error::Error + Send + Sync>> {
        Ok(self.signing_key()?)
    }
}
