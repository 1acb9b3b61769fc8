//! What the key of a certificate that has ended signs, so that its holder is given another one. Both
//! ends make it from what they have; the contract is in `vpnpanel.agent.v1.RenewRequest`.

use sha2::{Digest as _, Sha256};

/// Keeps the signature from meaning anything else: TLS signs texts that begin with spaces, requests
/// and certificates begin with the octet 0x30.
const CONTEXT: &[u8] = b"vpnpanel.agent.v1.EnrollmentService/Renew\0";

/// The text to sign: for this certificate, for the key of this request, at this time.
pub fn renewal_statement(certificate_der: &[u8], csr_der: &[u8], signed_at_ms: i64) -> Vec<u8> {
    let mut statement = CONTEXT.to_vec();
    statement.extend(Sha256::digest(certificate_der));
    statement.extend(Sha256::digest(csr_der));
    statement.extend(signed_at_ms.to_be_bytes());
    statement
}
