//! Shadowsocks' online configuration (SIP008): its servers, with the key of the inbound and the
//! device's as one password (SIP023), and what has been used.

use serde_json::{Value, json};
use vpnpanel_domain::XrayProtocol;
use zeroize::Zeroizing;

use super::{
    endpoint::{Access, Endpoint},
    quota::Quota,
};

/// The document; `None` where nothing is Shadowsocks.
pub(crate) fn sip008(endpoints: &[Endpoint], quota: &Quota) -> Option<Zeroizing<String>> {
    let servers: Vec<Value> = endpoints.iter().filter_map(server).collect();
    if servers.is_empty() {
        return None;
    }
    let mut document = json!({
        "version": 1,
        "servers": servers,
        "bytes_used": quota.used(),
    });
    if let Some(left) = quota.left() {
        document["bytes_remaining"] = json!(left);
    }
    Some(Zeroizing::new(format!("{document:#}\n")))
}

fn server(endpoint: &Endpoint) -> Option<Value> {
    let Access::Xray(access) = &endpoint.access else {
        return None;
    };
    let XrayProtocol::Shadowsocks { cipher } = access.protocol else {
        return None;
    };
    Some(json!({
        "id": endpoint.id.to_string(),
        "remarks": endpoint.name,
        "server": endpoint.address,
        "server_port": endpoint.port,
        "password": *access.credential,
        "method": cipher.name(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::subscription::{
        endpoint::tests::{subscribed, wireguard},
        quota::tests::quota,
    };

    #[test]
    fn the_document_is_as_sip008_says() {
        let text = sip008(&subscribed(), &quota()).unwrap();
        crate::subscription::testing::golden("sip008.json", &text);
    }

    #[test]
    fn without_shadowsocks_there_is_none() {
        assert!(sip008(&[wireguard()], &quota()).is_none());
    }
}
