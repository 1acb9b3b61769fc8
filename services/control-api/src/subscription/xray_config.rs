//! A configuration that `xray run` reads: proxies on this host, and the way out over a node.

use serde_json::{Value, json};
use vpnpanel_domain::{XrayProtocol, XrayTransport};
use zeroize::Zeroizing;

use super::endpoint::{Access, ClientSecurity, Endpoint, FINGERPRINT, XrayAccess};

/// Ports of the proxies on this host.
const SOCKS_PORT: u16 = 10_808;
const HTTP_PORT: u16 = 10_809;

/// The configuration; `None` for what is not Xray's.
pub(crate) fn xray_config(endpoint: &Endpoint) -> Option<Zeroizing<String>> {
    let Access::Xray(access) = &endpoint.access else {
        return None;
    };
    let proxy = |tag: &str, port: u16, settings: Value| {
        json!({
            "tag": tag,
            "listen": "127.0.0.1",
            "port": port,
            "protocol": tag,
            "settings": settings,
        })
    };
    let config = json!({
        "log": { "loglevel": "warning" },
        "inbounds": [
            proxy("socks", SOCKS_PORT, json!({ "udp": true })),
            proxy("http", HTTP_PORT, json!({})),
        ],
        "outbounds": [outbound(endpoint, access)],
    });
    Some(Zeroizing::new(format!("{config:#}\n")))
}

fn outbound(endpoint: &Endpoint, access: &XrayAccess) -> Value {
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
        "tag": "proxy",
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
        ClientSecurity::Tls { server_name } => {
            stream["security"] = json!("tls");
            stream["tlsSettings"] = json!({
                "serverName": server_name,
                "fingerprint": FINGERPRINT,
            });
        }
        ClientSecurity::Reality {
            server_name,
            public_key,
            short_id,
        } => {
            stream["security"] = json!("reality");
            stream["realitySettings"] = json!({
                "serverName": server_name,
                "fingerprint": FINGERPRINT,
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
    use crate::subscription::endpoint::tests::all;

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

    /// `make test-deps` puts Xray there; VPNPANEL_TEST_XRAY names another one.
    fn xray() -> std::path::PathBuf {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        std::env::var_os("VPNPANEL_TEST_XRAY")
            .map_or_else(|| root.join("target/tools/bin/xray"), Into::into)
    }

    #[test]
    fn xray_reads_each_configuration() {
        let folder = tempfile::tempdir().unwrap();
        for (number, endpoint) in all().iter().enumerate() {
            let file = folder.path().join(format!("{number}.json"));
            std::fs::write(&file, xray_config(endpoint).unwrap().as_bytes()).unwrap();
            let said = std::process::Command::new(xray())
                .args(["run", "-test", "-config"])
                .arg(&file)
                .output()
                .expect("xray is installed: make test-deps");
            assert!(said.status.success(), "{endpoint:?}: {said:?}");
        }
    }
}
