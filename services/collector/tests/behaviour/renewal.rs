//! A node's certificate is followed by the next over the link, on both databases: the one before is
//! good until then, and for nothing afterwards.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use rcgen::{CertificateParams, KeyPair};
use tonic::{Code, Request, Response, Status};
use vpnpanel_api::{
    agent::v1::{RenewRequest, enrollment_service_client::EnrollmentServiceClient},
    pki::v1::{
        RenewedCertificate, SignJoiningNodeRequest, SignJoiningNodeResponse, SignLapsedNodeRequest,
        SignLapsedNodeResponse, SignRenewingNodeRequest, SignRenewingNodeResponse,
        signer_service_server::SignerService,
    },
};
use vpnpanel_link::{Down, IssuedCertificate, RenewalRefusal, Up};
use vpnpanel_pki::{NODE_VALIDITY, csr};
use vpnpanel_runtime::{
    PeerIdentity,
    status::{ErrorCode, Failure},
    tls::{ClientTls, Credentials, TrustBundle},
};
use vpnpanel_store::{
    AuditFilter, CertificateState, NewNodeCertificate, Page, Renewal, ShownCertificate,
    on_each_database, testing::TestStore,
};

use crate::{
    agent::{Disk, Link, reason},
    enrolment::serve,
    fleet::{Fleet, Node, dial, unreachable_signer},
};

on_each_database!(
    a_certificate_is_renewed_over_the_link_and_the_old_one_refused_once_the_new_was_used,
    an_answer_that_was_lost_is_given_again,
    an_agent_that_lost_its_new_key_comes_back_with_the_old_certificate,
    a_copy_with_the_certificate_of_before_is_refused_and_quarantines_the_node,
);

/// Signs for one fleet as control-api does.
#[derive(Clone, Default)]
struct Signer(Arc<Mutex<Option<Signing>>>);

/// What it signs by, and what it was asked.
struct Signing {
    fleet: Arc<Fleet>,
    lapsed: Vec<SignLapsedNodeRequest>,
}

#[async_trait]
impl SignerService for Signer {
    async fn sign_joining_node(
        &self,
        _: Request<SignJoiningNodeRequest>,
    ) -> Result<Response<SignJoiningNodeResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn sign_renewing_node(
        &self,
        request: Request<SignRenewingNodeRequest>,
    ) -> Result<Response<SignRenewingNodeResponse>, Status> {
        let request = request.into_inner();
        let certificate = self.sign(&request.serial, &request.csr_der).await?;
        Ok(Response::new(SignRenewingNodeResponse {
            certificate: Some(certificate),
        }))
    }

    async fn sign_lapsed_node(
        &self,
        request: Request<SignLapsedNodeRequest>,
    ) -> Result<Response<SignLapsedNodeResponse>, Status> {
        let request = request.into_inner();
        let mut signing = self.0.lock().unwrap();
        signing.as_mut().unwrap().lapsed.push(request.clone());
        if request.signature == b"bad" {
            let refused = Failure::new(ErrorCode::Unauthenticated, "PROOF_REFUSED", "refused");
            return Err(refused.into_status());
        }
        Ok(Response::new(SignLapsedNodeResponse {
            certificate: Some(RenewedCertificate {
                node_id: "a-node".to_owned(),
                certificate_chain_der: vec![vec![1]],
                trust_bundle_der: vec![vec![2]],
                trust_bundle_sequence: 3,
                expire_time: None,
            }),
        }))
    }
}

