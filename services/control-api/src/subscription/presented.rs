//! How a way to connect is presented: what the template of its inbound says, applied to the
//! [`Endpoint`] of which every format and every link is made.

use std::collections::{BTreeMap, BTreeSet};

use sha2::{Digest, Sha256};
use uuid::Uuid;
use vpnpanel_domain::{
    EndpointTemplateId, NamePattern, NameVariable, XrayProtocol, XrayTransport, country_flag,
};
use vpnpanel_store::{Connection, ConnectionTemplate, Presentation};

use super::{Access, ClientSecurity, Endpoint, Quota, page::amounts::scaled};

/// Longest name, in characters: also a file's, kept within what every file system takes.
const MAX_NAME: usize = 100;

/// What is said where there is no end.
const ENDLESS: &str = "∞";

/// Names that formats themselves have given to something: no way to connect is called so.
pub(super) const RESERVED: [&str; 11] = [
    "VPN",
    "Auto",
    "select",
    "auto",
    "direct",
    "DIRECT",
    "REJECT",
    "REJECT-DROP",
    "PASS",
    "COMPATIBLE",
    "GLOBAL",
];

/// Whose connections they are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Subscriber<'a> {
    pub(crate) username: &'a str,
    pub(crate) quota: &'a Quota,
    pub(crate) now_ms: i64,
}

/// Where a connection goes.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) inbound: String,
    pub(super) node: String,
    pub(super) region: String,
}

impl Place {
    pub(super) fn of(connection: &Connection) -> Self {
        Self {
            inbound: connection.inbound_name.clone(),
            node: connection.node_name.clone(),
            region: connection.node_region.clone(),
        }
    }
}

/// The endpoint under its name, as its template has it; without one as inbound and node say.
pub(super) fn presented(
    mut endpoint: Endpoint,
    place: &Place,
    subscriber: &Subscriber<'_>,
    template: Option<ConnectionTemplate>,
) -> Endpoint {
    let mut name = String::new();
    if let Some(template) = template {
        endpoint.id = id(endpoint.id, template.id);
        name = named(&template.name_pattern, &endpoint.access, place, subscriber);
        apply(&mut endpoint, template.presentation);
    }
    if name.is_empty() {
        name = format!("{}-{}", place.inbound, place.node);
    }
    endpoint.name = name.chars().take(MAX_NAME).collect();
    endpoint
}

fn named(
    pattern: &NamePattern,
    access: &Access,
    place: &Place,
    subscriber: &Subscriber<'_>,
) -> String {
    let quota = subscriber.quota;
    pattern.render(|variable| match variable {
        NameVariable::User => subscriber.username.to_owned(),
        NameVariable::DaysLeft => quota
            .days_left(subscriber.now_ms)
            .map_or_else(|| ENDLESS.to_owned(), |days| days.to_string()),
        NameVariable::DataLeft => quota.left().map_or_else(|| ENDLESS.to_owned(), amount),
        NameVariable::Node => place.node.clone(),
        NameVariable::Flag => country_flag(&place.region).unwrap_or_default(),
        NameVariable::Inbound => place.inbound.clone(),
        NameVariable::Protocol => protocol(access).to_owned(),
        NameVariable::Status => quota.status.as_str().to_owned(),
    })
}

/// An amount of bytes, to three digits.
fn amount(bytes: u64) -> String {
    let (figure, unit) = scaled(bytes);
    let unit = ["B", "kB", "MB", "GB", "TB"].get(unit).copied();
    format!("{figure} {}", unit.unwrap_or_default())
}

/// The protocol, as people write it.
pub(super) const fn protocol(access: &Access) -> &'static str {
    match access {
        Access::WireGuard(_) => "WireGuard",
        Access::Xray(access) => match access.protocol {
            XrayProtocol::Vless { .. } => "VLESS",
            XrayProtocol::Vmess => "VMess",
            XrayProtocol::Trojan => "Trojan",
            XrayProtocol::Shadowsocks { .. } => "Shadowsocks",
        },
    }
}

/// What the inbound has no place for, because it was changed after the template, is left out.
fn apply(endpoint: &mut Endpoint, said: Presentation) {
    if let Some(address) = said.address {
        endpoint.address = address;
    }
    if let Some(port) = said.port {
        endpoint.port = port;
    }
    let Access::Xray(access) = &mut endpoint.access else {
        return;
    };
    access.fingerprint = said.fingerprint.unwrap_or(access.fingerprint);
    if let (XrayTransport::WebSocket { host, .. }, Some(said)) = (&mut access.transport, said.host)
    {
        *host = said;
    }
    match &mut access.security {
        ClientSecurity::None => {}
        ClientSecurity::Tls { server_name, alpn } => {
            *alpn = said.alpn;
            if let Some(said) = said.server_name {
                *server_name = said;
            }
        }
        ClientSecurity::Reality { server_name, .. } => {
            if let Some(said) = said.server_name {
                *server_name = said;
            }
        }
    }
}

