//! How a host becomes a node, on this side: the join token that an operator hands over, and the
//! certificate that the collector asks for when a host presents it.

use sha2::{Digest, Sha256};
use vpnpanel_api::{
    node::v1::{CreateJoinTokenRequest, CreateJoinTokenResponse},
    pki::v1::{SignJoiningNodeRequest, SignJoiningNodeResponse},
};
use vpnpanel_domain::NodeId;
use vpnpanel_pki::{IssuedEntry, JoinToken, csr};
use vpnpanel_runtime::PeerIdentity;
use vpnpanel_store::{NewJoinToken, NewNodeCertificate};

use crate::{
    Error,
    caller::Caller,
    context::Context,
    wire::{ids, time},
};

const JOIN_TOKEN_LIFE_MS: i64 = 15 * 60 * 1000;

pub(crate) async fn create_join_token(
    context: &Context,
    caller: &Caller,
    message: CreateJoinTokenRequest,
) -> Result<CreateJoinTokenResponse, Error> {
    let tenant_id = ids::optional("tenant_id", &message.tenant_id)?;
    let node_id: NodeId = ids::required("node_id", &message.node_id)?;
    let token = JoinToken::generate()?;
    let expires_at_ms = context.store.now_ms() + JOIN_TOKEN_LIFE_MS;
    let new = NewJoinToken {
        hash: token.hash().to_vec(),
        node_id,
        expires_at_ms,
    };
    context
        .acting(caller)
        .create_join_token(tenant_id, new)
        .await?;
    let ca_pin = context.authority.signer.pin();
    let text = token.text();
    // In variables, not arguments: arguments can be read by every user of the host.
    let install_command = format!(
        "VPNPANEL_ENROLLMENT_URL={} VPNPANEL_CA_PIN={ca_pin} VPNPANEL_JOIN_TOKEN={} vpnpanel-agent run",
        context.enrollment_url,
        text.as_str(),
    );
    Ok(CreateJoinTokenResponse {
        token: text.to_string(),
        expire_time: Some(time::timestamp(expires_at_ms)),
        ca_pin,
        install_command,
    })
}

pub(crate) async fn sign_joining_node(
    context: &Context,
    caller: &Caller,
    message: SignJoiningNodeRequest,
) -> Result<SignJoiningNodeResponse, Error> {
    let public_key = csr::public_key(&message.csr_der)?;
    let token = JoinToken::parse(&message.join_token).map_err(|_| Error::JoinTokenRefused)?;
    let spki_sha256 = Sha256::digest(&public_key).to_vec();
    let spent = context
        .acting(caller)
        .spend_join_token(&token.hash(), &spki_sha256)
        .await?;
    let Some(spent) = spent else {
        tracing::warn!(event = "join_token_refused");
        return Err(Error::JoinTokenRefused);
    };
    let identity = PeerIdentity::Node {
        tenant: spent.tenant_id.map(Into::into),
        node: spent.node_id.uuid(),
    };
    let now_ms = context.store.now_ms();
    let authority = &context.authority;
    let issued = authority.signer.issue(
        &identity,
        &public_key,
        context.node_certificate_life,
        now_ms,
    )?;
    let leaf = issued
        .chain
        .first()
        .ok_or(Error::Corrupt("an issued chain is empty"))?;
    let serial = hex::decode(&issued.serial)
        .map_err(|_| Error::Corrupt("a serial number is not hexadecimal"))?;
    let entry = IssuedEntry {
        at_ms: now_ms,
        serial: serial.clone(),
        shown: None,
        certificate_der: leaf.to_vec(),
        not_after_ms: issued.not_after_ms,
    };
    context
        .acting(caller)
        .enrol_certificate(NewNodeCertificate {
            serial,
            node_id: spent.node_id,
            authority_id: authority.id,
            spki_sha256,
            certificate_der: leaf.to_vec(),
            not_before_ms: now_ms,
            not_after_ms: issued.not_after_ms,
        })
        .await?;
    context.certificates.issued(entry, now_ms).await?;
    tracing::info!(event = "node_enrolled", node_id = %spent.node_id, serial = issued.serial);
    Ok(SignJoiningNodeResponse {
        node_id: spent.node_id.to_string(),
        certificate_chain_der: issued.chain.iter().map(|one| one.to_vec()).collect(),
        trust_bundle_der: authority
            .signer
            .trust_bundle()
            .iter()
            .map(|one| one.to_vec())
            .collect(),
        trust_bundle_sequence: authority.sequence,
        expire_time: Some(time::timestamp(issued.not_after_ms)),
    })
}
