//! How a host becomes a node: the collector takes join token and CSR, and asks control-api, which
//! alone holds the CA key, by its own certificate. Nothing is decided here.

use async_trait::async_trait;
use bytes::Bytes;
use http_body::Body as HttpBody;
use tonic::{
    Request, Response, Status,
    body::Body,
    client::GrpcService,
    metadata::{Ascii, MetadataValue},
};
use tracing::{info, warn};
use vpnpanel_api::{
    agent::v1::{
        EnrollRequest, EnrollResponse, RenewRequest, RenewResponse,
        enrollment_service_server::EnrollmentService,
    },
    pki::v1::{
        SignJoiningNodeRequest, SignLapsedNodeRequest, signer_service_client::SignerServiceClient,
    },
};

use crate::{error::Error, renewal::concerns_node};

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
        let request_id = request_id(&request);
        let EnrollRequest {
            join_token,
            csr_der,
        } = request.into_inner();
        let message = SignJoiningNodeRequest {
            join_token,
            csr_der,
        };
        let ask = under(request_id, message);
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

    async fn renew(
        &self,
        request: Request<RenewRequest>,
    ) -> Result<Response<RenewResponse>, Status> {
        let request_id = request_id(&request);
        let RenewRequest {
            certificate_der,
            csr_der,
            sign_time,
            signature,
        } = request.into_inner();
        let message = SignLapsedNodeRequest {
            certificate_der,
            csr_der,
            sign_time,
            signature,
        };
        let ask = under(request_id, message);
        let signed = match self.signer.clone().sign_lapsed_node(ask).await {
            Ok(signed) => signed.into_inner().certificate,
            Err(status) => return Err(refusal(status)),
        };
        let Some(signed) = signed else {
            return Err(refusal(Status::internal("an answer without a certificate")));
        };
        info!(event = "renewal.signed", node_id = %signed.node_id, "a node's certificate was renewed after its end");
        Ok(Response::new(RenewResponse {
            certificate_chain_der: signed.certificate_chain_der,
            trust_bundle_der: signed.trust_bundle_der,
            trust_bundle_sequence: signed.trust_bundle_sequence,
            expire_time: signed.expire_time,
        }))
    }
}

fn request_id<M>(request: &Request<M>) -> Option<MetadataValue<Ascii>> {
    request.metadata().get(REQUEST_ID).cloned()
}

/// A request to control-api under the id of the one that it is for.
fn under<M>(request_id: Option<MetadataValue<Ascii>>, message: M) -> Request<M> {
    let mut ask = Request::new(message);
    if let Some(id) = request_id {
        ask.metadata_mut().insert(REQUEST_ID, id);
    }
    ask
}

/// What the signer said about the host's own request goes back as it is; what went wrong between
/// the services does not concern the host, which should only try again.
fn refusal(status: Status) -> Status {
    if concerns_node(&status) {
        info!(
            event = "enrolment.refused",
            code = ?status.code(),
            reason = status.message(),
            "a host was given no certificate"
        );
        return status;
    }
    warn!(
        event = "enrolment.signer_failed",
        code = ?status.code(),
        error = status.message(),
        "control-api did not sign"
    );
    Error::SignerUnavailable.into()
}
