//! Who acts, as the layers and the guard in front of a handler have found out.

use std::net::IpAddr;

use tonic::{Extensions, metadata::MetadataMap};
use vpnpanel_api::Method;
use vpnpanel_auth::{Credential, guard};
use vpnpanel_runtime::rpc::{ClientAddress, REQUEST_ID_HEADER};
use vpnpanel_runtime::{PeerIdentity, tls::Peer};
use vpnpanel_store::{Attribution, Describe, HeldRole};

/// Longest request id that is kept; the layer in front replaces longer ones.
const MAX_REQUEST_ID: usize = 64;

/// Longest user agent that is kept.
const MAX_USER_AGENT: usize = 200;

/// What the gateway passes on as the user agent of its client: `user-agent` is its own.
const FORWARDED_USER_AGENT: &str = "x-forwarded-user-agent";

/// The author of what a request does. Whoever cannot be told is anonymous, as in a sign-in.
pub fn attribution(
    metadata: &MetadataMap,
    extensions: &Extensions,
    describe: Describe,
) -> Attribution {
    let text = |name: &str| metadata.get(name).and_then(|value| value.to_str().ok());
    let request = Attribution {
        address: extensions
            .get::<ClientAddress>()
            .map(|found| found.0.to_string())
            .unwrap_or_default(),
        user_agent: text(FORWARDED_USER_AGENT)
            .or_else(|| text("user-agent"))
            .unwrap_or_default()
            .chars()
            .take(MAX_USER_AGENT)
            .collect(),
        request_id: text(REQUEST_ID_HEADER.as_str())
            .unwrap_or_default()
            .chars()
            .take(MAX_REQUEST_ID)
            .collect(),
        method: extensions
            .get::<&'static Method>()
            .map_or("", |method| method.path)
            .into(),
        describe,
        ..Attribution::anonymous()
    };
    if let Ok(principal) = guard::principal(extensions) {
        let held = principal.held.iter().map(|held| HeldRole {
            tenant: held.tenant,
            role: held.role.clone(),
        });
        return Attribution {
            actor: Attribution::account(principal.account),
            credential: match principal.credential {
                Credential::Session(id) => format!("session:{id}"),
                Credential::ApiToken(id) => format!("apiToken:{id}"),
            },
            held: held.collect(),
            ..request
        };
    }
    let peer = extensions.get::<Peer>().map(Peer::identity);
    match peer.or_else(|| extensions.get::<PeerIdentity>()) {
        Some(PeerIdentity::ControlPlane { service }) => Attribution {
            actor: format!("service:{service}"),
            ..request
        },
        Some(PeerIdentity::Node { node, .. }) => Attribution {
            actor: format!("node:{node}"),
            ..request
        },
        None => request,
    }
}

/// The part of an address that whoever has it cannot change at will: 24 bits of IPv4, 64 of IPv6.
/// Empty for a text that is no address.
pub fn network(address: &str) -> String {
    match address.parse() {
        Ok(IpAddr::V4(address)) => {
            let [a, b, c, _] = address.octets();
            format!("{a}.{b}.{c}.0/24")
        }
        Ok(IpAddr::V6(address)) => {
            let kept = u128::from(address) & !u128::from(u64::MAX);
            format!("{}/64", std::net::Ipv6Addr::from(kept))
        }
        Err(_) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_behind_the_gateway_is_named_and_what_is_kept_of_it_is_bounded() {
        let mut metadata = MetadataMap::new();
        metadata.insert("user-agent", "tonic".parse().unwrap());
        let who = |metadata: &MetadataMap| {
            attribution(metadata, &Extensions::new(), |_, _| Default::default())
        };
        assert_eq!(who(&metadata).user_agent, "tonic");
        assert_eq!(who(&metadata).actor, "anonymous");
        let long = "a".repeat(500);
        metadata.insert(FORWARDED_USER_AGENT, long.parse().unwrap());
        metadata.insert("x-request-id", long.parse().unwrap());
        assert_eq!(who(&metadata).user_agent.len(), MAX_USER_AGENT);
        assert_eq!(who(&metadata).request_id.len(), MAX_REQUEST_ID);
    }

    #[test]
    fn a_network_is_what_its_owner_cannot_change_at_will() {
        assert_eq!(network("203.0.113.77"), "203.0.113.0/24");
        assert_eq!(network("2001:db8:1:2:3::4"), "2001:db8:1:2::/64");
        assert_eq!(network(""), "");
    }
}
