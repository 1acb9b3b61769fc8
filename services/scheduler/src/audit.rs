//! How what jobs change is shown in audit events.

use vpnpanel_api::user::v1::{User, UserStatus as WireStatus};
use vpnpanel_audit::described;
use vpnpanel_domain::UserStatus;
use vpnpanel_store::{Described, Resource};

/// Shows the status of a user as it was and as it is; jobs know nothing else of it.
pub(crate) fn describe(before: Option<Resource<'_>>, after: Option<Resource<'_>>) -> Described {
    described(
        before.and_then(user).as_ref(),
        after.and_then(user).as_ref(),
    )
}

fn user(resource: Resource<'_>) -> Option<User> {
    let Resource::UserStatus(_, _, status) = resource else {
        return None;
    };
    let status = match status {
        // A user that waits for its first traffic may connect.
        UserStatus::Active | UserStatus::OnHold => WireStatus::Active,
        UserStatus::Limited => WireStatus::Limited,
        UserStatus::Expired => WireStatus::Expired,
        UserStatus::Disabled => WireStatus::Disabled,
        UserStatus::Deleted => WireStatus::Deleted,
    };
    Some(User {
        status: status.into(),
        ..User::default()
    })
}
