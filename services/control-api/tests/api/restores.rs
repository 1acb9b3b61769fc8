//! A database that was restored from an older backup, and the log of certificates that was not.

use vpnpanel_api::node::v1::{DeleteNodeRequest, Node, RevokeNodeCertificateRequest};
use vpnpanel_domain::NodeId;
use vpnpanel_runtime::{TrustDomain, tls::Peer};
use vpnpanel_store::{Page, Store};

use crate::{
    enrollment::{csr, join_token, new_key, sign},
    support::{Caller, Panel},
};

fn serial(certificate: &[u8]) -> Vec<u8> {
    let peer = Peer::from_certificate(&certificate.into(), &TrustDomain::default());
    peer.unwrap().serial().to_vec()
}

fn id(node: &Node) -> NodeId {
    node.id.parse().unwrap()
}

/// The serial of a host that enrols as the node.
async fn enrol(panel: &Panel, admin: &Caller, node: &Node) -> Vec<u8> {
    let token = join_token(admin, node).await.token;
    let signed = sign(panel, &token, csr(&new_key())).await.unwrap();
    serial(&signed.certificate_chain_der[0])
}

/// The serial of the certificate that follows one.
async fn renew(panel: &Panel, shown: &[u8]) -> Vec<u8> {
    let collector = panel.service("collector");
    let request = vpnpanel_api::pki::v1::SignRenewingNodeRequest {
        serial: shown.to_vec(),
        csr_der: csr(&new_key()),
    };
    let signed = collector.signer().sign_renewing_node(request).await;
    let certificate = signed.unwrap().into_inner().certificate.unwrap();
    serial(&certificate.certificate_chain_der[0])
}

async fn good(store: &Store, serial: &[u8]) -> bool {
    let good = store.good_serials([serial]).await.unwrap();
    good.contains(serial)
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_restore_hosts_are_let_in_as_they_were_and_the_revoked_stay_out() {
    let panel = Panel::start().await;
    let admin = panel.admin().await;
    let mut nodes = Vec::new();
    for name in ["renewed", "revoked", "enrolled", "deleted", "untouched"] {
        let node = admin.new_node(name, None).await;
        let first = enrol(&panel, &admin, &node).await;
        nodes.push((node, first));
    }
    let [renewed, revoked, enrolled, deleted, untouched] = &nodes[..] else {
        panic!("five nodes");
    };
    panel.database.clock.advance(60_000);
    let backup = panel.database.copy().await;

    panel.database.clock.advance(60_000);
    let second = renew(&panel, &renewed.1).await;
    let used = panel.store.use_next_certificate(id(&renewed.0), &second);
    assert!(used.await.unwrap());
    panel.database.clock.advance(60_000);
    let third = renew(&panel, &second).await;
    let of_revoked = renew(&panel, &revoked.1).await;
    let request = RevokeNodeCertificateRequest {
        node_id: revoked.0.id.clone(),
        ..RevokeNodeCertificateRequest::default()
    };
    let mut asking = admin.nodes();
    let done = asking.revoke_node_certificate(admin.ask(request)).await;
    done.unwrap();
    let again = enrol(&panel, &admin, &enrolled.0).await;
    let request = DeleteNodeRequest {
        node_id: deleted.0.id.clone(),
        ..DeleteNodeRequest::default()
    };
    admin.nodes().delete_node(admin.ask(request)).await.unwrap();
    let new = admin.new_node("new", None).await;
    let of_new = enrol(&panel, &admin, &new).await;

    let store = &backup.store;
    let done = panel.certificates.reconcile(store, &panel.authority).await;
    let done = done.unwrap();
    assert_eq!((done.issued, done.revoked), (4, 3), "{done:?}");
    assert_eq!((done.foreign, done.damaged, done.passed_over), (0, 0, 0));
    assert_eq!(done.unknown_nodes, [id(&new)].into());

    for (serial, may) in [
        (&renewed.1, false),
        (&second, true),
        (&third, true),
        (&revoked.1, false),
        (&of_revoked, false),
        (&enrolled.1, false),
        (&again, true),
        (&deleted.1, false),
        (&of_new, false),
        (&untouched.1, true),
    ] {
        assert_eq!(good(store, serial).await, may, "{}", hex::encode(serial));
    }
    assert_eq!(store.identity_of(&of_new).await.unwrap(), None);
    // It is on record, once; and there is nothing more to take in.
    let filter = vpnpanel_store::AuditFilter {
        actor: Some("system:control-api/certificate-log".to_owned()),
        ..Default::default()
    };
    let events = store.audit_events(None, &filter, Page::first(20)).await;
    assert_eq!(events.unwrap().len(), 4);
    let again = panel.certificates.reconcile(store, &panel.authority).await;
    let again = again.unwrap();
    assert_eq!((again.issued, again.revoked), (0, 0));
    assert_eq!(again.unknown_nodes, [id(&new)].into());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_knows_everything_is_left_as_it_is() {
    let panel = Panel::start().await;
    let admin = panel.admin().await;
    let node = admin.new_node("n1", None).await;
    let first = enrol(&panel, &admin, &node).await;
    panel.database.clock.advance(60_000);
    renew(&panel, &first).await;
    let before = panel.store.node_certificates(id(&node)).await.unwrap();
    let done = panel
        .certificates
        .reconcile(&panel.store, &panel.authority)
        .await;
    assert_eq!(done.unwrap(), Default::default());
    // Another replica looks at its start.
    let other = panel.another(&[]).await;
    let after = other.store.node_certificates(id(&node)).await.unwrap();
    assert_eq!(before, after);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_authority_signed_is_not_taken_in() {
    let (panel, other) = (Panel::start().await, Panel::start().await);
    let admin = other.admin().await;
    let node = admin.new_node("n1", None).await;
    let theirs = enrol(&other, &admin, &node).await;
    let done = other
        .certificates
        .reconcile(&panel.store, &panel.authority)
        .await
        .unwrap();
    assert_eq!((done.issued, done.foreign), (0, 1));
    assert!(done.unknown_nodes.is_empty());
    assert!(!good(&panel.store, &theirs).await);
}
