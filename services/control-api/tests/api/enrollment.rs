//! How a host becomes a node, and what ends that.

use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use tonic::Code;
use vpnpanel_api::{
    node::v1::{
        CreateJoinTokenRequest, CreateJoinTokenResponse, DeleteNodeRequest, GetNodeRequest,
        GetNodeSyncRequest, Node, NodeState,
    },
    pki::v1::{SignJoiningNodeRequest, SignJoiningNodeResponse},
};
use vpnpanel_runtime::{PeerIdentity, TrustDomain, tls::Peer};

use crate::support::{Caller, Panel, assert_refused, fields};

pub(crate) fn csr(key: &KeyPair) -> Vec<u8> {
    let params = CertificateParams::default();
    params.serialize_request(key).unwrap().der().to_vec()
}

pub(crate) fn new_key() -> KeyPair {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap()
}

pub(crate) async fn join_token(caller: &Caller, node: &Node) -> CreateJoinTokenResponse {
    let request = CreateJoinTokenRequest {
        tenant_id: node.tenant_id.clone(),
        node_id: node.id.clone(),
    };
    let made = caller.nodes().create_join_token(caller.ask(request)).await;
    made.unwrap().into_inner()
}

pub(crate) async fn sign(
    panel: &Panel,
    token: &str,
    csr_der: Vec<u8>,
) -> Result<SignJoiningNodeResponse, tonic::Status> {
    let request = SignJoiningNodeRequest {
        join_token: token.to_owned(),
        csr_der,
    };
    let collector = panel.service("collector");
    let signed = collector
        .signer()
        .sign_joining_node(collector.ask(request))
        .await?;
    Ok(signed.into_inner())
}

/// Has a host enrol as the node.
pub(crate) async fn join(panel: &Panel, caller: &Caller, node: &Node) {
    let token = join_token(caller, node).await.token;
    sign(panel, &token, csr(&new_key())).await.unwrap();
}

pub(crate) async fn get(caller: &Caller, node: &Node) -> Node {
    let request = GetNodeRequest {
        tenant_id: node.tenant_id.clone(),
        node_id: node.id.clone(),
    };
    let got = caller.nodes().get_node(caller.ask(request)).await.unwrap();
    got.into_inner().node.unwrap()
}

#[tokio::test]
async fn a_join_token_becomes_a_certificate_that_names_the_node() {
    let panel = Panel::start().await;
    let tenant = panel.default_tenant().await;
    let admin = panel.admin().await;
    for owner in [None, Some(tenant)] {
        let node = admin.new_node("n1", owner).await;
        assert_eq!(node.state(), NodeState::Pending);
        let token = join_token(&admin, &node).await;
        assert!(token.install_command.contains(&token.token));
        assert!(token.install_command.contains(&token.ca_pin));
        assert_eq!(token.ca_pin, panel.authority.signer.pin());

        let key = new_key();
        let signed = sign(&panel, &token.token, csr(&key)).await.unwrap();
        assert_eq!(signed.node_id, node.id);
        let leaf = signed.certificate_chain_der[0].as_slice().into();
        let peer = Peer::from_certificate(&leaf, &TrustDomain::default()).unwrap();
        let identity = PeerIdentity::Node {
            tenant: owner.map(Into::into),
            node: node.id.parse().unwrap(),
        };
        assert_eq!(*peer.identity(), identity);
        let known = panel.store.identity_of(peer.serial()).await.unwrap();
        assert!(known.unwrap().state.is_good());
        let joined = get(&admin, &node).await;
        assert_eq!(joined.state(), NodeState::Offline);
        assert_eq!(joined.certificate_expire_time, signed.expire_time);
    }
}

#[tokio::test]
async fn a_join_token_is_good_for_one_key_and_until_the_next_token() {
    let panel = Panel::start().await;
    let admin = panel.admin().await;
    let node = admin.new_node("n1", None).await;
    let refused = (Code::Unauthenticated, "JOIN_TOKEN_REFUSED");
    let first = join_token(&admin, &node).await.token;
    let second = join_token(&admin, &node).await.token;
    let key = new_key();
    let superseded = sign(&panel, &first, csr(&key)).await;
    assert_refused(superseded, refused.0, refused.1);
    sign(&panel, &second, csr(&key)).await.unwrap();
    // The answer was lost, the host asks again.
    sign(&panel, &second, csr(&key)).await.unwrap();
    let stolen = sign(&panel, &second, csr(&new_key())).await;
    assert_refused(stolen, refused.0, refused.1);
    for junk in ["vpj_junk", "x"] {
        assert_refused(sign(&panel, junk, csr(&key)).await, refused.0, refused.1);
    }
    let malformed = sign(&panel, &second, b"junk".to_vec()).await;
    assert_eq!(fields(malformed), ["csr_der"]);
}

#[tokio::test]
async fn a_deleted_node_s_certificate_and_token_stop_working() {
    let panel = Panel::start().await;
    let admin = panel.admin().await;
    let node = admin.new_node("n1", None).await;
    let token = join_token(&admin, &node).await.token;
    let key = new_key();
    let signed = sign(&panel, &token, csr(&key)).await.unwrap();
    let delete = DeleteNodeRequest {
        node_id: node.id.clone(),
        ..DeleteNodeRequest::default()
    };
    admin.nodes().delete_node(admin.ask(delete)).await.unwrap();
    let leaf = signed.certificate_chain_der[0].as_slice().into();
    let peer = Peer::from_certificate(&leaf, &TrustDomain::default()).unwrap();
    let known = panel.store.identity_of(peer.serial()).await.unwrap();
    assert!(known.is_none_or(|known| !known.state.is_good()));
    let again = sign(&panel, &token, csr(&key)).await;
    assert_refused(again, Code::Unauthenticated, "JOIN_TOKEN_REFUSED");
}

#[tokio::test]
async fn a_node_that_was_never_heard_of_is_not_behind() {
    let panel = Panel::start().await;
    let admin = panel.admin().await;
    let node = admin.new_node("n1", None).await;
    let request = GetNodeSyncRequest {
        node_id: node.id,
        ..GetNodeSyncRequest::default()
    };
    let sync = admin.nodes().get_node_sync(admin.ask(request)).await;
    let sync = sync.unwrap().into_inner();
    assert_eq!((sync.applied_revision, sync.unacked_bytes), (0, 0));
    assert_eq!(sync.lag.unwrap().seconds, 0);
}

#[tokio::test]
async fn a_node_needs_an_address_that_devices_can_dial() {
    use vpnpanel_api::node::v1::CreateNodeRequest;

    let panel = Panel::start().await;
    let admin = panel.admin().await;
    for address in ["", "https://x", "x:51820", "10.0.0.256"] {
        let request = CreateNodeRequest {
            node: Some(Node {
                name: "n1".to_owned(),
                address: address.to_owned(),
                ..Node::default()
            }),
            ..CreateNodeRequest::default()
        };
        let refused = admin.nodes().create_node(admin.ask(request)).await;
        assert_eq!(fields(refused), ["node.address"], "{address}");
    }
}
