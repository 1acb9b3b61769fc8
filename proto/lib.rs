//! The vpnpanel contract: messages and stubs of every package, the descriptor pool, and what
//! the descriptor declares beside shapes — access, validation, redaction. Everything here is
//! derived from the files in `proto/`; see `docs/adding-a-method.md`.
//!
//! A server mounts its implementation inside [`Guarded`], which authorizes and validates each
//! request before the handler sees it:
//!
//! ```text
//! UserServiceServer::new(Guarded::new(handlers, guard))
//! ```

mod codec;
mod contract;
mod guard;
mod redacted;
mod shown;
mod validate;
mod xray_secrets;

/// Generated messages and stubs, nested by package.
#[allow(
    clippy::all,
    clippy::large_futures,
    clippy::expect_used,
    clippy::unwrap_used,
    missing_debug_implementations,
    unreachable_pub,
    rustdoc::all
)]
mod packages {
    include!(concat!(env!("OUT_DIR"), "/packages.rs"));
}

/// Messages and client stubs of Xray-core's own interface.
#[allow(
    clippy::all,
    clippy::large_futures,
    missing_debug_implementations,
    unreachable_pub,
    rustdoc::all
)]
mod xray_packages {
    include!(concat!(env!("OUT_DIR"), "/xray_packages.rs"));
}

pub use codec::SmallBuffers;
pub use contract::{Access, METHODS, Method, method};
pub use guard::{Call, Guard, Guarded};
pub use packages::google;
pub use packages::vpnpanel::*;
pub use shown::{REDACTED, difference, redact, shown};
pub use validate::{FieldPath, Validate, Violation, Violations};
pub use xray_packages::xray;

use std::sync::OnceLock;

use prost_reflect::DescriptorPool;

/// The descriptor set of the contract with its options and comments, encoded.
pub static FILE_DESCRIPTOR_SET: &[u8] =
    include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// The descriptor set as a pool that knows the options as extensions.
pub fn pool() -> &'static DescriptorPool {
    static POOL: OnceLock<DescriptorPool> = OnceLock::new();
    POOL.get_or_init(|| {
        // build.rs has decoded these very bytes; a pool cannot fail to.
        DescriptorPool::decode(FILE_DESCRIPTOR_SET).unwrap_or_default()
    })
}

#[cfg(test)]
mod tests;
