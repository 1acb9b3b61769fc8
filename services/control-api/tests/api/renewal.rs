//! How a node's certificate is followed by the next, and what ends that.

use prost_types::Timestamp;
use rcgen::{KeyPair, SigningKey as _};
use tonic::{Code, Status};
use vpnpanel_api::{
    node::v1::{Node, NodeState, RevokeNodeCertificateRequest, UpdateNodeRequest},
    pki::v1::{RenewedCertificate, SignLapsedNodeRequest, SignRenewingNodeRequest},
};
use vpnpanel_domain::NodeId;
use vpnpanel_runtime::{
    PeerIdentity, TrustDomain,
    tls::{Peer, renewal_statement},
};

use crate::{
    enrollment::{csr, get, join_token, new_key, sign},
    support::{Panel, assert_refused, fields},
};

const DAY_MS: i64 = 86_400_000;

/// An enrolled node, and what its host holds.
struct Host {
    panel: Panel,
    node: Node,
    key: KeyPair,
    certificate: Vec<u8>,
}

fn peer(certificate: &[u8]) -> Peer {
    Peer::from_certificate(&certificate.into(), &TrustDomain::default()).unwrap()
}

impl Host {
    async fn enrol() -> Self {
        Self::enrol_with(&[]).await
    }

    async fn enrol_with(settings: &[(&str, &str)]) -> Self {
        let panel = Panel::start_with(settings).await;
        let owner = panel.default_tenant().await;
        let admin = panel.admin().await;
        let node = admin.new_node("n1", Some(owner)).await;
        let token = join_token(&admin, &node).await.token;
        let key = new_key();
        let signed = sign(&panel, &token, csr(&key)).await.unwrap();
        let host = Self {
            panel,
            node,
            key,
            certificate: signed.certificate_chain_der[0].clone(),
        };
        host.pass(60_000);
        host
    }

    fn pass(&self, ms: i64) {
        self.panel.database.clock.advance(ms);
    }

    fn now_ms(&self) -> i64 {
        self.panel.store.now_ms()
    }

    /// As the collector asks for a node whose handshake it has seen.
    async fn renew(&self, certificate: &[u8], key: &KeyPair) -> Result<RenewedCertificate, Status> {
        let collector = self.panel.service("collector");
        let request = SignRenewingNodeRequest {
            serial: peer(certificate).serial().to_vec(),
            csr_der: csr(key),
        };
        let signed = collector.signer().sign_renewing_node(request).await?;
        Ok(signed.into_inner().certificate.unwrap())
    }

    /// A request of a host whose certificate has ended.
    fn lapsed(&self, key: &KeyPair, signer: &KeyPair, signed_at_ms: i64) -> SignLapsedNodeRequest {
        let csr_der = csr(key);
        let statement = renewal_statement(&self.certificate, &csr_der, signed_at_ms);
        SignLapsedNodeRequest {
            certificate_der: self.certificate.clone(),
            csr_der,
            sign_time: Some(Timestamp {
                seconds: signed_at_ms.div_euclid(1_000),
                nanos: (signed_at_ms.rem_euclid(1_000) * 1_000_000) as i32,
            }),
            signature: signer.sign(&statement).unwrap(),
        }
    }

    async fn prove(&self, request: SignLapsedNodeRequest) -> Result<RenewedCertificate, Status> {
        let collector = self.panel.service("collector");
        let signed = collector.signer().sign_lapsed_node(request).await?;
        Ok(signed.into_inner().certificate.unwrap())
    }

    async fn prove_now(&self, key: &KeyPair) -> Result<RenewedCertificate, Status> {
        self.prove(self.lapsed(key, &self.key, self.now_ms())).await
    }

    async fn is_good(&self, certificate: &[u8]) -> bool {
        let serial = peer(certificate).serial().to_vec();
        let good = self.panel.store.good_serials([&*serial]).await.unwrap();
        good.contains(&serial)
    }

    async fn set_disabled(&self, disabled: bool) {
        let admin = self.panel.admin().await;
        let request = UpdateNodeRequest {
            node: Some(Node {
                id: self.node.id.clone(),
                tenant_id: self.node.tenant_id.clone(),
                disabled,
                ..Node::default()
            }),
            update_mask: Some(prost_types::FieldMask {
                paths: vec!["disabled".to_owned()],
            }),
        };
        admin.nodes().update_node(admin.ask(request)).await.unwrap();
    }
}

fn leaf(certificate: &RenewedCertificate) -> &[u8] {
    &certificate.certificate_chain_der[0]
}

