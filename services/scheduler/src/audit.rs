//! How what jobs change is shown in audit events.

use vpnpanel_api::user::v1::{User, UserStatus as WireStatus};
use vpnpanel_audit::described;
use vpnpanel_domain::UserStatus;
use vpnpanel_store::{Described, Resource};

/// Shows the status and the plan of a user as they were and as they are; jobs know nothing else of it.
pub(crate) fn describe(before: Option<Resource<'_>>, after: Option<Resource<'_>>) -> Described {
    described(
        before.and_then(user).as_ref(),
        after.and_then(user).as_ref(),
    )
}

fn user(resource: Resource<'_>) -> Option<User> {
    let (plan, status) = match resource {
        Resource::UserStatus(_, _, status) => (None, status),
        Resource::UserPlan { plan, status, .. } => (plan, status),
        _ => return None,
    };
    let status = match status {
        UserStatus::Active => WireStatus::Active,
        UserStatus::OnHold => WireStatus::OnHold,
        UserStatus::Limited => WireStatus::Limited,
        UserStatus::Expired => WireStatus::Expired,
        UserStatus::Disabled => WireStatus::Disabled,
        UserStatus::Deleted => WireStatus::Deleted,
    };
    Some(User {
        status: status.into(),
        plan_id: plan.map(|id| id.to_string()).unwrap_or_default(),
        ..User::default()
    })
}
