//! What happened, as the queries of the store say it.

use vpnpanel_domain::{PlanId, TenantId, UserId, UserStatus};

use super::{Describe, Described};
use crate::accounts::Account;
use crate::api_tokens::ApiToken;
use crate::commands::NodeCommand;
use crate::devices::Device;
use crate::endpoint_templates::EndpointTemplate;
use crate::groups::Group;
use crate::inbounds::Inbound;
use crate::memberships::Member;
use crate::nodes::Node;
use crate::operations::Operation;
use crate::plans::Plan;
use crate::roles::Role;
use crate::tenants::Tenant;
use crate::users::User;

/// A resource whose state an event shows.
#[derive(Debug, Clone, Copy)]
pub enum Resource<'a> {
    /// A tenant.
    Tenant(&'a Tenant),
    /// A subscriber.
    User(&'a User),
    /// Of a subscriber, the status alone: what a sweep over thousands of them knows.
    UserStatus(TenantId, UserId, UserStatus),
    /// Of a subscriber, its plan and status: what a sweep that moves it on knows.
    UserPlan {
        /// The tenant.
        tenant: TenantId,
        /// The user.
        user: UserId,
        /// Its plan.
        plan: Option<PlanId>,
        /// Its status.
        status: UserStatus,
    },
    /// A device of a subscriber.
    Device(&'a Device),
    /// A plan.
    Plan(&'a Plan),
    /// A long-running call.
    Operation(&'a Operation),
    /// A group.
    Group(&'a Group),
    /// An inbound.
    Inbound(&'a Inbound),
    /// An endpoint template.
    EndpointTemplate(&'a EndpointTemplate),
    /// A node.
    Node(&'a Node),
    /// A command of a node.
    NodeCommand(&'a NodeCommand),
    /// An account, with the role it holds on the platform.
    Account(&'a Account, Option<&'a str>),
    /// A member of a tenant.
    Member(&'a Member),
    /// A role.
    Role(&'a Role),
    /// An API token.
    ApiToken(&'a ApiToken),
}

impl Resource<'_> {
    /// Where the event belongs; `None` is the platform.
    fn tenant(self) -> Option<TenantId> {
        match self {
            Self::Tenant(it) => Some(it.id),
            Self::User(it) => Some(it.tenant_id),
            Self::UserStatus(tenant, ..) | Self::UserPlan { tenant, .. } => Some(tenant),
            Self::Device(it) => Some(it.tenant_id),
            Self::Plan(it) => Some(it.tenant_id),
            Self::Operation(it) => Some(it.tenant_id),
            Self::Group(it) => Some(it.tenant_id),
            Self::Inbound(it) => it.tenant_id,
            Self::EndpointTemplate(it) => it.tenant_id,
            Self::Node(it) => it.tenant_id,
            Self::NodeCommand(it) => it.tenant_id,
            Self::Member(it) => Some(it.tenant_id),
            Self::Account(..) | Self::Role(_) => None,
            Self::ApiToken(it) => it.tenant_id,
        }
    }

    fn kind(self) -> &'static str {
        match self {
            Self::Tenant(_) => "tenant",
            Self::User(_) | Self::UserStatus(..) | Self::UserPlan { .. } => "user",
            Self::Device(_) => "device",
            Self::Plan(_) => "plan",
            Self::Operation(_) => "operation",
            Self::Group(_) => "group",
            Self::Inbound(_) => "inbound",
            Self::EndpointTemplate(_) => "endpointTemplate",
            Self::Node(_) => "node",
            Self::NodeCommand(_) => "nodeCommand",
            Self::Account(..) => "account",
            Self::Member(_) => "member",
            Self::Role(_) => "role",
            Self::ApiToken(_) => "apiToken",
        }
    }

    fn id(self) -> String {
        match self {
            Self::Tenant(it) => it.id.to_string(),
            Self::User(it) => it.id.to_string(),
            Self::UserStatus(_, id, _) | Self::UserPlan { user: id, .. } => id.to_string(),
            Self::Device(it) => it.id.to_string(),
            Self::Plan(it) => it.id.to_string(),
            Self::Operation(it) => it.id.to_string(),
            Self::Group(it) => it.id.to_string(),
            Self::Inbound(it) => it.id.to_string(),
            Self::EndpointTemplate(it) => it.id.to_string(),
            Self::Node(it) => it.id.to_string(),
            Self::NodeCommand(it) => it.id.to_string(),
            Self::Account(it, _) => it.id.to_string(),
            Self::Member(it) => it.account_id.to_string(),
            Self::Role(it) => it.name.clone(),
            Self::ApiToken(it) => it.id.to_string(),
        }
    }
}

macro_rules! resources {
    ($($kind:ident,)+) => {$(
        impl<'a> From<&'a $kind> for Resource<'a> {
            fn from(it: &'a $kind) -> Self {
                Self::$kind(it)
            }
        }
    )+};
}

resources! {
    Tenant, User, Device, Plan, Operation, Group, Inbound, EndpointTemplate, Node, NodeCommand,
    Member, Role, ApiToken,
}

/// Whether what was asked for was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was.
    Done,
    /// It was refused.
    Refused,
}

impl Outcome {
    /// The name in the database.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Refused => "refused",
        }
    }
}

/// What happened to what.
#[derive(Debug, Clone)]
pub struct Event<'a> {
    pub(super) tenant: Option<TenantId>,
    pub(super) resource_type: &'static str,
    pub(super) resource_id: String,
    pub(super) outcome: Outcome,
    pub(super) reason: &'static str,
    before: Option<Resource<'a>>,
    after: Option<Resource<'a>>,
}

impl<'a> Event<'a> {
    /// A resource was made.
    pub fn created(made: impl Into<Resource<'a>>) -> Self {
        let made = made.into();
        Self {
            after: Some(made),
            ..Self::on(made.kind(), made.tenant(), made.id())
        }
    }

    /// A resource was changed, or was found to be as it was asked to become.
    pub fn changed(before: impl Into<Resource<'a>>, after: impl Into<Resource<'a>>) -> Self {
        let after = after.into();
        Self {
            before: Some(before.into()),
            after: Some(after),
            ..Self::on(after.kind(), after.tenant(), after.id())
        }
    }

    /// A resource was deleted.
    pub fn deleted(was: impl Into<Resource<'a>>) -> Self {
        let was = was.into();
        Self {
            before: Some(was),
            ..Self::on(was.kind(), was.tenant(), was.id())
        }
    }

    /// Something was done to, or with, a resource whose state says nothing about it.
    pub fn on(resource_type: &'static str, tenant: Option<TenantId>, id: impl ToString) -> Self {
        Self {
            tenant,
            resource_type,
            resource_id: id.to_string(),
            outcome: Outcome::Done,
            reason: "",
            before: None,
            after: None,
        }
    }

    /// It is the platform's business, whoever owns the resource.
    #[must_use]
    pub fn of_platform(self) -> Self {
        Self {
            tenant: None,
            ..self
        }
    }

    /// It was not done, for a reason of the API's errors.
    #[must_use]
    pub fn refused(self, reason: &'static str) -> Self {
        Self {
            outcome: Outcome::Refused,
            reason,
            ..self
        }
    }

    pub(super) fn describe(&self, describe: Describe) -> Described {
        if self.before.is_none() && self.after.is_none() {
            return Described::default();
        }
        describe(self.before, self.after)
    }
}
