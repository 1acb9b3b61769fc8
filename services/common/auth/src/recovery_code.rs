//! Recovery codes: each stands in for the second factor once. 80 random bits, so that a plain hash
//! keeps them, bound to the account, so that equal codes of two accounts are not seen as equal.

use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use vpnpanel_domain::AccountId;
use zeroize::Zeroizing;

use crate::{AuthError, totp::base32};

/// Codes of an account.
pub const RECOVERY_CODES: usize = 10;

const RANDOM_BYTES: usize = 10;
const GROUP: usize = 4;
const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// A recovery code.
#[derive(Debug, Clone)]
pub struct RecoveryCode(SecretString);

impl RecoveryCode {
    /// Draws a new code.
    ///
    /// # Errors
    /// [`AuthError::Random`] when the operating system gives no random bytes.
    pub fn generate() -> Result<Self, AuthError> {
        let mut random = Zeroizing::new([0_u8; RANDOM_BYTES]);
        getrandom::fill(random.as_mut()).map_err(|e| AuthError::Random(e.to_string()))?;
        Ok(Self(base32(random.as_ref(), ALPHABET).into()))
    }

    /// Takes what somebody types: case, spaces and dashes do not matter. `None` when it cannot
    /// be a code.
    pub fn parse(text: &str) -> Option<Self> {
        let code: String = text
            .chars()
            .filter(|c| !c.is_whitespace() && *c != '-')
            .map(|c| c.to_ascii_lowercase())
            .collect();
        let length = RANDOM_BYTES * 8 / 5;
        (code.len() == length && code.bytes().all(|b| ALPHABET.contains(&b)))
            .then(|| Self(code.into()))
    }

    /// The code as it is written down, in groups of four.
    pub fn expose(&self) -> String {
        let mut text = String::new();
        for (at, c) in self.0.expose_secret().chars().enumerate() {
            if at > 0 && at % GROUP == 0 {
                text.push('-');
            }
            text.push(c);
        }
        text
    }

    /// What is stored and looked up.
    pub fn hash(&self, account: AccountId) -> [u8; 32] {
        Sha256::new()
            .chain_update(b"vpnpanel recovery code")
            .chain_update(account.as_bytes())
            .chain_update(self.0.expose_secret().as_bytes())
            .finalize()
            .into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_read_as_people_type_it() {
        let account = AccountId::from_parts(1, [1; 10]);
        let code = RecoveryCode::generate().unwrap();
        let written = code.expose();
        assert_eq!(written.len(), 19);
        for typed in [
            written.clone(),
            written.to_uppercase(),
            format!(" {} ", written.replace('-', " ")),
        ] {
            let parsed = RecoveryCode::parse(&typed).unwrap();
            assert_eq!(parsed.hash(account), code.hash(account));
        }
        for junk in [
            "",
            "abcd",
            "0000-0000-0000-0000",
            "abcd-efgh-ijkl-mnopq",
            "é",
        ] {
            assert!(RecoveryCode::parse(junk).is_none(), "{junk}");
        }
    }

    #[test]
    fn equal_codes_of_two_accounts_do_not_look_equal() {
        let code = RecoveryCode::generate().unwrap();
        let hash = |n| code.hash(AccountId::from_parts(1, [n; 10]));
        assert_ne!(hash(1), hash(2));
    }
}