#[tokio::test]
async fn a_node_is_given_its_next_certificate_while_the_present_one_stays_good() {
    let host = Host::enrol().await;
    let key = new_key();
    let renewed = host.renew(&host.certificate, &key).await.unwrap();
    assert_eq!(renewed.node_id, host.node.id);
    let next = peer(leaf(&renewed));
    let identity = PeerIdentity::Node {
        tenant: Some(host.node.tenant_id.parse().unwrap()),
        node: host.node.id.parse().unwrap(),
    };
    assert_eq!(*next.identity(), identity);
    let life = next.not_after_unix() - next.not_before_unix();
    assert_eq!(life, 7 * 86_400 + 300);
    let ends = renewed.expire_time.unwrap().seconds;
    assert_eq!(ends, next.not_after_unix());
    assert!(host.is_good(&host.certificate).await && host.is_good(leaf(&renewed)).await);

    // The answer was lost, and the node asks again.
    host.pass(DAY_MS);
    let again = host.renew(&host.certificate, &key).await.unwrap();
    assert_eq!(again, renewed);

    let node: NodeId = host.node.id.parse().unwrap();
    let used = host.panel.store.use_next_certificate(node, next.serial());
    assert!(used.await.unwrap());
    assert!(!host.is_good(&host.certificate).await);
    let by_the_old = host.renew(&host.certificate, &new_key()).await;
    assert_refused(by_the_old, Code::Unauthenticated, "CERTIFICATE_REFUSED");
    let shown = get(&host.panel.admin().await, &host.node).await;
    assert_eq!(shown.certificate_expire_time, renewed.expire_time);
}

#[tokio::test]
async fn a_node_that_has_not_renewed_in_time_shows_it_until_it_has() {
    let host = Host::enrol().await;
    let overdue = async || {
        let shown = get(&host.panel.admin().await, &host.node).await;
        shown.certificate_renewal_overdue
    };
    host.pass(5 * DAY_MS);
    assert!(!overdue().await);
    host.pass(DAY_MS / 2);
    assert!(overdue().await);
    host.set_disabled(true).await;
    assert!(!overdue().await, "it is refused anyway");
    host.set_disabled(false).await;
    let renewed = host.renew(&host.certificate, &new_key()).await.unwrap();
    assert!(overdue().await, "the next one is not used yet");
    let node: NodeId = host.node.id.parse().unwrap();
    let next = peer(leaf(&renewed)).serial().to_vec();
    let used = host.panel.store.use_next_certificate(node, &next);
    assert!(used.await.unwrap());
    assert!(!overdue().await);
}

#[tokio::test]
async fn a_renewal_is_for_a_new_key_and_only_the_collector_asks_for_it() {
    let host = Host::enrol().await;
    let same = host.renew(&host.certificate, &host.key).await;
    assert_eq!(fields(same), ["csr_der"]);
    let request = || SignRenewingNodeRequest {
        serial: peer(&host.certificate).serial().to_vec(),
        csr_der: csr(&new_key()),
    };
    let gateway = host.panel.service("gateway");
    let refused = gateway.signer().sign_renewing_node(request()).await;
    assert_eq!(refused.unwrap_err().code(), Code::PermissionDenied);
    let junk = SignRenewingNodeRequest {
        csr_der: b"junk".to_vec(),
        ..request()
    };
    let collector = host.panel.service("collector");
    let refused = collector.signer().sign_renewing_node(junk).await;
    assert_eq!(fields(refused), ["csr_der"]);
    let unknown = SignRenewingNodeRequest {
        serial: vec![1; 16],
        ..request()
    };
    let refused = collector.signer().sign_renewing_node(unknown).await;
    assert_refused(refused, Code::Unauthenticated, "CERTIFICATE_REFUSED");
}

#[tokio::test]
async fn certificates_live_as_long_as_the_settings_say() {
    let host = Host::enrol_with(&[("VPNPANEL_NODE_CERTIFICATE_LIFETIME", "2m")]).await;
    let first = peer(&host.certificate);
    assert_eq!(first.not_after_unix() - first.not_before_unix(), 132);
    let renewed = host.renew(&host.certificate, &new_key()).await.unwrap();
    let second = peer(leaf(&renewed));
    assert_eq!(second.not_after_unix() - second.not_before_unix(), 132);
}

#[tokio::test]
async fn a_certificate_that_has_ended_is_renewed_by_its_key_for_two_weeks() {
    let host = Host::enrol().await;
    host.pass(20 * DAY_MS);
    let key = new_key();
    let renewed = host.prove_now(&key).await.unwrap();
    assert_eq!(renewed.node_id, host.node.id);
    assert!(host.is_good(leaf(&renewed)).await);
    // Asked again, with another proof of the same key, a lost answer is given again.
    host.pass(1_000);
    assert_eq!(host.prove_now(&key).await.unwrap(), renewed);

    let late = Host::enrol().await;
    late.pass(21 * DAY_MS);
    let refused = late.prove_now(&new_key()).await.unwrap_err();
    assert!(refused.message().contains("enrol this host again"));
    assert_refused::<()>(Err(refused), Code::FailedPrecondition, "ENROLMENT_REQUIRED");
}

