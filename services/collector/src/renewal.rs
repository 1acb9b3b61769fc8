//! Renewal over the link: the collector hands a node's request to control-api, by the serial that the
//! handshake verified. Nothing is decided here, and a node that asks keeps nobody waiting.

use std::{fmt::Debug, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use http_body::Body as HttpBody;
use tokio::{sync::Semaphore, time::timeout};
use tonic::{Code, Status, body::Body, client::GrpcService};
use tonic_types::StatusExt as _;
use tracing::{info, warn};
use vpnpanel_api::pki::v1::{
    RenewedCertificate, SignRenewingNodeRequest, signer_service_client::SignerServiceClient,
};
use vpnpanel_link::{IssuedCertificate, RenewalRefusal};

use crate::error::Error;

/// Requests that are with control-api at the same time; others wait for their turn.
const AT_ONCE: usize = 16;
/// Turn and answer together.
const PATIENCE: Duration = Duration::from_secs(30);

/// Signs for nodes, over any way to reach control-api.
#[async_trait]
pub(crate) trait Signer: Send + Sync {
    async fn sign(&self, serial: Vec<u8>, csr_der: Vec<u8>) -> Result<RenewedCertificate, Status>;
}

#[async_trait]
impl<T> Signer for SignerServiceClient<T>
where
    T: GrpcService<Body> + Clone + Send + Sync + 'static,
    T::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    T::Future: Send,
    T::ResponseBody: HttpBody<Data = Bytes> + Send + 'static,
    <T::ResponseBody as HttpBody>::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send,
{
    async fn sign(&self, serial: Vec<u8>, csr_der: Vec<u8>) -> Result<RenewedCertificate, Status> {
        let request = SignRenewingNodeRequest { serial, csr_der };
        let signed = self.clone().sign_renewing_node(request).await?;
        let certificate = signed.into_inner().certificate;
        certificate.ok_or_else(|| Status::internal("an answer without a certificate"))
    }
}

/// What streams renew certificates by.
#[derive(Clone)]
pub(crate) struct Renewals {
    signer: Arc<dyn Signer>,
    turns: Arc<Semaphore>,
}

impl Renewals {
    pub(crate) fn new(signer: impl Signer + 'static) -> Self {
        Self {
            signer: Arc::new(signer),
            turns: Arc::new(Semaphore::new(AT_ONCE)),
        }
    }

    /// The answer to a node that shows the certificate with this serial.
    pub(crate) async fn answer(
        &self,
        serial: &[u8],
        csr: Bytes,
    ) -> Result<Box<IssuedCertificate>, RenewalRefusal> {
        let signed = async {
            let _turn = self.turns.acquire().await;
            self.signer.sign(serial.to_vec(), csr.into()).await
        };
        match timeout(PATIENCE, signed).await {
            Ok(Ok(certificate)) => {
                info!(event = "renewal.signed", "a node's certificate was renewed");
                Ok(Box::new(issued(certificate)))
            }
            Ok(Err(status)) => Err(refusal(&status)),
            Err(_) => Err(refusal(&Status::deadline_exceeded("no answer in time"))),
        }
    }
}

impl Debug for Renewals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Renewals").finish_non_exhaustive()
    }
}

/// Whether it is about the node's own request, which the node is told as it is. What went wrong
/// between the services does not concern it: it should only try again.
pub(crate) fn concerns_node(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unauthenticated
            | Code::InvalidArgument
            | Code::FailedPrecondition
            | Code::ResourceExhausted
    )
}

fn refusal(status: &Status) -> RenewalRefusal {
    let details = status.get_error_details();
    if let Some(info) = details.error_info()
        && concerns_node(status)
    {
        info!(
            event = "renewal.refused",
            reason = info.reason,
            "a node's certificate was not renewed"
        );
        return RenewalRefusal {
            reason: info.reason.clone(),
            message: status.message().to_owned(),
        };
    }
    warn!(
        event = "renewal.signer_failed",
        code = ?status.code(),
        error = status.message(),
        "control-api did not sign"
    );
    RenewalRefusal {
        reason: "SIGNER_UNAVAILABLE".to_owned(),
        message: Error::SignerUnavailable.to_string(),
    }
}

fn issued(certificate: RenewedCertificate) -> IssuedCertificate {
    let bytes = |all: Vec<Vec<u8>>| all.into_iter().map(Bytes::from).collect();
    let ends = certificate.expire_time.unwrap_or_default();
    IssuedCertificate {
        chain: bytes(certificate.certificate_chain_der),
        trust_bundle: bytes(certificate.trust_bundle_der),
        trust_bundle_sequence: certificate.trust_bundle_sequence,
        expires_at_ms: ends
            .seconds
            .saturating_mul(1_000)
            .saturating_add(i64::from(ends.nanos / 1_000_000)),
    }
}
