//! Users.

mod fields;

use vpnpanel_api::user::v1::{
    ChangeUserPlanRequest, ChangeUserPlanResponse, CreateUserRequest, CreateUserResponse,
    DeleteUserRequest, DeleteUserResponse, DisableUserRequest, DisableUserResponse,
    EnableUserRequest, EnableUserResponse, ExtendUserRequest, ExtendUserResponse, GetUserRequest,
    GetUserResponse, ListUserPeriodsRequest, ListUserPeriodsResponse, ListUsersRequest,
    ListUsersResponse, ResetUserUsageRequest, ResetUserUsageResponse, RevokeUserCredentialsRequest,
    RevokeUserCredentialsResponse, RotateUserSubscriptionRequest, RotateUserSubscriptionResponse,
    UndeleteUserRequest, UndeleteUserResponse, UpdateUserRequest, UpdateUserResponse, User,
};
use vpnpanel_domain::{Limit, PlanId, SpeedLimit, TenantId, UserId};
use vpnpanel_store::{
    self as store, Extension, NewUser, Plan, StoreError, UserFilter, UserPatch, fresh_id,
};

use self::fields::{
    check_clock, expires_at, fill, groups, next_plan, on_hold, reset_strategy, speed_down,
    speed_up, status,
};
use crate::{
    Error,
    caller::Caller,
    context::Context,
    wire::{IntoWire, etag, ids, mask::Mask, page::List, request, text, time},
};

const DAY_MS: i64 = 24 * 3_600_000;

/// Name of the one device that a user is made with.
const FIRST_DEVICE: &str = "device-1";

const CHANGEABLE: &[&str] = &[
    "username",
    "note",
    "group_ids",
    "data_limit_bytes",
    "expire_time",
    "speed_limit_up_bps",
    "speed_limit_down_bps",
    "usage_reset",
    "on_hold_duration",
    "device_limit",
    "next_plan",
];

/// How often the plan of a user to make is read again, when it is being changed.
const PLAN_READS: usize = 3;

pub(crate) async fn create(
    context: &Context,
    caller: &Caller,
    message: CreateUserRequest,
) -> Result<CreateUserResponse, Error> {
    let tenant_id: TenantId = ids::required("tenant_id", &message.tenant_id)?;
    let key = request::key(
        caller,
        Some(tenant_id),
        "CreateUser",
        &message.request_id,
        &message,
    )?;
    let user = message.user.unwrap_or_default();
    let plan_id = ids::optional("user.plan_id", &user.plan_id)?;
    let mut attempts = 0..PLAN_READS;
    loop {
        let plan = match plan_id {
            None => None,
            Some(id) => Some(plan_of(context, tenant_id, id).await?),
        };
        let new = new_user(context, fresh_id(), user.clone(), plan.as_ref())?;
        let made = context
            .acting(caller)
            .create_user(tenant_id, new, key.as_ref())
            .await;
        match made {
            // The plan was changed since it was read.
            Err(StoreError::StaleVersion) if attempts.next().is_some() => {}
            made => {
                return Ok(CreateUserResponse {
                    user: Some(shown(context, caller, made?)?),
                });
            }
        }
    }
}

/// A user to make, from a plan where one is given: of one call, or one of many.
pub(crate) fn new_user(
    context: &Context,
    id: UserId,
    user: User,
    plan: Option<&Plan>,
) -> Result<NewUser, Error> {
    check_clock(&user)?;
    let mut new = NewUser {
        id,
        username: text::name("user.username", &user.username)?,
        group_ids: groups(&user)?,
        limit: Limit::from_wire(user.data_limit_bytes),
        speed: SpeedLimit {
            up: speed_up(&user)?,
            down: speed_down(&user)?,
        },
        reset_strategy: reset_strategy(&user)?,
        expires_at_ms: expires_at(&user)?,
        on_hold_ms: on_hold(&user),
        disabled: false,
        plan_id: plan.map(|plan| plan.id),
        plan_version: plan.map(|plan| plan.version),
        next_plan: next_plan(&user)?,
        device_limit: user.device_limit,
        devices: vec![context.vault.new_device(FIRST_DEVICE)?],
        subscription: Some(context.vault.new_subscription_token(id)?),
        note: user.note,
    };
    if let Some(plan) = plan {
        fill(&mut new, &plan.terms, context.store.now_ms());
    }
    Ok(new)
}

