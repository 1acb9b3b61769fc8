//! Renewal of a certificate that has ended: TLS no longer takes it, so that the node proves by a
//! signature that it holds its key. The server is the control plane of the kept trust bundle.

use bytes::Bytes;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, SigningKey as _};
use rustls_pki_types::PrivatePkcs8KeyDer;
use tonic_types::StatusExt as _;
use vpnpanel_api::agent::v1::enrollment_service_client::EnrollmentServiceClient;
use vpnpanel_api::agent::v1::{RenewRequest, RenewResponse};
use vpnpanel_link::{IssuedCertificate, RenewalRefusal};
use vpnpanel_runtime::TrustDomain;
use vpnpanel_runtime::settings::HttpEndpoint;
use vpnpanel_runtime::tls::{ClientTls, renewal_statement};

use super::Answer;
use crate::enrollment::{self, EnrollmentError, Identity};

/// Asks once.
pub(super) async fn renew(
    identity: &Identity,
    url: &HttpEndpoint,
    trust_domain: &TrustDomain,
    csr: Bytes,
    now_ms: i64,
) -> Answer {
    ask(identity, url, trust_domain, csr, now_ms)
        .await
        .unwrap_or_else(|error| {
            Err(RenewalRefusal {
                reason: "UNREACHABLE".to_owned(),
                message: error.to_string(),
            })
        })
}

async fn ask(
    identity: &Identity,
    url: &HttpEndpoint,
    trust_domain: &TrustDomain,
    csr: Bytes,
    now_ms: i64,
) -> Result<Answer, EnrollmentError> {
    let request = signed(identity, csr, now_ms)?;
    let tls = ClientTls::new(&identity.trust_bundle, None)?;
    let channel = enrollment::dial(url, tls, trust_domain)?;
    let answer = EnrollmentServiceClient::new(channel).renew(request).await;
    Ok(match answer {
        Ok(response) => Ok(Box::new(issued(response.into_inner()))),
        Err(status) => Err(refusal(&status)),
    })
}

/// The request with its proof, by the key of the certificate that has ended.
pub(super) fn signed(
    identity: &Identity,
    csr: Bytes,
    now_ms: i64,
) -> Result<RenewRequest, EnrollmentError> {
    let leaf = identity.credentials.chain.first();
    let leaf = leaf.ok_or(EnrollmentError::Reply("it holds no certificate"))?;
    let key = PrivatePkcs8KeyDer::from(identity.credentials.key.secret_der());
    let key = KeyPair::from_pkcs8_der_and_sign_algo(&key, &PKCS_ECDSA_P256_SHA256)?;
    let signature = key.sign(&renewal_statement(leaf, &csr, now_ms))?;
    Ok(RenewRequest {
        certificate_der: leaf.to_vec(),
        csr_der: csr.into(),
        sign_time: Some(prost_types::Timestamp {
            seconds: now_ms.div_euclid(1_000),
            // Below a thousand, so that the product fits.
            nanos: (now_ms.rem_euclid(1_000) as i32) * 1_000_000,
        }),
        signature,
    })
}

fn refusal(status: &tonic::Status) -> RenewalRefusal {
    let details = status.get_error_details();
    let reason = details.error_info().map(|info| info.reason.clone());
    RenewalRefusal {
        reason: reason.unwrap_or_else(|| format!("{:?}", status.code())),
        message: status.message().to_owned(),
    }
}

fn issued(response: RenewResponse) -> IssuedCertificate {
    let bytes = |all: Vec<Vec<u8>>| all.into_iter().map(Bytes::from).collect();
    let ends = response.expire_time.unwrap_or_default();
    IssuedCertificate {
        chain: bytes(response.certificate_chain_der),
        trust_bundle: bytes(response.trust_bundle_der),
        trust_bundle_sequence: response.trust_bundle_sequence,
        expires_at_ms: ends.seconds.saturating_mul(1_000),
    }
}
