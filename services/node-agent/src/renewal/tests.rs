//! A certificate from its issue to the one after the next, on a clock that moves when it is told.

use std::sync::Mutex;
use std::time::Duration;

use rcgen::{BasicConstraints, DnType, IsCa, Issuer, PublicKeyData, SanType};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use vpnpanel_api::agent::v1::enrollment_service_server::{
    EnrollmentService, EnrollmentServiceServer,
};
use vpnpanel_api::agent::v1::{EnrollRequest, EnrollResponse, RenewRequest, RenewResponse};
use vpnpanel_domain::NodeId;
use vpnpanel_runtime::clock::ManualTime;
use vpnpanel_runtime::status::{ErrorCode, Failure};
use vpnpanel_runtime::tls::{Credentials, TrustBundle, renewal_statement};
use vpnpanel_runtime::{Grpc, PeerIdentity, Service, Supervisor};
use x509_parser::prelude::{FromDer as _, X509Certificate, X509CertificationRequest};

use super::*;

const DAY_MS: i64 = 86_400_000;
const START_MS: i64 = 1_790_000_000_000;

/// Signs whatever key it is given.
#[derive(Clone)]
struct Authority {
    certificate: CertificateDer<'static>,
    issuer: Arc<Issuer<'static, KeyPair>>,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::CommonName, "authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap().der().clone();
        Self {
            certificate,
            issuer: Arc::new(Issuer::new(params, key)),
        }
    }

    /// A certificate of a week.
    fn sign(
        &self,
        identity: &PeerIdentity,
        key: &impl PublicKeyData,
        from_ms: i64,
    ) -> CertificateDer<'static> {
        let domain = TrustDomain::default();
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![
            SanType::URI(identity.uri(&domain).try_into().unwrap()),
            SanType::DnsName(identity.dns_name(&domain).try_into().unwrap()),
        ];
        let epoch = rcgen::date_time_ymd(1970, 1, 1);
        let at = |ms: i64| epoch + Duration::from_millis(ms.unsigned_abs());
        params.not_before = at(from_ms);
        params.not_after = at(from_ms + 7 * DAY_MS);
        params.signed_by(key, &self.issuer).unwrap().der().clone()
    }

    /// What the control plane answers to a request.
    fn answer(&self, identity: &PeerIdentity, csr: &[u8], now_ms: i64) -> IssuedCertificate {
        let (_, request) = X509CertificationRequest::from_der(csr).unwrap();
        let key = request.certification_request_info.subject_pki.raw;
        let key = rcgen::SubjectPublicKeyInfo::from_der(key).unwrap();
        let leaf = self.sign(identity, &key, now_ms);
        IssuedCertificate {
            chain: vec![leaf.to_vec().into()],
            trust_bundle: vec![self.certificate.to_vec().into()],
            trust_bundle_sequence: 1,
            expires_at_ms: now_ms + 7 * DAY_MS,
        }
    }

    fn service(&self, now_ms: i64) -> Credentials {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let collector = PeerIdentity::control_plane("collector").unwrap();
        Credentials {
            chain: vec![self.sign(&collector, &key, now_ms)],
            key: PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
        }
    }
}

/// A node with its folder.
struct Node {
    authority: Authority,
    identity: PeerIdentity,
    folder: tempfile::TempDir,
    clock: Clock,
    time: ManualTime,
    renewal: Renewal,
}

impl Node {
    /// Enrolled at `at_ms` with a certificate of a week.
    fn new(at_ms: i64) -> Self {
        vpnpanel_runtime::install_crypto_provider();
        let authority = Authority::new();
        let id = uuid::Uuid::now_v7();
        let identity = PeerIdentity::Node {
            tenant: None,
            node: id,
        };
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let kept = Identity {
            node: NodeId::from(id),
            link_endpoint: "https://127.0.0.1:50052".to_owned(),
            credentials: Credentials {
                chain: vec![authority.sign(&identity, &key, at_ms)],
                key: PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
            },
            trust_bundle: TrustBundle::new(vec![authority.certificate.clone()]).unwrap(),
            trust_bundle_sequence: 1,
            enrollment_url: None,
            join_token_sha256: None,
            not_before_unix: at_ms / 1_000,
            not_after_unix: (at_ms + 7 * DAY_MS) / 1_000,
        };
        kept.save(folder.path()).unwrap();
        let (clock, time) = Clock::manual(at_ms);
        let renewal = Self::start(folder.path(), &clock, None);
        Self {
            authority,
            identity,
            folder,
            clock,
            time,
            renewal,
        }
    }

