//! How a host becomes a node: the collector takes join token and CSR, and asks control-api, which
//! alone holds the CA key, by its own certificate. Nothing is decided here.

use async_trait::async_trait;
use bytes::Bytes;
use http_body::Body as HttpBody;
use tonic::{Request, Response, Status, body::Body, client::GrpcService};
use tracing::{info, warn};
use vpnpanel_api::{
    agent::v1::{EnrollRequest, EnrollResponse, enrollment_service_server::EnrollmentService},
    pki::v1::{SignJoiningNodeRequest, signer_service_client::SignerServiceClient},
};

use crate::error::Error;

/// The header that carries a request's id from service to service.
const REQUEST_ID: &str = "x-request-id";

/// The handler, over any way to reach control-api: a channel, or its routes in the same process.
#[derive(Debug, Clone)]
pub struct Enrollment<T> {
    signer: SignerServiceClient<T>,
    link_endpoint: String,
}

impl<T> Enrollment<T> {
    /// Enrols by `signer`; agents are told to open their links at `link_endpoint`.
    pub fn new(signer: SignerServiceClient<T>, link_endpoint: String) -> Self {
        Self {
            signer,
            link_endpoint,
        }
    }
}

#[async_trait]
impl<T> EnrollmentService for Enrollment<T>
where
    T: GrpcService<Body> + Clone + Send + Sync + 'static,
    T::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    T::Future: Send,
    T::ResponseBody: HttpBody<Data = Bytes> + Send + 'static,
    <T::ResponseBody as HttpBody>::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send,
{
    async fn enroll(
        &self,
        request: Request<EnrollRequest>,
    ) -> Result<Response<EnrollResponse>, Status> {
        let request_id = request.metadata().get(REQUEST_ID).cloned();
        let EnrollRequest {
            join_token,
            csr_der,
        } = request.into_inner();
        let mut ask = Request::new(SignJoiningNodeRequest {
            join_token,
            csr_der,
        });
        if let Some(id) = request_id {
            ask.metadata_mut().insert(REQUEST_ID, id);
        }
        let signed = match self.signer.clone().sign_joining_node(ask).await {
            Ok(signed) => signed.into_inner(),
            Err(status) => return Err(refusal(status)),
        };
        info!(event = "enrolment.signed", node_id = %signed.node_id, "node enrolled");
        Ok(Response::new(EnrollResponse {
            node_id: signed.node_id,
            certificate_chain_der: signed.certificate_chain_der,
            trust_bundle_der: signed.trust_bundle_der,
            trust_bundle_sequence: signed.trust_bundle_sequence,
            expire_time: signed.expire_time,
            link_endpoint: self.link_endpoint.clone(),
        }))
    }
}

/// What the signer said about the host's own request goes back as it is; what went wrong between
/// the services does not concern the host, which should only try again.
fn refusal(status: Status) -> Status {
    match status.code() {
        tonic::Code::Unauthenticated
        | tonic::Code::InvalidArgument
        | tonic::Code::FailedPrecondition
        | tonic::Code::ResourceExhausted => {
            info!(
                event = "enrolment.refused",
                code = ?status.code(),
                reason = status.message(),
                "a host was not enrolled"
            );
            status
        }
        code => {
            warn!(
                event = "enrolment.signer_failed",
                ?code,
                error = status.message(),
                "control-api did not sign"
            );
            Error::SignerUnavailable.into()
        }
    }
}
