//! Password hashes as they are stored: texts in the PHC string format.

use argon2::{Params, PasswordHash, Version};

use super::OUTPUT_BYTES;
use crate::AuthError;

/// No stored hash may ask for more than this, whatever the database says: 4 GiB.
const MAX_MEMORY_KIB: u32 = 4 * 1024 * 1024;

/// A stored hash, taken apart.
pub(super) struct Stored {
    pub(super) params: Params,
    pub(super) salt: Vec<u8>,
    pub(super) output: Vec<u8>,
}

impl Stored {
    pub(super) fn parse(text: &str) -> Result<Self, AuthError> {
        let malformed = AuthError::MalformedHash;
        let hash = PasswordHash::new(text).map_err(|_| malformed("not in the PHC form"))?;
        if hash.algorithm != argon2::ARGON2ID_IDENT {
            return Err(malformed("not argon2id"));
        }
        if hash.version != Some(u32::from(Version::V0x13)) {
            return Err(malformed("not version 19"));
        }
        let params = Params::try_from(&hash).map_err(|_| malformed("parameters"))?;
        if params.m_cost() > MAX_MEMORY_KIB {
            return Err(malformed("asks for too much memory"));
        }
        let salt = hash.salt.ok_or(malformed("no salt"))?;
        let output = hash.hash.ok_or(malformed("no hash"))?;
        if output.len() != OUTPUT_BYTES {
            return Err(malformed("not 32 bytes long"));
        }
        Ok(Self {
            params,
            salt: salt.as_ref().to_vec(),
            output: output.as_bytes().to_vec(),
        })
    }
}

/// Parameters within what Argon2 allows (RFC 9106, section 3.1) and this crate's bound.
pub(super) fn params(
    memory_kib: u32,
    time_cost: u32,
    parallelism: u32,
) -> Result<Params, AuthError> {
    if memory_kib > MAX_MEMORY_KIB {
        return Err(AuthError::HashParameters(format!(
            "at most {MAX_MEMORY_KIB} KiB of memory, not {memory_kib}"
        )));
    }
    Params::new(memory_kib, time_cost, parallelism, Some(OUTPUT_BYTES))
        .map_err(|e| AuthError::HashParameters(e.to_string()))
}

/// `$argon2id$v=19$m=…,t=…,p=…$salt$hash`, base64 without padding.
pub(super) fn phc(params: &Params, salt: &[u8], output: &[u8]) -> String {
    use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};
    format!(
        "$argon2id$v=19$m={},t={},p={}${}${}",
        params.m_cost(),
        params.t_cost(),
        params.p_cost(),
        STANDARD_NO_PAD.encode(salt),
        STANDARD_NO_PAD.encode(output),
    )
}
