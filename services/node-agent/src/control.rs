//! The agent's own gRPC server: what the control plane may ask a node directly. Callers show a
//! certificate of a control-plane service; another node's certificate is not enough.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};
use vpnpanel_api::agent::v1::node_control_service_server::{
    NodeControlService, NodeControlServiceServer,
};
use vpnpanel_api::agent::v1::{
    GetStatusRequest, GetStatusResponse, RunCommandRequest, RunCommandResponse, StreamLogsRequest,
    StreamLogsResponse,
};
use vpnpanel_api::{Access, Call, Guard, Guarded};
use vpnpanel_link::{Command, CommandAnswer, CommandKind, CommandResult, wire};
use vpnpanel_runtime::PeerIdentity;
use vpnpanel_runtime::logs::{self, Lines};
use vpnpanel_runtime::status::{ErrorCode, Failure};
use vpnpanel_runtime::tls::Peer;

/// Readers of the log at the same time.
const LOG_READERS: usize = 4;
/// After so many bytes a reader of the log has to come again.
const LOG_BYTES: usize = 16 << 20;

/// A command that was given directly, and who waits for what comes of it. It is dropped when the agent
/// cannot write to its disk.
#[derive(Debug)]
pub struct Asked {
    /// What to do.
    pub command: Command,
    /// What came of it.
    pub answer: oneshot::Sender<CommandAnswer>,
}

/// The server, answering from the newest status and handing commands to the node's loop.
pub fn server(
    status: watch::Receiver<GetStatusResponse>,
    commands: mpsc::Sender<Asked>,
) -> NodeControlServiceServer<Guarded<NodeControl, ControlPlaneOnly>> {
    let control = NodeControl {
        status,
        commands,
        log_readers: Arc::new(Semaphore::new(LOG_READERS)),
    };
    NodeControlServiceServer::new(Guarded::new(control, ControlPlaneOnly))
}

/// Answers the control plane.
#[derive(Debug)]
pub struct NodeControl {
    status: watch::Receiver<GetStatusResponse>,
    commands: mpsc::Sender<Asked>,
    log_readers: Arc<Semaphore>,
}

#[tonic::async_trait]
impl NodeControlService for NodeControl {
    async fn get_status(
        &self,
        _request: Request<GetStatusRequest>,
    ) -> Result<Response<GetStatusResponse>, Status> {
        Ok(Response::new(self.status.borrow().clone()))
    }

    async fn run_command(
        &self,
        request: Request<RunCommandRequest>,
    ) -> Result<Response<RunCommandResponse>, Status> {
        let RunCommandRequest {
            command_id,
            kind,
            expire_time,
        } = request.into_inner();
        let command = vpnpanel_api::agent::v1::Command {
            command_id,
            kind,
            expire_time,
        };
        let command = wire::command_from_wire(command).map_err(malformed)?;
        if let Some(CommandKind::Drain | CommandKind::Resync) = command.kind {
            return Err(of_the_link());
        }
        let (answer, answered) = oneshot::channel();
        let id = command.id;
        let asked = Asked { command, answer };
        self.commands.send(asked).await.map_err(|_| stopping())?;
        let answer = answered.await.map_err(|_| stopping())?;
        Ok(Response::new(RunCommandResponse {
            result: Some(wire::result_to_wire(CommandResult { id, answer })),
        }))
    }

    type StreamLogsStream =
        Pin<Box<dyn Stream<Item = Result<StreamLogsResponse, Status>> + Send + 'static>>;

    async fn stream_logs(
        &self,
        request: Request<StreamLogsRequest>,
    ) -> Result<Response<Self::StreamLogsStream>, Status> {
        let turn = Arc::clone(&self.log_readers)
            .try_acquire_owned()
            .map_err(|_| too_many_readers())?;
        let follow = request.into_inner().follow.unwrap_or_default();
        let follow = Duration::try_from(follow).unwrap_or_default();
        // One chunk waits: a reader that is slow is told what it missed, and costs no memory.
        let (lines, stream) = mpsc::channel(1);
        tokio::spawn(send_log(lines, follow, turn));
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }
}

/// Sends what the log remembers, and then what is new, until time or bytes are over or nobody listens.
async fn send_log(
    to: mpsc::Sender<Result<StreamLogsResponse, Status>>,
    follow: Duration,
    _turn: OwnedSemaphorePermit,
) {
    let until = Instant::now() + follow;
    let mut log = logs::follow();
    let mut chunk = log.read();
    let mut sent = 0;
    loop {
        sent += chunk.lines.len();
        if to.send(Ok(response(chunk))).await.is_err() || sent >= LOG_BYTES {
            return;
        }
        chunk = tokio::select! {
            () = tokio::time::sleep_until(until) => return,
            () = to.closed() => return,
            lines = log.next() => lines,
        };
    }
}

fn response(chunk: Lines) -> StreamLogsResponse {
    StreamLogsResponse {
        lines: chunk.lines,
        missed_bytes: chunk.missed_bytes,
    }
}

fn malformed(error: vpnpanel_link::Error) -> Status {
    Failure::invalid_field("command_id", error.to_string()).into_status()
}

fn of_the_link() -> Status {
    let why = "this command is about the node link, and comes over it alone";
    Failure::new(ErrorCode::FailedPrecondition, "LINK_ONLY", why).into_status()
}

fn too_many_readers() -> Status {
    let why = "the log has as many readers as it may have at a time";
    Failure::new(ErrorCode::ResourceExhausted, "TOO_MANY_LOG_READERS", why).into_status()
}

fn stopping() -> Status {
    let why = "the agent stops, or cannot write to its disk";
    Failure::new(ErrorCode::Unavailable, "AGENT_UNAVAILABLE", why).into_status()
}

/// Permits what a method grants to services of the control plane, and nothing else.
#[derive(Debug, Clone, Copy)]
pub struct ControlPlaneOnly;

impl Guard for ControlPlaneOnly {
    fn check(&self, call: Call<'_>) -> impl Future<Output = Result<(), Status>> + Send {
        std::future::ready(decide(&call))
    }
}

fn decide(call: &Call<'_>) -> Result<(), Status> {
    let peer = call.extensions.get::<Peer>().map(Peer::identity);
    if let (
        Access::ControlPlaneCertificate { services },
        Some(PeerIdentity::ControlPlane { service }),
    ) = (call.method.access, peer)
        && services.contains(&service.as_str())
    {
        return Ok(());
    }
    tracing::warn!(
        event = "call_refused",
        method = call.method.path,
        peer = peer.map(ToString::to_string),
    );
    Err(Failure::new(
        ErrorCode::PermissionDenied,
        "CERTIFICATE_REQUIRED",
        "only services of the control plane may call a node",
    )
    .into_status())
}
