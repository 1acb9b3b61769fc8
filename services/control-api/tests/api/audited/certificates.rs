//! The audited methods about nodes that run: what follows their first certificate, and their users.

use rcgen::{KeyPair, SigningKey as _};
use vpnpanel_api::{
    Method,
    node::v1::{
        ConfirmNodeRemovalsRequest, ConfirmNodeRemovalsResponse, DeclareRestoreRequest,
        DeclareRestoreResponse, DrainNodeRequest, DrainNodeResponse, Node,
        RevokeNodeCertificateRequest, RevokeNodeCertificateResponse, UndrainNodeRequest,
        UndrainNodeResponse, WriteOffNodeRequest, WriteOffNodeResponse,
    },
    pki::v1::{
        SignLapsedNodeRequest, SignLapsedNodeResponse, SignRenewingNodeRequest,
        SignRenewingNodeResponse,
    },
};
use vpnpanel_runtime::{
    TrustDomain,
    tls::{Peer, renewal_statement},
};

use super::{Expected, Stage, call};
use crate::enrollment::{csr, join_token, new_key, sign};

/// Calls the method as it is meant to be called; `None` where it is another kind of method.
pub(super) async fn perform(
    stage: &mut Stage,
    method: &'static Method,
    id: &str,
) -> Option<Expected> {
    let path = method.path;
    let collector = stage.panel.service("collector");
    let node = match method.name {
        "SignRenewingNode" => {
            let (node, certificate, _) = enrolled(stage, "renewing").await;
            let peer = Peer::from_certificate(&(&*certificate).into(), &TrustDomain::default());
            let request = SignRenewingNodeRequest {
                serial: peer.unwrap().serial().to_vec(),
                csr_der: csr(&new_key()),
            };
            let _signed: SignRenewingNodeResponse = call(&collector, path, id, request).await;
            node
        }
        "SignLapsedNode" => {
            let (node, certificate, key) = enrolled(stage, "lapsed").await;
            let (csr_der, now_ms) = (csr(&new_key()), stage.panel.store.now_ms());
            let now_ms = now_ms / 1_000 * 1_000;
            let statement = renewal_statement(&certificate, &csr_der, now_ms);
            let request = SignLapsedNodeRequest {
                certificate_der: certificate,
                csr_der,
                sign_time: Some(prost_types::Timestamp {
                    seconds: now_ms / 1_000,
                    nanos: 0,
                }),
                signature: key.sign(&statement).unwrap(),
            };
            let _signed: SignLapsedNodeResponse = call(&collector, path, id, request).await;
            node
        }
        "RevokeNodeCertificate" => {
            let (node, ..) = enrolled(stage, "revoked").await;
            let request = RevokeNodeCertificateRequest {
                node_id: node.id.clone(),
                ..RevokeNodeCertificateRequest::default()
            };
            let admin = stage.admin.clone();
            let _done: RevokeNodeCertificateResponse = call(&admin, path, id, request).await;
            return Some(stage.done("node", &node.id));
        }
        "ConfirmNodeRemovals" => {
            let node = stage.admin.new_node("emptied", None).await;
            let request = ConfirmNodeRemovalsRequest {
                node_id: node.id.clone(),
                ..ConfirmNodeRemovalsRequest::default()
            };
            let admin = stage.admin.clone();
            let until: ConfirmNodeRemovalsResponse = call(&admin, path, id, request).await;
            assert!(until.expire_time.is_some());
            return Some(stage.done("node", &node.id));
        }
        "DrainNode" => {
            let node = stage.admin.new_node("drained", None).await;
            let request = DrainNodeRequest {
                node_id: node.id.clone(),
                ..DrainNodeRequest::default()
            };
            let admin = stage.admin.clone();
            let drained: DrainNodeResponse = call(&admin, path, id, request).await;
            assert!(drained.node.is_some_and(|node| node.draining));
            return Some(stage.done("node", &node.id));
        }
        "UndrainNode" => {
            let node = stage.admin.new_node("undrained", None).await;
            let request = UndrainNodeRequest {
                node_id: node.id.clone(),
                ..UndrainNodeRequest::default()
            };
            let admin = stage.admin.clone();
            let undrained: UndrainNodeResponse = call(&admin, path, id, request).await;
            assert!(undrained.node.is_some_and(|node| !node.draining));
            return Some(stage.done("node", &node.id));
        }
        "WriteOffNode" => {
            let node = stage.admin.new_node("lost", None).await;
            let request = WriteOffNodeRequest {
                node_id: node.id.clone(),
                ..WriteOffNodeRequest::default()
            };
            let admin = stage.admin.clone();
            let freed: WriteOffNodeResponse = call(&admin, path, id, request).await;
            assert_eq!((freed.leases, freed.freed_bytes), (0, 0));
            return Some(stage.done("node", &node.id));
        }
        "DeclareRestore" => {
            let admin = stage.admin.clone();
            let restore: DeclareRestoreResponse =
                call(&admin, path, id, DeclareRestoreRequest::default()).await;
            return Some(stage.done("restore", &restore.state_epoch.to_string()));
        }
        _ => return None,
    };
    Some(Expected {
        actor: "service:collector".to_owned(),
        ..stage.done("node", &node.id)
    })
}

/// A node, its certificate and key, long enough ago.
async fn enrolled(stage: &mut Stage, name: &str) -> (Node, Vec<u8>, KeyPair) {
    let node = stage.admin.new_node(name, None).await;
    let token = join_token(&stage.admin, &node).await.token;
    let key = new_key();
    let signed = sign(&stage.panel, &token, csr(&key)).await.unwrap();
    stage.secrets.push(token);
    stage.panel.database.clock.advance(10_000);
    (node, signed.certificate_chain_der[0].clone(), key)
}
