//! What a line of the log says, and how it is written.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::RENEWAL_GRACE_MS;

/// Digits of the checksum in front of a line.
const CHECKSUM_DIGITS: usize = 16;

/// Something that happened to certificates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogEntry {
    /// One was issued.
    Issued(IssuedEntry),
    /// Those of a node were revoked.
    Revoked(RevokedEntry),
}

/// A certificate that was issued to a node. Whose it is says the certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssuedEntry {
    /// When.
    pub at_ms: i64,
    /// Its serial number, big endian.
    pub serial: Vec<u8>,
    /// Serial of the certificate that was shown for it; `None` for one of an enrolment.
    pub shown: Option<Vec<u8>>,
    /// The certificate, DER.
    pub certificate_der: Vec<u8>,
    /// When it ends.
    pub not_after_ms: i64,
}

/// Certificates of a node that were revoked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RevokedEntry {
    /// When.
    pub at_ms: i64,
    /// The node, a UUID.
    pub node: [u8; 16],
    /// All of its certificates that are revoked and not over.
    pub certificates: Vec<EndedCertificate>,
}

/// A certificate that is worth nothing any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndedCertificate {
    /// Its serial number, big endian.
    pub serial: Vec<u8>,
    /// When it begins.
    pub not_before_ms: i64,
    /// When it ends.
    pub not_after_ms: i64,
}

impl LogEntry {
    /// When it happened.
    pub fn at_ms(&self) -> i64 {
        match self {
            Self::Issued(issued) => issued.at_ms,
            Self::Revoked(revoked) => revoked.at_ms,
        }
    }

    /// Whether nothing that it is about can be used, or renewed, any more.
    pub fn is_over(&self, now_ms: i64) -> bool {
        let over = |not_after: i64| not_after.saturating_add(RENEWAL_GRACE_MS) <= now_ms;
        match self {
            Self::Issued(issued) => over(issued.not_after_ms),
            Self::Revoked(revoked) => revoked
                .certificates
                .iter()
                .all(|ended| over(ended.not_after_ms)),
        }
    }

    /// The line, with its end: a checksum and an object of JSON.
    pub(super) fn to_line(&self) -> Result<String, serde_json::Error> {
        let json = serde_json::to_string(&Line::from(self))?;
        Ok(format!("{} {json}\n", checksum(&json)))
    }

    /// Reads a line without its end; `None` when it is not as it was written.
    pub(super) fn from_line(line: &str) -> Option<Self> {
        let (sum, json) = line.split_once(' ')?;
        if sum != checksum(json) {
            return None;
        }
        serde_json::from_str::<Line>(json).ok()?.entry()
    }
}

fn checksum(json: &str) -> String {
    let mut digits = hex::encode(Sha256::digest(json));
    digits.truncate(CHECKSUM_DIGITS);
    digits
}

#[derive(Serialize, Deserialize)]
#[serde(
    tag = "event",
    rename_all = "camelCase",
    rename_all_fields = "camelCase"
)]
enum Line {
    Issued {
        at_ms: i64,
        serial: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        shown: Option<String>,
        certificate: String,
        not_after_ms: i64,
    },
    Revoked {
        at_ms: i64,
        node: String,
        certificates: Vec<Ended>,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Ended {
    serial: String,
    not_before_ms: i64,
    not_after_ms: i64,
}

impl From<&LogEntry> for Line {
    fn from(entry: &LogEntry) -> Self {
        match entry {
            LogEntry::Issued(issued) => Self::Issued {
                at_ms: issued.at_ms,
                serial: hex::encode(&issued.serial),
                shown: issued.shown.as_ref().map(hex::encode),
                certificate: STANDARD.encode(&issued.certificate_der),
                not_after_ms: issued.not_after_ms,
            },
            LogEntry::Revoked(revoked) => Self::Revoked {
                at_ms: revoked.at_ms,
                node: hex::encode(revoked.node),
                certificates: revoked.certificates.iter().map(Ended::from).collect(),
            },
        }
    }
}

impl From<&EndedCertificate> for Ended {
    fn from(ended: &EndedCertificate) -> Self {
        Self {
            serial: hex::encode(&ended.serial),
            not_before_ms: ended.not_before_ms,
            not_after_ms: ended.not_after_ms,
        }
    }
}

impl Line {
    fn entry(self) -> Option<LogEntry> {
        Some(match self {
            Self::Issued {
                at_ms,
                serial,
                shown,
                certificate,
                not_after_ms,
            } => LogEntry::Issued(IssuedEntry {
                at_ms,
                serial: hex::decode(serial).ok()?,
                shown: match shown {
                    Some(shown) => Some(hex::decode(shown).ok()?),
                    None => None,
                },
                certificate_der: STANDARD.decode(certificate).ok()?,
                not_after_ms,
            }),
            Self::Revoked {
                at_ms,
                node,
                certificates,
            } => LogEntry::Revoked(RevokedEntry {
                at_ms,
                node: hex::decode(node).ok()?.try_into().ok()?,
                certificates: certificates
                    .into_iter()
                    .map(|ended| {
                        Some(EndedCertificate {
                            serial: hex::decode(ended.serial).ok()?,
                            not_before_ms: ended.not_before_ms,
                            not_after_ms: ended.not_after_ms,
                        })
                    })
                    .collect::<Option<_>>()?,
            }),
        })
    }
}
