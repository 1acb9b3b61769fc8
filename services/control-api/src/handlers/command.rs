//! Commands of nodes.

use uuid::Uuid;
use vpnpanel_api::node::v1::{
    CancelNodeCommandRequest, CancelNodeCommandResponse, CreateNodeCommandRequest,
    CreateNodeCommandResponse, GetNodeCommandRequest, GetNodeCommandResponse,
    ListNodeCommandsRequest, ListNodeCommandsResponse, NodeCommand, NodeCommandKind as WireKind,
    NodeCommandState as WireState,
};
use vpnpanel_domain::{NodeId, TenantId};
use vpnpanel_store::{self as store, CommandKind, CommandState, NewNodeCommand, fresh_id};

use crate::{
    Error,
    caller::Caller,
    context::Context,
    wire::{IntoWire, ids, page::List, time},
};

/// How long a command may wait when the caller does not say: 5 minutes.
const TTL_MS: i64 = 300_000;

pub(crate) async fn create(
    context: &Context,
    caller: &Caller,
    message: CreateNodeCommandRequest,
) -> Result<CreateNodeCommandResponse, Error> {
    let tenant_id: Option<TenantId> = ids::optional("tenant_id", &message.tenant_id)?;
    let request_id: Option<Uuid> = ids::optional("request_id", &message.request_id)?;
    let new = NewNodeCommand {
        id: fresh_id(),
        node_id: ids::required("node_id", &message.node_id)?,
        request_id: request_id.unwrap_or_else(fresh_id),
        kind: kind(message.kind())?,
        ttl_ms: message.ttl.as_ref().map_or(TTL_MS, time::duration_ms),
    };
    let made = context
        .acting(caller)
        .create_node_command(tenant_id, new)
        .await?;
    context.direct.give(&context.store, &made);
    Ok(CreateNodeCommandResponse {
        command: Some(made.into_wire()),
    })
}

pub(crate) async fn cancel(
    context: &Context,
    caller: &Caller,
    message: CancelNodeCommandRequest,
) -> Result<CancelNodeCommandResponse, Error> {
    let tenant_id = ids::optional("tenant_id", &message.tenant_id)?;
    let node_id = ids::required("node_id", &message.node_id)?;
    let id = ids::required("command_id", &message.command_id)?;
    let cancelled = context
        .acting(caller)
        .cancel_node_command(tenant_id, node_id, id)
        .await?;
    Ok(CancelNodeCommandResponse {
        command: Some(cancelled.into_wire()),
    })
}

pub(crate) async fn get(
    context: &Context,
    _caller: &Caller,
    message: GetNodeCommandRequest,
) -> Result<GetNodeCommandResponse, Error> {
    let tenant_id = ids::optional("tenant_id", &message.tenant_id)?;
    let node_id = ids::required("node_id", &message.node_id)?;
    let id = ids::required("command_id", &message.command_id)?;
    let command = context.store.node_command(tenant_id, node_id, id).await?;
    Ok(GetNodeCommandResponse {
        command: Some(command.into_wire()),
    })
}

pub(crate) async fn list(
    context: &Context,
    _caller: &Caller,
    message: ListNodeCommandsRequest,
) -> Result<ListNodeCommandsResponse, Error> {
    let tenant_id = ids::optional("tenant_id", &message.tenant_id)?;
    let node_id: NodeId = ids::required("node_id", &message.node_id)?;
    let list = List::new("node_commands")
        .of(&message.tenant_id)
        .of(&message.node_id);
    let page = list.page(message.page_size, &message.page_token)?;
    let mut commands = context
        .store
        .node_commands(tenant_id, node_id, page.keyset())
        .await?;
    let next_page_token = list.cut(&page, &mut commands, |command| command.id.uuid());
    Ok(ListNodeCommandsResponse {
        commands: commands.into_iter().map(IntoWire::into_wire).collect(),
        next_page_token,
    })
}

impl IntoWire for store::NodeCommand {
    type Wire = NodeCommand;

    fn into_wire(self) -> NodeCommand {
        NodeCommand {
            id: self.id.to_string(),
            node_id: self.node_id.to_string(),
            kind: match self.kind {
                CommandKind::RestartEngine => WireKind::RestartEngine,
                CommandKind::CollectLogs => WireKind::CollectLogs,
                CommandKind::Drain => WireKind::Drain,
                CommandKind::Resync => WireKind::Resync,
                CommandKind::Cordon => WireKind::Cordon,
                CommandKind::Uncordon => WireKind::Uncordon,
            }
            .into(),
            state: match self.state {
                CommandState::Pending => WireState::Pending,
                CommandState::Sent => WireState::Sent,
                CommandState::Succeeded => WireState::Succeeded,
                CommandState::Failed => WireState::Failed,
                CommandState::Expired => WireState::Expired,
                CommandState::Cancelled => WireState::Cancelled,
            }
            .into(),
            create_time: Some(time::timestamp(self.created_at_ms)),
            expire_time: Some(time::timestamp(self.expires_at_ms)),
            send_time: self.sent_at_ms.map(time::timestamp),
            end_time: self.ended_at_ms.map(time::timestamp),
            message: self.message,
            output: self.output,
        }
    }
}

fn kind(kind: WireKind) -> Result<CommandKind, Error> {
    match kind {
        WireKind::Unspecified => Err(Error::field("kind", "is required")),
        WireKind::RestartEngine => Ok(CommandKind::RestartEngine),
        WireKind::CollectLogs => Ok(CommandKind::CollectLogs),
        WireKind::Drain => Ok(CommandKind::Drain),
        WireKind::Resync => Ok(CommandKind::Resync),
        WireKind::Cordon => Ok(CommandKind::Cordon),
        WireKind::Uncordon => Ok(CommandKind::Uncordon),
    }
}
