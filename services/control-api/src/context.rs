//! What handlers work with.

use std::sync::Arc;

use vpnpanel_auth::{PasswordHasher, PasswordSignIn, StandingCache, TokenIssuer};
use vpnpanel_store::Store;

use crate::{authority::Authority, seal::Vault};

/// The parts of the service, shared by all handlers.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) store: Store,
    pub(crate) vault: Vault,
    pub(crate) authority: Authority,
    pub(crate) tokens: Arc<TokenIssuer>,
    pub(crate) hasher: PasswordHasher,
    pub(crate) password_sign_in: PasswordSignIn,
    pub(crate) standings: StandingCache,
    /// Where hosts reach the enrolment listener, `https://host:port`.
    pub(crate) enrollment_url: String,
}
