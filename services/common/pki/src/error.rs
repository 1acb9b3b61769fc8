//! What can go wrong with keys and certificates.

/// An error of the authority, the sealer or a parser.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A sealed secret does not open: another master key, another context, or damage.
    #[error(
        "a sealed secret does not open: the master key differs from the one it was sealed with, \
         or the data is damaged"
    )]
    Unsealable,
    /// The master key is not 32 bytes of base64 or hexadecimal.
    #[error("expected a master key of 32 bytes, in base64 or hexadecimal")]
    MasterKeyFormat,
    /// A master key file could be read by others.
    #[error("{path}: the master key file is readable by others; run `chmod 600 {path}`")]
    MasterKeyPermissions {
        /// The file.
        path: String,
    },
    /// A master key file could not be read or made.
    #[error("{path}: cannot read or make the master key file: {source}")]
    MasterKeyFile {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// A certificate signing request is refused.
    #[error("the certificate signing request is refused: {0}")]
    Csr(&'static str),
    /// A join token is not of our form.
    #[error("the join token is not of the form vpj_…")]
    JoinTokenFormat,
    /// A certificate is not one of this installation.
    #[error("the certificate was not issued here")]
    Foreign,
    /// A stored certificate cannot be read.
    #[error("a stored certificate cannot be read: {0}")]
    Certificate(&'static str),
    /// Making a key or a certificate failed.
    #[error("cannot make a key or certificate: {0}")]
    Issue(#[from] rcgen::Error),
    /// A seed is not 32 bytes long.
    #[error("a stored seed is not 32 bytes long")]
    Seed,
    /// The system gave no randomness.
    #[error("the system gave no randomness")]
    Randomness,
    /// An instant outside the calendar of certificates.
    #[error("the time is outside the calendar of certificates")]
    Time,
}

impl Error {
    pub(crate) fn file(path: &std::path::Path, source: std::io::Error) -> Self {
        Self::MasterKeyFile {
            path: path.display().to_string(),
            source,
        }
    }
}
