//! The internal certificate authority, and the sealing of every secret at rest.
//!
//! Pure but for randomness: nothing here opens a socket, reads a database or looks at the clock.
//! A service keeps a [`StoredAuthority`] wherever it keeps its state, opens it with the
//! installation's [`Sealer`], and issues certificates whose names are written here and nowhere
//! else ([`vpnpanel_runtime::PeerIdentity`]).
//!
//! Who signs what: one P-256 authority signs nodes and control-plane services alike. A node's
//! request gives a public key only ([`csr::public_key`]); a service's key pair is made here.

mod authority;
mod certificate_log;
pub mod context;
pub mod csr;
mod device_seed;
mod error;
mod join_token;
mod master_key;
mod sealer;

pub use authority::{
    CertificateAuthority, IssuedCertificate, NODE_VALIDITY, OwnCertificate, SERVICE_VALIDITY,
    ServiceCertificate, StoredAuthority,
};
pub use certificate_log::{
    CertificateLog, EndedCertificate, IssuedEntry, LogContents, LogEntry, LogError,
    RENEWAL_GRACE_MS, RevokedEntry,
};
pub use device_seed::DeviceSeed;
pub use error::Error;
pub use join_token::JoinToken;
pub use master_key::MasterKey;
pub use sealer::Sealer;

/// The clock of tests: any fixed instant inside every validity.
#[cfg(test)]
pub(crate) const NOW_MS: i64 = 1_790_000_000_000;