/// The plan that a user is made from.
async fn plan_of(context: &Context, tenant: TenantId, id: PlanId) -> Result<Plan, Error> {
    match context.store.plan(tenant, id).await {
        Err(StoreError::NotFound(_)) => Err(StoreError::InvalidReference {
            what: "user.plan_id",
            id: id.to_string(),
        }
        .into()),
        other => Ok(other?),
    }
}

pub(crate) async fn get(
    context: &Context,
    _caller: &Caller,
    message: GetUserRequest,
) -> Result<GetUserResponse, Error> {
    let (tenant_id, id) = named(&message.tenant_id, &message.user_id)?;
    let found = context.store.user(tenant_id, id).await?;
    Ok(GetUserResponse {
        user: Some(described(found)),
    })
}

pub(crate) async fn list(
    context: &Context,
    _caller: &Caller,
    message: ListUsersRequest,
) -> Result<ListUsersResponse, Error> {
    let tenant_id: TenantId = ids::required("tenant_id", &message.tenant_id)?;
    let filter = UserFilter {
        status: status(message.status()),
        group_id: ids::optional("group_id", &message.group_id)?,
        plan_id: ids::optional("plan_id", &message.plan_id)?,
        username_prefix: (!message.username_prefix.is_empty()).then_some(message.username_prefix),
    };
    let list = List::new("users")
        .of(tenant_id)
        .of(message.status)
        .of(filter.username_prefix.as_deref().unwrap_or_default())
        .of(&message.group_id)
        .of(&message.plan_id);
    let page = list.page(message.page_size, &message.page_token)?;
    let mut users = context
        .store
        .users(tenant_id, &filter, page.keyset())
        .await?;
    let next_page_token = list.cut(&page, &mut users, |user| user.id.uuid());
    Ok(ListUsersResponse {
        users: users.into_iter().map(described).collect(),
        next_page_token,
    })
}

pub(crate) async fn update(
    context: &Context,
    caller: &Caller,
    message: UpdateUserRequest,
) -> Result<UpdateUserResponse, Error> {
    let user = message.user.unwrap_or_default();
    let (tenant_id, id) = named(&user.tenant_id, &user.id)?;
    check_clock(&user)?;
    let mask = Mask::read(message.update_mask.as_ref(), CHANGEABLE)?;
    let username = mask.take("username", !user.username.is_empty(), &user.username);
    let in_groups = mask.take("group_ids", !user.group_ids.is_empty(), &user);
    let limit = user.data_limit_bytes;
    let expire_time = mask.take("expire_time", user.expire_time.is_some(), &user);
    let up = mask.take("speed_limit_up_bps", user.speed_limit_up_bps != 0, &user);
    let down = user.speed_limit_down_bps != 0;
    let down = mask.take("speed_limit_down_bps", down, &user);
    let usage_reset = mask.take("usage_reset", user.usage_reset.is_some(), &user);
    let hold = user.on_hold_duration.is_some();
    let next = mask.take("next_plan", user.next_plan.is_some(), &user);
    let devices = user.device_limit;
    let patch = UserPatch {
        username: username
            .map(|name| text::name("user.username", name))
            .transpose()?,
        group_ids: in_groups.map(groups).transpose()?,
        limit: mask.take("data_limit_bytes", limit != 0, Limit::from_wire(limit)),
        expires_at_ms: expire_time.map(expires_at).transpose()?,
        speed_up: up.map(speed_up).transpose()?,
        speed_down: down.map(speed_down).transpose()?,
        reset_strategy: usage_reset.map(reset_strategy).transpose()?,
        on_hold_ms: mask.take("on_hold_duration", hold, on_hold(&user)),
        device_limit: mask.take("device_limit", devices != 0, devices),
        next_plan: next.map(next_plan).transpose()?,
        note: mask.take("note", !user.note.is_empty(), user.note.clone()),
        ..UserPatch::default()
    };
    let version = etag::expected(&user.etag)?;
    let changed = context
        .acting(caller)
        .update_user(tenant_id, id, patch, version)
        .await?;
    Ok(UpdateUserResponse {
        user: Some(shown(context, caller, changed)?),
    })
}