    /// What a process makes of the folder.
    fn start(folder: &std::path::Path, clock: &Clock, enrolment: Option<HttpEndpoint>) -> Renewal {
        let domain = TrustDomain::default();
        let identity = Identity::load(folder, &domain).unwrap().unwrap();
        let credentials = || identity.credentials.clone();
        let bundle = &identity.trust_bundle;
        let users = Users {
            link: ClientTls::new(bundle, Some(credentials())).unwrap(),
            control: ServerTls::mutual(credentials(), bundle, domain.clone()).unwrap(),
            metrics: Service::new("node-agent").metrics().clone(),
        };
        Renewal::new(
            identity,
            folder.to_owned(),
            domain,
            enrolment,
            users,
            clock.clone(),
        )
    }

    /// The process was killed and is started again.
    fn restart(&mut self) {
        self.renewal = Self::start(self.folder.path(), &self.clock, None);
    }

    fn pass(&self, ms: i64) {
        self.time.advance(Duration::from_millis(ms.unsigned_abs()));
    }

    async fn asks(&mut self) -> Option<Bytes> {
        match self.renewal.look(true).await {
            Step::Ask(csr) => Some(csr),
            _ => None,
        }
    }

    /// The request of a certificate that is due.
    async fn due(&mut self) -> Bytes {
        self.pass(4 * DAY_MS);
        self.asks().await.expect("past half of its life")
    }

    fn answer(&self, csr: &[u8]) -> Answer {
        let now_ms = self.clock.unix_millis();
        Ok(Box::new(self.authority.answer(&self.identity, csr, now_ms)))
    }

    fn on_disk(&self) -> Identity {
        let domain = TrustDomain::default();
        Identity::load(self.folder.path(), &domain)
            .unwrap()
            .unwrap()
    }

    /// The certificate in use is the one on disk, and its key too.
    fn certificate(&self) -> CertificateDer<'static> {
        let kept = self.on_disk();
        let used = &self.renewal.identity.credentials;
        assert_eq!(kept.credentials.chain, used.chain);
        let key = PrivatePkcs8KeyDer::from(kept.credentials.key.secret_der());
        let key = KeyPair::from_pkcs8_der_and_sign_algo(&key, &PKCS_ECDSA_P256_SHA256).unwrap();
        let (_, leaf) = X509Certificate::from_der(&kept.credentials.chain[0]).unwrap();
        assert_eq!(leaf.public_key().raw, key.subject_public_key_info());
        kept.credentials.chain[0].clone()
    }
}

#[tokio::test]
async fn it_is_renewed_at_half_of_its_life_give_or_take_a_tenth() {
    let mut moments = Vec::new();
    for _ in 0..20 {
        let mut node = Node::new(START_MS);
        let first = node.certificate();
        let mut asked = None;
        for hour in 0..=7 * 24 {
            if let Some(csr) = node.asks().await {
                asked = Some((hour, csr));
                break;
            }
            node.pass(DAY_MS / 24);
        }
        let (hour, csr) = asked.expect("due before its end");
        assert!((75..=93).contains(&hour), "{hour} of 168 hours");
        moments.push(hour);
        assert!(node.renewal.take(node.answer(&csr)).await);
        assert_ne!(node.certificate(), first);
        assert_eq!(node.asks().await, None, "the new one is not due");
        assert_ne!(node.due().await, csr, "a new key each time");
    }
    moments.sort_unstable();
    moments.dedup();
    assert!(moments.len() > 3, "spread: {moments:?}");
}

#[tokio::test]
async fn without_a_stream_nothing_is_asked_until_the_end() {
    let mut node = Node::new(START_MS);
    node.pass(6 * DAY_MS);
    assert_eq!(node.renewal.look(false).await, Step::Wait);
    assert!(node.asks().await.is_some());
}

#[tokio::test]
async fn a_lost_answer_is_asked_for_again_with_the_same_key_and_ever_more_patience() {
    let mut node = Node::new(START_MS);
    let csr = node.due().await;
    assert_eq!(node.asks().await, None, "it waits for an answer first");
    let mut waited = Vec::new();
    for _ in 0..8 {
        let mut minutes = 0;
        let again = loop {
            node.pass(60_000);
            minutes += 1;
            if let Some(again) = node.asks().await {
                break again;
            }
        };
        assert_eq!(again, csr);
        waited.push(minutes);
    }
    assert!(waited.is_sorted() && waited[0] <= 2, "{waited:?}");
    assert!((54..=67).contains(&waited[7]), "{waited:?}");
    assert!(node.renewal.take(node.answer(&csr)).await);
    let taken = node.certificate();
    // The first answer was not lost but late.
    assert!(!node.renewal.take(node.answer(&csr)).await);
    assert_eq!(node.certificate(), taken);
}

