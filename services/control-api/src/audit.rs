//! How resources are shown in audit events: as the messages that clients are shown.

use vpnpanel_audit::described;
use vpnpanel_store::{Described, Resource};

use crate::wire::IntoWire;

/// The message of a resource of one kind.
macro_rules! wire {
    ($resource:expr, $kind:ident) => {
        $resource
            .and_then(|resource| match resource {
                Resource::$kind(it) => Some(it.clone().into_wire()),
                _ => None,
            })
            .as_ref()
    };
}

/// Shows a resource as it was and as it is.
pub(crate) fn describe(before: Option<Resource<'_>>, after: Option<Resource<'_>>) -> Described {
    match after.or(before) {
        Some(Resource::Tenant(_)) => described(wire!(before, Tenant), wire!(after, Tenant)),
        Some(Resource::User(_)) => described(wire!(before, User), wire!(after, User)),
        Some(Resource::Group(_)) => described(wire!(before, Group), wire!(after, Group)),
        Some(Resource::Inbound(_)) => described(wire!(before, Inbound), wire!(after, Inbound)),
        Some(Resource::Node(_)) => described(wire!(before, Node), wire!(after, Node)),
        Some(Resource::ApiToken(_)) => described(wire!(before, ApiToken), wire!(after, ApiToken)),
        // Only sweeps know a status alone; they show it themselves.
        Some(Resource::UserStatus(..)) | None => Described::default(),
    }
}
