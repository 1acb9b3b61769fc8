//! Dashboards, explanations and live rates, as they are asked for.

use tokio_stream::StreamExt;
use tonic::Code;
use vpnpanel_api::system::v1::{ConcernKind, GetDashboardRequest, GetTenantDashboardRequest};
use vpnpanel_api::usage::v1::{ExplainUserUsageRequest, WatchUsageRequest};
use vpnpanel_auth::Role;
use vpnpanel_domain::{NodeId, TenantId, UserId};

use crate::support::{Caller, Panel, assert_refused, fields};

fn of(tenant: TenantId) -> GetTenantDashboardRequest {
    GetTenantDashboardRequest {
        tenant_id: tenant.to_string(),
    }
}

/// A user who has used 300 bytes up and as much down on a shared node.
async fn used(panel: &Panel, owner: &Caller, tenant: TenantId) -> (UserId, NodeId) {
    let node = panel.admin().await.new_node("frankfurt", None).await;
    let node: NodeId = node.id.parse().unwrap();
    let user = owner.new_user(tenant, "ada", &[]).await;
    let id: UserId = user.id.parse().unwrap();
    let user = panel.store.user(tenant, id).await.unwrap();
    let now = panel.store.now_ms();
    panel.database.count_usage(&user, node, now, 300).await;
    (id, node)
}

#[tokio::test]
async fn a_dashboard_shows_users_traffic_and_who_had_most_of_it() {
    let panel = Panel::start().await;
    let tenant = panel.default_tenant().await;
    let owner = panel.signed_in(Role::Owner, Some(tenant)).await;
    let (user, node) = used(&panel, &owner, tenant).await;
    let asked = owner.ask(of(tenant));
    let shown = owner.system().get_tenant_dashboard(asked).await.unwrap();
    let shown = shown.into_inner().dashboard.unwrap();
    let users = shown.users.unwrap();
    assert_eq!((users.total, users.active, users.disabled), (1, 1, 0));
    for traffic in [shown.today, shown.week, shown.month] {
        let traffic = traffic.unwrap();
        assert_eq!((traffic.up_bytes, traffic.billed_bytes), (300, 600));
        assert_eq!(traffic.previous_billed_bytes, 0);
    }
    assert_eq!(shown.top_users[0].user_id, user.to_string());
    assert_eq!(shown.top_users[0].username, "ada");
    assert_eq!(shown.top_nodes[0].node_id, node.to_string());
    assert_eq!(shown.top_nodes[0].name, "frankfurt");
    // The node is the platform's, whose dashboard has it.
    assert_eq!(shown.nodes.unwrap().pending, 0);
    let admin = panel.admin().await;
    let all = admin
        .system()
        .get_dashboard(admin.ask(GetDashboardRequest {}))
        .await;
    let all = all.unwrap().into_inner().dashboard.unwrap();
    assert_eq!(all.nodes.unwrap().pending, 1);
    assert_eq!(all.top_users[0].tenant_id, tenant.to_string());
    let kinds = all.concerns.iter().map(|concern| concern.kind());
    assert_eq!(kinds.collect::<Vec<_>>(), [] as [ConcernKind; 0]);
}

#[tokio::test]
async fn a_dashboard_of_everybody_is_the_platform_s() {
    let panel = Panel::start().await;
    let tenant = panel.default_tenant().await;
    let owner = panel.signed_in(Role::Owner, Some(tenant)).await;
    let refused = owner
        .system()
        .get_dashboard(owner.ask(GetDashboardRequest {}))
        .await;
    assert_refused(refused, Code::PermissionDenied, "PERMISSION_DENIED");
    let other = panel.new_tenant("other").await;
    let refused = owner
        .system()
        .get_tenant_dashboard(owner.ask(of(other)))
        .await;
    assert_refused(refused, Code::NotFound, "TENANT_NOT_FOUND");
}

#[tokio::test]
async fn usage_is_explained_by_node_period_and_multiplier() {
    let panel = Panel::start().await;
    let tenant = panel.default_tenant().await;
    let owner = panel.signed_in(Role::Owner, Some(tenant)).await;
    let (user, node) = used(&panel, &owner, tenant).await;
    let request = ExplainUserUsageRequest {
        tenant_id: tenant.to_string(),
        user_id: user.to_string(),
        ..ExplainUserUsageRequest::default()
    };
    let asked = owner.ask(request.clone());
    let found = owner.usage().explain_user_usage(asked).await.unwrap();
    let found = found.into_inner();
    let [piece] = &found.pieces[..] else {
        panic!("{found:?}");
    };
    assert_eq!(piece.node_id, node.to_string());
    assert_eq!((piece.up_bytes, piece.billed_bytes), (300, 600));
    assert_eq!(piece.multiplier_ppm, 1_000_000);
    let backwards = ExplainUserUsageRequest {
        start_time: Some(prost_types::Timestamp::default()),
        ..request
    };
    let refused = owner.usage().explain_user_usage(owner.ask(backwards)).await;
    assert_eq!(fields(refused), ["end_time"], "more than 35 days");
}

#[tokio::test]
async fn whoever_watches_is_told_something_at_once() {
    let panel = Panel::start().await;
    let tenant = panel.default_tenant().await;
    let owner = panel.signed_in(Role::Owner, Some(tenant)).await;
    let request = WatchUsageRequest {
        tenant_id: tenant.to_string(),
    };
    let watched = owner.usage().watch_usage(owner.ask(request)).await.unwrap();
    let first = watched.into_inner().next().await.unwrap().unwrap();
    assert_eq!(first.span.unwrap(), prost_types::Duration::default());
    let refused = owner
        .usage()
        .watch_usage(owner.ask(WatchUsageRequest::default()))
        .await;
    assert_refused(refused, Code::PermissionDenied, "PERMISSION_DENIED");
}
