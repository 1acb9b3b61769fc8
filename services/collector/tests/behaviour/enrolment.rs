//! Enrolment is relayed: control-api decides, hosts hear its answer and nothing of its troubles.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use tonic::{Code, Request, Response, Status, transport::Channel};
use vpnpanel_api::{
    agent::v1::{EnrollRequest, enrollment_service_client::EnrollmentServiceClient},
    pki::v1::{
        SignJoiningNodeRequest, SignJoiningNodeResponse, SignLapsedNodeRequest,
        SignLapsedNodeResponse, SignRenewingNodeRequest, SignRenewingNodeResponse,
        signer_service_server::{SignerService, SignerServiceServer},
    },
};
use vpnpanel_runtime::{
    status::{ErrorCode, Failure},
    tls::{ClientTls, TrustBundle},
};
use vpnpanel_store::testing::TestStore;

use crate::{
    agent::reason,
    fleet::{Fleet, dial, unreachable_signer},
};

/// Signs for one token.
#[derive(Clone, Default)]
struct Signer(Arc<Mutex<Vec<SignJoiningNodeRequest>>>);

#[async_trait]
impl SignerService for Signer {
    async fn sign_joining_node(
        &self,
        request: Request<SignJoiningNodeRequest>,
    ) -> Result<Response<SignJoiningNodeResponse>, Status> {
        let request = request.into_inner();
        self.0.lock().unwrap().push(request.clone());
        if request.join_token != "good" {
            let refused = Failure::new(ErrorCode::Unauthenticated, "JOIN_TOKEN_REFUSED", "refused");
            return Err(refused.into_status());
        }
        Ok(Response::new(SignJoiningNodeResponse {
            node_id: "a-node".to_owned(),
            certificate_chain_der: vec![vec![1]],
            trust_bundle_der: vec![vec![2]],
            trust_bundle_sequence: 3,
            expire_time: None,
        }))
    }

    async fn sign_renewing_node(
        &self,
        _: Request<SignRenewingNodeRequest>,
    ) -> Result<Response<SignRenewingNodeResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn sign_lapsed_node(
        &self,
        _: Request<SignLapsedNodeRequest>,
    ) -> Result<Response<SignLapsedNodeResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }
}

pub(crate) async fn serve(signer: impl SignerService) -> Channel {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let incoming = tonic::transport::server::TcpIncoming::from(listener);
    tokio::spawn(
        tonic::transport::Server::builder()
            .add_service(SignerServiceServer::new(signer))
            .serve_with_incoming(incoming),
    );
    tonic::transport::Endpoint::from_shared(format!("http://{address}"))
        .unwrap()
        .connect_lazy()
}

async fn enrol(fleet: &Fleet, token: &str) -> Result<(String, String), Status> {
    let bundle = TrustBundle::new(fleet.authority.trust_bundle()).unwrap();
    let channel = dial(ClientTls::new(&bundle, None).unwrap(), fleet.enrolment);
    let request = EnrollRequest {
        join_token: token.to_owned(),
        csr_der: vec![9],
    };
    let response = EnrollmentServiceClient::new(channel)
        .enroll(request)
        .await?
        .into_inner();
    Ok((response.node_id, response.link_endpoint))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_gets_what_control_api_signs_and_hears_its_refusals() {
    let signer = Signer::default();
    let set = [(
        "VPNPANEL_COLLECTOR_LINK_ENDPOINT",
        "https://link.example:50052",
    )];
    let channel = serve(signer.clone()).await;
    let fleet = Fleet::with(TestStore::sqlite().await, &set, channel).await;
    let enrolled = enrol(&fleet, "good").await.unwrap();
    assert_eq!(
        enrolled,
        ("a-node".to_owned(), "https://link.example:50052".to_owned())
    );
    let refused = reason(&enrol(&fleet, "bad").await.unwrap_err());
    assert_eq!(
        refused,
        (Code::Unauthenticated, "JOIN_TOKEN_REFUSED".to_owned())
    );
    let malformed = enrol(&fleet, "").await.unwrap_err();
    assert_eq!(malformed.code(), Code::InvalidArgument);
    assert_eq!(
        signer.0.lock().unwrap().len(),
        2,
        "a malformed request does not reach control-api"
    );
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_is_told_to_try_again_while_control_api_is_away() {
    let fleet = Fleet::with(TestStore::sqlite().await, &[], unreachable_signer()).await;
    let away = reason(&enrol(&fleet, "good").await.unwrap_err());
    assert_eq!(away, (Code::Unavailable, "SIGNER_UNAVAILABLE".to_owned()));
    fleet.stop().await;
}
