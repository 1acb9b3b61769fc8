//! Certificates of the services of the control plane. The process that holds the authority makes
//! them, renews them at half their life, and hands those of other processes over through the data
//! folder, where each takes its own into use without a restart.

use std::io::Write as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use vpnpanel_pki::CertificateAuthority;
use vpnpanel_runtime::TrustDomain;
use vpnpanel_runtime::clock::Clock;
use vpnpanel_runtime::metrics::Metrics;
use vpnpanel_runtime::tls::{
    ClientTls, Credentials, ServerTls, TlsError, TrustBundle, certificates_to_pem, key_to_pem,
    watch_files,
};

/// How often it is looked whether a certificate is due.
const LOOK: Duration = Duration::from_secs(600);
/// How often a service looks whether its files were replaced.
const RELOAD: Duration = Duration::from_secs(30);
/// How often a service looks for its first certificate.
const WAIT: Duration = Duration::from_millis(500);

/// The service's identity among the listeners whose certificates are told of.
const IDENTITY: &str = "identity";

/// Why a service has no certificate.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CertificateError {
    #[error("{path}: {source}")]
    File {
        path: String,
        source: std::io::Error,
    },
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Pki(#[from] vpnpanel_pki::Error),
    #[error("a service's key has no PKCS #8 form")]
    KeyForm,
}

/// What a service shows, and whom it trusts.
#[derive(Debug, Clone)]
pub(crate) struct Bundle {
    pub(crate) credentials: Credentials,
    pub(crate) trust: TrustBundle,
}

impl Bundle {
    /// The TLS of a listener that other identities of the installation call.
    pub(crate) fn mutual(&self, domain: TrustDomain) -> Result<ServerTls, TlsError> {
        ServerTls::mutual(self.credentials.clone(), &self.trust, domain)
    }

    /// The TLS of a listener that services of the control plane call, and nodes do not.
    pub(crate) fn services(&self, domain: TrustDomain) -> Result<ServerTls, TlsError> {
        ServerTls::services(self.credentials.clone(), &self.trust, domain)
    }

    /// The TLS of a listener that hosts without an identity call.
    pub(crate) fn server_only(&self) -> Result<ServerTls, TlsError> {
        ServerTls::server_only(self.credentials.clone())
    }

    /// The TLS of a client with an identity.
    pub(crate) fn client(&self) -> Result<ClientTls, TlsError> {
        ClientTls::new(&self.trust, Some(self.credentials.clone()))
    }
}

/// Configurations that take a renewed certificate into use.
#[derive(Debug, Clone)]
pub(crate) struct Users {
    pub(crate) servers: Vec<ServerTls>,
    pub(crate) clients: Vec<ClientTls>,
    /// Where it is told when the certificate in use ends.
    pub(crate) metrics: Metrics,
}

impl Users {
    /// Tells of the certificate that all of them began with.
    pub(crate) fn began_with(self, bundle: &Bundle) -> Result<Self, TlsError> {
        self.tell(bundle)?;
        Ok(self)
    }

    fn tell(&self, bundle: &Bundle) -> Result<(), TlsError> {
        let end = bundle.credentials.not_after_unix()?;
        self.metrics.certificate_expiry(IDENTITY, end);
        Ok(())
    }

    fn replace(&self, bundle: &Bundle) -> Result<(), TlsError> {
        self.tell(bundle)?;
        for server in &self.servers {
            server.replace(bundle.credentials.clone(), &bundle.trust)?;
        }
        for client in &self.clients {
            client.replace(&bundle.trust, Some(bundle.credentials.clone()))?;
        }
        Ok(())
    }
}

/// Makes certificates of services.
#[derive(Debug, Clone)]
pub(crate) struct Maker {
    pub(crate) authority: Arc<CertificateAuthority>,
    pub(crate) trust: TrustBundle,
    pub(crate) clock: Clock,
}

impl Maker {
    /// A fresh certificate for `service`, and when it is due for renewal, in Unix milliseconds.
    pub(crate) fn make(&self, service: &str) -> Result<(Bundle, i64), CertificateError> {
        let now_ms = self.clock.unix_millis();
        let made = self.authority.issue_service(service, &[], now_ms)?;
        let due_ms = now_ms + (made.not_after_ms - now_ms) / 2;
        let bundle = Bundle {
            credentials: made.credentials,
            trust: self.trust.clone(),
        };
        Ok((bundle, due_ms))
    }

