//! A profile for mihomo and the apps around it, in YAML: every way out, of which the fastest is used
//! until somebody chooses another. Without any way out nothing gets out.

use serde_json::{Value, json};
use vpnpanel_domain::{XrayProtocol, XrayTransport};
use zeroize::Zeroizing;

use super::{
    endpoint::{Access, ClientSecurity, Endpoint, XrayAccess, alpn_names},
    yaml,
};
use crate::wireguard::{config::DeviceConfig, keys};

/// What people choose from, and what chooses for them. No way out has such a name: see
/// [`super::presented::RESERVED`].
const SELECT: &str = "VPN";
const AUTO: &str = "Auto";

/// Networks around the device stay around it.
const LOCAL: [&str; 7] = [
    "IP-CIDR,127.0.0.0/8,DIRECT,no-resolve",
    "IP-CIDR,10.0.0.0/8,DIRECT,no-resolve",
    "IP-CIDR,172.16.0.0/12,DIRECT,no-resolve",
    "IP-CIDR,192.168.0.0/16,DIRECT,no-resolve",
    "IP-CIDR,169.254.0.0/16,DIRECT,no-resolve",
    "IP-CIDR6,fc00::/7,DIRECT,no-resolve",
    "IP-CIDR6,fe80::/10,DIRECT,no-resolve",
];

/// The profile.
pub(crate) fn clash(endpoints: &[Endpoint]) -> Zeroizing<String> {
    let proxies: Vec<Value> = endpoints.iter().filter_map(proxy).collect();
    let names: Vec<&Value> = proxies.iter().map(|proxy| &proxy["name"]).collect();
    let groups = if names.is_empty() {
        json!([{ "name": SELECT, "type": "select", "proxies": ["REJECT"] }])
    } else {
        let choice: Vec<Value> = std::iter::once(json!(AUTO))
            .chain(names.iter().copied().cloned())
            .collect();
        json!([
            { "name": SELECT, "type": "select", "proxies": choice },
            {
                "name": AUTO,
                "type": "url-test",
                "url": "https://www.gstatic.com/generate_204",
                "interval": 300,
                "proxies": names,
            },
        ])
    };
    let mut rules = if names.is_empty() {
        Vec::new()
    } else {
        LOCAL.map(str::to_owned).to_vec()
    };
    rules.push(format!("MATCH,{SELECT}"));
    let profile = json!({
        "mixed-port": 7890,
        "mode": "rule",
        "log-level": "warning",
        "ipv6": true,
        "dns": {
            "enable": true,
            "ipv6": true,
            "enhanced-mode": "fake-ip",
            "fake-ip-range": "198.18.0.1/16",
            "default-nameserver": ["1.1.1.1", "8.8.8.8"],
            "nameserver": ["https://1.1.1.1/dns-query", "https://8.8.8.8/dns-query"],
        },
        "proxies": proxies,
        "proxy-groups": groups,
        "rules": rules,
    });
    yaml::text(&profile)
}

/// `None` for a device whose key only its user has.
fn proxy(endpoint: &Endpoint) -> Option<Value> {
    let mut proxy = match &endpoint.access {
        Access::Xray(access) => of_xray(access),
        Access::WireGuard(device) => of_wireguard(device)?,
    };
    proxy["name"] = json!(endpoint.name);
    proxy["server"] = json!(endpoint.address);
    proxy["port"] = json!(endpoint.port);
    proxy["udp"] = json!(true);
    Some(proxy)
}

fn of_xray(access: &XrayAccess) -> Value {
    let credential = access.credential.as_str();
    let mut proxy = match access.protocol {
        XrayProtocol::Vless { vision } => {
            let mut proxy =
                json!({ "type": "vless", "uuid": credential, "packet-encoding": "xudp" });
            if vision {
                proxy["flow"] = json!("xtls-rprx-vision");
            }
            proxy
        }
        XrayProtocol::Vmess => json!({
            "type": "vmess", "uuid": credential, "alterId": 0, "cipher": "auto",
            "packet-encoding": "xudp",
        }),
        XrayProtocol::Trojan => json!({ "type": "trojan", "password": credential }),
        XrayProtocol::Shadowsocks { cipher } => {
            return json!({ "type": "ss", "cipher": cipher.name(), "password": credential });
        }
    };
    match &access.transport {
        XrayTransport::Tcp => proxy["network"] = json!("tcp"),
        XrayTransport::WebSocket { path, host } => {
            proxy["network"] = json!("ws");
            proxy["ws-opts"] = json!({ "path": path });
            if !host.is_empty() {
                proxy["ws-opts"]["headers"] = json!({ "Host": host });
            }
        }
        XrayTransport::Grpc { service } => {
            proxy["network"] = json!("grpc");
            proxy["grpc-opts"] = json!({ "grpc-service-name": service });
        }
    }
    // Trojan is never without TLS, and calls the name otherwise.
    let is_trojan = access.protocol == XrayProtocol::Trojan;
    let name_key = if is_trojan { "sni" } else { "servername" };
    match &access.security {
        ClientSecurity::None => return proxy,
        ClientSecurity::Tls { server_name, alpn } => {
            proxy[name_key] = json!(server_name);
            if !alpn.is_empty() {
                proxy["alpn"] = json!(alpn_names(alpn));
            }
        }
        ClientSecurity::Reality {
            server_name,
            public_key,
            short_id,
        } => {
            proxy[name_key] = json!(server_name);
            proxy["reality-opts"] = json!({
                "public-key": public_key,
                "short-id": short_id.to_string(),
            });
        }
    }
    if !is_trojan {
        proxy["tls"] = json!(true);
    }
    proxy["client-fingerprint"] = json!(access.fingerprint.name());
    proxy
}

fn of_wireguard(device: &DeviceConfig) -> Option<Value> {
    let private_key = device.private_key.as_ref()?;
    let mut proxy = json!({
        "type": "wireguard",
        "private-key": *keys::text(private_key),
        "public-key": *keys::text(&device.server_key),
        "ip": device.ipv4.to_string(),
        "mtu": device.mtu,
        "allowed-ips": device.allowed_ips,
    });
    if let Some(ipv6) = device.ipv6 {
        proxy["ipv6"] = json!(ipv6.to_string());
    }
    if let Some(key) = &device.preshared_key {
        proxy["pre-shared-key"] = json!(*keys::text(key));
    }
    if device.keepalive_seconds > 0 {
        proxy["persistent-keepalive"] = json!(device.keepalive_seconds);
    }
    if !device.dns_servers.is_empty() {
        proxy["remote-dns-resolve"] = json!(true);
        proxy["dns"] = json!(device.dns_servers);
    }
    Some(proxy)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::subscription::endpoint::tests::subscribed;

    #[test]
    fn the_profile_is_as_mihomo_knows_it() {
        crate::subscription::testing::golden("clash.yaml", &clash(&subscribed()));
    }

    #[test]
    fn without_a_way_out_nothing_gets_out() {
        let text = clash(&[]);
        assert!(text.contains("- \"REJECT\""), "{}", *text);
        assert!(text.ends_with("rules:\n  - \"MATCH,VPN\"\n"), "{}", *text);
    }
}
