//! A resource in an event: the message that clients are shown, without its secrets.

use prost::Name;
use vpnpanel_api::{difference, shown};
use vpnpanel_store::Described;

/// What an event shows of a message as it was and as it is: where both are given, only the fields
/// that differ. Redaction is derived from the contract, never listed.
pub fn described<M: Name>(before: Option<&M>, after: Option<&M>) -> Described {
    match (before, after) {
        (Some(before), Some(after)) => {
            let (before, after) = difference(before, after);
            Described {
                before: Some(before),
                after: Some(after),
            }
        }
        (before, after) => Described {
            before: before.map(shown),
            after: after.map(shown),
        },
    }
}