impl Signer {
    async fn sign(&self, serial: &[u8], csr_der: &[u8]) -> Result<RenewedCertificate, Status> {
        let fleet = Arc::clone(&self.0.lock().unwrap().as_ref().unwrap().fleet);
        let public_key = csr::public_key(csr_der).unwrap();
        let known = fleet.store.identity_of(serial).await.unwrap().unwrap();
        let identity = PeerIdentity::Node {
            tenant: known.tenant_id.map(Into::into),
            node: known.node_id.uuid(),
        };
        let now = fleet.test.clock.now_ms();
        let issued = fleet
            .authority
            .issue(&identity, &public_key, NODE_VALIDITY, now)
            .unwrap();
        let new = NewNodeCertificate {
            serial: hex::decode(&issued.serial).unwrap(),
            node_id: known.node_id,
            authority_id: fleet.authority_id,
            // Tells keys apart as a digest would.
            spki_sha256: public_key[27..59].to_vec(),
            certificate_der: issued.chain[0].to_vec(),
            not_before_ms: now,
            not_after_ms: issued.not_after_ms,
        };
        let shown = ShownCertificate {
            serial,
            proof_at_ms: None,
            grace_ms: 0,
        };
        let leaf = match fleet.store.renew_certificate(shown, new).await.unwrap() {
            Renewal::Noted => issued.chain[0].to_vec(),
            Renewal::Before {
                certificate_der, ..
            } => certificate_der,
            Renewal::Refused(refusal) => {
                let why = Failure::new(
                    ErrorCode::Unauthenticated,
                    "CERTIFICATE_REFUSED",
                    refusal.to_string(),
                );
                return Err(why.into_status());
            }
        };
        Ok(RenewedCertificate {
            node_id: known.node_id.to_string(),
            certificate_chain_der: vec![leaf],
            trust_bundle_der: vec![fleet.authority.trust_bundle()[0].to_vec()],
            trust_bundle_sequence: 1,
            expire_time: None,
        })
    }

    /// A fleet that it signs for.
    async fn fleet(&self, test: TestStore) -> Arc<Fleet> {
        let channel = serve(self.clone()).await;
        let fleet = Arc::new(Fleet::with(test, &[], channel).await);
        *self.0.lock().unwrap() = Some(Signing {
            fleet: Arc::clone(&fleet),
            lapsed: Vec::new(),
        });
        fleet
    }

    /// What it was asked for hosts whose certificates have ended.
    fn lapsed(&self) -> Vec<SignLapsedNodeRequest> {
        let signing = self.0.lock().unwrap();
        signing.as_ref().unwrap().lapsed.clone()
    }

    async fn stop(self, fleet: Arc<Fleet>) {
        self.0.lock().unwrap().take();
        Arc::into_inner(fleet).unwrap().stop().await;
    }
}

fn csr_of(key: &KeyPair) -> Vec<u8> {
    let request = CertificateParams::default().serialize_request(key);
    request.unwrap().der().to_vec()
}

type Answer = Result<Box<IssuedCertificate>, RenewalRefusal>;

/// Asks over a stream.
async fn renew(link: &mut Link, key: &KeyPair) -> Answer {
    link.send(Up::RenewalRequest(csr_of(key).into())).await;
    answer(link).await
}

async fn answer(link: &mut Link) -> Answer {
    loop {
        if let Down::RenewalAnswer(answer) = link.next().await.expect("an answer") {
            return answer;
        }
    }
}

fn credentials(issued: &IssuedCertificate, key: &KeyPair) -> Credentials {
    Credentials {
        chain: issued.chain.iter().map(|der| der.to_vec().into()).collect(),
        key: rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
    }
}

/// A node that enrolled some time ago, and a stream of its.
async fn connected(fleet: &Fleet, disk: &Disk) -> (Node, Link) {
    let node = fleet.node().await;
    fleet.test.clock.advance(60_000);
    let (link, _) = Link::greet(fleet.channel(Some(node.credentials.clone())), disk).await;
    (node, link)
}

async fn states(fleet: &Fleet, node: &Node) -> Vec<CertificateState> {
    let mut all = fleet.store.node_certificates(node.id).await.unwrap();
    all.reverse();
    all.into_iter().map(|one| one.state).collect()
}

async fn refused(fleet: &Fleet, credentials: &Credentials) {
    let answer = Link::open(fleet.channel(Some(credentials.clone()))).await;
    let refused = answer.err().map(|status| reason(&status));
    let expected = (Code::PermissionDenied, "CERTIFICATE_REFUSED".to_owned());
    assert_eq!(refused, Some(expected));
}

async fn a_certificate_is_renewed_over_the_link_and_the_old_one_refused_once_the_new_was_used(
    test: TestStore,
) {
    let signer = Signer::default();
    let fleet = signer.fleet(test).await;
    let disk = Disk::new();
    let (node, mut link) = connected(&fleet, &disk).await;
    let key = KeyPair::generate().unwrap();
    let issued = renew(&mut link, &key).await.unwrap();
    assert_eq!(issued.trust_bundle_sequence, 1);
    let both = [CertificateState::Current, CertificateState::Next];
    assert_eq!(states(&fleet, &node).await, both);

    // Seen once, it is the node's own; the stream of the one before ends, and opens no more.
    let new = credentials(&issued, &key);
    let (_second, _) = Link::greet(fleet.channel(Some(new.clone())), &disk).await;
    let moved = [CertificateState::Retired, CertificateState::Current];
    assert_eq!(states(&fleet, &node).await, moved);
    let ended = reason(&link.end().await);
    let either = ["STREAM_SUPERSEDED", "CERTIFICATE_REFUSED"];
    assert!(either.contains(&&*ended.1), "{ended:?}");
    refused(&fleet, &node.credentials).await;
    let (third, _) = Link::greet(fleet.channel(Some(new)), &disk).await;
    drop((_second, third));
    signer.stop(fleet).await;
}

