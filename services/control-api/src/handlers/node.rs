//! Nodes.

use std::time::Duration;

use vpnpanel_api::node::v1::{
    ConfirmNodeRemovalsRequest, ConfirmNodeRemovalsResponse, CreateNodeRequest, CreateNodeResponse,
    DeleteNodeRequest, DeleteNodeResponse, DrainNodeRequest, DrainNodeResponse, Engine,
    GetNodeRequest, GetNodeResponse, GetNodeSyncRequest, GetNodeSyncResponse, ListNodesRequest,
    ListNodesResponse, Node, NodeState as WireState, ResourceError, SetNodeControlAddressRequest,
    SetNodeControlAddressResponse, UndrainNodeRequest, UndrainNodeResponse, UpdateNodeRequest,
    UpdateNodeResponse,
};
use vpnpanel_domain::{Multiplier, NodeId, TenantId};
use vpnpanel_store::{self as store, NewNode, NodePatch, NodeState, fresh_id};

use crate::{
    Error,
    caller::Caller,
    context::Context,
    wire::{IntoWire, etag, ids, mask::Mask, page::List, request, text, time},
};

const CHANGEABLE: &[&str] = &[
    "name",
    "region",
    "address",
    "labels",
    "multiplier_ppm",
    "disabled",
];

pub(crate) async fn create(
    context: &Context,
    caller: &Caller,
    message: CreateNodeRequest,
) -> Result<CreateNodeResponse, Error> {
    let tenant_id: Option<TenantId> = ids::optional("tenant_id", &message.tenant_id)?;
    let key = request::key(
        caller,
        tenant_id,
        "CreateNode",
        &message.request_id,
        &message,
    )?;
    let node = message.node.unwrap_or_default();
    let new = NewNode {
        id: fresh_id(),
        tenant_id,
        name: text::name("node.name", &node.name)?,
        region: node.region,
        address: text::host("node.address", &node.address)?,
        labels: node.labels,
        multiplier: match node.multiplier_ppm {
            0 => Multiplier::ONE,
            ppm => multiplier(ppm)?,
        },
        disabled: node.disabled,
    };
    let made = context
        .acting(caller)
        .create_node(new, &context.vault, key.as_ref())
        .await?;
    Ok(CreateNodeResponse {
        node: Some(shown(context, tenant_id, made.id).await?),
    })
}

pub(crate) async fn get(
    context: &Context,
    _caller: &Caller,
    message: GetNodeRequest,
) -> Result<GetNodeResponse, Error> {
    let tenant_id = ids::optional("tenant_id", &message.tenant_id)?;
    let id = ids::required("node_id", &message.node_id)?;
    Ok(GetNodeResponse {
        node: Some(shown(context, tenant_id, id).await?),
    })
}

pub(crate) async fn list(
    context: &Context,
    _caller: &Caller,
    message: ListNodesRequest,
) -> Result<ListNodesResponse, Error> {
    let tenant_id: Option<TenantId> = ids::optional("tenant_id", &message.tenant_id)?;
    let list = List::new("nodes").of(&message.tenant_id);
    let page = list.page(message.page_size, &message.page_token)?;
    let mut nodes = context.store.nodes(tenant_id, page.keyset()).await?;
    let next_page_token = list.cut(&page, &mut nodes, |node| node.id.uuid());
    let known: Vec<NodeId> = nodes.iter().map(|node| node.id).collect();
    let mut states = context.store.node_states(&known).await?;
    let nodes = nodes
        .into_iter()
        .map(|node| {
            let state = states.remove(&node.id).unwrap_or_default();
            into_wire(node, state)
        })
        .collect();
    Ok(ListNodesResponse {
        nodes,
        next_page_token,
    })
}

