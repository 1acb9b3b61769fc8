//! Users.

use std::collections::BTreeSet;

use vpnpanel_api::user::v1::{
    ChangeUserPlanRequest, ChangeUserPlanResponse, CreateUserRequest, CreateUserResponse,
    DeleteUserRequest, DeleteUserResponse, DisableUserRequest, DisableUserResponse,
    EnableUserRequest, EnableUserResponse, ExtendUserRequest, ExtendUserResponse, GetUserRequest,
    GetUserResponse, ListUserPeriodsRequest, ListUserPeriodsResponse, ListUsersRequest,
    ListUsersResponse, Period, ResetUserUsageRequest, ResetUserUsageResponse,
    RevokeUserCredentialsRequest, RevokeUserCredentialsResponse, RotateUserSubscriptionRequest,
    RotateUserSubscriptionResponse, UndeleteUserRequest, UndeleteUserResponse, UpdateUserRequest,
    UpdateUserResponse, User, UserStatus as WireStatus,
};
use vpnpanel_domain::{
    GroupId, Limit, PlanId, ResetStrategy, Speed, SpeedLimit, TenantId, UserId, UserStatus,
};
use vpnpanel_store::{
    self as store, Extension, NewUser, NextPlan, Plan, PlanTerms, StoreError, UserFilter,
    UserPatch, fresh_id,
};

use crate::{
    Error,
    caller::Caller,
    context::Context,
    wire::{IntoWire, etag, ids, mask::Mask, page::List, request, terms, text, time},
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

fn groups(user: &User) -> Result<BTreeSet<GroupId>, Error> {
    terms::groups("user.group_ids", &user.group_ids)
}

fn expires_at(user: &User) -> Result<Option<i64>, Error> {
    let time = user.expire_time.as_ref();
    time.map(|time| time::unix_ms("user.expire_time", time))
        .transpose()
}

fn speed_up(user: &User) -> Result<Speed, Error> {
    terms::speed("user.speed_limit_up_bps", user.speed_limit_up_bps)
}

fn speed_down(user: &User) -> Result<Speed, Error> {
    terms::speed("user.speed_limit_down_bps", user.speed_limit_down_bps)
}

fn reset_strategy(user: &User) -> Result<ResetStrategy, Error> {
    terms::reset_strategy("user.usage_reset.rolling_days", user.usage_reset.as_ref())
}

fn next_plan(user: &User) -> Result<Option<NextPlan>, Error> {
    terms::next_plan("user.next_plan.plan_id", user.next_plan.as_ref())
}

fn on_hold(user: &User) -> Option<i64> {
    user.on_hold_duration.as_ref().map(time::duration_ms)
}

/// Who waits for its first traffic has no end yet.
fn check_clock(user: &User) -> Result<(), Error> {
    match (&user.on_hold_duration, &user.expire_time) {
        (Some(_), Some(_)) => Err(Error::field(
            "user.on_hold_duration",
            "cannot be set together with expire_time",
        )),
        _ => Ok(()),
    }
}

/// Fills in what a user was given nothing else for.
fn fill(new: &mut NewUser, terms: &PlanTerms, now_ms: i64) {
    if new.limit == Limit::None {
        new.limit = terms.limit;
    }
    if new.speed.up == Speed::UNLIMITED {
        new.speed.up = terms.speed.up;
    }
    if new.speed.down == Speed::UNLIMITED {
        new.speed.down = terms.speed.down;
    }
    if new.reset_strategy == ResetStrategy::None {
        new.reset_strategy = terms.reset_strategy;
    }
    if new.device_limit == 0 {
        new.device_limit = terms.device_limit;
    }
    if new.group_ids.is_empty() {
        new.group_ids.clone_from(&terms.group_ids);
    }
    if new.expires_at_ms.is_none() && new.on_hold_ms.is_none() {
        if terms.on_first_use {
            new.on_hold_ms = terms.duration_ms;
        } else {
            new.expires_at_ms = terms.duration_ms.map(|it| now_ms.saturating_add(it));
        }
    }
    new.next_plan = new.next_plan.or(terms.next);
}

fn status(status: WireStatus) -> Option<UserStatus> {
    match status {
        WireStatus::Unspecified => None,
        WireStatus::Active => Some(UserStatus::Active),
        WireStatus::Limited => Some(UserStatus::Limited),
        WireStatus::Expired => Some(UserStatus::Expired),
        WireStatus::Disabled => Some(UserStatus::Disabled),
        WireStatus::Deleted => Some(UserStatus::Deleted),
        WireStatus::OnHold => Some(UserStatus::OnHold),
    }
}

impl IntoWire for store::User {
    type Wire = User;

    fn into_wire(self) -> User {
        let status = match self.status {
            UserStatus::Active => WireStatus::Active,
            UserStatus::OnHold => WireStatus::OnHold,
            UserStatus::Limited => WireStatus::Limited,
            UserStatus::Expired => WireStatus::Expired,
            UserStatus::Disabled => WireStatus::Disabled,
            UserStatus::Deleted => WireStatus::Deleted,
        };
        User {
            id: self.id.to_string(),
            tenant_id: self.tenant_id.to_string(),
            username: self.username,
            status: status.into(),
            note: self.note,
            group_ids: self.group_ids.iter().map(ToString::to_string).collect(),
            data_limit_bytes: self.limit.to_wire(),
            used_bytes: self.period.used.floor_bytes(),
            online_time: self.period.last_used_at_ms.map(time::timestamp),
            period: Some(self.period.into_wire()),
            usage_reset: Some(self.reset_strategy.into_wire()),
            expire_time: self.expires_at_ms.map(time::timestamp),
            create_time: Some(time::timestamp(self.created_at_ms)),
            update_time: Some(time::timestamp(self.updated_at_ms)),
            etag: etag::of(self.version),
            speed_limit_up_bps: self.speed.up.bps(),
            speed_limit_down_bps: self.speed.down.bps(),
            plan_id: self.plan_id.map(|id| id.to_string()).unwrap_or_default(),
            on_hold_duration: self.on_hold_ms.map(time::duration_of_ms),
            device_limit: self.device_limit,
            next_plan: self.next_plan.map(IntoWire::into_wire),
            delete_time: self.deleted_at_ms.map(time::timestamp),
            // Of these only some may see the first, and none is a change of the user.
            subscription_url: String::new(),
            subscription_fetch_time: None,
            subscription_client: String::new(),
        }
    }
}

impl IntoWire for store::Period {
    type Wire = Period;

    fn into_wire(self) -> Period {
        Period {
            id: self.id.to_string(),
            start_time: Some(time::timestamp(self.starts_at_ms)),
            end_time: self.ends_at_ms.map(time::timestamp),
            up_bytes: self.up,
            down_bytes: self.down,
            usage_reset: Some(self.reset_strategy.into_wire()),
            data_limit_bytes: self.limit.to_wire(),
            used_bytes: self.used.floor_bytes(),
        }
    }
}
