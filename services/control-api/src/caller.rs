//! Who made a call, as handlers see it.

use std::sync::Arc;

use tonic::{Extensions, metadata::MetadataMap};
use vpnpanel_auth::{AuthError, Principal, guard};
use vpnpanel_runtime::rpc::ClientAddress;

use crate::Error;

/// Longest user agent that is remembered of a session.
const MAX_USER_AGENT: usize = 200;

/// The caller of a method.
#[derive(Debug)]
pub(crate) struct Caller {
    principal: Option<Arc<Principal>>,
    /// What the client calls itself.
    pub(crate) user_agent: String,
    /// Where it calls from; empty when that is not known.
    pub(crate) address: String,
}

impl Caller {
    pub(crate) fn of(metadata: &MetadataMap, extensions: &Extensions) -> Self {
        let user_agent = metadata
            .get("user-agent")
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default();
        let address = extensions.get::<ClientAddress>();
        Self {
            // Where there is none, the guard has found that the method needs none.
            principal: guard::principal(extensions).ok().cloned(),
            user_agent: user_agent.chars().take(MAX_USER_AGENT).collect(),
            address: address.map(|found| found.0.to_string()).unwrap_or_default(),
        }
    }

    /// The signed-in account.
    ///
    /// # Errors
    /// [`AuthError::NoCredentials`]; never in methods that the guard lets nobody else into.
    pub(crate) fn principal(&self) -> Result<&Principal, Error> {
        Ok(self.principal.as_deref().ok_or(AuthError::NoCredentials)?)
    }
}
