//! Xray from the panel to the byte: an inbound of each protocol is made over REST, a real client runs
//! with the very configuration that the panel gives, what passes is billed and cut at the limit, and
//! nothing passes once it is revoked.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use vpnpanel_node_agent::testing::{
    Namespace, Server, Topology, XrayProcess, eventually, require_root, xray_program,
};

use crate::support::{ALL_IN_ONE, ControlPlane, Panel, small_buffers};

const MB: u64 = 1_000_000;
/// Where the panel's configuration opens its SOCKS proxy.
const SOCKS: u16 = 10_808;
/// What a certificate of the test is for.
const NAME: &str = "node.example.test";
const DISGUISE: &str = "www.example.test";
const DISGUISE_PORT: u16 = 8_443;
/// Bytes of a second while somebody is being cut.
const PACE: u64 = 2 * MB;
/// A poll is made each second, and a report follows soon.
const CUT: Duration = Duration::from_secs(2);

struct Certificate {
    chain: String,
    key: String,
}

impl Certificate {
    fn of(name: &str) -> Self {
        let made = rcgen::generate_simple_self_signed([name.to_owned()]).expect("a certificate");
        Self {
            chain: made.cert.pem(),
            key: made.signing_key.serialize_pem(),
        }
    }

    fn lines(text: &str) -> Vec<&str> {
        text.lines().collect()
    }
}

#[test]
fn each_protocol_carries_what_is_billed_and_is_cut_at_the_limit_alone() {
    if !require_root() {
        return;
    }
    let mut network = Topology::new("xray-panel");
    let host = network.add_subscriber();
    let server = network.start_server();
    let host = network.subscriber(host);
    let _disguise = disguise(network.server());
    for end in [network.node(), network.server(), host] {
        small_buffers(end);
    }
    let program = xray_program();
    let program = program.to_str().expect("a path of text");
    let control = ControlPlane::start(
        network.node(),
        ALL_IN_ONE,
        &[("VPNPANEL_AGENT_XRAY", program)],
    );
    let panel = control.first_panel();
    panel.local_node(Topology::NODE_ADDRESS);
    let certificate = Certificate::of(NAME);
    for (name, settings) in protocols(&certificate) {
        println!("{name}");
        let inbound = create(&panel, name, settings);
        let group = panel.create_group(name, &[&inbound]);
        let user = create_user(&panel, &format!("{name}-user"), &group);
        let neighbour = create_user(&panel, &format!("{name}-neighbour"), &group);
        panel.wait_applied();
        let before = client(host, &panel, &user, &certificate, SOCKS);
        let _neighbours = client(host, &panel, &neighbour, &certificate, SOCKS + 1_000);

        let fetched = fetch(host, &server, SOCKS, 3 * MB, 0);
        assert_eq!(finish(fetched, Duration::from_secs(60)), 3 * MB, "{name}");
        let used = billed(&panel, &user, 3 * MB);
        assert!(used < 3 * MB + MB / 4, "{name}: {used} billed");

        // Both come from one address: one is cut in mid-download, the other goes on. That there is a
        // limit now ends nothing before it is reached.
        let other = fetch(host, &server, SOCKS + 1_000, 12 * MB, PACE);
        let began = Instant::now();
        let cut = fetch(host, &server, SOCKS, 60 * MB, PACE);
        let limit = used + 8 * MB;
        panel.set_limit(&user, limit);
        let received = finish(cut, Duration::from_secs(60));
        let took = began.elapsed();
        assert!(received < 60 * MB, "{name}: nobody was cut");
        // Near the limit allowances come in small pieces, and Xray ends what outruns them: a client
        // connects again, and uses what is left.
        let deadline = Instant::now() + Duration::from_secs(30);
        while panel.user(&user)["status"] != "USER_STATUS_LIMITED" {
            assert!(
                Instant::now() < deadline,
                "{name}: the limit is not reached"
            );
            finish(
                fetch(host, &server, SOCKS, 60 * MB, PACE),
                Duration::from_secs(60),
            );
        }
        let passed = panel.used_bytes(&user).expect("an answer");
        let most = limit + PACE * CUT.as_secs();
        assert!(
            (limit..=most).contains(&passed),
            "{name}: {passed} passed of {limit}"
        );
        println!(
            "{name}: {} bytes beyond the limit, cut {took:.1?} after the download began",
            passed - limit
        );
        assert_eq!(finish(other, Duration::from_secs(60)), 12 * MB, "{name}");
        billed(&panel, &neighbour, 12 * MB);

        // Who is out stays out, until the limit is raised.
        let refused = fetch(host, &server, SOCKS, MB, 0);
        assert!(finish(refused, Duration::from_secs(30)) < MB, "{name}");
        panel.set_limit(&user, 0);
        passes(host, &server);

        // What was given before is good for nothing once it is revoked.
        let path = format!(
            "/v1/tenants/{}/users/{user}:revokeCredentials",
            panel.tenant
        );
        panel.rest.post(&path, &json!({}));
        eventually("what was revoked is out", Duration::from_secs(20), || {
            finish(fetch(host, &server, SOCKS, MB, 0), Duration::from_secs(60)) < MB
        });
        drop(before);
        let _now = client(host, &panel, &user, &certificate, SOCKS);
        passes(host, &server);
    }
}

