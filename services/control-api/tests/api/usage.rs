//! Usage, where nothing was used yet; amounts are the store's and the end-to-end tests' subject.

use prost_types::Timestamp;
use tonic::Code;
use vpnpanel_api::usage::v1::{
    GetNodeUsageRequest, GetTenantUsageRequest, GetUserUsageRequest, Interval,
};
use vpnpanel_auth::Role;

use crate::support::{Panel, assert_refused, fields};

#[tokio::test]
async fn a_series_without_usage_is_empty_and_adds_up_to_nothing() {
    let panel = Panel::start().await;
    let tenant = panel.default_tenant().await;
    let owner = panel.signed_in(Role::Owner, Some(tenant)).await;
    let user = owner.new_user(tenant, "ada", &[]).await;
    let request = GetUserUsageRequest {
        tenant_id: tenant.to_string(),
        user_id: user.id,
        ..GetUserUsageRequest::default()
    };
    let usage = owner.usage().get_user_usage(owner.ask(request)).await;
    let usage = usage.unwrap().into_inner();
    assert!(usage.points.is_empty() && usage.nodes.is_empty());
    let total = usage.total.unwrap();
    assert_eq!(
        (total.up_bytes, total.down_bytes, total.billed_bytes),
        (0, 0, 0)
    );
}

#[tokio::test]
async fn spans_have_to_make_sense() {
    let panel = Panel::start().await;
    let tenant = panel.default_tenant().await;
    let owner = panel.signed_in(Role::Owner, Some(tenant)).await;
    let backwards = GetTenantUsageRequest {
        tenant_id: tenant.to_string(),
        start_time: Some(Timestamp {
            seconds: 2,
            nanos: 0,
        }),
        end_time: Some(Timestamp {
            seconds: 1,
            nanos: 0,
        }),
        ..GetTenantUsageRequest::default()
    };
    let refused = owner.usage().get_tenant_usage(owner.ask(backwards)).await;
    assert_eq!(fields(refused), ["end_time"]);
}

#[tokio::test]
async fn usage_of_a_shared_node_is_the_platform_s() {
    let panel = Panel::start().await;
    let tenant = panel.default_tenant().await;
    let admin = panel.admin().await;
    let owner = panel.signed_in(Role::Owner, Some(tenant)).await;
    let node = admin.new_node("shared", None).await;
    let shared = GetNodeUsageRequest {
        node_id: node.id,
        ..GetNodeUsageRequest::default()
    };
    admin
        .usage()
        .get_node_usage(admin.ask(shared.clone()))
        .await
        .unwrap();
    let refused = owner
        .usage()
        .get_node_usage(owner.ask(shared.clone()))
        .await;
    assert_refused(refused, Code::PermissionDenied, "PERMISSION_DENIED");
    let disguised = GetNodeUsageRequest {
        tenant_id: tenant.to_string(),
        ..shared
    };
    let refused = owner.usage().get_node_usage(owner.ask(disguised)).await;
    assert_refused(refused, Code::NotFound, "NODE_NOT_FOUND");
}

#[tokio::test]
async fn a_series_comes_in_the_steps_asked_for() {
    const HOUR_MS: i64 = 3_600_000;
    let panel = Panel::start().await;
    let tenant = panel.default_tenant().await;
    let owner = panel.signed_in(Role::Owner, Some(tenant)).await;
    let made = owner.new_user(tenant, "ada", &[]).await;
    let id = made.id.parse().unwrap();
    let user = panel.store.user(tenant, id).await.unwrap();
    let node = vpnpanel_store::fresh_id();
    // two hours of yesterday
    let now = panel.store.now_ms();
    let day = now - now.rem_euclid(24 * HOUR_MS) - 24 * HOUR_MS;
    for (at_ms, bytes) in [(HOUR_MS, 1), (HOUR_MS + 900_000, 20), (3 * HOUR_MS, 300)] {
        panel
            .database
            .count_usage(&user, node, day + at_ms, bytes)
            .await;
    }
    for (interval, points) in [
        (
            Interval::QuarterHour,
            vec![(HOUR_MS, 1), (HOUR_MS + 900_000, 20), (3 * HOUR_MS, 300)],
        ),
        (Interval::Hour, vec![(HOUR_MS, 21), (3 * HOUR_MS, 300)]),
        (
            Interval::Unspecified,
            vec![(HOUR_MS, 21), (3 * HOUR_MS, 300)],
        ),
        (Interval::Day, vec![(0, 321)]),
    ] {
        let seconds = |ms: i64| (day + ms) / 1_000;
        let request = GetUserUsageRequest {
            tenant_id: tenant.to_string(),
            user_id: made.id.clone(),
            start_time: Some(Timestamp {
                seconds: seconds(HOUR_MS),
                nanos: 0,
            }),
            interval: interval.into(),
            ..GetUserUsageRequest::default()
        };
        let usage = owner.usage().get_user_usage(owner.ask(request)).await;
        let usage = usage.unwrap().into_inner();
        let got = usage.points.iter();
        let got: Vec<(i64, u64)> = got
            .map(|it| (it.start_time.unwrap().seconds, it.up_bytes))
            .collect();
        let points: Vec<(i64, u64)> = points.iter().map(|it| (seconds(it.0), it.1)).collect();
        assert_eq!(got, points, "{interval:?}");
        assert_eq!(usage.total.unwrap().billed_bytes, 2 * 321);
        assert_eq!(usage.nodes.len(), 1);
    }
}