pub(crate) async fn update(
    context: &Context,
    caller: &Caller,
    message: UpdateNodeRequest,
) -> Result<UpdateNodeResponse, Error> {
    let node = message.node.unwrap_or_default();
    let tenant_id = ids::optional("node.tenant_id", &node.tenant_id)?;
    let id: NodeId = ids::required("node.id", &node.id)?;
    let mask = Mask::read(message.update_mask.as_ref(), CHANGEABLE)?;
    let name = mask.take("name", !node.name.is_empty(), &node.name);
    let address = mask.take("address", !node.address.is_empty(), &node.address);
    let ppm = mask.take(
        "multiplier_ppm",
        node.multiplier_ppm != 0,
        node.multiplier_ppm,
    );
    let patch = NodePatch {
        name: name.map(|name| text::name("node.name", name)).transpose()?,
        address: address
            .map(|address| text::host("node.address", address))
            .transpose()?,
        multiplier: ppm.map(multiplier).transpose()?,
        disabled: mask.take("disabled", node.disabled, node.disabled),
        region: mask.take("region", !node.region.is_empty(), node.region),
        labels: mask.take("labels", !node.labels.is_empty(), node.labels),
    };
    let version = etag::expected(&node.etag)?;
    let changed = context
        .acting(caller)
        .update_node(tenant_id, id, patch, version, &context.vault)
        .await?;
    Ok(UpdateNodeResponse {
        node: Some(shown(context, tenant_id, changed.id).await?),
    })
}

pub(crate) async fn set_control_address(
    context: &Context,
    caller: &Caller,
    message: SetNodeControlAddressRequest,
) -> Result<SetNodeControlAddressResponse, Error> {
    let tenant_id = ids::optional("tenant_id", &message.tenant_id)?;
    let id = ids::required("node_id", &message.node_id)?;
    let address = text::address("control_address", &message.control_address)?;
    let changed = context
        .acting(caller)
        .set_control_address(tenant_id, id, address)
        .await?;
    Ok(SetNodeControlAddressResponse {
        node: Some(shown(context, tenant_id, changed.id).await?),
    })
}

pub(crate) async fn drain(
    context: &Context,
    caller: &Caller,
    message: DrainNodeRequest,
) -> Result<DrainNodeResponse, Error> {
    let node = set_draining(context, caller, &message.tenant_id, &message.node_id, true).await?;
    Ok(DrainNodeResponse { node: Some(node) })
}

pub(crate) async fn undrain(
    context: &Context,
    caller: &Caller,
    message: UndrainNodeRequest,
) -> Result<UndrainNodeResponse, Error> {
    let node = set_draining(context, caller, &message.tenant_id, &message.node_id, false).await?;
    Ok(UndrainNodeResponse { node: Some(node) })
}

async fn set_draining(
    context: &Context,
    caller: &Caller,
    tenant_id: &str,
    node_id: &str,
    draining: bool,
) -> Result<Node, Error> {
    let tenant_id = ids::optional("tenant_id", tenant_id)?;
    let id = ids::required("node_id", node_id)?;
    let changed = context
        .acting(caller)
        .set_draining(tenant_id, id, draining)
        .await?;
    shown(context, tenant_id, changed.id).await
}

pub(crate) async fn delete(
    context: &Context,
    caller: &Caller,
    message: DeleteNodeRequest,
) -> Result<DeleteNodeResponse, Error> {
    let tenant_id = ids::optional("tenant_id", &message.tenant_id)?;
    let id = ids::required("node_id", &message.node_id)?;
    let version = etag::expected(&message.etag)?;
    context
        .acting(caller)
        .delete_node(tenant_id, id, version)
        .await?;
    context.certificates.revoked(&context.store, id).await?;
    Ok(DeleteNodeResponse {})
}

