//! How resources are shown in audit events: as the messages that clients are shown.

use vpnpanel_audit::described;
use vpnpanel_store::{Described, Resource};

use crate::{handlers, wire::IntoWire};

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
        Some(Resource::Device(_)) => described(wire!(before, Device), wire!(after, Device)),
        Some(Resource::Plan(_)) => described(wire!(before, Plan), wire!(after, Plan)),
        Some(Resource::Operation(_)) => {
            described(wire!(before, Operation), wire!(after, Operation))
        }
        Some(Resource::Group(_)) => described(wire!(before, Group), wire!(after, Group)),
        Some(Resource::Inbound(_)) => described(wire!(before, Inbound), wire!(after, Inbound)),
        Some(Resource::EndpointTemplate(_)) => described(
            wire!(before, EndpointTemplate),
            wire!(after, EndpointTemplate),
        ),
        Some(Resource::Node(_)) => described(wire!(before, Node), wire!(after, Node)),
        Some(Resource::NodeCommand(_)) => {
            described(wire!(before, NodeCommand), wire!(after, NodeCommand))
        }
        Some(Resource::Member(_)) => described(wire!(before, Member), wire!(after, Member)),
        Some(Resource::Role(_)) => described(wire!(before, Role), wire!(after, Role)),
        Some(Resource::Account(..)) => described(
            before.and_then(account).as_ref(),
            after.and_then(account).as_ref(),
        ),
        Some(Resource::ApiToken(_)) => described(wire!(before, ApiToken), wire!(after, ApiToken)),
        // Only sweeps know so little of a user; they show it themselves.
        Some(Resource::UserStatus(..) | Resource::UserPlan { .. }) | None => Described::default(),
    }
}

/// An account, as platform accounts are shown it.
fn account(resource: Resource<'_>) -> Option<vpnpanel_api::account::v1::Account> {
    let Resource::Account(account, role) = resource else {
        return None;
    };
    let role = role.unwrap_or_default().to_owned();
    Some(handlers::account::into_wire(
        account.clone(),
        role,
        Vec::new(),
    ))
}