#[tokio::test]
async fn a_clock_that_was_set_back_keeps_nobody_waiting() {
    let mut node = Node::new(START_MS);
    node.pass(365 * DAY_MS);
    assert_eq!(node.renewal.look(false).await, Step::Wait);
    node.time.set_wall(START_MS + 4 * DAY_MS);
    assert!(node.asks().await.is_some());
}

#[tokio::test]
async fn a_refusal_leaves_everything_as_it_is() {
    let mut node = Node::new(START_MS);
    let first = node.certificate();
    let csr = node.due().await;
    let refusal = RenewalRefusal {
        reason: "SIGNER_UNAVAILABLE".to_owned(),
        message: "certificates cannot be signed right now".to_owned(),
    };
    assert!(!node.renewal.take(Err(refusal)).await);
    assert_eq!(node.certificate(), first);
    node.pass(DAY_MS / 24);
    assert_eq!(node.asks().await, Some(csr));
}

#[tokio::test]
async fn an_answer_for_another_key_or_node_or_of_another_authority_is_not_taken() {
    let mut node = Node::new(START_MS);
    let first = node.certificate();
    let csr = node.due().await;
    let now_ms = node.clock.unix_millis();
    let other_key = {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let request = CertificateParams::default().serialize_request(&key);
        node.authority
            .answer(&node.identity, request.unwrap().der(), now_ms)
    };
    let other_node = PeerIdentity::Node {
        tenant: None,
        node: uuid::Uuid::now_v7(),
    };
    let other_node = node.authority.answer(&other_node, &csr, now_ms);
    let good = || node.authority.answer(&node.identity, &csr, now_ms);
    let mut other_authority = good();
    other_authority.trust_bundle = vec![Authority::new().certificate.to_vec().into()];
    let mut of_before = good();
    of_before.trust_bundle_sequence = 0;
    let mut empty = good();
    empty.chain.clear();
    let right = good();
    for wrong in [other_key, other_node, other_authority, of_before, empty] {
        assert!(!node.renewal.take(Ok(Box::new(wrong))).await);
        assert_eq!(node.certificate(), first);
    }
    assert!(node.renewal.take(Ok(Box::new(right))).await);
}

#[tokio::test]
async fn a_kill_at_any_step_leaves_a_key_with_its_own_certificate() {
    let mut node = Node::new(START_MS);
    let first = node.certificate();
    // Asked, not answered.
    let csr = node.due().await;
    node.restart();
    assert_eq!(node.certificate(), first);
    // Answered, the new file half written beside the old one.
    let answer = node.answer(&csr);
    std::fs::write(node.folder.path().join("identity.new"), "{\"node_id\":").unwrap();
    node.restart();
    assert_eq!(node.certificate(), first);
    // The answer was for the process before: its key is gone with it.
    assert!(!node.renewal.take(answer).await);
    assert_eq!(node.certificate(), first);
    let again = node.asks().await.expect("still due");
    assert_ne!(again, csr);
    // Replaced, and killed before it was taken into use.
    assert!(node.renewal.take(node.answer(&again)).await);
    let second = node.certificate();
    assert_ne!(second, first);
    node.restart();
    assert_eq!(node.certificate(), second);
    assert_eq!(node.asks().await, None);
}

#[tokio::test]
async fn what_cannot_be_written_is_not_used() {
    let mut node = Node::new(START_MS);
    let first = node.certificate();
    let csr = node.due().await;
    // A folder where the new file would be written.
    let beside = node.folder.path().join("identity.new");
    std::fs::create_dir(&beside).unwrap();
    assert!(!node.renewal.take(node.answer(&csr)).await);
    assert_eq!(node.certificate(), first);
    std::fs::remove_dir(&beside).unwrap();
    assert!(node.renewal.take(node.answer(&csr)).await);
    assert_ne!(node.certificate(), first);
}

/// An enrolment listener that renews.
#[derive(Clone)]
struct Listener {
    authority: Authority,
    identity: PeerIdentity,
    clock: Clock,
    refuses: bool,
    asked: Arc<Mutex<Vec<RenewRequest>>>,
}

#[tonic::async_trait]
impl EnrollmentService for Listener {
    async fn enroll(
        &self,
        _: tonic::Request<EnrollRequest>,
    ) -> Result<tonic::Response<EnrollResponse>, tonic::Status> {
        Err(tonic::Status::unimplemented("not here"))
    }

