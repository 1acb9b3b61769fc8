//! What can be wrong with something that came over the link or off the agent's disk.

/// Errors of the link. Each names the field, so that one log line is enough to find the cause.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A field of fixed length has another one.
    #[error("{what} is {found} bytes long, not {expected}")]
    WrongLength {
        /// The type or field.
        what: &'static str,
        /// Its length in bytes.
        expected: usize,
        /// What came.
        found: usize,
    },
    /// A text is not the lowercase hex form of a name.
    #[error("{what} is not hexadecimal or has the wrong length")]
    NotHex {
        /// The type.
        what: &'static str,
    },
    /// The bytes are no protobuf message of the expected type.
    #[error("{what} cannot be decoded: {reason}")]
    Undecodable {
        /// The message.
        what: &'static str,
        /// Why, as the decoder says.
        reason: String,
    },
    /// A required field is missing.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// A field has a value that no correct sender writes.
    #[error("{what}: {reason}")]
    Invalid {
        /// The field.
        what: &'static str,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// More items or bytes than the contract allows.
    #[error("{what} holds {found}, more than {most}")]
    TooMany {
        /// The field.
        what: &'static str,
        /// How many came.
        found: usize,
        /// How many are allowed.
        most: usize,
    },
    /// The digest does not belong to the bytes.
    #[error("the digest of {0} does not match its bytes")]
    DigestMismatch(&'static str),
    /// A value of the domain is malformed.
    #[error(transparent)]
    Domain(#[from] vpnpanel_domain::Error),
}