    /// Renews the certificate of `service` whenever it is due.
    pub(crate) async fn renew(
        self,
        service: &'static str,
        mut due_ms: i64,
        users: Users,
        stop: CancellationToken,
    ) -> Result<(), CertificateError> {
        while stop
            .run_until_cancelled(tokio::time::sleep(LOOK))
            .await
            .is_some()
        {
            if self.clock.unix_millis() < due_ms {
                continue;
            }
            let (bundle, next_ms) = self.make(service)?;
            users.replace(&bundle)?;
            due_ms = next_ms;
            tracing::info!(of = service, "certificate renewed");
        }
        Ok(())
    }

    /// Keeps certificates of `services` in `folder`, for processes that hold no authority.
    pub(crate) async fn provide(
        self,
        folder: Folder,
        services: &'static [&'static str],
        stop: CancellationToken,
    ) -> Result<(), CertificateError> {
        let mut due_ms = self.provide_once(&folder, services)?;
        while stop
            .run_until_cancelled(tokio::time::sleep(LOOK))
            .await
            .is_some()
        {
            if self.clock.unix_millis() >= due_ms {
                due_ms = self.provide_once(&folder, services)?;
            }
        }
        Ok(())
    }

    fn provide_once(&self, folder: &Folder, services: &[&str]) -> Result<i64, CertificateError> {
        let mut earliest = i64::MAX;
        for service in services {
            let (bundle, due_ms) = self.make(service)?;
            folder.write(service, &bundle)?;
            earliest = earliest.min(due_ms);
        }
        tracing::info!(folder = %folder.0.display(), ?services, "certificates provided");
        Ok(earliest)
    }
}

/// Where certificates of services lie: `<folder>/<service>/{identity,authority}.pem`.
#[derive(Debug, Clone)]
pub(crate) struct Folder(PathBuf);

impl Folder {
    /// The folder within an installation's.
    pub(crate) fn of(data_dir: &Path) -> Self {
        Self(data_dir.join("certificates"))
    }

    /// Waits until the service's certificate is there, and reads it.
    pub(crate) async fn wait_for(&self, service: &str) -> Result<Bundle, CertificateError> {
        let path = self.identity(service);
        if !path.exists() {
            tracing::info!(path = %path.display(), "waiting for control-api to provide it");
        }
        while !path.exists() {
            tokio::time::sleep(WAIT).await;
        }
        self.read(service)
    }

    /// Takes replaced files into use.
    pub(crate) async fn reload(
        self,
        service: &'static str,
        users: Users,
        stop: CancellationToken,
    ) -> Result<(), CertificateError> {
        let paths = vec![self.identity(service), self.authority(service)];
        watch_files(paths, RELOAD, stop, || -> Result<(), CertificateError> {
            Ok(users.replace(&self.read(service)?)?)
        })
        .await;
        Ok(())
    }

    fn read(&self, service: &str) -> Result<Bundle, CertificateError> {
        let identity = self.identity(service);
        Ok(Bundle {
            credentials: Credentials::from_files(&identity, &identity)?,
            trust: TrustBundle::from_file(&self.authority(service))?,
        })
    }

    /// Chain and key are one file, replaced whole, so that they never part; it comes last, because
    /// others wait for it.
    fn write(&self, service: &str, bundle: &Bundle) -> Result<(), CertificateError> {
        let folder = self.0.join(service);
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&folder)
            .map_err(|source| failed(&folder, source))?;
        replace(
            &self.authority(service),
            &certificates_to_pem(bundle.trust.certificates()),
        )?;
        let mut identity = certificates_to_pem(&bundle.credentials.chain);
        identity.push_str(&key_to_pem(&bundle.credentials.key).ok_or(CertificateError::KeyForm)?);
        replace(&self.identity(service), &identity)
    }

    fn identity(&self, service: &str) -> PathBuf {
        self.0.join(service).join("identity.pem")
    }

    fn authority(&self, service: &str) -> PathBuf {
        self.0.join(service).join("authority.pem")
    }
}

/// Puts a file into the place of another, whole. Replicas may do so at the same moment: the last
/// one's stays.
fn replace(path: &Path, text: &str) -> Result<(), CertificateError> {
    let write = || -> std::io::Result<()> {
        let folder = path.parent().unwrap_or(Path::new("."));
        // Nobody else may read it, as is the way of temporary files.
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(text.as_bytes())?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        Ok(())
    };
    write().map_err(|source| failed(path, source))
}

fn failed(path: &Path, source: std::io::Error) -> CertificateError {
    CertificateError::File {
        path: path.display().to_string(),
        source,
    }
}
