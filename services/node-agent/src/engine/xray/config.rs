//! What Xray starts with: its control socket, counters, log, ways out and what it refuses.
//! Inbounds and their users are not in it: they are set over the control socket before anybody
//! can connect, so that no secret of theirs is ever on the disk.

use std::path::Path;

use serde::Serialize;

/// Connections that carry subscribers' traffic out bear this mark: the kernel keeps them off
/// the node itself ([`super::wall`]).
pub(super) const MARK: u32 = 0x7670_6e78;
/// The tag of an outbound that nothing uses: it tells one start of Xray from another.
const NONCE: &str = "nonce-";
const CONTROL: &str = "control";
const API: &str = "api";
const DIRECT: &str = "direct";
const REFUSED: &str = "refused";
/// A connection without traffic ends after so many seconds.
const IDLE_SECONDS: u32 = 300;
/// A client that does not say who it is is dropped after so many seconds.
const HANDSHAKE_SECONDS: u32 = 8;

/// Addresses that no subscriber reaches through a node: this host, private networks and what
/// answers there (metadata services, other machines of the provider), and multicast.
pub(super) const CLOSED: [&str; 20] = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "224.0.0.0/4",
    "240.0.0.0/4",
    "::/128",
    "::1/128",
    "64:ff9b::/96",
    "64:ff9b:1::/48",
    "2002::/16",
    "fc00::/7",
    "fe80::/10",
    "fec0::/10",
    "ff00::/8",
];

/// The files of an Xray.
#[derive(Debug)]
pub(super) struct Paths<'a> {
    pub(super) socket: &'a Path,
    pub(super) access_log: &'a Path,
    pub(super) error_log: &'a Path,
}

#[derive(Serialize)]
struct Config<'a> {
    log: Log<'a>,
    api: Api,
    stats: Empty,
    policy: Policy,
    inbounds: [Inbound; 1],
    outbounds: [Outbound; 3],
    routing: Routing,
}

#[derive(Serialize)]
struct Empty {}

#[derive(Serialize)]
struct Log<'a> {
    access: &'a Path,
    error: &'a Path,
    loglevel: &'static str,
}

#[derive(Serialize)]
struct Api {
    tag: &'static str,
    services: [&'static str; 2],
}

#[derive(Serialize)]
struct Policy {
    levels: Levels,
}

#[derive(Serialize)]
struct Levels {
    #[serde(rename = "0")]
    everybody: Level,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Level {
    handshake: u32,
    conn_idle: u32,
    stats_user_uplink: bool,
    stats_user_downlink: bool,
}

#[derive(Serialize)]
struct Inbound {
    tag: &'static str,
    listen: String,
    protocol: &'static str,
    settings: Door,
}

#[derive(Serialize)]
struct Door {
    network: &'static str,
    address: &'static str,
    port: u16,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Outbound {
    tag: String,
    protocol: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream_settings: Option<Stream>,
}

#[derive(Serialize)]
struct Stream {
    sockopt: Sockopt,
}

#[derive(Serialize)]
struct Sockopt {
    mark: u32,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Routing {
    /// Names are not resolved for the rules: the answer could differ from the one that is
    /// connected to. The kernel's wall sees the address itself.
    domain_strategy: &'static str,
    rules: [Rule; 3],
}

#[derive(Serialize, Default)]
#[serde(rename_all = "camelCase")]
struct Rule {
    r#type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    inbound_tag: Option<[&'static str; 1]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ip: Option<Vec<&'static str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    domain: Option<[&'static str; 2]>,
    outbound_tag: &'static str,
}

/// The configuration as JSON.
pub(super) fn render(paths: &Paths<'_>, nonce: &[u8; 16]) -> Result<Vec<u8>, serde_json::Error> {
    let outbound = |tag: String, protocol, stream_settings| Outbound {
        tag,
        protocol,
        stream_settings,
    };
    let marked = Stream {
        sockopt: Sockopt { mark: MARK },
    };
    let refused = |ip, domain| Rule {
        r#type: "field",
        ip,
        domain,
        outbound_tag: REFUSED,
        ..Rule::default()
    };
    serde_json::to_vec_pretty(&Config {
        log: Log {
            access: paths.access_log,
            error: paths.error_log,
            loglevel: "warning",
        },
        api: Api {
            tag: API,
            services: ["HandlerService", "StatsService"],
        },
        stats: Empty {},
        policy: Policy {
            levels: Levels {
                everybody: Level {
                    handshake: HANDSHAKE_SECONDS,
                    conn_idle: IDLE_SECONDS,
                    stats_user_uplink: true,
                    stats_user_downlink: true,
                },
            },
        },
        inbounds: [Inbound {
            tag: CONTROL,
            listen: format!("{},0600", paths.socket.display()),
            protocol: "dokodemo-door",
            settings: Door {
                network: "unix",
                address: "127.0.0.1",
                port: 1,
            },
        }],
        outbounds: [
            outbound(DIRECT.to_owned(), "freedom", Some(marked)),
            outbound(REFUSED.to_owned(), "blackhole", None),
            outbound(format!("{NONCE}{}", hex::encode(nonce)), "blackhole", None),
        ],
        routing: Routing {
            domain_strategy: "AsIs",
            rules: [
                Rule {
                    r#type: "field",
                    inbound_tag: Some([CONTROL]),
                    outbound_tag: API,
                    ..Rule::default()
                },
                refused(Some(CLOSED.to_vec()), None),
                refused(None, Some(["full:localhost", "domain:localhost"])),
            ],
        },
    })
}

/// The nonce of an outbound's tag.
pub(super) fn nonce_of(tag: &str) -> Option<[u8; 16]> {
    hex::decode(tag.strip_prefix(NONCE)?).ok()?.try_into().ok()
}
