//! When quotas begin anew.

use prost_types::FieldMask;
use tonic::{Code, Status};
use vpnpanel_api::user::v1::{
    GetUserRequest, ListUserPeriodsRequest, Period, ResetStrategy, ResetUserUsageRequest,
    UpdateUserRequest, UsageReset, User,
};
use vpnpanel_domain::TenantId;

use crate::support::{Caller, Panel, assert_refused, create_user, fields};

const DAY: i64 = 24 * 3_600;

fn reset(strategy: ResetStrategy, rolling_days: u32) -> UsageReset {
    UsageReset {
        strategy: strategy.into(),
        rolling_days,
    }
}

async fn setting() -> (Panel, TenantId, Caller) {
    let panel = Panel::start().await;
    let tenant = panel.default_tenant().await;
    let admin = panel.admin().await;
    (panel, tenant, admin)
}

async fn make(caller: &Caller, tenant: TenantId, usage_reset: UsageReset) -> Result<User, Status> {
    let mut request = create_user(tenant, "ada", &[]);
    let user = request.user.as_mut().unwrap();
    user.usage_reset = Some(usage_reset);
    user.data_limit_bytes = 5_000;
    let made = caller.users().create_user(caller.ask(request)).await?;
    Ok(made.into_inner().user.unwrap())
}

async fn change(caller: &Caller, user: &User, to: Option<UsageReset>) -> Result<User, Status> {
    let request = UpdateUserRequest {
        user: Some(User {
            id: user.id.clone(),
            tenant_id: user.tenant_id.clone(),
            usage_reset: to,
            ..User::default()
        }),
        update_mask: Some(FieldMask {
            paths: vec!["usage_reset".to_owned()],
        }),
    };
    let changed = caller.users().update_user(caller.ask(request)).await?;
    Ok(changed.into_inner().user.unwrap())
}

async fn periods(caller: &Caller, user: &User, size: i32, token: &str) -> (Vec<Period>, String) {
    let request = ListUserPeriodsRequest {
        tenant_id: user.tenant_id.clone(),
        user_id: user.id.clone(),
        page_size: size,
        page_token: token.to_owned(),
    };
    let listed = caller.users().list_user_periods(caller.ask(request)).await;
    let listed = listed.unwrap().into_inner();
    (listed.periods, listed.next_page_token)
}

fn seconds(period: &Period) -> (i64, Option<i64>) {
    let start = period.start_time.as_ref().unwrap().seconds;
    (start, period.end_time.as_ref().map(|end| end.seconds))
}

#[tokio::test]
async fn a_user_is_shown_with_its_window_and_by_what_that_ends() {
    let (_panel, tenant, admin) = setting().await;
    let rolling = reset(ResetStrategy::Rolling, 30);
    let made = make(&admin, tenant, rolling).await.unwrap();
    assert_eq!(made.usage_reset, Some(rolling));
    let period = made.period.clone().unwrap();
    assert_eq!(period.usage_reset, Some(rolling));
    assert_eq!((period.data_limit_bytes, period.used_bytes), (5_000, 0));
    let (start, end) = seconds(&period);
    assert_eq!(end, Some(start + 30 * DAY));

    let (listed, token) = periods(&admin, &made, 1, "").await;
    assert_eq!(
        seconds(&listed[0]),
        (start + 30 * DAY, Some(start + 60 * DAY))
    );
    let (listed, token) = periods(&admin, &made, 1, &token).await;
    assert_eq!((listed, token.as_str()), (vec![period], ""));

    let never = admin.new_user(tenant, "bob", &[]).await;
    let shown = reset(ResetStrategy::None, 0);
    assert_eq!(never.usage_reset, Some(shown));
    assert_eq!(never.period.unwrap().end_time, None);
}

#[tokio::test]
async fn days_belong_to_a_rolling_quota_alone() {
    let (_panel, tenant, admin) = setting().await;
    for (bad, field) in [
        (
            reset(ResetStrategy::Rolling, 0),
            "user.usage_reset.rolling_days",
        ),
        (
            reset(ResetStrategy::Rolling, 3_661),
            "user.usage_reset.rolling_days",
        ),
        (
            reset(ResetStrategy::Daily, 3),
            "user.usage_reset.rolling_days",
        ),
    ] {
        assert_eq!(fields(make(&admin, tenant, bad).await), [field], "{bad:?}");
    }
    let unknown = UsageReset {
        strategy: 99,
        rolling_days: 0,
    };
    let refused = make(&admin, tenant, unknown).await;
    assert_eq!(fields(refused), ["user.usage_reset.strategy"]);
}

#[tokio::test]
async fn another_strategy_holds_behind_what_is_announced_unless_usage_is_reset() {
    let (_panel, tenant, admin) = setting().await;
    let made = make(&admin, tenant, reset(ResetStrategy::Rolling, 1)).await;
    let made = made.unwrap();
    let week = reset(ResetStrategy::Rolling, 7);
    let changed = change(&admin, &made, Some(week)).await.unwrap();
    assert_eq!(changed.usage_reset, Some(week));
    assert_eq!(changed.period, made.period);
    assert_ne!(changed.etag, made.etag);
    let request = ResetUserUsageRequest {
        tenant_id: made.tenant_id.clone(),
        user_id: made.id.clone(),
        request_id: String::new(),
    };
    let anew = admin.users().reset_user_usage(admin.ask(request)).await;
    let period = anew.unwrap().into_inner().user.unwrap().period.unwrap();
    assert_eq!(period.usage_reset, Some(week));
    let (start, end) = seconds(&period);
    assert_eq!(end, Some(start + 7 * DAY));

    // Named by the mask and not set: never.
    let never = change(&admin, &made, None).await.unwrap();
    let shown = reset(ResetStrategy::None, 0);
    assert_eq!(never.usage_reset, Some(shown));
    assert_eq!(never.period, Some(period));
}

#[tokio::test]
async fn the_period_in_force_is_shown_whether_or_not_a_job_was_there() {
    let (panel, tenant, admin) = setting().await;
    let made = make(&admin, tenant, reset(ResetStrategy::Rolling, 1)).await;
    let made = made.unwrap();
    let (announced, _) = periods(&admin, &made, 10, "").await;
    panel.database.clock.advance(DAY * 1_000 + 1);
    let admin = panel.admin().await;
    let request = GetUserRequest {
        tenant_id: made.tenant_id.clone(),
        user_id: made.id.clone(),
    };
    let shown = admin.users().get_user(admin.ask(request)).await;
    let shown = shown.unwrap().into_inner().user.unwrap();
    assert_eq!(shown.period.as_ref(), announced.first());
    assert_eq!(shown.etag, made.etag);
}

#[tokio::test]
async fn periods_of_another_tenants_user_are_not_found() {
    let (panel, tenant, admin) = setting().await;
    let made = make(&admin, tenant, reset(ResetStrategy::Daily, 0)).await;
    let made = made.unwrap();
    let request = ListUserPeriodsRequest {
        tenant_id: panel.new_tenant("other").await.to_string(),
        user_id: made.id.clone(),
        ..ListUserPeriodsRequest::default()
    };
    let refused = admin.users().list_user_periods(admin.ask(request)).await;
    assert_refused(refused, Code::NotFound, "USER_NOT_FOUND");
}