pub(crate) async fn sync(
    context: &Context,
    _caller: &Caller,
    message: GetNodeSyncRequest,
) -> Result<GetNodeSyncResponse, Error> {
    let tenant_id = ids::optional("tenant_id", &message.tenant_id)?;
    let id = ids::required("node_id", &message.node_id)?;
    let node = context.store.node(tenant_id, id).await?;
    let state = state_of(context, node.id).await?;
    let desired = state.desired.map_or(0, |told| told.get());
    let applied = state.applied.map_or(0, |has| has.revision.get());
    let waited = match state.desired_at_ms {
        Some(told) if applied < desired => context.store.now_ms().saturating_sub(told).max(0),
        _ => 0,
    };
    Ok(GetNodeSyncResponse {
        desired_revision: desired,
        applied_revision: applied,
        lag: Some(time::duration(Duration::from_millis(waited.unsigned_abs()))),
        unacked_batches: state.unacked_batches,
        unacked_bytes: state.unacked_bytes,
        errors: state.refused.into_iter().map(refused).collect(),
        report_awaited: state.awaited,
        suspicion: state.suspicion.unwrap_or_default(),
    })
}

pub(crate) async fn confirm_removals(
    context: &Context,
    caller: &Caller,
    message: ConfirmNodeRemovalsRequest,
) -> Result<ConfirmNodeRemovalsResponse, Error> {
    let tenant_id = ids::optional("tenant_id", &message.tenant_id)?;
    let id = ids::required("node_id", &message.node_id)?;
    let until = context
        .acting(caller)
        .confirm_removals(tenant_id, id)
        .await?;
    Ok(ConfirmNodeRemovalsResponse {
        expire_time: Some(time::timestamp(until)),
    })
}

impl IntoWire for store::Node {
    type Wire = Node;

    /// What is set of a node, without how it is.
    fn into_wire(self) -> Node {
        Node {
            state: WireState::Unspecified.into(),
            ..into_wire(self, NodeState::default())
        }
    }
}

/// A node with how it is.
async fn shown(context: &Context, tenant: Option<TenantId>, id: NodeId) -> Result<Node, Error> {
    let node = context.store.node(tenant, id).await?;
    let state = state_of(context, id).await?;
    Ok(into_wire(node, state))
}

/// How a node is; one that was never heard of is in no state at all.
async fn state_of(context: &Context, id: NodeId) -> Result<NodeState, Error> {
    let mut states = context.store.node_states(&[id]).await?;
    Ok(states.remove(&id).unwrap_or_default())
}

fn into_wire(node: store::Node, state: NodeState) -> Node {
    let doing = if node.disabled {
        WireState::Disabled
    } else if state.quarantined.is_some() {
        WireState::Quarantined
    } else if state.connected {
        WireState::Online
    } else if state.certificate_expires_at_ms.is_some() {
        WireState::Offline
    } else {
        WireState::Pending
    };
    let overdue = state.certificate_overdue && !node.disabled;
    Node {
        id: node.id.to_string(),
        tenant_id: node.tenant_id.map(|id| id.to_string()).unwrap_or_default(),
        name: node.name,
        state: doing.into(),
        region: node.region,
        address: node.address,
        labels: node.labels,
        multiplier_ppm: node.multiplier.ppm(),
        disabled: node.disabled,
        draining: node.draining,
        seen_time: state.seen_at_ms.map(time::timestamp),
        agent_version: state.agent_version,
        engines: state.engines.into_iter().map(engine).collect(),
        certificate_expire_time: state.certificate_expires_at_ms.map(time::timestamp),
        create_time: Some(time::timestamp(node.created_at_ms)),
        update_time: Some(time::timestamp(node.updated_at_ms)),
        etag: etag::of(node.version),
        control_address: node.control_address,
        quarantine_reason: state.quarantined.unwrap_or_default(),
        offline_time: state.offline_at_ms.map(time::timestamp),
        certificate_renewal_overdue: overdue,
    }
}

fn engine(engine: store::Engine) -> Engine {
    Engine {
        kind: engine.kind,
        version: engine.version,
        healthy: engine.healthy,
        problem: engine.problem,
    }
}

fn refused(error: store::ResourceError) -> ResourceError {
    ResourceError {
        kind: error.kind,
        id: error.id,
        message: error.message,
    }
}

fn multiplier(ppm: u32) -> Result<Multiplier, Error> {
    Multiplier::from_ppm(ppm)
        .map_err(|error| Error::field("node.multiplier_ppm", error.to_string()))
}
