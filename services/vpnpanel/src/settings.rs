//! The command line: what runs in this process, and the settings that all of it shares.

use std::path::{Path, PathBuf};

use clap::Args;
use vpnpanel_control_api::CertificateRecords;
use vpnpanel_runtime::TrustDomain;
use vpnpanel_runtime::rpc::{ForwardedHeader, TrustedProxies};
use vpnpanel_runtime::settings::{CidrList, Secret};

/// What every process of an installation shares.
#[derive(Debug, Clone, Args)]
#[group(skip)]
pub(crate) struct InstallationSettings {
    /// The folder of what this installation keeps on disk: the master key, the certificates of
    /// its services, and the SQLite database.
    #[arg(
        long,
        env = "VPNPANEL_DATA_DIR",
        default_value = "./data",
        value_name = "FOLDER"
    )]
    pub(crate) data_dir: PathBuf,

    /// The database, postgres://user:password@host/name or sqlite:<path>; SQLite in the data
    /// folder when unset.
    #[arg(
        long,
        env = "VPNPANEL_DATABASE_URL",
        hide_env_values = true,
        value_name = "URL"
    )]
    pub(crate) database_url: Option<Secret>,

    /// Most connections to PostgreSQL; on SQLite, most readers.
    #[arg(
        long,
        env = "VPNPANEL_DATABASE_MAX_CONNECTIONS",
        default_value_t = 8,
        value_parser = clap::value_parser!(u32).range(1..=1000),
        value_name = "N"
    )]
    pub(crate) database_max_connections: u32,

    /// On PostgreSQL, a role with whose rights everything runs that concerns one tenant, so that
    /// row-level security shows it that tenant's rows alone. The role of the URL owns the tables
    /// and has to be its member; off when unset. See docs/adr/0010.
    #[arg(long, env = "VPNPANEL_DATABASE_TENANT_ROLE", value_name = "ROLE")]
    pub(crate) database_tenant_role: Option<String>,

    /// The key that seals secrets at rest, 32 bytes in base64 or hexadecimal; a file in the data
    /// folder, made at the first start, when unset. Belongs in the backup, apart from the database.
    #[arg(
        long,
        env = "VPNPANEL_MASTER_KEY",
        hide_env_values = true,
        value_name = "SECRET"
    )]
    pub(crate) master_key: Option<Secret>,

    /// The name space of the identities in certificates. Fixed once nodes have enrolled.
    #[arg(
        id = "installation_trust_domain",
        long = "trust-domain",
        env = "VPNPANEL_TRUST_DOMAIN",
        default_value = TrustDomain::DEFAULT,
        value_name = "NAME"
    )]
    pub(crate) trust_domain: TrustDomain,
}

impl InstallationSettings {
    /// The URL of the database.
    pub(crate) fn database(&self) -> Secret {
        match &self.database_url {
            Some(url) => url.clone(),
            None => Secret::new(format!(
                "sqlite:{}",
                self.data_dir.join("vpnpanel.db").display()
            )),
        }
    }
}

/// Where the log of certificates is, for whoever signs.
#[derive(Debug, Clone, Args)]
#[group(skip)]
pub(crate) struct CertificateLogSettings {
    /// The folder of the log of certificates that were issued and revoked; in the data folder when
    /// unset. Not to be restored with the database: put it on another disk, and let replicas share
    /// it where they can. See docs/adr/0018.
    #[arg(long, env = "VPNPANEL_CERTIFICATE_LOG_DIR", value_name = "FOLDER")]
    certificate_log_dir: Option<PathBuf>,
}

impl CertificateLogSettings {
    /// Opens it.
    pub(crate) fn open(
        &self,
        data_dir: &Path,
    ) -> Result<CertificateRecords, vpnpanel_control_api::Error> {
        let default = || data_dir.join("certificate-log");
        CertificateRecords::open(&self.certificate_log_dir.clone().unwrap_or_else(default))
    }
}

/// Whose word about a client's address is taken, for services that are called through proxies: the
/// gateway has the same settings itself.
#[derive(Debug, Clone, Args)]
#[group(skip)]
pub(crate) struct ProxySettings {
    /// Networks of proxies whose word about a client's address is taken: load balancers in front,
    /// and gateways in processes of their own.
    #[arg(
        long,
        env = "VPNPANEL_TRUSTED_PROXIES",
        default_value = "",
        value_name = "NETWORKS"
    )]
    trusted_proxies: CidrList,

    /// The header that they append the client's address to: x-forwarded-for or forwarded.
    #[arg(
        long,
        env = "VPNPANEL_FORWARDED_HEADER",
        default_value_t = ForwardedHeader::XForwardedFor,
        value_name = "NAME"
    )]
    forwarded_header: ForwardedHeader,
}

impl ProxySettings {
    /// As the services want to see it.
    pub(crate) fn trusted(&self) -> TrustedProxies {
        TrustedProxies {
            networks: self.trusted_proxies.clone(),
            header: self.forwarded_header,
        }
    }
}
