//! What must not come out, what came out, and the search.

use serde_json::Value;

use crate::rest::Answer;

/// What a secret that is put in looks like: nothing of the product is spelled so.
pub(super) const CANARY: &str = "kanarienvogel";
/// 32 bytes that say so too.
pub(super) const MASTER_KEY: &[u8; 32] = b"kanarienvogel-hauptschluessel-32";

/// What is looked for, and where it was.
#[derive(Default)]
pub(super) struct Seen {
    /// Secrets that were handed out, by what they are.
    pub(super) secrets: Vec<(&'static str, String)>,
    /// What came out, by where.
    out: Vec<(String, Vec<u8>)>,
}

impl Seen {
    pub(super) fn secret(&mut self, what: &'static str, value: &Value) -> String {
        let text = value.as_str().unwrap_or_else(|| panic!("no {what}"));
        assert!(text.len() >= 8, "{what} is too short to be told apart");
        self.secrets.push((what, text.to_owned()));
        text.to_owned()
    }

    pub(super) fn came_out(&mut self, place: impl Into<String>, bytes: impl Into<Vec<u8>>) {
        self.out.push((place.into(), bytes.into()));
    }

    /// An answer that is an error, and so must hold no secret, not even its caller's.
    pub(super) fn error(&mut self, what: &str, answer: &Answer) {
        assert!(answer.status >= 400, "{what}: {answer:?}");
        self.came_out(format!("answer to {what}"), format!("{answer:?}"));
    }

    pub(super) fn refusal<T: std::fmt::Debug>(
        &mut self,
        what: &str,
        answer: Result<T, tonic::Status>,
    ) {
        let status = answer.expect_err(what);
        let details = String::from_utf8_lossy(status.details()).into_owned();
        self.came_out(format!("status of {what}"), format!("{status:?} {details}"));
    }

    /// Everything that came out and should not have.
    pub(super) fn leaks(&self) -> Vec<String> {
        let mut sought: Vec<(&str, Vec<u8>)> = vec![
            ("a canary", CANARY.into()),
            ("the master key", hex(MASTER_KEY).into()),
            ("the master key", base64(MASTER_KEY).into()),
        ];
        for (what, secret) in &self.secrets {
            sought.push((what, secret.clone().into()));
        }
        let mut leaks = Vec::new();
        for (place, bytes) in &self.out {
            for (what, secret) in &sought {
                let found = bytes.windows(secret.len()).position(|w| w == secret);
                if let Some(at) = found {
                    let around = at.saturating_sub(300)..(at + 300).min(bytes.len());
                    let around = String::from_utf8_lossy(&bytes[around]);
                    leaks.push(format!("{what} in {place}: …{around}…"));
                }
            }
        }
        leaks
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(super) fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let mut bits = [0; 3];
        bits[..chunk.len()].copy_from_slice(chunk);
        let bits = u32::from_be_bytes([0, bits[0], bits[1], bits[2]]);
        for at in 0..4 {
            let letter = LETTERS[(bits >> (18 - 6 * at)) as usize & 63];
            text.push(if at > chunk.len() { '=' } else { letter.into() });
        }
    }
    text
}
