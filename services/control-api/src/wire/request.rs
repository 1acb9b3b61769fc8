//! Request ids (AIP-155): what makes a repeated request the same request.

use prost::Message;
use sha2::{Digest, Sha256};
use vpnpanel_domain::TenantId;
use vpnpanel_store::RequestKey;

use crate::{Error, caller::Caller};

/// The key of a request that has an id; `None` when it has none.
///
/// # Errors
/// When the id is no UUID, or nobody is signed in.
pub(crate) fn key(
    caller: &Caller,
    tenant_id: Option<TenantId>,
    method: &'static str,
    request_id: &str,
    request: &impl Message,
) -> Result<Option<RequestKey>, Error> {
    if request_id.is_empty() {
        return Ok(None);
    }
    let id: uuid::Uuid = super::ids::required("request_id", request_id)?;
    Ok(Some(RequestKey {
        account_id: caller.principal()?.account,
        tenant_id,
        method,
        request_id: id.to_string(),
        // Maps of the contract are ordered, so that equal requests have equal bytes.
        digest: Sha256::digest(request.encode_to_vec()).into(),
    }))
}
