//! What the services of an installation stand on: its folder, its master key, its database, its
//! certificate authority. Made at the first start, opened at every later one.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use vpnpanel_control_api::{Authority, Vault};
use vpnpanel_pki::{MasterKey, Sealer};
use vpnpanel_runtime::TrustDomain;
use vpnpanel_store::{Options, Store, StoreError};

use crate::settings::InstallationSettings;

/// How often a service looks whether the schema is up to date.
const SCHEMA_POLL: Duration = Duration::from_millis(500);

/// Connections to PostgreSQL that are kept, of those that may be.
const KEPT_CONNECTIONS: u32 = 16;

/// Why an installation cannot be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InstallationError {
    #[error("VPNPANEL_DATA_DIR: cannot make {path}: {source}")]
    Folder {
        path: String,
        source: std::io::Error,
    },
    #[error("master key: {0}")]
    Key(#[from] vpnpanel_pki::Error),
    #[error("database: {0}")]
    Store(#[from] StoreError),
}

/// An opened installation; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Installation {
    pub(crate) store: Store,
    pub(crate) sealer: Arc<Sealer>,
    pub(crate) trust_domain: TrustDomain,
    pub(crate) data_dir: PathBuf,
}

impl Installation {
    /// Opens folder, key and database; the schema is not looked at.
    pub(crate) async fn open(settings: &InstallationSettings) -> Result<Self, InstallationError> {
        make_folder(&settings.data_dir)?;
        let key = match &settings.master_key {
            Some(text) => MasterKey::parse(text.expose())?,
            None => MasterKey::load_or_create(&settings.data_dir.join("master.key"))?,
        };
        let options = Options {
            max_connections: settings.database_max_connections,
            min_connections: settings.database_max_connections.min(KEPT_CONNECTIONS),
            tenant_role: settings.database_tenant_role.clone(),
            ..Options::default()
        };
        Ok(Self {
            store: Store::connect(settings.database().expose(), options).await?,
            sealer: Arc::new(Sealer::new(&key)?),
            trust_domain: settings.trust_domain.clone(),
            data_dir: settings.data_dir.clone(),
        })
    }

    /// Waits until somebody has brought the schema up to date: control-api does at its start, or
    /// an operator by `vpnpanel migrate up`.
    pub(crate) async fn wait_for_schema(&self) -> Result<(), InstallationError> {
        let mut told = false;
        loop {
            let pending = self.store.pending_migrations().await?;
            if pending.is_empty() {
                return Ok(());
            }
            if !told {
                tracing::info!(?pending, "waiting for the schema to be brought up to date");
                told = true;
            }
            tokio::time::sleep(SCHEMA_POLL).await;
        }
    }

    /// Seals and opens what the store keeps.
    pub(crate) fn vault(&self) -> Vault {
        Vault::new(Arc::clone(&self.sealer))
    }

    /// The certificate authority, made where there is none.
    pub(crate) async fn authority(&self) -> Result<Authority, vpnpanel_control_api::Error> {
        Authority::open(&self.store, &self.vault(), &self.trust_domain).await
    }
}

/// Secrets lie in it: nobody else may look.
fn make_folder(path: &Path) -> Result<(), InstallationError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|source| InstallationError::Folder {
            path: path.display().to_string(),
            source,
        })
}
