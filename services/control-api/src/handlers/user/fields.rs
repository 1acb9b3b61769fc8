//! Fields of a user, as they come and as they are shown.

use std::collections::BTreeSet;

use vpnpanel_api::user::v1::{Period, User, UserStatus as WireStatus};
use vpnpanel_domain::{GroupId, Limit, ResetStrategy, Speed, UserStatus};
use vpnpanel_store::{self as store, NewUser, NextPlan, PlanTerms};

use crate::{
    Error,
    wire::{IntoWire, etag, terms, time},
};

pub(super) fn groups(user: &User) -> Result<BTreeSet<GroupId>, Error> {
    terms::groups("user.group_ids", &user.group_ids)
}

pub(super) fn expires_at(user: &User) -> Result<Option<i64>, Error> {
    let time = user.expire_time.as_ref();
    time.map(|time| time::unix_ms("user.expire_time", time))
        .transpose()
}

pub(super) fn speed_up(user: &User) -> Result<Speed, Error> {
    terms::speed("user.speed_limit_up_bps", user.speed_limit_up_bps)
}

pub(super) fn speed_down(user: &User) -> Result<Speed, Error> {
    terms::speed("user.speed_limit_down_bps", user.speed_limit_down_bps)
}

pub(super) fn reset_strategy(user: &User) -> Result<ResetStrategy, Error> {
    terms::reset_strategy("user.usage_reset.rolling_days", user.usage_reset.as_ref())
}

pub(super) fn next_plan(user: &User) -> Result<Option<NextPlan>, Error> {
    terms::next_plan("user.next_plan.plan_id", user.next_plan.as_ref())
}

pub(super) fn on_hold(user: &User) -> Option<i64> {
    user.on_hold_duration.as_ref().map(time::duration_ms)
}

/// Who waits for its first traffic has no end yet.
pub(super) fn check_clock(user: &User) -> Result<(), Error> {
    match (&user.on_hold_duration, &user.expire_time) {
        (Some(_), Some(_)) => Err(Error::field(
            "user.on_hold_duration",
            "cannot be set together with expire_time",
        )),
        _ => Ok(()),
    }
}

/// Fills in what a user was given nothing else for.
pub(super) fn fill(new: &mut NewUser, terms: &PlanTerms, now_ms: i64) {
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

pub(super) fn status(status: WireStatus) -> Option<UserStatus> {
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