/// Every protocol and transport, on ports of their own.
fn protocols(certificate: &Certificate) -> Vec<(&'static str, Value)> {
    let tls = json!({
        "certificateChain": certificate.chain, "privateKey": certificate.key, "serverName": NAME,
    });
    let target = format!("{}:{DISGUISE_PORT}", Topology::SERVER_ADDRESS);
    let reality = json!({"target": target, "serverNames": [DISGUISE]});
    vec![
        (
            "vless-reality",
            json!({"vless": {"port": 4431, "vision": true, "security": {"reality": reality}}}),
        ),
        (
            "vless-websocket",
            json!({"vless": {"port": 4432, "security": {"tls": tls},
                "transport": {"websocket": {"path": "/way"}}}}),
        ),
        (
            "vless-grpc",
            json!({"vless": {"port": 4433, "security": {"tls": tls},
                "transport": {"grpc": {"serviceName": "way"}}}}),
        ),
        ("vmess", json!({"vmess": {"port": 4434}})),
        (
            "trojan",
            json!({"trojan": {"port": 4435, "security": {"tls": tls}}}),
        ),
        ("shadowsocks", json!({"shadowsocks": {"port": 4436}})),
    ]
}

fn create(panel: &Panel<'_>, name: &str, settings: Value) -> String {
    let mut body = json!({"name": name, "offeredToTenants": true});
    for (field, value) in settings.as_object().expect("an object") {
        body[field] = value.clone();
    }
    id(&panel.rest.post("/v1/inbounds", &body))
}

fn create_user(panel: &Panel<'_>, name: &str, group: &str) -> String {
    let path = format!("/v1/tenants/{}/users", panel.tenant);
    let body = json!({"username": name, "groupIds": [group]});
    id(&panel.rest.post(&path, &body))
}

fn id(made: &Value) -> String {
    made["id"].as_str().expect("an id").to_owned()
}

/// A client with the configuration that its user's link gives; its proxies on other ports where two run
/// on one host.
fn client(
    host: &Namespace,
    panel: &Panel<'_>,
    user: &str,
    certificate: &Certificate,
    socks: u16,
) -> XrayProcess {
    let url = panel.subscription_url(user);
    let at = url.find("/sub/").expect("a link of a subscription");
    let mut config = panel.rest.get(&format!("{}?format=xray", &url[at..]));
    for inbound in config["inbounds"].as_array_mut().expect("inbounds") {
        let port = inbound["port"].as_u64().expect("a port");
        inbound["port"] = json!(port + u64::from(socks - SOCKS));
    }
    for outbound in config["outbounds"].as_array_mut().expect("outbounds") {
        let tls = &mut outbound["streamSettings"]["tlsSettings"];
        if tls.is_object() {
            // Nobody's root signed the test's certificate.
            let lines = Certificate::lines(&certificate.chain);
            tls["disableSystemRoot"] = json!(true);
            tls["certificates"] = json!([{"usage": "verify", "certificate": lines}]);
        }
    }
    XrayProcess::start(host, &config, local(socks))
}

/// What REALITY looks like: any server with TLS 1.3 and HTTP/2.
fn disguise(host: &Namespace) -> XrayProcess {
    let Certificate { chain, key } = Certificate::of(DISGUISE);
    let address = format!("{}:{DISGUISE_PORT}", Topology::SERVER_ADDRESS);
    XrayProcess::disguise(host, address.parse().expect("an address"), &chain, &key)
}

/// A download through a client's SOCKS proxy, at most so many bytes in a second; 0 is any number.
fn fetch(host: &Namespace, server: &Server, socks: u16, bytes: u64, pace: u64) -> Child {
    host.command("curl")
        .args(["--silent", "--max-time", "50", "--output", "/dev/null"])
        // Clients of some protocols do not tell their proxy's user that they were cut.
        .args(["--speed-time", "4", "--speed-limit", "1000"])
        .args(["--write-out", "%{size_download}"])
        .args(["--limit-rate", &pace.to_string()])
        .args(["--socks5-hostname", &local(socks).to_string()])
        .arg(server.url(bytes))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("curl is installed")
}

/// Waits until a client passes.
fn passes(host: &Namespace, server: &Server) {
    eventually("the client passes", Duration::from_secs(20), || {
        finish(fetch(host, server, SOCKS, MB, 0), Duration::from_secs(60)) == MB
    });
}

/// Bytes that arrived before the download ended, however it did.
fn finish(mut fetched: Child, limit: Duration) -> u64 {
    eventually("the download ends", limit, || {
        fetched.try_wait().expect("a child").is_some()
    });
    let output = fetched.wait_with_output().expect("its output");
    let text = String::from_utf8_lossy(&output.stdout);
    text.trim().parse().unwrap_or_else(|_| panic!("{text}"))
}

/// What is billed once it is at least so much, and all that was counted.
fn billed(panel: &Panel<'_>, user: &str, least: u64) -> u64 {
    eventually("what passed is billed", Duration::from_secs(20), || {
        panel.used_bytes(user).is_some_and(|used| used >= least)
    });
    let used = panel.used_bytes(user).expect("an answer");
    let period = panel.period(user);
    assert_eq!(period.sum(), used, "raw is billed one to one");
    used
}

fn local(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}
