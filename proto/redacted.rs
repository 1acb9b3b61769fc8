//! `Debug` of messages with secret fields.

/// What a secret prints as.
struct Redacted;

impl std::fmt::Debug for Redacted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[redacted]")
    }
}

include!(concat!(env!("OUT_DIR"), "/redacted.rs"));
