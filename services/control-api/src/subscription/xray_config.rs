//! A configuration that `xray run` reads: proxies on this host, and the way out over a node.

use serde_json::{Value, json};
use vpnpanel_domain::{XrayProtocol, XrayTransport};
use zeroize::Zeroizing;

use super::endpoint::{Access, ClientSecurity, Endpoint, XrayAccess, alpn_names};

/// Ports of the proxies on this host.
const SOCKS_PORT: u16 = 10_808;
const HTTP_PORT: u16 = 10_809;

/// What is measured to find the fastest way: it answers without a body.
const PROBE: &str = "https://www.gstatic.com/generate_204";

/// The configuration; `None` for what is not Xray's.
pub(crate) fn xray_config(endpoint: &Endpoint) -> Option<Zeroizing<String>> {
    let Access::Xray(access) = &endpoint.access else {
        return None;
    };
    Some(text(&config(vec![outbound("proxy", endpoint, access)])))
}

/// One configuration with every way out that is Xray's, of which the fastest is used; `None` where
/// there is none.
pub(crate) fn xray_profile(endpoints: &[Endpoint]) -> Option<Zeroizing<String>> {
    let mut ways: Vec<Value> = endpoints
        .iter()
        .filter_map(|endpoint| match &endpoint.access {
            Access::Xray(access) => {
                let tag = format!("proxy-{}", endpoint.name);
                Some(outbound(&tag, endpoint, access))
            }
            Access::WireGuard(_) => None,
        })
        .collect();
    match ways.as_mut_slice() {
        [] => return None,
        [only] => only["tag"] = json!("proxy"),
        _ => {
            let mut config = config(ways);
            config["routing"] = json!({
                "balancers": [{
                    "tag": "fastest",
                    "selector": ["proxy-"],
                    "strategy": { "type": "leastPing" },
                }],
                "rules": [{ "type": "field", "network": "tcp,udp", "balancerTag": "fastest" }],
            });
            config["observatory"] = json!({
                "subjectSelector": ["proxy-"],
                "probeUrl": PROBE,
                "probeInterval": "3m",
            });
            return Some(text(&config));
        }
    }
    Some(text(&config(ways)))
}

fn config(outbounds: Vec<Value>) -> Value {
    let proxy = |tag: &str, port: u16, settings: Value| {
        json!({
            "tag": tag,
            "listen": "127.0.0.1",
            "port": port,
            "protocol": tag,
            "settings": settings,
        })
    };
    json!({
        "log": { "loglevel": "warning" },
        "inbounds": [
            proxy("socks", SOCKS_PORT, json!({ "udp": true })),
            proxy("http", HTTP_PORT, json!({})),
        ],
        "outbounds": outbounds,
    })
}

fn text(config: &Value) -> Zeroizing<String> {
    Zeroizing::new(format!("{config:#}\n"))
}

fn outbound(tag: &str, endpoint: &Endpoint, access: &XrayAccess) -> Value {
    let (protocol, settings) = match access.protocol {
        XrayProtocol::Vless { vision } => {
            let flow = if vision { "xtls-rprx-vision" } else { "" };
            let user = json!({ "id": *access.credential, "encryption": "none", "flow": flow });
            ("vless", next(endpoint, user))
        }
        XrayProtocol::Vmess => {
            let user = json!({ "id": *access.credential, "security": "auto" });
            ("vmess", next(endpoint, user))
        }
        XrayProtocol::Trojan => {
            let server = json!({ "password": *access.credential });
            ("trojan", servers(endpoint, server))
        }
        XrayProtocol::Shadowsocks { cipher } => {
            let server = json!({ "method": cipher.name(), "password": *access.credential });
            ("shadowsocks", servers(endpoint, server))
        }
    };
    let mut outbound = json!({
        "tag": tag,
        "protocol": protocol,
        "settings": settings,
    });
    if !matches!(access.protocol, XrayProtocol::Shadowsocks { .. }) {
        outbound["streamSettings"] = stream(access);
    }
    outbound
}

fn next(endpoint: &Endpoint, user: Value) -> Value {
    json!({ "vnext": [{
        "address": endpoint.address,
        "port": endpoint.port,
        "users": [user],
    }] })
}

fn servers(endpoint: &Endpoint, mut server: Value) -> Value {
    server["address"] = json!(endpoint.address);
    server["port"] = json!(endpoint.port);
    json!({ "servers": [server] })
}

fn stream(access: &XrayAccess) -> Value {
    let mut stream = match &access.transport {
        XrayTransport::Tcp => json!({ "network": "tcp" }),
        XrayTransport::WebSocket { path, host } => json!({
            "network": "ws",
            "wsSettings": { "path": path, "host": host },
        }),
        XrayTransport::Grpc { service } => json!({
            "network": "grpc",
            "grpcSettings": { "serviceName": service },
        }),
    };
    match &access.security {
        ClientSecurity::None => stream["security"] = json!("none"),
        ClientSecurity::Tls { server_name, alpn } => {
            stream["security"] = json!("tls");
            stream["tlsSettings"] = json!({
                "serverName": server_name,
                "fingerprint": access.fingerprint.name(),
            });
            if !alpn.is_empty() {
                stream["tlsSettings"]["alpn"] = json!(alpn_names(alpn));
            }
        }
        ClientSecurity::Reality {
            server_name,
            public_key,
            short_id,
        } => {
            stream["security"] = json!("reality");
            stream["realitySettings"] = json!({
                "serverName": server_name,
                "fingerprint": access.fingerprint.name(),
                "publicKey": public_key,
                "shortId": short_id.to_string(),
            });
        }
    }
    stream
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::subscription::endpoint::tests::{all, subscribed, wireguard};

    #[test]
    fn configurations_are_those_of_the_golden_file() {
        let configs: Vec<Value> = all()
            .iter()
            .map(|endpoint| serde_json::from_str(&xray_config(endpoint).unwrap()).unwrap())
            .map(|config: Value| config["outbounds"][0].clone())
            .collect();
        let expected: Value = serde_json::from_str(include_str!("golden/outbounds.json")).unwrap();
        assert_eq!(Value::from(configs), expected);
    }

    #[test]
    fn a_profile_has_every_way_out_and_uses_the_fastest() {
        let text = xray_profile(&subscribed()).unwrap();
        crate::subscription::testing::golden("xray.json", &text);
        // Of one way alone, what is given for it alone.
        let mut one = subscribed();
        one.truncate(1);
        assert_eq!(xray_profile(&one), xray_config(&one[0]));
        assert_eq!(xray_profile(&[wireguard()]), None);
    }

    #[test]
    fn xray_reads_each_configuration() {
        let mut texts: Vec<_> = all().iter().filter_map(xray_config).collect();
        texts.extend(xray_profile(&subscribed()));
        assert_eq!(texts.len(), all().len() + 1);
        for text in texts {
            crate::subscription::testing::read_by("xray", &["run", "-test", "-config"], &text);
        }
    }
}
