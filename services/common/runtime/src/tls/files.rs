//! A listener's own certificate: a chain and a key in PEM files that an operator, cert-manager or
//! an ACME client replaces whenever it likes. What they cannot be replaced by is the old pair.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{Credentials, ServerTls, TlsError, watch_files};
use crate::clock::Clock;
use crate::metrics::Metrics;

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(10);

/// Where the certificate of a listener lies.
#[derive(Debug, Clone)]
pub struct CertificateFiles {
    /// The chain, leaf first.
    pub certificate: PathBuf,
    /// The leaf's private key; may be in the same file.
    pub key: PathBuf,
}

impl CertificateFiles {
    /// Both paths, or neither. Whoever sets one of them wants TLS, and shall not be served without.
    ///
    /// # Errors
    /// One without the other.
    pub fn of(
        certificate: Option<PathBuf>,
        key: Option<PathBuf>,
    ) -> Result<Option<Self>, TlsError> {
        match (certificate, key) {
            (Some(certificate), Some(key)) => Ok(Some(Self { certificate, key })),
            (None, None) => Ok(None),
            _ => Err(TlsError::Half),
        }
    }

    /// Reads them. A key that everybody on the host can read is used, and warned of: volumes of
    /// containers often have no other permissions.
    ///
    /// # Errors
    /// Unreadable or malformed files.
    pub fn read(&self) -> Result<Credentials, TlsError> {
        let credentials = Credentials::from_files(&self.certificate, &self.key)?;
        if readable_by_others(&self.key) {
            tracing::warn!(file = ?self.key, "everybody on this host can read the private key");
        }
        Ok(credentials)
    }

    /// Takes the files into use at `tls` whenever they change, and tells when the certificate in
    /// use ends. Files that do not fit together, or that hold a certificate which has ended, leave
    /// the old certificate in use, and are reported in the log and by a metric.
    pub async fn watch(
        self,
        listener: &'static str,
        tls: ServerTls,
        metrics: Metrics,
        stop: CancellationToken,
    ) {
        self.watch_every(LOOK, listener, tls, metrics, stop).await;
    }

    /// As [`CertificateFiles::watch`], at an interval of one's own.
    pub async fn watch_every(
        self,
        every: Duration,
        listener: &'static str,
        tls: ServerTls,
        metrics: Metrics,
        stop: CancellationToken,
    ) {
        metrics.certificate_refused(listener, false);
        // The pair that the listener began with may be replaced already: it is taken once more.
        let take = || -> Result<(), TlsError> {
            let credentials = self.read()?;
            let end = credentials.not_after_unix()?;
            if end <= Clock::system().unix_millis() / 1000 {
                return Err(TlsError::Ended(end));
            }
            tls.replace_certificate(credentials)?;
            metrics.certificate_expiry(listener, end);
            Ok(())
        };
        let paths = vec![self.certificate.clone(), self.key.clone()];
        watch_files(paths, every, stop, || {
            let taken = take();
            metrics.certificate_refused(listener, taken.is_err());
            taken
        })
        .await;
    }
}

fn readable_by_others(file: &Path) -> bool {
    std::fs::metadata(file).is_ok_and(|found| found.permissions().mode() & 0o004 != 0)
}
