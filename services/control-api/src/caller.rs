//! Who made a call, as handlers see it.

use std::{net::IpAddr, sync::Arc};

use tonic::{Extensions, metadata::MetadataMap};
use vpnpanel_audit::attribution;
use vpnpanel_auth::{AuthError, Principal, guard, policy};
use vpnpanel_domain::TenantId;
use vpnpanel_runtime::rpc::ClientAddress;
use vpnpanel_store::{Attribution, Grantor};

use crate::{Error, audit};

/// The caller of a method.
#[derive(Debug)]
pub(crate) struct Caller {
    principal: Option<Arc<Principal>>,
    /// The caller, as audit events name it.
    pub(crate) who: Attribution,
    /// Where it calls from, to count by.
    pub(crate) ip: Option<IpAddr>,
}

impl Caller {
    pub(crate) fn of(metadata: &MetadataMap, extensions: &Extensions) -> Self {
        Self {
            // Where there is none, the guard has found that the method needs none.
            principal: guard::principal(extensions).ok().cloned(),
            who: attribution(metadata, extensions, audit::describe),
            ip: extensions.get::<ClientAddress>().map(|found| found.0),
        }
    }

    /// The signed-in account.
    ///
    /// # Errors
    /// [`AuthError::NoCredentials`]; never in methods that the guard lets nobody else into.
    pub(crate) fn principal(&self) -> Result<&Principal, Error> {
        Ok(self.principal.as_deref().ok_or(AuthError::NoCredentials)?)
    }

    /// Where it calls from; empty when that is not known.
    pub(crate) fn address(&self) -> &str {
        &self.who.address
    }

    /// What its client calls itself.
    pub(crate) fn user_agent(&self) -> &str {
        &self.who.user_agent
    }

    /// The caller as somebody who gives roles in a tenant or (`None`) on the platform, or changes
    /// what they permit or who holds them.
    ///
    /// # Errors
    /// As [`Caller::principal`].
    pub(crate) fn grantor(&self, scope: Option<TenantId>) -> Result<Grantor, Error> {
        let principal = self.principal()?;
        Ok(Grantor {
            account: principal.account,
            credential: principal.permissions(scope),
            platform_only: policy::platform_only(),
        })
    }
}