    async fn renew(
        &self,
        request: tonic::Request<RenewRequest>,
    ) -> Result<tonic::Response<RenewResponse>, tonic::Status> {
        let request = request.into_inner();
        self.asked.lock().unwrap().push(request.clone());
        if self.refuses {
            let why = Failure::new(
                ErrorCode::FailedPrecondition,
                "ENROLMENT_REQUIRED",
                "enrol this host again with a new join token",
            );
            return Err(why.into_status());
        }
        let now_ms = self.clock.unix_millis();
        let issued = self
            .authority
            .answer(&self.identity, &request.csr_der, now_ms);
        let vecs = |all: Vec<Bytes>| all.into_iter().map(Into::into).collect();
        Ok(tonic::Response::new(RenewResponse {
            certificate_chain_der: vecs(issued.chain),
            trust_bundle_der: vecs(issued.trust_bundle),
            trust_bundle_sequence: 1,
            expire_time: None,
        }))
    }
}

impl Listener {
    fn of(node: &Node, refuses: bool) -> Self {
        Self {
            authority: node.authority.clone(),
            identity: node.identity.clone(),
            clock: node.clock.clone(),
            refuses,
            asked: Arc::default(),
        }
    }

    async fn serve(&self) -> (Supervisor, HttpEndpoint) {
        let now_ms = Clock::system().unix_millis();
        let tls = ServerTls::server_only(self.authority.service(now_ms)).unwrap();
        let routes = tonic::service::Routes::new(EnrollmentServiceServer::new(self.clone()));
        let mut service = Service::new("collector");
        service.grpc(
            "enrolment",
            Grpc::new(routes)
                .listen("127.0.0.1:0".parse().unwrap())
                .tls(tls),
        );
        let mut supervisor = Supervisor::new(Duration::from_secs(10), Duration::ZERO);
        let addresses = supervisor.start(service).await.unwrap();
        let address = addresses.of("enrolment").unwrap();
        (supervisor, format!("https://{address}").parse().unwrap())
    }
}

/// Looks until the request on the listener has come to something.
async fn settle(node: &mut Node) -> Step {
    for _ in 0..2_000 {
        let step = node.renewal.look(false).await;
        if step != Step::Wait || node.renewal.asking.is_none() {
            return step;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("no answer in time");
}

#[tokio::test]
async fn a_certificate_that_has_ended_is_renewed_by_a_proof_of_its_key() {
    let now_ms = Clock::system().unix_millis();
    let mut node = Node::new(now_ms - 10 * DAY_MS);
    let listener = Listener::of(&node, false);
    let (supervisor, url) = listener.serve().await;
    node.renewal = Node::start(node.folder.path(), &node.clock, Some(url));
    let first = node.certificate();
    assert_eq!(node.renewal.look(false).await, Step::Wait);
    assert!(node.renewal.asking.is_none(), "it has not ended yet");
    node.pass(10 * DAY_MS);
    assert_eq!(node.renewal.look(false).await, Step::Wait);
    assert_eq!(settle(&mut node).await, Step::Reconnect);
    assert_ne!(node.certificate(), first);
    assert_eq!(node.asks().await, None);

    let asked = listener.asked.lock().unwrap().clone();
    let [request] = asked.as_slice() else {
        panic!("asked {} times", asked.len());
    };
    assert_eq!(request.certificate_der, first.as_ref());
    let at_ms = node.clock.unix_millis();
    assert_eq!(request.sign_time.unwrap().seconds, at_ms / 1_000);
    let statement = renewal_statement(&request.certificate_der, &request.csr_der, at_ms);
    let (_, leaf) = X509Certificate::from_der(&first).unwrap();
    let algorithm = x509_parser::x509::AlgorithmIdentifier::new(
        x509_parser::oid_registry::OID_SIG_ECDSA_WITH_SHA256,
        None,
    );
    let signature = x509_parser::asn1_rs::BitString::new(0, &request.signature);
    x509_parser::verify::verify_signature(leaf.public_key(), &algorithm, &signature, &statement)
        .unwrap();
    supervisor.stop().await.unwrap();
}

#[tokio::test]
async fn a_node_that_has_to_enrol_again_keeps_what_it_has_and_asks_on() {
    let now_ms = Clock::system().unix_millis();
    let mut node = Node::new(now_ms - 30 * DAY_MS);
    node.pass(30 * DAY_MS);
    let listener = Listener::of(&node, true);
    let (supervisor, url) = listener.serve().await;
    node.renewal = Node::start(node.folder.path(), &node.clock, Some(url));
    let first = node.certificate();
    for tries in 1..=3 {
        assert_eq!(node.renewal.look(false).await, Step::Wait);
        assert_eq!(settle(&mut node).await, Step::Wait);
        assert_eq!(listener.asked.lock().unwrap().len(), tries);
        assert_eq!(node.certificate(), first);
        node.pass(DAY_MS / 12);
    }
    supervisor.stop().await.unwrap();
}
