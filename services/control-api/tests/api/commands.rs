//! Commands of nodes, as clients give and see them.

use prost_types::Duration;
use tonic::Code;
use vpnpanel_api::node::v1::{
    CreateNodeCommandRequest, GetNodeCommandRequest, ListNodeCommandsRequest, Node, NodeCommand,
    NodeCommandKind, NodeCommandState,
};
use vpnpanel_auth::Role;

use crate::support::{Caller, Panel, assert_refused, fields};

fn request(node: &Node, kind: NodeCommandKind) -> CreateNodeCommandRequest {
    CreateNodeCommandRequest {
        tenant_id: node.tenant_id.clone(),
        node_id: node.id.clone(),
        kind: kind.into(),
        ..CreateNodeCommandRequest::default()
    }
}

async fn give(
    caller: &Caller,
    request: CreateNodeCommandRequest,
) -> Result<NodeCommand, tonic::Status> {
    let made = caller
        .nodes()
        .create_node_command(caller.ask(request))
        .await?;
    Ok(made.into_inner().command.unwrap())
}

async fn list(caller: &Caller, node: &Node, page_token: String) -> (Vec<NodeCommand>, String) {
    let request = ListNodeCommandsRequest {
        tenant_id: node.tenant_id.clone(),
        node_id: node.id.clone(),
        page_size: 2,
        page_token,
    };
    let listed = caller.nodes().list_node_commands(caller.ask(request)).await;
    let listed = listed.unwrap().into_inner();
    (listed.commands, listed.next_page_token)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_is_given_once_and_shown_by_itself_and_in_pages() {
    let panel = Panel::start().await;
    let owner = panel.default_tenant().await;
    let admin = panel.admin().await;
    let node = admin.new_node("n1", Some(owner)).await;
    let first = CreateNodeCommandRequest {
        ttl: Some(Duration {
            seconds: 60,
            nanos: 0,
        }),
        request_id: uuid::Uuid::new_v4().to_string(),
        ..request(&node, NodeCommandKind::RestartEngine)
    };
    let made = give(&admin, first.clone()).await.unwrap();
    assert_eq!(made.state(), NodeCommandState::Pending);
    assert_eq!(made.node_id, node.id);
    let (from, until) = (made.create_time.unwrap(), made.expire_time.unwrap());
    assert_eq!(until.seconds - from.seconds, 60);
    assert_eq!(give(&admin, first.clone()).await.unwrap(), made);
    let other = CreateNodeCommandRequest {
        kind: NodeCommandKind::Drain.into(),
        ..first
    };
    let reused = give(&admin, other).await;
    assert_refused(reused, Code::InvalidArgument, "REQUEST_ID_REUSED");

    let request_of = |command_id: &str| GetNodeCommandRequest {
        tenant_id: node.tenant_id.clone(),
        node_id: node.id.clone(),
        command_id: command_id.to_owned(),
    };
    let asked = admin.ask(request_of(&made.id));
    let shown = admin.nodes().get_node_command(asked).await.unwrap();
    assert_eq!(shown.into_inner().command, Some(made.clone()));
    let nobodys = request_of(&uuid::Uuid::new_v4().to_string());
    let missing = admin.nodes().get_node_command(admin.ask(nobodys)).await;
    assert_eq!(missing.unwrap_err().code(), Code::NotFound);

    let mut given = vec![made.id];
    for kind in [NodeCommandKind::CollectLogs, NodeCommandKind::Resync] {
        given.push(give(&admin, request(&node, kind)).await.unwrap().id);
    }
    let (page, token) = list(&admin, &node, String::new()).await;
    let (rest, end) = list(&admin, &node, token).await;
    let listed: Vec<_> = page.into_iter().chain(rest).map(|it| it.id).collect();
    assert_eq!((listed, &*end), (given, ""));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_command_or_too_many_is_refused() {
    let panel = Panel::start().await;
    let owner = panel.default_tenant().await;
    let admin = panel.admin().await;
    let node = admin.new_node("n1", Some(owner)).await;
    let none = give(&admin, request(&node, NodeCommandKind::Unspecified)).await;
    assert_eq!(fields(none), ["kind"]);
    let endless = CreateNodeCommandRequest {
        ttl: Some(Duration {
            seconds: 86_401,
            nanos: 0,
        }),
        ..request(&node, NodeCommandKind::Drain)
    };
    assert_eq!(fields(give(&admin, endless).await), ["ttl"]);
    let shared = CreateNodeCommandRequest {
        tenant_id: String::new(),
        ..request(&node, NodeCommandKind::Drain)
    };
    let refused = give(&admin, shared).await;
    assert_eq!(refused.unwrap_err().code(), Code::NotFound);
    let reader = panel.signed_in(Role::Auditor, Some(owner)).await;
    let refused = give(&reader, request(&node, NodeCommandKind::Drain)).await;
    assert_eq!(refused.unwrap_err().code(), Code::PermissionDenied);
    assert_eq!(list(&reader, &node, String::new()).await.0, []);
    for _ in 0..16 {
        let given = give(&admin, request(&node, NodeCommandKind::Drain)).await;
        given.unwrap();
    }
    let refused = give(&admin, request(&node, NodeCommandKind::Drain)).await;
    assert_refused(refused, Code::ResourceExhausted, "TOO_MANY_COMMANDS");
}