pub(crate) async fn delete(
    context: &Context,
    caller: &Caller,
    message: DeleteUserRequest,
) -> Result<DeleteUserResponse, Error> {
    let (tenant_id, id) = named(&message.tenant_id, &message.user_id)?;
    let version = etag::expected(&message.etag)?;
    context
        .acting(caller)
        .delete_user(tenant_id, id, version)
        .await?;
    Ok(DeleteUserResponse {})
}

pub(crate) async fn disable(
    context: &Context,
    caller: &Caller,
    message: DisableUserRequest,
) -> Result<DisableUserResponse, Error> {
    let (tenant_id, id) = named(&message.tenant_id, &message.user_id)?;
    let changed = context
        .acting(caller)
        .set_user_disabled(tenant_id, id, true)
        .await?;
    Ok(DisableUserResponse {
        user: Some(shown(context, caller, changed)?),
    })
}

pub(crate) async fn enable(
    context: &Context,
    caller: &Caller,
    message: EnableUserRequest,
) -> Result<EnableUserResponse, Error> {
    let (tenant_id, id) = named(&message.tenant_id, &message.user_id)?;
    let changed = context
        .acting(caller)
        .set_user_disabled(tenant_id, id, false)
        .await?;
    Ok(EnableUserResponse {
        user: Some(shown(context, caller, changed)?),
    })
}

pub(crate) async fn extend(
    context: &Context,
    caller: &Caller,
    message: ExtendUserRequest,
) -> Result<ExtendUserResponse, Error> {
    let (tenant_id, id) = named(&message.tenant_id, &message.user_id)?;
    let key = request::key(
        caller,
        Some(tenant_id),
        "ExtendUser",
        &message.request_id,
        &message,
    )?;
    if message.days == 0 && message.data_bytes == 0 {
        return Err(Error::field(
            "days",
            "one of days and data_bytes is required",
        ));
    }
    let by = Extension {
        time_ms: i64::from(message.days) * DAY_MS,
        bytes: message.data_bytes,
    };
    let changed = context
        .acting(caller)
        .extend_user(tenant_id, id, by, key.as_ref())
        .await?;
    Ok(ExtendUserResponse {
        user: Some(shown(context, caller, changed)?),
    })
}

pub(crate) async fn undelete(
    context: &Context,
    caller: &Caller,
    message: UndeleteUserRequest,
) -> Result<UndeleteUserResponse, Error> {
    let (tenant_id, id) = named(&message.tenant_id, &message.user_id)?;
    let back = context.acting(caller).undelete_user(tenant_id, id).await?;
    Ok(UndeleteUserResponse {
        user: Some(shown(context, caller, back)?),
    })
}

pub(crate) async fn change_plan(
    context: &Context,
    caller: &Caller,
    message: ChangeUserPlanRequest,
) -> Result<ChangeUserPlanResponse, Error> {
    let (tenant_id, id) = named(&message.tenant_id, &message.user_id)?;
    let key = request::key(
        caller,
        Some(tenant_id),
        "ChangeUserPlan",
        &message.request_id,
        &message,
    )?;
    let plan = ids::required("plan_id", &message.plan_id)?;
    let version = etag::expected(&message.etag)?;
    let changed = context
        .acting(caller)
        .change_user_plan(tenant_id, id, plan, version, key.as_ref())
        .await?;
    Ok(ChangeUserPlanResponse {
        user: Some(shown(context, caller, changed)?),
    })
}

pub(crate) async fn reset_usage(
    context: &Context,
    caller: &Caller,
    message: ResetUserUsageRequest,
) -> Result<ResetUserUsageResponse, Error> {
    let (tenant_id, id) = named(&message.tenant_id, &message.user_id)?;
    let key = request::key(
        caller,
        Some(tenant_id),
        "ResetUserUsage",
        &message.request_id,
        &message,
    )?;
    let changed = context
        .acting(caller)
        .reset_user_usage(tenant_id, id, key.as_ref())
        .await?;
    Ok(ResetUserUsageResponse {
        user: Some(shown(context, caller, changed)?),
    })
}

