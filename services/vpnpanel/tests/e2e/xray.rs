//! Xray end to end: what the panel gives a user lets a real client through a real node, over each
//! protocol and transport, and no longer once it is revoked.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::{Value, json};
use vpnpanel_node_agent::testing::{
    Namespace, Server, Topology, XrayProcess, eventually, require_root, xray_program,
};

use crate::support::{ALL_IN_ONE, ControlPlane, Panel, panel::id_of};

const MB: usize = 1_000_000;
const PATIENCE: Duration = Duration::from_secs(60);
const NAME: &str = "node.test";
const DISGUISE: &str = "www.example.test";
const DISGUISE_PORT: u16 = 8443;
/// Where the configuration of the panel has its HTTP proxy.
const PROXY: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 10_809);

#[test]
fn what_the_panel_gives_a_user_passes_over_every_protocol_until_it_is_revoked() {
    if !require_root() {
        return;
    }
    let mut network = Topology::new("xray");
    let host = network.add_subscriber();
    let server = network.start_server();
    let _disguise = disguise(&network);
    let program = xray_program();
    let set = [("VPNPANEL_AGENT_XRAY", program.to_str().unwrap())];
    let control = ControlPlane::start(network.node(), ALL_IN_ONE, &set);
    let panel = control.first_panel();
    panel.local_node(Topology::NODE_ADDRESS);
    let host = network.subscriber(host);

    let made = rcgen::generate_simple_self_signed([NAME.to_owned()]).unwrap();
    let certificate = made.cert.pem();
    let inbounds = inbounds(&certificate, &made.signing_key.serialize_pem());
    let ids: Vec<String> = inbounds
        .iter()
        .map(|inbound| id_of(&panel.rest.post("/v1/inbounds", inbound)))
        .collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    let group = panel.create_group("everyone", &ids);
    let users = format!("/v1/tenants/{}/users", panel.tenant);
    let user = json!({"username": "alice", "groupIds": [group]});
    let user = id_of(&panel.rest.post(&users, &user));
    panel.wait_applied();

    let old = configurations(&panel, &user, &certificate);
    assert_eq!(old.len(), inbounds.len());
    for (name, config) in &old {
        let _client = XrayProcess::start(host, config, PROXY);
        eventually(&format!("{name} passes"), PATIENCE, || {
            fetched(host, &server, MB) >= MB
        });
    }
    let least = (old.len() * MB) as u64;
    eventually("what passed is billed", PATIENCE, || {
        panel.used_bytes(&user).is_some_and(|used| used >= least)
    });

    let revoke = format!("{users}/{user}:revokeCredentials");
    panel.rest.post(&revoke, &json!({}));
    panel.wait_applied();
    let new = configurations(&panel, &user, &certificate);
    for ((name, before), (_, after)) in old.iter().zip(&new) {
        assert_ne!(before, after, "{name}");
        let client = XrayProcess::start(host, before, PROXY);
        assert_eq!(fetched(host, &server, MB), 0, "{name} passes yet");
        drop(client);
        let _client = XrayProcess::start(host, after, PROXY);
        eventually(&format!("{name} passes anew"), PATIENCE, || {
            fetched(host, &server, MB) >= MB
        });
    }
}

