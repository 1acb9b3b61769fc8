//! Usage.

use vpnpanel_api::usage::v1::{
    GetNodeUsageRequest, GetNodeUsageResponse, GetTenantUsageRequest, GetTenantUsageResponse,
    GetUserUsageRequest, GetUserUsageResponse, UsagePoint, UsageShare,
};
use vpnpanel_domain::{NodeId, TenantId};
use vpnpanel_store::{Usage, UsageSeries};

use super::user::named;
use crate::{
    Error,
    caller::Caller,
    context::Context,
    wire::{ids, range, time},
};

pub(crate) async fn of_user(
    context: &Context,
    _caller: &Caller,
    message: GetUserUsageRequest,
) -> Result<GetUserUsageResponse, Error> {
    let (tenant_id, id) = named(&message.tenant_id, &message.user_id)?;
    let query = range::read(
        message.start_time.as_ref(),
        message.end_time.as_ref(),
        message.interval,
        context.store.now_ms(),
    )?;
    let series = context.store.user_usage(tenant_id, id, query).await?;
    Ok(GetUserUsageResponse {
        points: points(&series),
        total: Some(point(query.from_ms, series.total)),
        nodes: shares(&series),
    })
}

pub(crate) async fn of_tenant(
    context: &Context,
    _caller: &Caller,
    message: GetTenantUsageRequest,
) -> Result<GetTenantUsageResponse, Error> {
    let tenant_id: TenantId = ids::required("tenant_id", &message.tenant_id)?;
    let query = range::read(
        message.start_time.as_ref(),
        message.end_time.as_ref(),
        message.interval,
        context.store.now_ms(),
    )?;
    context.store.tenant(tenant_id).await?;
    let series = context.store.tenant_usage(tenant_id, query).await?;
    Ok(GetTenantUsageResponse {
        points: points(&series),
        total: Some(point(query.from_ms, series.total)),
        nodes: shares(&series),
    })
}

pub(crate) async fn of_node(
    context: &Context,
    _caller: &Caller,
    message: GetNodeUsageRequest,
) -> Result<GetNodeUsageResponse, Error> {
    let tenant_id = ids::optional("tenant_id", &message.tenant_id)?;
    let id: NodeId = ids::required("node_id", &message.node_id)?;
    let query = range::read(
        message.start_time.as_ref(),
        message.end_time.as_ref(),
        message.interval,
        context.store.now_ms(),
    )?;
    // The series knows no owner: a node of somebody else is not found here.
    context.store.node(tenant_id, id).await?;
    let series = context.store.node_usage(id, query).await?;
    Ok(GetNodeUsageResponse {
        points: points(&series),
        total: Some(point(query.from_ms, series.total)),
    })
}

fn points(series: &UsageSeries) -> Vec<UsagePoint> {
    let steps = series.points.iter();
    steps.map(|&(at, usage)| point(at, usage)).collect()
}

fn point(at_ms: i64, usage: Usage) -> UsagePoint {
    UsagePoint {
        start_time: Some(time::timestamp(at_ms)),
        up_bytes: usage.up,
        down_bytes: usage.down,
        billed_bytes: usage.billed.floor_bytes(),
    }
}

fn shares(series: &UsageSeries) -> Vec<UsageShare> {
    let nodes = series.nodes.iter();
    nodes
        .map(|(id, usage)| UsageShare {
            id: id.to_string(),
            up_bytes: usage.up,
            down_bytes: usage.down,
            billed_bytes: usage.billed.floor_bytes(),
        })
        .collect()
}