pub(crate) async fn revoke_credentials(
    context: &Context,
    caller: &Caller,
    message: RevokeUserCredentialsRequest,
) -> Result<RevokeUserCredentialsResponse, Error> {
    let (tenant_id, id) = named(&message.tenant_id, &message.user_id)?;
    let key = request::key(
        caller,
        Some(tenant_id),
        "RevokeUserCredentials",
        &message.request_id,
        &message,
    )?;
    let link = context.vault.new_subscription_token(id)?;
    let changed = context
        .acting(caller)
        .revoke_user_credentials(tenant_id, id, &context.vault, link, key.as_ref())
        .await?;
    Ok(RevokeUserCredentialsResponse {
        user: Some(shown(context, caller, changed)?),
    })
}

pub(crate) async fn rotate_subscription(
    context: &Context,
    caller: &Caller,
    message: RotateUserSubscriptionRequest,
) -> Result<RotateUserSubscriptionResponse, Error> {
    let (tenant_id, id) = named(&message.tenant_id, &message.user_id)?;
    let key = request::key(
        caller,
        Some(tenant_id),
        "RotateUserSubscription",
        &message.request_id,
        &message,
    )?;
    let link = context.vault.new_subscription_token(id)?;
    let changed = context
        .acting(caller)
        .rotate_subscription(tenant_id, id, link, key.as_ref())
        .await?;
    Ok(RotateUserSubscriptionResponse {
        user: Some(shown(context, caller, changed)?),
    })
}

pub(crate) async fn periods(
    context: &Context,
    _caller: &Caller,
    message: ListUserPeriodsRequest,
) -> Result<ListUserPeriodsResponse, Error> {
    let (tenant_id, id) = named(&message.tenant_id, &message.user_id)?;
    let list = List::new("user periods").of(tenant_id).of(id);
    let page = list.page(message.page_size, &message.page_token)?;
    let mut periods = context
        .store
        .user_periods(tenant_id, id, page.keyset())
        .await?;
    let next_page_token = list.cut(&page, &mut periods, |period| period.id.uuid());
    Ok(ListUserPeriodsResponse {
        periods: periods.into_iter().map(IntoWire::into_wire).collect(),
        next_page_token,
    })
}

/// A user with when its subscription was fetched, and without the link of it.
fn described(user: store::User) -> User {
    let fetched = user.fetched.clone();
    User {
        subscription_fetch_time: fetched.as_ref().map(|it| time::timestamp(it.at_ms)),
        subscription_client: fetched.map(|it| it.client).unwrap_or_default(),
        ..user.into_wire()
    }
}

/// A user as the answer to a change, with the link of its subscription where the caller may read its
/// secrets. What is changed is changed: a link that cannot be opened is logged and left out.
fn shown(context: &Context, caller: &Caller, user: store::User) -> Result<User, Error> {
    let sees_secrets = caller
        .principal()?
        .permits("user.readSecrets", Some(user.tenant_id));
    let link = match sees_secrets {
        true => link_of(context, &user),
        false => String::new(),
    };
    Ok(User {
        subscription_url: link,
        ..described(user)
    })
}

/// The link of a user's subscription; empty where it cannot be opened, which the log says.
pub(crate) fn link_of(context: &Context, user: &store::User) -> String {
    match context.links.of_user(&context.vault, user) {
        Ok(link) => link.to_string(),
        Err(error) => {
            tracing::error!(
                event = "subscription.link_unreadable",
                tenant_id = %user.tenant_id,
                user_id = %user.id,
                %error,
                "the link of a subscription cannot be opened: give the user a new one \
                 (RotateUserSubscription)"
            );
            String::new()
        }
    }
}

/// The user that a request names.
pub(crate) fn named(tenant: &str, user: &str) -> Result<(TenantId, UserId), Error> {
    Ok((
        ids::required("tenant_id", tenant)?,
        ids::required("user_id", user)?,
    ))
}
