//! Typed ids: mixing up a user and a node does not compile. All are UUIDv7 (RFC 9562), so that
//! they sort by age in an index, and have 74 random bits, so that none comes twice, not even
//! after a restore of an older database.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::Error;

macro_rules! typed_ids {
    ($($(#[$doc:meta])* $name:ident,)+) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Uuid);

        impl $name {
            /// Takes a UUID as an id of this type.
            pub const fn new(uuid: Uuid) -> Self {
                Self(uuid)
            }

            /// Builds a UUIDv7 of an instant and random bytes.
            pub fn from_parts(unix_ms: i64, random: [u8; 10]) -> Self {
                Self(uuid_v7(unix_ms, random))
            }

            /// Takes the 16 bytes of a UUID in network order.
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(Uuid::from_bytes(bytes))
            }

            /// The UUID.
            pub const fn uuid(self) -> Uuid {
                self.0
            }

            /// The 16 bytes of the UUID in network order.
            pub const fn into_bytes(self) -> [u8; 16] {
                self.0.into_bytes()
            }

            /// The 16 bytes of the UUID in network order.
            pub const fn as_bytes(&self) -> &[u8; 16] {
                self.0.as_bytes()
            }

            /// Whether this is the nil UUID, which no resource has.
            pub const fn is_nil(&self) -> bool {
                self.0.is_nil()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.as_hyphenated().fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0.as_hyphenated())
            }
        }

        impl FromStr for $name {
            type Err = Error;

            fn from_str(text: &str) -> Result<Self, Error> {
                parse(text).map(Self).ok_or(Error::MalformedId { kind: stringify!($name) })
            }
        }

        impl TryFrom<&[u8]> for $name {
            type Error = Error;

            fn try_from(bytes: &[u8]) -> Result<Self, Error> {
                Uuid::from_slice(bytes)
                    .map(Self)
                    .map_err(|_| Error::MalformedId { kind: stringify!($name) })
            }
        }

        impl From<Uuid> for $name {
            fn from(uuid: Uuid) -> Self {
                Self(uuid)
            }
        }

        impl From<$name> for Uuid {
            fn from(id: $name) -> Uuid {
                id.0
            }
        }
    )+};
}

typed_ids! {
    /// An organisation.
    TenantId,
    /// Somebody who signs in to the panel or the API.
    AccountId,
    /// Account × tenant × role.
    MembershipId,
    /// A sign-in session of an account.
    SessionId,
    /// A long-lived credential of an account.
    ApiTokenId,
    /// A subscriber of the VPN.
    UserId,
    /// A device of a user.
    DeviceId,
    /// Limits and access that users are given.
    PlanId,
    /// A named set of inbounds.
    GroupId,
    /// An access endpoint of an engine.
    InboundId,
    /// How an inbound is presented in subscriptions.
    EndpointTemplateId,
    /// An edge host.
    NodeId,
    /// A single-use secret with which a host becomes a node.
    JoinTokenId,
    /// Something that a node's agent does once.
    CommandId,
    /// One device of a user on one inbound: the key of its counters, never used again.
    PeerId,
    /// A quota window of a user.
    PeriodId,
    /// An allowance of a user's period on one node.
    LeaseId,
    /// A long-running call.
    OperationId,
    /// A periodic job.
    JobId,
    /// An entry of the audit log.
    AuditEventId,
    /// A signed delivery of events.
    WebhookId,
}

/// Builds a UUIDv7 (RFC 9562, section 5.7) of an instant and random bytes; instants before
/// 1970 count as 0.
pub fn uuid_v7(unix_ms: i64, random: [u8; 10]) -> Uuid {
    let millis = u64::try_from(unix_ms).unwrap_or(0);
    uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid()
}

/// Only the hyphenated form is an id: braces, URNs and bare hex digits are not.
fn parse(text: &str) -> Option<Uuid> {
    (text.len() == uuid::fmt::Hyphenated::LENGTH)
        .then(|| Uuid::try_parse(text).ok())
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_is_lowercase_hyphenated_and_round_trips() {
        let id = UserId::from_parts(1_795_474_800_000, [7; 10]);
        let text = id.to_string();
        assert_eq!(text.len(), 36);
        assert_eq!(text, text.to_lowercase());
        assert_eq!(text.parse(), Ok(id));
        assert_eq!(text.to_uppercase().parse(), Ok(id));
        assert_eq!(UserId::try_from(id.as_bytes().as_slice()), Ok(id));
    }

    #[test]
    fn other_forms_of_a_uuid_are_refused() {
        let id = NodeId::from_parts(1, [1; 10]);
        let bare = id.uuid().simple().to_string();
        let urn = id.uuid().urn().to_string();
        for text in ["", "x", &bare, &urn, &format!("{{{id}}}")] {
            assert_eq!(
                text.parse::<NodeId>(),
                Err(Error::MalformedId { kind: "NodeId" })
            );
        }
    }

    #[test]
    fn ids_are_version_7_and_sort_by_age() {
        let older = PeriodId::from_parts(1_000, [255; 10]);
        let newer = PeriodId::from_parts(1_001, [0; 10]);
        assert!(older < newer);
        assert_eq!(older.uuid().get_version_num(), 7);
    }
}
