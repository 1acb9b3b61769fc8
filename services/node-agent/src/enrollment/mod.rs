//! How a host becomes a node: with a join token and the pin of the authority, over TLS that trusts
//! nothing but that pin. Safe to repeat: the key is durable before it is sent, so a reply that
//! was lost, or an agent that died, enrols the same key again.

mod error;
mod identity;
mod issued;

use std::path::Path;
use std::time::Duration;

use clap::Args;
use rcgen::{CertificateParams, KeyPair};
use rustls_pki_types::CertificateDer;
use sha2::{Digest as _, Sha256};
use vpnpanel_api::agent::v1::enrollment_service_client::EnrollmentServiceClient;
use vpnpanel_api::agent::v1::{EnrollRequest, EnrollResponse};
use vpnpanel_runtime::settings::{HttpEndpoint, Secret};
use vpnpanel_runtime::tls::{ClientTls, Dialer, spki_sha256};
use vpnpanel_runtime::{PeerIdentity, TrustDomain, tls};

pub use error::EnrollmentError;
pub use identity::Identity;
pub use issued::Issued;

/// Dial, handshake and answer together; the collector asks the signer meanwhile.
const DEADLINE: Duration = Duration::from_secs(30);

/// What an install command carries.
#[derive(Debug, Clone, Args)]
#[group(skip)]
pub struct EnrollmentSettings {
    /// Where the control plane enrols hosts, such as https://panel.example.com:50053.
    #[arg(
        long = "enrollment-url",
        env = "VPNPANEL_ENROLLMENT_URL",
        value_name = "URL"
    )]
    pub url: Option<HttpEndpoint>,

    /// The node's join token: single use, valid for 15 minutes.
    #[arg(
        long = "join-token",
        env = "VPNPANEL_JOIN_TOKEN",
        hide_env_values = true,
        value_name = "SECRET"
    )]
    pub token: Option<Secret>,

    /// SHA-256 of the authority's public key, 64 hexadecimal digits.
    #[arg(long = "ca-pin", env = "VPNPANEL_CA_PIN", value_name = "HEX", value_parser = pin)]
    pub ca_pin: Option<[u8; 32]>,
}

/// Spends a join token and keeps the identity it gives in `data_dir`.
///
/// # Errors
/// Settings that are missing, a server that is not the pinned one, a token that is refused, a
/// folder that cannot be written.
pub async fn enroll(
    data_dir: &Path,
    settings: &EnrollmentSettings,
    trust_domain: &TrustDomain,
) -> Result<Identity, EnrollmentError> {
    let (Some(url), Some(token), Some(ca_pin)) = (&settings.url, &settings.token, settings.ca_pin)
    else {
        return Err(EnrollmentError::NotEnrolled);
    };
    let key = identity::pending_key(data_dir)?;
    let csr = CertificateParams::default().serialize_request(&key)?;
    let request = EnrollRequest {
        join_token: token.expose().to_owned(),
        csr_der: csr.der().to_vec(),
    };
    let pinned = ClientTls::from_config(tls::pinned_client(ca_pin)?);
    let channel = dial(url, pinned, trust_domain)?;
    let reply = EnrollmentServiceClient::new(channel)
        .enroll(tonic::Request::new(request))
        .await
        .map_err(EnrollmentError::refused)?
        .into_inner();
    let mut identity = accept(reply, &key, ca_pin, trust_domain)?;
    identity.enrollment_url = Some(url.to_string());
    identity.join_token_sha256 = Some(hash(token));
    if let Some(before) = Identity::load(data_dir, trust_domain).ok().flatten()
        && before.node != identity.node
    {
        identity::drop_pending_key(data_dir)?;
        return Err(EnrollmentError::AnotherNode {
            is: before.node,
            asked: identity.node,
        });
    }
    identity.save(data_dir)?;
    identity::drop_pending_key(data_dir)?;
    Ok(identity)
}

/// Whether the settings give a token that was not spent for this identity: whoever runs a new install
/// command on a host that is a node already wants it to enrol again.
pub fn is_asked_again(identity: &Identity, settings: &EnrollmentSettings) -> bool {
    let given = settings.token.as_ref().map(hash);
    given.is_some() && given != identity.join_token_sha256
}

fn hash(token: &Secret) -> String {
    hex::encode(Sha256::digest(token.expose()))
}

/// A channel to the enrolment listener of the control plane.
pub(crate) fn dial(
    url: &HttpEndpoint,
    client: ClientTls,
    trust_domain: &TrustDomain,
) -> Result<tonic::transport::Channel, EnrollmentError> {
    let authority = url.uri().authority().ok_or(EnrollmentError::NoHost)?;
    let port = authority.port_u16().unwrap_or(443);
    let expected = PeerIdentity::control_plane("collector")
        .map_err(|_| EnrollmentError::Reply("no identity to expect"))?;
    let channel = Dialer::new(client, expected, trust_domain.clone())?
        .channel(&format!("{}:{port}", authority.host()), |e| {
            e.timeout(DEADLINE)
        })?;
    Ok(channel)
}

/// Takes nothing on trust: the certificate must carry our key and a node's name, and the bundle the
/// pinned authority.
fn accept(
    reply: EnrollResponse,
    key: &KeyPair,
    ca_pin: [u8; 32],
    trust_domain: &TrustDomain,
) -> Result<Identity, EnrollmentError> {
    let certificates = |all: Vec<Vec<u8>>| all.into_iter().map(CertificateDer::from).collect();
    let issued = Issued {
        chain: certificates(reply.certificate_chain_der),
        trust_bundle: certificates(reply.trust_bundle_der),
        trust_bundle_sequence: reply.trust_bundle_sequence,
    };
    let accepted = issued.accept(key, trust_domain)?;
    if !accepted
        .trust_bundle
        .certificates()
        .iter()
        .any(|ca| spki_sha256(ca).is_ok_and(|found| found == ca_pin))
    {
        return Err(EnrollmentError::Reply(
            "its trust bundle lacks the pinned authority",
        ));
    }
    Ok(Identity {
        node: accepted.node,
        link_endpoint: reply.link_endpoint,
        credentials: accepted.credentials,
        trust_bundle: accepted.trust_bundle,
        trust_bundle_sequence: reply.trust_bundle_sequence,
        enrollment_url: None,
        join_token_sha256: None,
        not_before_unix: accepted.not_before_unix,
        not_after_unix: accepted.not_after_unix,
    })
}

fn pin(text: &str) -> Result<[u8; 32], String> {
    let expected = || "expected 64 hexadecimal digits".to_owned();
    let bytes = hex::decode(text.trim()).map_err(|_| expected())?;
    bytes.try_into().map_err(|_| expected())
}

#[cfg(test)]
mod tests;
