//! Codes of authenticator apps: TOTP (RFC 6238) over HOTP (RFC 4226), with the parameters that
//! every app understands: HMAC-SHA-1, six digits, 30 seconds. Thirty lines over the cipher library
//! that is here anyway; a crate would add its own HMAC and SHA-1, and answer only yes or no where
//! the time step is needed to refuse a code that was used before.

use aws_lc_rs::hmac;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::AuthError;

/// RFC 4226, section 4, R6: at least 128 bits, 160 recommended.
const SECRET_BYTES: usize = 20;
const STEP_SECONDS: i64 = 30;
const DIGITS: usize = 6;
/// Steps before and after the present one whose codes are accepted: the device's clock may be
/// half a minute off, and people type.
const WINDOW: i64 = 1;

/// The secret that codes are made of.
pub struct TotpSecret(Zeroizing<Vec<u8>>);

impl std::fmt::Debug for TotpSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TotpSecret")
    }
}

impl TotpSecret {
    /// Draws a new secret.
    ///
    /// # Errors
    /// [`AuthError::Random`] when the operating system gives no random bytes.
    pub fn generate() -> Result<Self, AuthError> {
        let mut bytes = Zeroizing::new(vec![0; SECRET_BYTES]);
        getrandom::fill(&mut bytes).map_err(|e| AuthError::Random(e.to_string()))?;
        Ok(Self(bytes))
    }

    /// Takes a secret that was kept.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        Self(Zeroizing::new(bytes.to_vec()))
    }

    /// The secret, to be sealed before it is stored.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// The secret in base32 (RFC 4648), as apps want it typed.
    pub fn base32(&self) -> Zeroizing<String> {
        Zeroizing::new(base32(&self.0, b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"))
    }

    /// `otpauth://totp/…`, as apps read it from a QR code.
    pub fn uri(&self, issuer: &str, account: &str) -> Zeroizing<String> {
        let (issuer, account) = (percent(issuer), percent(account));
        let secret = self.base32();
        Zeroizing::new(format!(
            "otpauth://totp/{issuer}:{account}?secret={}&issuer={issuer}",
            secret.as_str()
        ))
    }

    /// The time step near `now_ms`, milliseconds of the Unix epoch, that `code` is the code of.
    pub fn step_of(&self, code: &str, now_ms: i64) -> Option<i64> {
        let code: String = code.chars().filter(|c| !c.is_whitespace()).collect();
        let now = now_ms.div_euclid(STEP_SECONDS * 1000);
        let mut found = None;
        for step in now - WINDOW..=now + WINDOW {
            if bool::from(self.code(step).as_bytes().ct_eq(code.as_bytes())) {
                found = Some(step);
            }
        }
        found
    }

    /// The code of a time step.
    pub fn code(&self, step: i64) -> Zeroizing<String> {
        let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &self.0);
        let tag = hmac::sign(&key, &step.to_be_bytes());
        // RFC 4226, section 5.3: the last four bits say where the 31 bits begin.
        let tag = tag.as_ref();
        let offset = usize::from(tag[tag.len() - 1] & 0xf);
        let bits = tag[offset..offset + 4]
            .iter()
            .fold(0_u32, |bits, &byte| bits << 8 | u32::from(byte));
        let number = (bits & 0x7fff_ffff) % 10_u32.pow(DIGITS as u32);
        Zeroizing::new(format!("{number:0DIGITS$}"))
    }
}

/// RFC 4648, section 6, without padding.
pub(crate) fn base32(bytes: &[u8], alphabet: &[u8; 32]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(5) * 8);
    for chunk in bytes.chunks(5) {
        let mut bits = [0_u8; 8];
        bits[3..3 + chunk.len()].copy_from_slice(chunk);
        let bits = u64::from_be_bytes(bits);
        for at in 0..(chunk.len() * 8).div_ceil(5) {
            let index = (bits >> (35 - 5 * at)) & 31;
            text.push(char::from(alphabet[index as usize]));
        }
    }
    text
}

/// RFC 3986, section 2.1.
fn percent(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~@".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 4226, appendix D, and RFC 6238, appendix B.
    fn of_the_rfc() -> TotpSecret {
        TotpSecret::from_bytes(b"12345678901234567890")
    }

    #[test]
    fn codes_are_those_of_the_rfcs() {
        let secret = of_the_rfc();
        for (step, code) in ["755224", "287082", "359152", "969429"].iter().enumerate() {
            assert_eq!(secret.code(step as i64).as_str(), *code);
        }
        for (seconds, code) in [
            (59, "287082"),
            (1_111_111_109, "081804"),
            (1_234_567_890, "005924"),
            (20_000_000_000, "353130"),
        ] {
            let step = secret.step_of(code, seconds * 1000);
            assert_eq!(step, Some(seconds / 30), "{seconds}");
        }
    }

    #[test]
    fn a_code_is_good_one_step_before_and_after_its_own() {
        let secret = of_the_rfc();
        let step = 1_000_000;
        let code = secret.code(step);
        for (at, expected) in [
            (-2, None),
            (-1, Some(step)),
            (0, Some(step)),
            (1, Some(step)),
            (2, None),
        ] {
            let now_ms = (step + at) * 30_000 + 15_000;
            assert_eq!(secret.step_of(&code, now_ms), expected, "{at}");
        }
        let spaced = format!("{} {}", &code[..3], &code[3..]);
        assert_eq!(secret.step_of(&spaced, step * 30_000), Some(step));
        for wrong in ["", "1", "0000000", "abcdef"] {
            assert_eq!(secret.step_of(wrong, step * 30_000), None);
        }
    }

    #[test]
    fn secrets_are_typed_in_base32() {
        let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
        for (bytes, text) in [
            ("", ""),
            ("f", "MY"),
            ("fo", "MZXQ"),
            ("foo", "MZXW6"),
            ("foob", "MZXW6YQ"),
            ("fooba", "MZXW6YTB"),
            ("foobar", "MZXW6YTBOI"),
        ] {
            assert_eq!(base32(bytes.as_bytes(), alphabet), text);
        }
        let uri = of_the_rfc().uri("vpn panel", "a+b@example.com");
        assert_eq!(
            uri.as_str(),
            "otpauth://totp/vpn%20panel:a%2Bb@example.com\
             ?secret=GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ&issuer=vpn%20panel"
        );
    }

    #[test]
    fn no_two_secrets_are_alike_and_debug_shows_none() {
        let secret = TotpSecret::generate().unwrap();
        assert_ne!(secret.bytes(), TotpSecret::generate().unwrap().bytes());
        assert_eq!(format!("{secret:?}"), "TotpSecret");
    }
}
