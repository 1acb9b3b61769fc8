//! The log of a node's agent: from the agent itself, or as a command has collected it.

use std::time::Duration;

use tokio::{sync::mpsc, time::interval};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};
use vpnpanel_api::{
    agent::v1::StreamLogsResponse,
    node::v1::{StreamNodeLogsRequest, StreamNodeLogsResponse},
};
use vpnpanel_domain::{NodeId, TenantId};
use vpnpanel_store::{CommandKind, CommandState, NewNodeCommand, Node, Store, fresh_id};

use crate::{
    Error, caller::Caller, context::Context, direct::Unreached, reader::Reader, wire::ids,
};

pub(crate) type Log = ReceiverStream<Result<StreamNodeLogsResponse, Status>>;

/// Messages that wait for a slow reader; behind them the agent waits, and its log goes on.
const WAITING: usize = 4;
/// How often it is looked whether the reader still may read.
const RECHECK: Duration = Duration::from_secs(15);
/// How long a node has to bring its log over the link.
const COLLECT_MS: i64 = 30_000;
/// How often it is looked for.
const POLL: Duration = Duration::from_millis(250);

pub(crate) async fn stream(
    context: &Context,
    caller: &Caller,
    message: StreamNodeLogsRequest,
) -> Result<Log, Error> {
    let tenant_id: Option<TenantId> = ids::optional("tenant_id", &message.tenant_id)?;
    let node_id: NodeId = ids::required("node_id", &message.node_id)?;
    let node = context.store.node(tenant_id, node_id).await?;
    let reader = Reader::new(context, caller, "node.write", tenant_id)?;
    let (to, log) = mpsc::channel(WAITING);
    match context.direct.log(&node, message.follow).await {
        Ok(lines) => {
            tokio::spawn(pass_on(lines, reader, to));
        }
        Err(error) => {
            if !matches!(error, Unreached::NoAddress) {
                tracing::info!(event = "node_not_reached", %node_id, %error);
            }
            let collected = collect(&context.acting(caller), &node).await?;
            let lines = StreamNodeLogsResponse {
                lines: collected,
                missed_bytes: 0,
            };
            // There is room: it is the first.
            let _sent = to.try_send(Ok(lines));
        }
    }
    Ok(ReceiverStream::new(log))
}

/// Passes lines on as fast as the reader takes them, for as long as it may have them.
async fn pass_on(
    mut lines: Streaming<StreamLogsResponse>,
    reader: Reader,
    to: mpsc::Sender<Result<StreamNodeLogsResponse, Status>>,
) {
    let mut recheck = interval(RECHECK);
    loop {
        let message = tokio::select! {
            () = to.closed() => return,
            _ = recheck.tick() => match reader.still_may().await {
                Ok(()) => continue,
                Err(error) => Err(error.into()),
            },
            message = lines.message() => match message {
                Ok(None) => return,
                Ok(Some(chunk)) => Ok(StreamNodeLogsResponse {
                    lines: chunk.lines,
                    missed_bytes: chunk.missed_bytes,
                }),
                Err(status) => {
                    tracing::info!(event = "node_log_broke", error = status.message());
                    Err(Error::NodeUnreachable.into())
                }
            },
        };
        let is_last = message.is_err();
        if to.send(message).await.is_err() || is_last {
            return;
        }
    }
}

/// Has the node's link bring the log, and waits for it.
async fn collect(store: &Store, node: &Node) -> Result<String, Error> {
    let states = store.node_states(&[node.id]).await?;
    if !states.get(&node.id).is_some_and(|state| state.connected) {
        return Err(Error::NodeUnreachable);
    }
    let new = NewNodeCommand {
        id: fresh_id(),
        node_id: node.id,
        request_id: fresh_id(),
        kind: CommandKind::CollectLogs,
        ttl_ms: COLLECT_MS,
    };
    let made = store.create_node_command(node.tenant_id, new).await?;
    loop {
        let command = store.node_command(node.tenant_id, node.id, made.id).await?;
        match command.state {
            CommandState::Succeeded => return Ok(command.output),
            CommandState::Pending | CommandState::Sent => tokio::time::sleep(POLL).await,
            CommandState::Failed | CommandState::Expired | CommandState::Cancelled => {
                return Err(Error::NodeUnreachable);
            }
        }
    }
}
