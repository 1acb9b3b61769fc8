//! Dashboards.

use vpnpanel_api::system::v1::{
    Concern, ConcernKind, Dashboard, GetDashboardRequest, GetDashboardResponse,
    GetTenantDashboardRequest, GetTenantDashboardResponse, NodeCounts, OnlineCounts, TopNode,
    TopUser, Traffic, UserCounts,
};
use vpnpanel_store as store;

use crate::{
    Error,
    caller::Caller,
    context::Context,
    dashboards::{Beside, Figures},
    wire::{ids, time},
};

pub(crate) async fn of_all(
    context: &Context,
    _caller: &Caller,
    _message: GetDashboardRequest,
) -> Result<GetDashboardResponse, Error> {
    let figures = context.dashboards.figures(None).await?;
    Ok(GetDashboardResponse {
        dashboard: Some(dashboard(&figures)),
    })
}

pub(crate) async fn of_tenant(
    context: &Context,
    _caller: &Caller,
    message: GetTenantDashboardRequest,
) -> Result<GetTenantDashboardResponse, Error> {
    let tenant_id = ids::required("tenant_id", &message.tenant_id)?;
    let figures = context.dashboards.figures(Some(tenant_id)).await?;
    Ok(GetTenantDashboardResponse {
        dashboard: Some(dashboard(&figures)),
    })
}

fn dashboard(figures: &Figures) -> Dashboard {
    Dashboard {
        as_of_time: Some(time::timestamp(figures.as_of_ms)),
        time_zone: figures.zone.name().to_owned(),
        users: Some(UserCounts {
            total: figures.users.total(),
            active: figures.users.active,
            on_hold: figures.users.on_hold,
            limited: figures.users.limited,
            expired: figures.users.expired,
            disabled: figures.users.disabled,
        }),
        online: Some(OnlineCounts {
            now: figures.online.now,
            today: figures.online.today,
            week: figures.online.week,
        }),
        today: Some(traffic(figures.today)),
        week: Some(traffic(figures.week)),
        month: Some(traffic(figures.month)),
        top_users: figures.top_users.iter().map(top_user).collect(),
        top_nodes: figures.top_nodes.iter().map(top_node).collect(),
        nodes: Some(NodeCounts {
            online: figures.nodes.online,
            offline: figures.nodes.offline,
            pending: figures.nodes.pending,
            disabled: figures.nodes.disabled,
            quarantined: figures.nodes.quarantined,
            draining: figures.nodes.draining,
        }),
        concerns: concerns(figures),
    }
}

fn traffic(beside: Beside) -> Traffic {
    Traffic {
        up_bytes: beside.now.up,
        down_bytes: beside.now.down,
        billed_bytes: beside.now.billed.floor_bytes(),
        previous_up_bytes: beside.before.up,
        previous_down_bytes: beside.before.down,
        previous_billed_bytes: beside.before.billed.floor_bytes(),
        start_time: Some(time::timestamp(beside.from_ms)),
    }
}

fn top_user(user: &store::TopUser) -> TopUser {
    TopUser {
        tenant_id: user.tenant.to_string(),
        user_id: user.id.to_string(),
        username: user.username.clone(),
        up_bytes: user.usage.up,
        down_bytes: user.usage.down,
        billed_bytes: user.usage.billed.floor_bytes(),
    }
}

fn top_node(node: &store::TopNode) -> TopNode {
    TopNode {
        node_id: node.id.to_string(),
        name: node.name.clone(),
        up_bytes: node.usage.up,
        down_bytes: node.usage.down,
        billed_bytes: node.usage.billed.floor_bytes(),
    }
}

/// What needs somebody: first what stops billing, then what stops service, then what will.
fn concerns(figures: &Figures) -> Vec<Concern> {
    let nodes = figures.nodes;
    [
        (ConcernKind::NodesQuarantined, nodes.quarantined),
        (ConcernKind::CertificatesEnded, nodes.certificates_ended),
        (ConcernKind::NodesOffline, nodes.offline),
        (ConcernKind::NodesBehind, nodes.behind),
        (ConcernKind::CertificatesOverdue, nodes.certificates_overdue),
        (ConcernKind::JobsFailed, figures.failed_jobs),
    ]
    .into_iter()
    .filter(|(_, count)| *count > 0)
    .map(|(kind, count)| Concern {
        kind: kind.into(),
        count,
    })
    .collect()
}