async fn an_answer_that_was_lost_is_given_again(test: TestStore) {
    let signer = Signer::default();
    let fleet = signer.fleet(test).await;
    let disk = Disk::new();
    let (node, link) = connected(&fleet, &disk).await;
    let key = KeyPair::generate().unwrap();
    // The connection breaks before the answer is read.
    link.send(Up::RenewalRequest(csr_of(&key).into())).await;
    drop(link);
    let old = || fleet.channel(Some(node.credentials.clone()));
    let (mut link, _) = Link::greet(old(), &disk).await;
    let first = renew(&mut link, &key).await.unwrap();
    let second = renew(&mut link, &key).await.unwrap();
    assert_eq!(first, second);
    let both = [CertificateState::Current, CertificateState::Next];
    assert_eq!(states(&fleet, &node).await, both);
    let new = credentials(&first, &key);
    let (link, _) = Link::greet(fleet.channel(Some(new)), &disk).await;
    drop(link);
    signer.stop(fleet).await;
}

async fn an_agent_that_lost_its_new_key_comes_back_with_the_old_certificate(test: TestStore) {
    let signer = Signer::default();
    let fleet = signer.fleet(test).await;
    let disk = Disk::new();
    let (node, mut link) = connected(&fleet, &disk).await;
    let lost = KeyPair::generate().unwrap();
    let never_kept = renew(&mut link, &lost).await.unwrap();
    drop(link);

    // Killed before it was durable: the old certificate opens streams, and is renewed for a new key.
    fleet.test.clock.advance(60_000);
    let old = fleet.channel(Some(node.credentials.clone()));
    let (mut link, _) = Link::greet(old, &disk).await;
    let key = KeyPair::generate().unwrap();
    let issued = renew(&mut link, &key).await.unwrap();
    let all = [
        CertificateState::Current,
        CertificateState::Retired,
        CertificateState::Next,
    ];
    assert_eq!(states(&fleet, &node).await, all);
    refused(&fleet, &credentials(&never_kept, &lost)).await;
    let new = fleet.channel(Some(credentials(&issued, &key)));
    let (link, _) = Link::greet(new, &disk).await;
    drop(link);
    signer.stop(fleet).await;
}

/// Code and reason of a stream that does not open.
async fn refusal(fleet: &Fleet, credentials: &Credentials) -> (Code, String) {
    let answer = Link::open(fleet.channel(Some(credentials.clone()))).await;
    reason(&answer.err().expect("a refusal"))
}

