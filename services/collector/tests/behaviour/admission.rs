//! Who is let in: the certificate decides, and nothing else.

use vpnpanel_domain::NodeId;
use vpnpanel_runtime::{PeerIdentity, tls::Credentials};
use vpnpanel_store::{fresh_id, testing::TestStore};

use crate::{
    agent::{Disk, Link, reason},
    fleet::{Fleet, authority, leaf},
};

const MONTH_MS: i64 = 30 * 86_400_000;

/// What becomes of a stream that shows these credentials.
async fn outcome(fleet: &Fleet, credentials: Option<Credentials>) -> (tonic::Code, String) {
    match Link::open(fleet.channel(credentials)).await {
        Err(status) => reason(&status),
        Ok(_) => panic!("let in"),
    }
}

fn refused() -> (tonic::Code, String) {
    (
        tonic::Code::PermissionDenied,
        "CERTIFICATE_REFUSED".to_owned(),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_certificate_of_this_installation_no_connection_comes_about() {
    let fleet = Fleet::new(TestStore::sqlite().await).await;
    let node = fleet.node().await;
    let now = fleet.test.clock.now_ms();
    let identity = PeerIdentity::Node {
        tenant: Some(fleet.tenant.uuid()),
        node: node.id.uuid(),
    };
    let sealer = vpnpanel_pki::Sealer::new(&vpnpanel_pki::MasterKey::from_bytes([9; 32])).unwrap();
    let (foreign, _) = authority(&sealer, now);
    let (of_foreign_authority, _) = leaf(&foreign, &identity, now);
    let (expired, _) = leaf(&fleet.authority, &identity, now - 3 * MONTH_MS);
    for credentials in [None, Some(of_foreign_authority), Some(expired)] {
        let (_, reason) = outcome(&fleet, credentials).await;
        assert_eq!(reason, "", "refused by TLS, before any handler");
    }
    assert_eq!(fleet.store.stream_generation(node.id).await.unwrap(), None);
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_is_not_the_nodes_own_current_one_is_refused() {
    let fleet = Fleet::new(TestStore::sqlite().await).await;
    let (node, other) = (fleet.node().await, fleet.node().await);
    let now = fleet.test.clock.now_ms();
    // signed by the right authority, but never issued by control-api
    let stranger: NodeId = fresh_id();
    for id in [node.id, stranger] {
        let identity = PeerIdentity::Node {
            tenant: Some(fleet.tenant.uuid()),
            node: id.uuid(),
        };
        let (never_issued, _) = leaf(&fleet.authority, &identity, now);
        assert_eq!(outcome(&fleet, Some(never_issued)).await, refused());
    }
    // the same node under another owner's name
    let shared = PeerIdentity::Node {
        tenant: None,
        node: node.id.uuid(),
    };
    let (other_owner, _) = leaf(&fleet.authority, &shared, now);
    assert_eq!(outcome(&fleet, Some(other_owner)).await, refused());
    // replaced by a newer one
    let replaced = node.credentials.clone();
    fleet.enrol(node.id).await;
    assert_eq!(outcome(&fleet, Some(replaced)).await, refused());
    // a service of the control plane is no node
    let service = fleet
        .authority
        .issue_service("gateway", &[], now)
        .unwrap()
        .credentials;
    let (code, _) = outcome(&fleet, Some(service)).await;
    assert_eq!(code, tonic::Code::PermissionDenied);
    // and nobody else was in the way of the rightful one
    let (_link, _) = Link::greet(fleet.channel(Some(other.credentials)), &Disk::new()).await;
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_stream_is_cut_when_its_certificate_is_revoked() {
    let fleet = Fleet::new(TestStore::sqlite().await).await;
    let node = fleet.node().await;
    let (mut link, _) =
        Link::greet(fleet.channel(Some(node.credentials.clone())), &Disk::new()).await;
    let revoked = fleet
        .store
        .revoke_node_certificates(Some(fleet.tenant), node.id);
    revoked.await.unwrap();
    assert_eq!(reason(&link.end().await), refused());
    assert_eq!(outcome(&fleet, Some(node.credentials)).await, refused());
    fleet.stop().await;
}
