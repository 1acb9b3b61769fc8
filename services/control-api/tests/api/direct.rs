//! Nodes that are reached directly, at their control addresses.

use std::{
    pin::Pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures::{Stream, StreamExt as _};
use rcgen::PublicKeyData as _;
use tonic::{Code, Request, Response, Status, service::Routes};
use vpnpanel_api::{
    agent::v1::{
        CommandOutcome, CommandResult, GetStatusRequest, GetStatusResponse, RunCommandRequest,
        RunCommandResponse, StreamLogsRequest, StreamLogsResponse,
        node_control_service_server::{NodeControlService, NodeControlServiceServer},
    },
    node::v1::{
        CancelNodeCommandRequest, CreateNodeCommandRequest, GetNodeCommandRequest, Node,
        NodeCommand, NodeCommandKind, NodeCommandState, SetNodeControlAddressRequest,
        StreamNodeLogsRequest,
    },
};
use vpnpanel_auth::Role;
use vpnpanel_runtime::{
    Grpc, PeerIdentity, Service, Supervisor, TrustDomain,
    settings::ListenAddr,
    tls::{Credentials, ServerTls, TrustBundle},
};

use crate::{
    enrollment::new_key,
    support::{Caller, Panel, assert_refused, fields},
};

/// A node's agent, as far as its own server goes.
#[derive(Clone, Default)]
struct Agent {
    node_id: String,
    asked: Arc<Mutex<Vec<RunCommandRequest>>>,
}

#[tonic::async_trait]
impl NodeControlService for Agent {
    async fn get_status(
        &self,
        _: Request<GetStatusRequest>,
    ) -> Result<Response<GetStatusResponse>, Status> {
        Ok(Response::new(GetStatusResponse {
            node_id: self.node_id.clone(),
            ..GetStatusResponse::default()
        }))
    }

    async fn run_command(
        &self,
        request: Request<RunCommandRequest>,
    ) -> Result<Response<RunCommandResponse>, Status> {
        let request = request.into_inner();
        self.asked.lock().unwrap().push(request.clone());
        Ok(Response::new(RunCommandResponse {
            result: Some(CommandResult {
                command_id: request.command_id,
                outcome: CommandOutcome::Succeeded.into(),
                message: "done".to_owned(),
                output: "lines\n".to_owned(),
            }),
        }))
    }

    type StreamLogsStream = Pin<Box<dyn Stream<Item = Result<StreamLogsResponse, Status>> + Send>>;

    async fn stream_logs(
        &self,
        _: Request<StreamLogsRequest>,
    ) -> Result<Response<Self::StreamLogsStream>, Status> {
        let chunk = |lines: &str, missed_bytes| {
            Ok(StreamLogsResponse {
                lines: lines.to_owned(),
                missed_bytes,
            })
        };
        let all = [chunk("before\n", 0), chunk("new\n", 7)];
        Ok(Response::new(Box::pin(futures::stream::iter(all))))
    }
}

/// An agent that listens, with the certificate of a node.
async fn serve(panel: &Panel, agent: &Agent, shows: &Node) -> (Supervisor, String) {
    let key = new_key();
    let identity = PeerIdentity::Node {
        tenant: None,
        node: shows.id.parse().unwrap(),
    };
    let signer = &panel.authority.signer;
    let week = Duration::from_secs(7 * 86_400);
    let now = panel.store.now_ms();
    let issued = signer.issue(&identity, &key.subject_public_key_info(), week, now);
    let credentials = Credentials {
        chain: issued.unwrap().chain,
        key: key.serialize_der().try_into().unwrap(),
    };
    let trust = TrustBundle::new(signer.trust_bundle()).unwrap();
    let tls = ServerTls::mutual(credentials, &trust, TrustDomain::default()).unwrap();
    let mut service = Service::new("node-agent");
    let routes = Routes::new(NodeControlServiceServer::new(agent.clone()));
    let grpc = Grpc::new(routes)
        .listen(ListenAddr::any_loopback())
        .tls(tls);
    service.grpc("control", grpc);
    let mut supervisor = Supervisor::new(Duration::from_secs(5), Duration::ZERO);
    let addresses = supervisor.start(service).await.unwrap();
    let address = addresses.of("control").unwrap().to_string();
    (supervisor, address)
}

async fn set_address(caller: &Caller, node: &Node, address: &str) -> Result<Node, Status> {
    let request = SetNodeControlAddressRequest {
        tenant_id: node.tenant_id.clone(),
        node_id: node.id.clone(),
        control_address: address.to_owned(),
    };
    let mut nodes = caller.nodes();
    let set = nodes.set_node_control_address(caller.ask(request)).await?;
    Ok(set.into_inner().node.unwrap())
}

async fn give(caller: &Caller, node: &Node, kind: NodeCommandKind) -> NodeCommand {
    let request = CreateNodeCommandRequest {
        node_id: node.id.clone(),
        kind: kind.into(),
        ..CreateNodeCommandRequest::default()
    };
    let made = caller
        .nodes()
        .create_node_command(caller.ask(request))
        .await;
    made.unwrap().into_inner().command.unwrap()
}

async fn get(caller: &Caller, command: &NodeCommand) -> NodeCommand {
    let request = GetNodeCommandRequest {
        node_id: command.node_id.clone(),
        command_id: command.id.clone(),
        ..GetNodeCommandRequest::default()
    };
    let got = caller.nodes().get_node_command(caller.ask(request)).await;
    got.unwrap().into_inner().command.unwrap()
}

async fn cancel(caller: &Caller, command: &NodeCommand) -> Result<NodeCommand, Status> {
    let request = CancelNodeCommandRequest {
        node_id: command.node_id.clone(),
        command_id: command.id.clone(),
        ..CancelNodeCommandRequest::default()
    };
    let mut nodes = caller.nodes();
    let cancelled = nodes.cancel_node_command(caller.ask(request)).await?;
    Ok(cancelled.into_inner().command.unwrap())
}

/// Waits until something is as it should be.
async fn ended(caller: &Caller, command: &NodeCommand) -> NodeCommand {
    loop {
        let got = get(caller, command).await;
        if !matches!(
            got.state(),
            NodeCommandState::Pending | NodeCommandState::Sent
        ) {
            return got;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn log(caller: &Caller, node: &Node) -> Result<Vec<(String, u64)>, Status> {
    let request = StreamNodeLogsRequest {
        node_id: node.id.clone(),
        ..StreamNodeLogsRequest::default()
    };
    let stream = caller.nodes().stream_node_logs(caller.ask(request)).await?;
    let chunks = stream.into_inner().map(|chunk| {
        let chunk = chunk.unwrap();
        (chunk.lines, chunk.missed_bytes)
    });
    Ok(chunks.collect().await)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_reached_is_given_its_commands_and_asked_for_its_log_directly() {
    let panel = Panel::start().await;
    let admin = panel.admin().await;
    let node = admin.new_node("n1", None).await;
    let agent = Agent {
        node_id: node.id.clone(),
        ..Agent::default()
    };
    let (supervisor, address) = serve(&panel, &agent, &node).await;
    // Not before somebody has said where it is, and not a node that has never enrolled: it has no
    // stream, and is told nothing.
    let other = admin.new_node("n2", None).await;
    let waits = give(&admin, &other, NodeCommandKind::CollectLogs).await;
    set_address(&admin, &other, &address).await.unwrap();
    let early = give(&admin, &other, NodeCommandKind::CollectLogs).await;
    let shown = set_address(&admin, &node, &address).await.unwrap();
    assert_eq!(shown.control_address, address);
    crate::enrollment::join(&panel, &admin, &node).await;

    let given = give(&admin, &node, NodeCommandKind::CollectLogs).await;
    let done = ended(&admin, &given).await;
    assert_eq!(done.state(), NodeCommandState::Succeeded);
    assert_eq!((&*done.message, &*done.output), ("done", "lines\n"));
    assert!(done.send_time.is_some());
    let asked = agent.asked.lock().unwrap().clone();
    assert_eq!(asked.len(), 1);
    let id: uuid::Uuid = given.id.parse().unwrap();
    assert_eq!(asked[0].command_id, id.as_bytes());
    // What is about the link goes over the link.
    let drain = give(&admin, &node, NodeCommandKind::Drain).await;
    for waiting in [&waits, &early, &drain] {
        assert_eq!(
            get(&admin, waiting).await.state(),
            NodeCommandState::Pending
        );
    }
    let lines = log(&admin, &node).await.unwrap();
    let expected = [("before\n".to_owned(), 0), ("new\n".to_owned(), 7)];
    assert_eq!(lines, expected);
    supervisor.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_not_the_node_is_told_nothing() {
    let panel = Panel::start().await;
    let admin = panel.admin().await;
    let (node, other) = (
        admin.new_node("n1", None).await,
        admin.new_node("n2", None).await,
    );
    crate::enrollment::join(&panel, &admin, &node).await;
    let agent = Agent {
        node_id: node.id.clone(),
        ..Agent::default()
    };
    let (supervisor, address) = serve(&panel, &agent, &other).await;
    set_address(&admin, &node, &address).await.unwrap();
    assert_refused(
        log(&admin, &node).await,
        Code::Unavailable,
        "NODE_UNREACHABLE",
    );
    let given = give(&admin, &node, NodeCommandKind::CollectLogs).await;
    assert_refused(
        log(&admin, &node).await,
        Code::Unavailable,
        "NODE_UNREACHABLE",
    );
    assert_eq!(get(&admin, &given).await.state(), NodeCommandState::Pending);
    assert!(agent.asked.lock().unwrap().is_empty());
    supervisor.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn where_services_connect_to_says_the_platform_alone() {
    let panel = Panel::start().await;
    let (owner, admin) = (panel.default_tenant().await, panel.admin().await);
    let node = admin.new_node("n1", Some(owner)).await;
    let tenants = panel.signed_in(Role::Owner, Some(owner)).await;
    let refused = set_address(&tenants, &node, "192.0.2.1:50061").await;
    assert_eq!(refused.unwrap_err().code(), Code::PermissionDenied);
    for junk in [
        "192.0.2.1",
        "192.0.2.1:0",
        "fe80::1:50061",
        "a b:1",
        ":1",
        "x:99999",
    ] {
        let refused = set_address(&admin, &node, junk).await;
        assert_eq!(fields(refused), ["control_address"], "{junk}");
    }
    for right in [
        "192.0.2.1:50061",
        "[2001:db8::1]:1",
        "n1.example.com:65535",
        "",
    ] {
        let set = set_address(&admin, &node, right).await.unwrap();
        assert_eq!(set.control_address, right);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_is_taken_back_while_nobody_was_given_it() {
    let panel = Panel::start().await;
    let admin = panel.admin().await;
    let node = admin.new_node("n1", None).await;
    crate::enrollment::join(&panel, &admin, &node).await;
    let first = give(&admin, &node, NodeCommandKind::Resync).await;
    for _ in 0..2 {
        let cancelled = cancel(&admin, &first).await.unwrap();
        assert_eq!(cancelled.state(), NodeCommandState::Cancelled);
        assert!(cancelled.end_time.is_some());
    }
    let second = give(&admin, &node, NodeCommandKind::Resync).await;
    let given = panel
        .store
        .give_command_directly(second.node_id.parse().unwrap(), second.id.parse().unwrap());
    assert!(given.await.unwrap());
    let refused = cancel(&admin, &second).await;
    assert_refused(refused, Code::FailedPrecondition, "COMMAND_NOT_PENDING");
    let third = give(&admin, &node, NodeCommandKind::Resync).await;
    panel.database.clock.advance(600_000);
    let refused = cancel(&admin, &third).await;
    assert_refused(refused, Code::FailedPrecondition, "COMMAND_NOT_PENDING");
    let unknown = NodeCommand {
        id: uuid::Uuid::new_v4().to_string(),
        ..third
    };
    assert_eq!(
        cancel(&admin, &unknown).await.unwrap_err().code(),
        Code::NotFound
    );
}