async fn a_copy_with_the_certificate_of_before_is_refused_and_quarantines_the_node(
    test: TestStore,
) {
    let signer = Signer::default();
    let fleet = signer.fleet(test).await;
    let disk = Disk::new();
    let (node, mut link) = connected(&fleet, &disk).await;
    let key = KeyPair::generate().unwrap();
    let issued = renew(&mut link, &key).await.unwrap();
    let new = fleet.channel(Some(credentials(&issued, &key)));
    let (live, _) = Link::greet(new.clone(), &disk).await;
    // Connections of a process that is gone are late, and mean nothing.
    refused(&fleet, &node.credentials).await;
    drop(live);
    let (link, welcome) = Link::greet(new.clone(), &disk).await;
    assert_eq!(welcome.quarantined, None);
    drop(link);

    fleet.test.clock.advance(121_000);
    let superseded = (Code::PermissionDenied, "CERTIFICATE_SUPERSEDED".to_owned());
    for _ in 0..2 {
        assert_eq!(refusal(&fleet, &node.credentials).await, superseded);
    }
    let (link, welcome) = Link::greet(new, &disk).await;
    assert!(welcome.quarantined.unwrap().contains("replaced"));
    drop(link);
    let filter = AuditFilter {
        resource_id: Some(node.id.to_string()),
        ..AuditFilter::default()
    };
    let events = fleet
        .store
        .audit_events(Some(fleet.tenant), &filter, Page::first(10))
        .await
        .unwrap();
    let reasons: Vec<_> = events.iter().map(|event| &*event.reason).collect();
    assert_eq!(reasons, ["RETIRED_CERTIFICATE"], "told once: {events:?}");

    // Enrolled again, it is one agent; what the others hold is worth nothing, and no sign any more.
    let anew = fleet.enrol(node.id).await;
    refused(&fleet, &node.credentials).await;
    let (link, welcome) = Link::greet(fleet.channel(Some(anew)), &disk).await;
    assert_eq!(welcome.quarantined, None);
    drop(link);
    signer.stop(fleet).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_stream_ends_with_its_certificate() {
    let fleet = Fleet::new(TestStore::sqlite().await).await;
    let (_, mut link) = connected(&fleet, &Disk::new()).await;
    fleet.test.clock.advance(8 * 86_400_000);
    let end = link.end().await;
    assert!(end.message().contains("it has ended"), "{end:?}");
    let expected = (Code::PermissionDenied, "CERTIFICATE_REFUSED".to_owned());
    assert_eq!(reason(&end), expected);
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_nobody_can_sign_the_node_is_told_so_and_its_stream_goes_on() {
    let fleet = Fleet::with(TestStore::sqlite().await, &[], unreachable_signer()).await;
    let (_, mut link) = connected(&fleet, &Disk::new()).await;
    let key = KeyPair::generate().unwrap();
    for _ in 0..2 {
        let refusal = renew(&mut link, &key).await.unwrap_err();
        assert_eq!(refusal.reason, "SIGNER_UNAVAILABLE");
    }
    drop(link);
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_too_long_ends_the_stream() {
    let fleet = Fleet::new(TestStore::sqlite().await).await;
    let (_, mut link) = connected(&fleet, &Disk::new()).await;
    link.send(Up::RenewalRequest(vec![0; 9_000].into())).await;
    assert_eq!(reason(&link.end().await).0, Code::InvalidArgument);
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_stream_with_a_renewed_certificate_is_cut_when_the_node_is_revoked() {
    let signer = Signer::default();
    let fleet = signer.fleet(TestStore::sqlite().await).await;
    let disk = Disk::new();
    let (node, mut link) = connected(&fleet, &disk).await;
    let key = KeyPair::generate().unwrap();
    let issued = renew(&mut link, &key).await.unwrap();
    let new = credentials(&issued, &key);
    let (mut second, _) = Link::greet(fleet.channel(Some(new.clone())), &disk).await;
    let revoked = fleet
        .store
        .revoke_node_certificates(Some(fleet.tenant), node.id);
    revoked.await.unwrap();
    let expected = (Code::PermissionDenied, "CERTIFICATE_REFUSED".to_owned());
    assert_eq!(reason(&second.end().await), expected);
    refused(&fleet, &new).await;
    refused(&fleet, &node.credentials).await;
    drop((link, second));
    signer.stop(fleet).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_whose_certificate_has_ended_hears_what_control_api_says() {
    let signer = Signer::default();
    let fleet = signer.fleet(TestStore::sqlite().await).await;
    let ask = async |signature: &[u8]| {
        let bundle = TrustBundle::new(fleet.authority.trust_bundle()).unwrap();
        let channel = dial(ClientTls::new(&bundle, None).unwrap(), fleet.enrolment);
        let request = RenewRequest {
            certificate_der: vec![7],
            csr_der: vec![9],
            sign_time: Some(Default::default()),
            signature: signature.to_vec(),
        };
        EnrollmentServiceClient::new(channel).renew(request).await
    };
    let renewed = ask(b"good").await.unwrap().into_inner();
    assert_eq!(renewed.certificate_chain_der, [[1]]);
    assert_eq!(renewed.trust_bundle_sequence, 3);
    let refused = reason(&ask(b"bad").await.unwrap_err());
    assert_eq!(refused, (Code::Unauthenticated, "PROOF_REFUSED".to_owned()));
    assert_eq!(ask(b"").await.unwrap_err().code(), Code::InvalidArgument);
    let asked = signer.lapsed();
    assert_eq!(
        asked.len(),
        2,
        "a malformed request does not reach control-api"
    );
    assert_eq!(
        (&*asked[0].certificate_der, &*asked[0].csr_der),
        (&[7][..], &[9][..])
    );
    signer.stop(fleet).await;
}
