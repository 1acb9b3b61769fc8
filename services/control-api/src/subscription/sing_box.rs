//! A configuration for sing-box and its apps, as of sing-box 1.12: a TUN interface (and a proxy on
//! this host for who runs it without), and every way out, of which the fastest is used until somebody
//! chooses another. Without any way out nothing gets out.

use serde_json::{Value, json};
use vpnpanel_domain::{XrayProtocol, XrayTransport};
use zeroize::Zeroizing;

use super::endpoint::{Access, ClientSecurity, Endpoint, XrayAccess, alpn_names};
use crate::wireguard::{config::DeviceConfig, keys};

/// What people choose from, and what chooses for them. No way out has such a name: see
/// [`super::presented::RESERVED`].
const SELECT: &str = "select";
const AUTO: &str = "auto";
const DIRECT: &str = "direct";
const PROXY_PORT: u16 = 2080;

/// The configuration.
pub(crate) fn sing_box(endpoints: &[Endpoint]) -> Zeroizing<String> {
    let mut outbounds = Vec::new();
    let mut interfaces = Vec::new();
    let mut names = Vec::new();
    for endpoint in endpoints {
        match &endpoint.access {
            Access::Xray(access) => outbounds.push(outbound(endpoint, access)),
            Access::WireGuard(device) => match interface(endpoint, device) {
                Some(interface) => interfaces.push(interface),
                None => continue,
            },
        }
        names.push(endpoint.name.as_str());
    }
    let is_empty = names.is_empty();
    if !is_empty {
        outbounds.push(json!({
            "type": "urltest",
            "tag": AUTO,
            "outbounds": names,
            "url": "https://www.gstatic.com/generate_204",
            "interval": "10m",
        }));
        let mut choice = vec![AUTO];
        choice.extend(&names);
        outbounds.push(json!({
            "type": "selector",
            "tag": SELECT,
            "outbounds": choice,
            "default": AUTO,
        }));
    }
    outbounds.push(json!({ "type": "direct", "tag": DIRECT }));
    let mut config = json!({
        "log": { "level": "warn" },
        "dns": {
            "servers": [{ "type": "local", "tag": "local" }],
            "final": "local",
        },
        "inbounds": [
            {
                "type": "tun",
                "tag": "tun",
                "address": ["172.19.0.1/30", "fdfe:dcba:9876::1/126"],
                "auto_route": true,
                "strict_route": true,
            },
            { "type": "mixed", "tag": "mixed", "listen": "127.0.0.1", "listen_port": PROXY_PORT },
        ],
        "outbounds": outbounds,
        "route": {
            "rules": [
                { "action": "sniff" },
                { "protocol": "dns", "action": "hijack-dns" },
                { "ip_is_private": true, "action": "route", "outbound": DIRECT },
            ],
            "auto_detect_interface": true,
            "default_domain_resolver": "local",
        },
    });
    if is_empty {
        config["route"]["rules"] = json!([{ "action": "reject" }]);
    } else {
        // Names are asked over the tunnel; those of the nodes themselves beside it.
        config["dns"]["servers"] = json!([
            { "type": "https", "tag": "remote", "server": "1.1.1.1", "detour": SELECT },
            { "type": "local", "tag": "local" },
        ]);
        config["dns"]["final"] = json!("remote");
        config["route"]["final"] = json!(SELECT);
    }
    if !interfaces.is_empty() {
        config["endpoints"] = json!(interfaces);
    }
    Zeroizing::new(format!("{config:#}\n"))
}