/// One inbound of each protocol, over each transport and protection.
fn inbounds(certificate: &str, key: &str) -> Vec<Value> {
    let tls = json!({"certificateChain": certificate, "privateKey": key});
    let reality = json!({"reality": {
        "target": format!("{}:{DISGUISE_PORT}", Topology::SERVER_ADDRESS),
        "serverNames": [DISGUISE],
    }});
    let socket = json!({"websocket": {"path": "/socket"}});
    let grpc = json!({"grpc": {"serviceName": "tunnel"}});
    let aes_256 = "SHADOWSOCKS_CIPHER_AES_256_GCM";
    let settings = [
        json!({"vless": {"port": 1001, "vision": true, "security": reality}}),
        json!({"vless": {"port": 1002, "transport": socket, "security": {"tls": tls}}}),
        json!({"vless": {"port": 1003, "transport": grpc, "security": reality}}),
        json!({"vmess": {"port": 1004}}),
        json!({"vmess": {"port": 1005, "transport": socket, "tls": tls}}),
        json!({"trojan": {"port": 1006, "security": {"tls": tls}}}),
        json!({"trojan": {"port": 1007, "transport": grpc, "security": {"tls": tls}}}),
        json!({"shadowsocks": {"port": 1008}}),
        json!({"shadowsocks": {"port": 1009, "cipher": aes_256}}),
    ];
    let named = settings
        .into_iter()
        .enumerate()
        .map(|(number, mut inbound)| {
            inbound["name"] = json!(format!("inbound-{number}"));
            inbound["offeredToTenants"] = json!(true);
            inbound
        });
    named.collect()
}

/// The client configurations of a user, by name. Clients trust the certificate that no authority
/// has signed.
fn configurations(panel: &Panel<'_>, user: &str, certificate: &str) -> Vec<(String, Value)> {
    let path = format!("/v1/tenants/{}/users/{user}/connections", panel.tenant);
    let answer = panel.rest.get(&path);
    let connections = answer["connections"].as_array().cloned();
    let lines: Vec<&str> = certificate.lines().collect();
    let read = |connection: Value| {
        let text = connection["xrayConfig"].as_str().unwrap();
        let mut config: Value = serde_json::from_str(text).unwrap();
        let tls = config.pointer_mut("/outbounds/0/streamSettings/tlsSettings");
        if let Some(tls) = tls {
            tls["certificates"] = json!([{"usage": "verify", "certificate": lines}]);
        }
        (connection["name"].as_str().unwrap().to_owned(), config)
    };
    connections
        .unwrap_or_default()
        .into_iter()
        .map(read)
        .collect()
}

/// Bytes of an answer that the server gives over the client's HTTP proxy; none when nothing passes.
fn fetched(host: &Namespace, server: &Server, bytes: usize) -> usize {
    let ask = format!(
        "GET http://{address}/{bytes} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n",
        address = server.address()
    );
    let fetch = || -> std::io::Result<Vec<u8>> {
        let mut stream = TcpStream::connect(PROXY)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        stream.write_all(ask.as_bytes())?;
        let mut answer = Vec::new();
        // What came until it ends, however it does, is looked at.
        let _ended = stream.read_to_end(&mut answer);
        Ok(answer)
    };
    let answer = host.enter(fetch).unwrap_or_default();
    let ok = answer.starts_with(b"HTTP/1.1 200");
    let end = answer.windows(4).position(|it| it == b"\r\n\r\n");
    match end.filter(|_| ok) {
        Some(end) => answer.len() - end - 4,
        None => 0,
    }
}

/// The server that REALITY looks like.
fn disguise(network: &Topology) -> XrayProcess {
    let made = rcgen::generate_simple_self_signed([DISGUISE.to_owned()]).unwrap();
    let lines = |pem: String| pem.lines().map(str::to_owned).collect::<Vec<_>>();
    let config = json!({
        "inbounds": [{
            "port": DISGUISE_PORT, "protocol": "trojan",
            "settings": {"clients": [{"password": "nobody knows it"}]},
            "streamSettings": {"network": "tcp", "security": "tls", "tlsSettings": {
                "alpn": ["h2", "http/1.1"],
                "certificates": [{
                    "certificate": lines(made.cert.pem()),
                    "key": lines(made.signing_key.serialize_pem()),
                }],
            }},
        }],
        "outbounds": [{"protocol": "blackhole"}],
    });
    let address = format!("{}:{DISGUISE_PORT}", Topology::SERVER_ADDRESS);
    XrayProcess::start(network.server(), &config, address.parse().unwrap())
}
