//! The agent's own gRPC server: what the control plane may ask a node directly. Callers show a
//! certificate of a control-plane service; another node's certificate is not enough.

use std::future::Future;

use tokio::sync::watch;
use tonic::{Request, Response, Status};
use vpnpanel_api::agent::v1::node_control_service_server::{
    NodeControlService, NodeControlServiceServer,
};
use vpnpanel_api::agent::v1::{GetStatusRequest, GetStatusResponse};
use vpnpanel_api::{Access, Call, Guard, Guarded};
use vpnpanel_runtime::PeerIdentity;
use vpnpanel_runtime::status::{ErrorCode, Failure};
use vpnpanel_runtime::tls::Peer;

/// The server, answering from the newest status.
pub fn server(
    status: watch::Receiver<GetStatusResponse>,
) -> NodeControlServiceServer<Guarded<NodeControl, ControlPlaneOnly>> {
    NodeControlServiceServer::new(Guarded::new(NodeControl { status }, ControlPlaneOnly))
}

/// Answers the control plane.
#[derive(Debug)]
pub struct NodeControl {
    status: watch::Receiver<GetStatusResponse>,
}

#[tonic::async_trait]
impl NodeControlService for NodeControl {
    async fn get_status(
        &self,
        _request: Request<GetStatusRequest>,
    ) -> Result<Response<GetStatusResponse>, Status> {
        Ok(Response::new(self.status.borrow().clone()))
    }
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