fn outbound(endpoint: &Endpoint, access: &XrayAccess) -> Value {
    let credential = access.credential.as_str();
    let mut out = match access.protocol {
        XrayProtocol::Vless { vision } => {
            let flow = if vision { "xtls-rprx-vision" } else { "" };
            json!({ "type": "vless", "uuid": credential, "flow": flow, "packet_encoding": "xudp" })
        }
        XrayProtocol::Vmess => json!({
            "type": "vmess", "uuid": credential, "security": "auto", "packet_encoding": "xudp",
        }),
        XrayProtocol::Trojan => json!({ "type": "trojan", "password": credential }),
        XrayProtocol::Shadowsocks { cipher } => json!({
            "type": "shadowsocks", "method": cipher.name(), "password": credential,
        }),
    };
    out["tag"] = json!(endpoint.name);
    out["server"] = json!(endpoint.address);
    out["server_port"] = json!(endpoint.port);
    match &access.transport {
        XrayTransport::Tcp => {}
        XrayTransport::WebSocket { path, host } => {
            out["transport"] = json!({ "type": "ws", "path": path });
            if !host.is_empty() {
                out["transport"]["headers"] = json!({ "Host": host });
            }
        }
        XrayTransport::Grpc { service } => {
            out["transport"] = json!({ "type": "grpc", "service_name": service });
        }
    }
    if let Some(tls) = tls(access) {
        out["tls"] = tls;
    }
    out
}

fn tls(access: &XrayAccess) -> Option<Value> {
    let tls = |server_name: &str| {
        json!({
            "enabled": true,
            "server_name": server_name,
            "utls": { "enabled": true, "fingerprint": access.fingerprint.name() },
        })
    };
    match &access.security {
        ClientSecurity::None => None,
        ClientSecurity::Tls { server_name, alpn } => {
            let mut tls = tls(server_name);
            if !alpn.is_empty() {
                tls["alpn"] = json!(alpn_names(alpn));
            }
            Some(tls)
        }
        ClientSecurity::Reality {
            server_name,
            public_key,
            short_id,
        } => {
            let mut tls = tls(server_name);
            tls["reality"] = json!({
                "enabled": true,
                "public_key": public_key,
                "short_id": short_id.to_string(),
            });
            Some(tls)
        }
    }
}

/// `None` for a device whose key only its user has.
fn interface(endpoint: &Endpoint, device: &DeviceConfig) -> Option<Value> {
    let private_key = device.private_key.as_ref()?;
    let mut addresses = vec![format!("{}/32", device.ipv4)];
    addresses.extend(device.ipv6.map(|ipv6| format!("{ipv6}/128")));
    let mut peer = json!({
        "address": endpoint.address,
        "port": endpoint.port,
        "public_key": *keys::text(&device.server_key),
        "allowed_ips": device.allowed_ips,
    });
    if let Some(key) = &device.preshared_key {
        peer["pre_shared_key"] = json!(*keys::text(key));
    }
    if device.keepalive_seconds > 0 {
        peer["persistent_keepalive_interval"] = json!(device.keepalive_seconds);
    }
    Some(json!({
        "type": "wireguard",
        "tag": endpoint.name,
        "mtu": device.mtu,
        "address": addresses,
        "private_key": *keys::text(private_key),
        "peers": [peer],
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::subscription::endpoint::tests::{subscribed, wireguard};

    #[test]
    fn the_configuration_is_as_sing_box_knows_it() {
        let text = sing_box(&subscribed());
        crate::subscription::testing::golden("sing-box.json", &text);
    }

    #[test]
    fn sing_box_reads_the_configuration() {
        let one = vec![wireguard()];
        for endpoints in [subscribed(), one, Vec::new()] {
            let text = sing_box(&endpoints);
            crate::subscription::testing::read_by("sing-box", &["check", "-c"], &text);
        }
    }

    #[test]
    fn without_a_way_out_nothing_gets_out() {
        let mut bare = wireguard();
        if let Access::WireGuard(device) = &mut bare.access {
            device.private_key = None;
        }
        for endpoints in [Vec::new(), vec![bare]] {
            let config: Value = serde_json::from_str(&sing_box(&endpoints)).unwrap();
            assert_eq!(config["route"]["rules"], json!([{ "action": "reject" }]));
            assert!(config["route"].get("final").is_none());
            let outbounds = config["outbounds"].as_array().unwrap();
            assert_eq!(outbounds.len(), 1);
        }
    }
}
