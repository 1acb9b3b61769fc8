//! The address a request comes from, seen through proxies whose word is taken.

use std::net::IpAddr;

use http::request::Parts;

use crate::serve::ConnectionInfo;
use crate::settings::CidrList;

/// The client's address, in the extensions of every request that has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientAddress(pub IpAddr);

/// Walks `x-forwarded-for` from the right for as long as the hop in front is trusted. A call
/// without a connection comes from this very process (the gateway in `vpnpanel up`), which counts
/// as a trusted hop.
pub fn client_address(parts: &Parts, trusted: &CidrList) -> Option<ClientAddress> {
    let mut address = match parts.extensions.get::<ConnectionInfo>() {
        Some(connection) => {
            let remote = connection.remote.ip().to_canonical();
            if !trusted.contains(remote) {
                return Some(ClientAddress(remote));
            }
            Some(remote)
        }
        None => None,
    };
    let hops = parts
        .headers
        .get_all("x-forwarded-for")
        .into_iter()
        .rev()
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.rsplit(','))
        .map(|hop| hop.trim().parse::<IpAddr>());
    for hop in hops {
        // What is left of a malformed hop was not written by anybody trusted.
        let Ok(hop) = hop else { break };
        address = Some(hop.to_canonical());
        if !trusted.contains(hop) {
            break;
        }
    }
    address.map(ClientAddress)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(remote: Option<&str>, forwarded: &[&str], trusted: &str) -> Option<String> {
        let mut request = http::Request::builder();
        for line in forwarded {
            request = request.header("x-forwarded-for", *line);
        }
        let (mut parts, ()) = request.body(()).unwrap().into_parts();
        if let Some(remote) = remote {
            let remote = format!("{remote}:1").parse().unwrap();
            parts.extensions.insert(ConnectionInfo { remote });
        }
        client_address(&parts, &trusted.parse().unwrap()).map(|found| found.0.to_string())
    }

    #[test]
    fn a_stranger_cannot_choose_their_address() {
        let found = address(Some("198.51.100.7"), &["10.0.0.1"], "10.0.0.0/8");
        assert_eq!(found.as_deref(), Some("198.51.100.7"));
    }

    #[test]
    fn trusted_hops_are_looked_through_from_the_right() {
        let lines = ["6.6.6.6, 203.0.113.5", "10.1.1.1"];
        let found = address(Some("10.0.0.1"), &lines, "10.0.0.0/8");
        assert_eq!(found.as_deref(), Some("203.0.113.5"));
        let found = address(Some("10.0.0.1"), &["203.0.113.5, junk"], "10.0.0.0/8");
        assert_eq!(found.as_deref(), Some("10.0.0.1"));
    }

    #[test]
    fn a_call_in_process_takes_the_gateways_word() {
        assert_eq!(
            address(None, &["203.0.113.5"], "").as_deref(),
            Some("203.0.113.5")
        );
        assert_eq!(address(None, &[], ""), None);
    }
}
