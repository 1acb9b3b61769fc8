//! Restores of older databases: what is awaited, that there was one, and nodes that are given up.

use vpnpanel_api::node::v1::{
    AwaitedNode, DeclareRestoreRequest, DeclareRestoreResponse, GetRestoreRequest,
    GetRestoreResponse, WriteOffNodeRequest, WriteOffNodeResponse,
};
use vpnpanel_domain::{NodeId, TenantId};
use vpnpanel_store as store;

use crate::{
    Error,
    caller::Caller,
    context::Context,
    wire::{IntoWire, ids, page::List, time},
};

pub(crate) async fn get(
    context: &Context,
    _caller: &Caller,
    message: GetRestoreRequest,
) -> Result<GetRestoreResponse, Error> {
    let list = List::new("awaited_nodes");
    let page = list.page(message.page_size, &message.page_token)?;
    let mut restore = context.store.restore(page.keyset()).await?;
    let next_page_token = list.cut(&page, &mut restore.nodes, |node| node.id.uuid());
    Ok(GetRestoreResponse {
        open: restore.held,
        state_epoch: restore.state_epoch.get(),
        open_time: restore.opened_at_ms.map(time::timestamp),
        close_time: restore.closed_at_ms.map(time::timestamp),
        evidence: restore.evidence,
        node_id: restore
            .node_id
            .map(|node| node.to_string())
            .unwrap_or_default(),
        awaited: restore.awaited,
        nodes: restore.nodes.into_iter().map(IntoWire::into_wire).collect(),
        next_page_token,
    })
}

pub(crate) async fn declare(
    context: &Context,
    caller: &Caller,
    _message: DeclareRestoreRequest,
) -> Result<DeclareRestoreResponse, Error> {
    let epoch = context.acting(caller).declare_restore().await?;
    Ok(DeclareRestoreResponse {
        state_epoch: epoch.get(),
    })
}

pub(crate) async fn write_off(
    context: &Context,
    caller: &Caller,
    message: WriteOffNodeRequest,
) -> Result<WriteOffNodeResponse, Error> {
    let tenant_id: Option<TenantId> = ids::optional("tenant_id", &message.tenant_id)?;
    let id: NodeId = ids::required("node_id", &message.node_id)?;
    let done = context.acting(caller).write_off_node(tenant_id, id).await?;
    Ok(WriteOffNodeResponse {
        leases: done.leases,
        freed_bytes: done.freed.floor_bytes(),
    })
}

impl IntoWire for store::AwaitedNode {
    type Wire = AwaitedNode;

    fn into_wire(self) -> AwaitedNode {
        AwaitedNode {
            node_id: self.id.to_string(),
            tenant_id: self
                .tenant_id
                .map(|tenant| tenant.to_string())
                .unwrap_or_default(),
            name: self.name,
            connected: self.connected,
            last_seen_time: self.seen_at_ms.map(time::timestamp),
        }
    }
}
