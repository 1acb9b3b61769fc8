//! What each sealed secret is bound to. The service that seals and the one that opens are two
//! processes: both take the context from here. Ids are given in their text form.

use std::fmt::Display;

/// The private key of an inbound on a node.
pub fn inbound_key(inbound: impl Display, node: impl Display) -> String {
    format!("inbound-key/{inbound}/{node}")
}

/// The private key of a user's device.
pub fn device_key(device: impl Display) -> String {
    format!("device-key/{device}")
}

/// A key that signs access tokens.
pub fn signing_key(kid: impl Display) -> String {
    format!("signing-key/{kid}")
}

/// The secret of an account's second factor.
pub fn second_factor(account: impl Display) -> String {
    format!("second-factor/{account}")
}

/// The preshared key of a user's device.
pub fn preshared_key(device: impl Display) -> String {
    format!("preshared-key/{device}")
}

/// What a device's credentials for Xray are derived from.
pub fn device_seed(device: impl Display) -> String {
    format!("device-seed/{device}")
}

/// The secret of an inbound that is the same on each of its nodes.
pub fn inbound_secret(inbound: impl Display) -> String {
    format!("inbound-secret/{inbound}")
}

/// The token in the link of a user's subscription.
pub fn subscription_token(user: impl Display) -> String {
    format!("subscription-token/{user}")
}
