//! Sealing, for what leaves the process and must come back unchanged.

use crate::SourceError;

/// Encrypts and authenticates; the installation's sealer.
pub trait Seal: Send + Sync + 'static {
    /// Seals `secret` for `context`.
    ///
    /// # Errors
    /// Those of the cipher.
    fn seal(&self, context: &str, secret: &[u8]) -> Result<Vec<u8>, SourceError>;

    /// Opens what was sealed for the same `context`.
    ///
    /// # Errors
    /// For another key, another context or changed data.
    fn open(&self, context: &str, sealed: &[u8]) -> Result<Vec<u8>, SourceError>;
}