#[tokio::test]
async fn another_key_proves_nothing() {
    let host = Host::enrol().await;
    host.pass(8 * DAY_MS);
    let refused = |answer| assert_refused(answer, Code::Unauthenticated, "PROOF_REFUSED");
    let (thief, now_ms) = (new_key(), host.now_ms());
    refused(host.prove(host.lapsed(&thief, &thief, now_ms)).await);
    // A proof of the right key, for something else than what is asked.
    let good = || host.lapsed(&new_key(), &host.key, now_ms);
    let swapped = SignLapsedNodeRequest {
        csr_der: csr(&thief),
        ..good()
    };
    refused(host.prove(swapped).await);
    let mut later = good();
    later.sign_time.as_mut().unwrap().seconds += 1;
    refused(host.prove(later).await);
    let junk = SignLapsedNodeRequest {
        signature: vec![7; 70],
        ..good()
    };
    refused(host.prove(junk).await);
    // Another certificate, altered or of a foreign authority.
    let mut altered = good();
    *altered.certificate_der.last_mut().unwrap() ^= 1;
    let foreign = SignLapsedNodeRequest {
        certificate_der: Host::enrol().await.certificate,
        ..good()
    };
    let junk = SignLapsedNodeRequest {
        certificate_der: b"junk".to_vec(),
        ..good()
    };
    for certificate in [altered, foreign, junk] {
        let answer = host.prove(certificate).await;
        assert_refused(answer, Code::Unauthenticated, "CERTIFICATE_REFUSED");
    }
    host.prove(good()).await.unwrap();
}

#[tokio::test]
async fn a_proof_is_good_once_and_for_minutes() {
    let host = Host::enrol().await;
    host.pass(8 * DAY_MS);
    for off_ms in [-301_000, 420_000] {
        let stale = host.lapsed(&new_key(), &host.key, host.now_ms() + off_ms);
        let answer = host.prove(stale).await;
        assert_refused(answer, Code::Unauthenticated, "PROOF_STALE");
    }
    let signed_at_ms = host.now_ms() - 180_000;
    let request = host.lapsed(&new_key(), &host.key, signed_at_ms);
    host.prove(request.clone()).await.unwrap();
    let replayed = host.prove(request).await;
    assert_refused(replayed, Code::Unauthenticated, "PROOF_REPLAYED");
    let older = host.lapsed(&new_key(), &host.key, signed_at_ms - 1);
    let answer = host.prove(older).await;
    assert_refused(answer, Code::Unauthenticated, "PROOF_REPLAYED");
}

#[tokio::test]
async fn a_disabled_node_is_given_none_until_it_is_enabled() {
    let host = Host::enrol().await;
    host.set_disabled(true).await;
    let refused = |answer| assert_refused(answer, Code::FailedPrecondition, "NODE_DISABLED");
    refused(host.renew(&host.certificate, &new_key()).await);
    refused(host.prove_now(&new_key()).await);
    host.set_disabled(false).await;
    host.renew(&host.certificate, &new_key()).await.unwrap();
}

#[tokio::test]
async fn a_revoked_certificate_is_not_renewed_and_its_host_enrols_again() {
    let host = Host::enrol().await;
    let admin = host.panel.admin().await;
    let renewed = host.renew(&host.certificate, &new_key()).await.unwrap();
    let request = RevokeNodeCertificateRequest {
        tenant_id: host.node.tenant_id.clone(),
        node_id: host.node.id.clone(),
    };
    let unowned = RevokeNodeCertificateRequest {
        tenant_id: String::new(),
        ..request.clone()
    };
    let mut nodes = admin.nodes();
    let refused = nodes.revoke_node_certificate(admin.ask(unowned)).await;
    assert_refused(refused, Code::NotFound, "NODE_NOT_FOUND");
    let revoked = nodes.revoke_node_certificate(admin.ask(request)).await;
    revoked.unwrap();

    assert!(!host.is_good(&host.certificate).await && !host.is_good(leaf(&renewed)).await);
    let refused = |answer| assert_refused(answer, Code::Unauthenticated, "CERTIFICATE_REFUSED");
    refused(host.renew(&host.certificate, &new_key()).await);
    refused(host.prove_now(&new_key()).await);
    let shown = get(&admin, &host.node).await;
    assert_eq!(shown.state(), NodeState::Pending);
    assert_eq!(shown.certificate_expire_time, None);

    let token = join_token(&admin, &host.node).await.token;
    let signed = sign(&host.panel, &token, csr(&new_key())).await.unwrap();
    assert!(host.is_good(&signed.certificate_chain_der[0]).await);
    assert!(!host.is_good(&host.certificate).await);
}
