//! How a node's certificate is followed by the next, and how an operator ends it. Whose a certificate
//! is says the allow-list, by the serial that was verified; nothing in a request does.

use sha2::{Digest, Sha256};
use vpnpanel_api::{
    node::v1::{RevokeNodeCertificateRequest, RevokeNodeCertificateResponse},
    pki::v1::{
        RenewedCertificate, SignLapsedNodeRequest, SignLapsedNodeResponse, SignRenewingNodeRequest,
        SignRenewingNodeResponse,
    },
};
use vpnpanel_pki::{IssuedEntry, RENEWAL_GRACE_MS, csr};
use vpnpanel_runtime::{PeerIdentity, tls::renewal_statement};
use vpnpanel_store::{NewNodeCertificate, NodeIdentity, Renewal, RenewalRefusal, ShownCertificate};

use crate::{
    Error,
    caller::Caller,
    context::Context,
    wire::{ids, time},
};

/// How far a host's clock may be from ours when it proves that it holds a key.
const PROOF_SKEW_MS: u64 = 5 * 60 * 1000;

pub(crate) async fn sign_renewing_node(
    context: &Context,
    caller: &Caller,
    message: SignRenewingNodeRequest,
) -> Result<SignRenewingNodeResponse, Error> {
    let shown = ShownCertificate {
        serial: &message.serial,
        proof_at_ms: None,
        grace_ms: RENEWAL_GRACE_MS,
    };
    let certificate = renew(context, caller, shown, &message.csr_der).await?;
    Ok(SignRenewingNodeResponse {
        certificate: Some(certificate),
    })
}

pub(crate) async fn sign_lapsed_node(
    context: &Context,
    caller: &Caller,
    message: SignLapsedNodeRequest,
) -> Result<SignLapsedNodeResponse, Error> {
    let own = context
        .authority
        .signer
        .recognise(&message.certificate_der)
        .map_err(|error| match error {
            vpnpanel_pki::Error::Foreign => Error::RenewalRefused(RenewalRefusal::Unknown),
            error => error.into(),
        })?;
    let signed_at_ms = time::unix_ms("sign_time", &message.sign_time.unwrap_or_default())?;
    let statement = renewal_statement(&message.certificate_der, &message.csr_der, signed_at_ms);
    if !own.has_signed(&statement, &message.signature) {
        return Err(Error::ProofRefused);
    }
    if context.store.now_ms().abs_diff(signed_at_ms) > PROOF_SKEW_MS {
        return Err(Error::ProofStale);
    }
    let shown = ShownCertificate {
        serial: own.peer.serial(),
        proof_at_ms: Some(signed_at_ms),
        grace_ms: RENEWAL_GRACE_MS,
    };
    let certificate = renew(context, caller, shown, &message.csr_der).await?;
    Ok(SignLapsedNodeResponse {
        certificate: Some(certificate),
    })
}

pub(crate) async fn revoke(
    context: &Context,
    caller: &Caller,
    message: RevokeNodeCertificateRequest,
) -> Result<RevokeNodeCertificateResponse, Error> {
    let tenant_id = ids::optional("tenant_id", &message.tenant_id)?;
    let node_id = ids::required("node_id", &message.node_id)?;
    context
        .acting(caller)
        .revoke_node_certificates(tenant_id, node_id)
        .await?;
    context
        .certificates
        .revoked(&context.store, node_id)
        .await?;
    tracing::info!(event = "node_certificate_revoked", %node_id);
    Ok(RevokeNodeCertificateResponse {})
}

/// Signs, and notes what was signed before anybody has it.
async fn renew(
    context: &Context,
    caller: &Caller,
    shown: ShownCertificate<'_>,
    csr_der: &[u8],
) -> Result<RenewedCertificate, Error> {
    let public_key = csr::public_key(csr_der)?;
    let node = context
        .store
        .identity_of(shown.serial)
        .await?
        .ok_or_else(|| refused(RenewalRefusal::Unknown, shown))?;
    let now_ms = context.store.now_ms();
    let authority = &context.authority;
    let issued = authority.signer.issue(
        &identity(&node),
        &public_key,
        context.node_certificate_life,
        now_ms,
    )?;
    let serial = hex::decode(&issued.serial)
        .map_err(|_| Error::Corrupt("a serial number is not hexadecimal"))?;
    let mut chain: Vec<Vec<u8>> = issued.chain.iter().map(|one| one.to_vec()).collect();
    let leaf = chain
        .first_mut()
        .ok_or(Error::Corrupt("an issued chain is empty"))?;
    let new = NewNodeCertificate {
        serial,
        node_id: node.node_id,
        authority_id: authority.id,
        spki_sha256: Sha256::digest(&public_key).to_vec(),
        certificate_der: leaf.clone(),
        not_before_ms: now_ms,
        not_after_ms: issued.not_after_ms,
    };
    let mut entry = IssuedEntry {
        at_ms: now_ms,
        serial: new.serial.clone(),
        shown: Some(shown.serial.to_vec()),
        certificate_der: leaf.clone(),
        not_after_ms: issued.not_after_ms,
    };
    match context.acting(caller).renew_certificate(shown, new).await? {
        Renewal::Noted => {
            tracing::info!(event = "node_renewed", node_id = %node.node_id, serial = issued.serial);
        }
        Renewal::Before {
            certificate_der,
            not_after_ms,
            serial,
            issued_at_ms,
        } => {
            leaf.clone_from(&certificate_der);
            entry = IssuedEntry {
                at_ms: issued_at_ms,
                serial,
                shown: entry.shown,
                certificate_der,
                not_after_ms,
            };
        }
        Renewal::Refused(refusal) => return Err(refused(refusal, shown)),
    }
    let expires_at_ms = entry.not_after_ms;
    context.certificates.issued(entry, now_ms).await?;
    Ok(RenewedCertificate {
        node_id: node.node_id.to_string(),
        certificate_chain_der: chain,
        trust_bundle_der: authority
            .signer
            .trust_bundle()
            .iter()
            .map(|one| one.to_vec())
            .collect(),
        trust_bundle_sequence: authority.sequence,
        expire_time: Some(time::timestamp(expires_at_ms)),
    })
}

fn identity(node: &NodeIdentity) -> PeerIdentity {
    PeerIdentity::Node {
        tenant: node.tenant_id.map(Into::into),
        node: node.node_id.uuid(),
    }
}

fn refused(refusal: RenewalRefusal, shown: ShownCertificate<'_>) -> Error {
    tracing::warn!(
        event = "renewal_refused",
        serial = hex::encode(shown.serial),
        reason = %refusal,
    );
    Error::RenewalRefused(refusal)
}
