//! Whoever reads a stream: for as long as it goes on, it is looked again whether they still may.

use vpnpanel_auth::{AuthGuard, Principal};
use vpnpanel_domain::TenantId;

use crate::{Error, caller::Caller, context::Context};

/// Somebody who reads, by a permission in a tenant; without one, in the platform.
#[derive(Clone)]
pub(crate) struct Reader {
    access: AuthGuard,
    principal: Principal,
    permission: &'static str,
    pub(crate) tenant: Option<TenantId>,
}

impl Reader {
    /// # Errors
    /// A caller who is nobody.
    pub(crate) fn new(
        context: &Context,
        caller: &Caller,
        permission: &'static str,
        tenant: Option<TenantId>,
    ) -> Result<Self, Error> {
        Ok(Self {
            access: context.access.guard(),
            principal: caller.principal()?.clone(),
            permission,
            tenant,
        })
    }

    /// # Errors
    /// The session, the token or the permission is gone; or that cannot be told right now.
    pub(crate) async fn still_may(&self) -> Result<(), Error> {
        let authenticator = self.access.authenticator();
        authenticator
            .still_permits(&self.principal, self.permission, self.tenant)
            .await?;
        Ok(())
    }
}
