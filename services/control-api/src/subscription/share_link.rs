//! Share links, which client apps import: `vless://` and `trojan://` as XTLS proposed them
//! (Xray-core, discussion 716), `vmess://` with the JSON object of v2rayN in base64, `ss://` as in
//! SIP002, with the two keys of SIP023.

use std::fmt::Write as _;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::json;
use vpnpanel_domain::{ShadowsocksCipher, XrayProtocol, XrayTransport};
use zeroize::Zeroizing;

use super::endpoint::{Access, ClientSecurity, Endpoint, XrayAccess, alpn_names};

/// The link; `None` where there is no well-known one.
pub(crate) fn share_link(endpoint: &Endpoint) -> Option<Zeroizing<String>> {
    let Access::Xray(access) = &endpoint.access else {
        return None;
    };
    Some(Zeroizing::new(match access.protocol {
        XrayProtocol::Vless { vision } => {
            let mut query = Query::new();
            query.add("encryption", "none");
            if vision {
                query.add("flow", "xtls-rprx-vision");
            }
            uri("vless", endpoint, access, query)
        }
        XrayProtocol::Trojan => uri("trojan", endpoint, access, Query::new()),
        XrayProtocol::Vmess => vmess(endpoint, access),
        XrayProtocol::Shadowsocks { cipher } => shadowsocks(endpoint, access, cipher),
    }))
}

fn uri(scheme: &str, endpoint: &Endpoint, access: &XrayAccess, mut query: Query) -> String {
    match &access.security {
        ClientSecurity::None => query.add("security", "none"),
        ClientSecurity::Tls { server_name, alpn } => {
            query.add("security", "tls");
            query.add("sni", server_name);
            query.add("fp", access.fingerprint.name());
            if !alpn.is_empty() {
                query.add("alpn", &alpn_names(alpn).join(","));
            }
        }
        ClientSecurity::Reality {
            server_name,
            public_key,
            short_id,
        } => {
            query.add("security", "reality");
            query.add("sni", server_name);
            query.add("fp", access.fingerprint.name());
            query.add("pbk", public_key);
            query.add("sid", &short_id.to_string());
        }
    }
    match &access.transport {
        XrayTransport::Tcp => query.add("type", "tcp"),
        XrayTransport::WebSocket { path, host } => {
            query.add("type", "ws");
            query.add("path", path);
            if !host.is_empty() {
                query.add("host", host);
            }
        }
        XrayTransport::Grpc { service } => {
            query.add("type", "grpc");
            query.add("serviceName", service);
            query.add("mode", "gun");
        }
    }
    format!(
        "{scheme}://{}@{}?{}#{}",
        encoded(&access.credential),
        endpoint.authority(),
        query.0,
        encoded(&endpoint.name)
    )
}

fn vmess(endpoint: &Endpoint, access: &XrayAccess) -> String {
    let (network, kind, host, path) = match &access.transport {
        XrayTransport::Tcp => ("tcp", "none", "", ""),
        XrayTransport::WebSocket { path, host } => ("ws", "none", host.as_str(), path.as_str()),
        XrayTransport::Grpc { service } => ("grpc", "gun", "", service.as_str()),
    };
    let fingerprint = access.fingerprint.name();
    let (tls, server_name, fingerprint, alpn) = match &access.security {
        ClientSecurity::Tls { server_name, alpn } => {
            let alpn = alpn_names(alpn).join(",");
            ("tls", server_name.as_str(), fingerprint, alpn)
        }
        ClientSecurity::None | ClientSecurity::Reality { .. } => ("", "", "", String::new()),
    };
    let object = json!({
        "v": "2",
        "ps": endpoint.name,
        "add": endpoint.address,
        "port": endpoint.port.to_string(),
        "id": access.credential.as_str(),
        "aid": "0",
        "scy": "auto",
        "net": network,
        "type": kind,
        "host": host,
        "path": path,
        "tls": tls,
        "sni": server_name,
        "alpn": alpn,
        "fp": fingerprint,
    });
    let object = Zeroizing::new(object.to_string());
    format!("vmess://{}", STANDARD.encode(object.as_bytes()))
}

/// Keys of 2022 are percent-encoded and not in base64 once more (SIP002).
fn shadowsocks(endpoint: &Endpoint, access: &XrayAccess, cipher: ShadowsocksCipher) -> String {
    format!(
        "ss://{}:{}@{}#{}",
        cipher.name(),
        encoded(&access.credential),
        endpoint.authority(),
        encoded(&endpoint.name)
    )
}

/// The query of a URI.
struct Query(String);

impl Query {
    const fn new() -> Self {
        Self(String::new())
    }

    fn add(&mut self, name: &str, value: &str) {
        let separator = if self.0.is_empty() { "" } else { "&" };
        // Writing into a String does not fail.
        let _ = write!(self.0, "{separator}{name}={}", encoded(value));
    }
}

/// Percent-encoded but for the unreserved characters (RFC 3986, section 2.3).
pub(super) fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(byte.into());
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::subscription::endpoint::tests::{all, credential};

    #[test]
    fn links_are_as_clients_know_them() {
        let links: Vec<String> = all()
            .iter()
            .map(|endpoint| share_link(endpoint).unwrap().to_string())
            .collect();
        let expected = include_str!("golden/links.txt");
        assert_eq!(links.join("\n"), expected.trim_end());
    }

    #[test]
    fn what_is_not_a_plain_character_is_encoded() {
        assert_eq!(encoded("a b/ü#&"), "a%20b%2F%C3%BC%23%26");
        assert_eq!(encoded("Az09-._~"), "Az09-._~");
    }

    #[test]
    fn a_vmess_link_is_the_object_that_v2rayn_reads() {
        let endpoints = all();
        let vmess = endpoints.iter().filter_map(|endpoint| {
            let link = share_link(endpoint)?;
            let object = STANDARD.decode(link.strip_prefix("vmess://")?).unwrap();
            Some(serde_json::from_slice::<serde_json::Value>(&object).unwrap())
        });
        let mut networks = Vec::new();
        for object in vmess {
            assert_eq!(object["id"], credential(XrayProtocol::Vmess));
            assert_eq!((&object["v"], &object["aid"]), (&json!("2"), &json!("0")));
            networks.push(object["net"].as_str().unwrap().to_owned());
        }
        assert_eq!(networks, ["tcp", "ws"]);
    }
}