/// Gives each endpoint a name that no other has, nor anything else in a format: programs tell
/// connections apart by it. The second and further ones of a name are numbered.
pub(super) fn name_apart(endpoints: &mut [Endpoint]) {
    let mut taken: BTreeSet<String> = RESERVED.map(str::to_owned).into();
    let mut numbers: BTreeMap<String, usize> = BTreeMap::new();
    for endpoint in endpoints {
        let plain = endpoint.name.clone();
        let number = numbers.entry(plain.clone()).or_insert(1);
        while !taken.insert(endpoint.name.clone()) {
            *number += 1;
            endpoint.name = format!("{plain} {number}");
        }
    }
}

/// Always the same for a connection by a template.
fn id(connection: Uuid, template: EndpointTemplateId) -> Uuid {
    let digest = Sha256::new()
        .chain_update(connection.as_bytes())
        .chain_update(template.as_bytes())
        .finalize();
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    uuid::Builder::from_random_bytes(bytes).into_uuid()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use vpnpanel_domain::{Alpn, Fingerprint, UserStatus};
    use yaml_rust2::YamlLoader;

    use super::*;
    use crate::subscription::{
        clash::clash,
        endpoint::tests::{all, subscribed},
        format::Format,
        profile::tests::profile,
        quota::tests::{NOW_MS, quota},
        share_link,
        testing::golden,
    };

    fn place(inbound: &str, node: &str) -> Place {
        Place {
            inbound: inbound.to_owned(),
            node: node.to_owned(),
            region: "de-fra".to_owned(),
        }
    }

    fn template(pattern: &str) -> ConnectionTemplate {
        ConnectionTemplate {
            id: EndpointTemplateId::from_bytes([5; 16]),
            name_pattern: pattern.parse().unwrap(),
            presentation: Presentation {
                address: Some("cdn.example.com".to_owned()),
                port: Some(8443),
                server_name: Some("sni.example.com".to_owned()),
                host: Some("host.example.com".to_owned()),
                fingerprint: Some(Fingerprint::Firefox),
                alpn: vec![Alpn::H2, Alpn::Http11],
            },
        }
    }

    fn all_presented(pattern: &str, place: &Place, username: &str) -> Vec<Endpoint> {
        let quota = quota();
        let subscriber = Subscriber {
            username,
            quota: &quota,
            now_ms: NOW_MS,
        };
        let present = |it| presented(it, place, &subscriber, Some(template(pattern)));
        let mut endpoints: Vec<Endpoint> = subscribed().into_iter().map(present).collect();
        name_apart(&mut endpoints);
        endpoints
    }

    #[test]
    fn every_format_says_what_the_template_says() {
        let pattern = "{flag} {protocol} {user}: {days_left} d, {data_left}, {status}";
        let profile = profile(all_presented(pattern, &place("main", "n1"), "ada"));
        for (format, file) in [
            (Format::Uris, "presented-links.txt"),
            (Format::Clash, "presented-clash.yaml"),
            (Format::SingBox, "presented-sing-box.json"),
            (Format::Xray, "presented-xray.json"),
            (Format::Sip008, "presented-sip008.json"),
        ] {
            let body = profile.render(format).unwrap().body;
            golden(file, &String::from_utf8(body).unwrap());
        }
    }

    #[test]
    fn programs_read_what_is_presented() {
        let profile = profile(all_presented("{flag} {node}", &place("main", "n1"), "ada"));
        for (format, program, arguments) in [
            (Format::SingBox, "sing-box", ["check", "-c"].as_slice()),
            (Format::Xray, "xray", &["run", "-test", "-config"]),
        ] {
            let body = profile.render(format).unwrap().body;
            let text = String::from_utf8(body).unwrap();
            crate::subscription::testing::read_by(program, arguments, &text);
        }
    }

    #[test]
    fn what_has_no_end_and_what_is_not_there_is_said_so() {
        let free = Quota {
            limit: None,
            expires_at_ms: None,
            status: UserStatus::OnHold,
            ..quota()
        };
        let subscriber = Subscriber {
            username: "ada",
            quota: &free,
            now_ms: NOW_MS,
        };
        let nowhere = Place {
            region: String::new(),
            ..place("main", "n1")
        };
        let name = |pattern: &str| {
            let endpoint = all().remove(0);
            presented(endpoint, &nowhere, &subscriber, Some(template(pattern))).name
        };
        assert_eq!(name("{days_left}/{data_left} {status}"), "∞/∞ on_hold");
        assert_eq!(name("{flag} "), "main-n1");
        assert_eq!(name(&"x".repeat(200)).chars().count(), MAX_NAME);
    }

    #[test]
    fn no_two_connections_and_nothing_else_have_the_same_name() {
        let mut endpoints = subscribed();
        for (endpoint, name) in endpoints
            .iter_mut()
            .zip(["a", "a 2", "a", "auto", "VPN", "a"])
        {
            endpoint.name = name.to_owned();
        }
        name_apart(&mut endpoints);
        let names: Vec<&str> = endpoints.iter().map(|it| it.name.as_str()).collect();
        let expected = ["a", "a 2", "a 3", "auto 2", "VPN 2", "a 4"];
        assert_eq!(names[..6], expected);
    }

    /// What the name is replaced by, to see that nothing else differs.
    fn structure(value: &serde_json::Value, names: &BTreeSet<String>) -> serde_json::Value {
        use serde_json::Value;
        match value {
            Value::String(text) => {
                let plain = text.strip_prefix("proxy-").unwrap_or(text);
                let is_name = names.contains(plain);
                Value::from(if is_name { "NAME" } else { text.as_str() })
            }
            Value::Array(items) => items.iter().map(|it| structure(it, names)).collect(),
            Value::Object(fields) => {
                let fields = fields.iter();
                Value::Object(
                    fields
                        .map(|(key, it)| (key.clone(), structure(it, names)))
                        .collect(),
                )
            }
            other => other.clone(),
        }
    }

    /// Pieces that mean something in one format or another.
    fn hostile() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            Just("\""),
            Just("'"),
            Just("\\"),
            Just("\n"),
            Just("\r"),
            Just("#"),
            Just("&"),
            Just("?"),
            Just("%00"),
            Just("\u{0}"),
            Just("\u{2028}"),
            Just(": "),
            Just("- "),
            Just("{"),
            Just("}"),
            Just("]"),
            Just(","),
            Just("</script>"),
            Just("<b>"),
            Just("@"),
            Just("/../"),
            Just("[Peer]"),
            Just("{status}"),
            Just("!!x"),
            Just("*a"),
            Just("ü🇩🇪"),
            Just("\u{202e}"),
            Just("x"),
        ];
        prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn no_value_breaks_out_of_its_place(
            user in hostile(), node in hostile(), inbound in hostile()
        ) {
            let pattern = "a{user}b{node}c{inbound}";
            let tame = all_presented(pattern, &place("i", "n"), "u");
            let wild = all_presented(pattern, &place(&inbound, &node), &user);
            let names = |of: &[Endpoint]| -> BTreeSet<String> {
                of.iter().map(|it| it.name.clone()).collect()
            };
            let (tame_names, wild_names) = (names(&tame), names(&wild));
            prop_assert_eq!(wild_names.len(), wild.len());
            prop_assert!(!wild_names.iter().any(|it| it.chars().any(char::is_control)));

            // Links: all but the fragment is as it was, and the fragment is the name.
            for (tame, wild) in tame.iter().zip(&wild) {
                let (Some(tame_link), Some(link)) = (share_link(tame), share_link(wild)) else {
                    continue;
                };
                prop_assert!(!link.contains(char::is_whitespace));
                match (tame_link.split_once('#'), link.split_once('#')) {
                    (Some((expected, _)), Some((before, name))) => {
                        prop_assert_eq!(before, expected);
                        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~%".contains(&b);
                        prop_assert!(name.bytes().all(plain), "{}", name);
                    }
                    (None, None) => prop_assert!(link.starts_with("vmess://")),
                    other => prop_assert!(false, "{:?}", other),
                }
            }

            let (tame, wild) = (profile(tame), profile(wild));
            for format in [Format::SingBox, Format::Xray, Format::Sip008] {
                let read = |of: &crate::subscription::Profile, names| {
                    let body = of.render(format).unwrap().body;
                    structure(&serde_json::from_slice(&body).unwrap(), names)
                };
                prop_assert_eq!(read(&wild, &wild_names), read(&tame, &tame_names));
            }

            let yaml = YamlLoader::load_from_str(&clash(&wild.endpoints)).unwrap();
            prop_assert_eq!(yaml.len(), 1);
            let proxies = yaml[0]["proxies"].as_vec().unwrap();
            let read: BTreeSet<String> = proxies
                .iter()
                .map(|it| it["name"].as_str().unwrap().to_owned())
                .collect();
            prop_assert_eq!(read, wild_names);

            // A page holds no tag that it did not hold, and a configuration no name at all.
            let tags = |of: &crate::subscription::Profile| {
                let body = of.render(Format::Html).unwrap().body;
                String::from_utf8(body).unwrap().matches('<').count()
            };
            // QR codes of other links have other shapes, of one path each.
            prop_assert_eq!(tags(&wild), tags(&tame));
            let files = |of: &crate::subscription::Profile| of.render(Format::WireGuard).unwrap();
            prop_assert_eq!(files(&wild).body, files(&tame).body);
            let header = files(&wild).disposition.unwrap();
            let name = header.strip_prefix("attachment; filename=\"").unwrap();
            let name = name.strip_suffix(".conf\"").unwrap();
            let plain = |b: u8| b.is_ascii_alphanumeric() || b"_=+.-".contains(&b);
            prop_assert!(name.len() <= 15 && name.bytes().all(plain), "{}", name);
        }
    }
}
