//! The settings of a WireGuard inbound, from the wire and back, with their defaults.

use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use vpnpanel_api::access::v1::WireGuardSettings;
use vpnpanel_store::WireGuard;

use crate::{Error, wire::mask::Mask};

/// The port that WireGuard is known by.
const DEFAULT_PORT: u16 = 51820;
/// Fits into a 1500-byte path under IPv6 (wg-quick(8)'s own default).
const DEFAULT_MTU: u16 = 1420;
/// IPv4 needs 576 (RFC 791), IPv6 1280 (RFC 8200).
const MIN_MTU: u16 = 576;
const MIN_MTU_IPV6: u16 = 1280;
/// Keeps most NAT mappings open (wg(8), "PersistentKeepalive").
const DEFAULT_KEEPALIVE_SECONDS: u16 = 25;

/// Fields that an update can name.
pub(crate) const FIELDS: &[&str] = &[
    "wireguard.port",
    "wireguard.ipv4_pool",
    "wireguard.ipv6_pool",
    "wireguard.dns_servers",
    "wireguard.mtu",
    "wireguard.persistent_keepalive_seconds",
    "wireguard.client_allowed_ips",
];

/// The settings of a new inbound.
pub(crate) fn on_create(wire: &WireGuardSettings) -> Result<WireGuard, Error> {
    let settings = WireGuard {
        port: port(wire.port)?,
        ipv4_pool: ipv4_pool(&wire.ipv4_pool)?,
        ipv6_pool: ipv6_pool(&wire.ipv6_pool)?,
        dns: dns(&wire.dns_servers)?,
        mtu: mtu(wire.mtu)?,
        keepalive_seconds: match wire.persistent_keepalive_seconds {
            0 => DEFAULT_KEEPALIVE_SECONDS,
            seconds => keepalive(seconds)?,
        },
        client_allowed_ips: allowed_ips(&wire.client_allowed_ips)?,
    };
    checked(settings)
}

/// The settings after an update; `None` when it changes none of them.
pub(crate) fn on_update(
    mask: &Mask<'_>,
    wire: Option<&WireGuardSettings>,
    before: &WireGuard,
) -> Result<Option<WireGuard>, Error> {
    let unset = WireGuardSettings::default();
    let wire = wire.unwrap_or(&unset);
    let mut after = before.clone();
    if let Some(it) = mask.take("wireguard.port", wire.port != 0, wire.port) {
        after.port = port(it)?;
    }
    let pool = &wire.ipv4_pool;
    if let Some(it) = mask.take("wireguard.ipv4_pool", !pool.is_empty(), pool) {
        if it.is_empty() {
            return Err(Error::field("inbound.wireguard.ipv4_pool", "is required"));
        }
        after.ipv4_pool = ipv4_pool(it)?;
    }
    let pool = &wire.ipv6_pool;
    if let Some(it) = mask.take("wireguard.ipv6_pool", !pool.is_empty(), pool) {
        after.ipv6_pool = ipv6_pool(it)?;
    }
    let servers = &wire.dns_servers;
    if let Some(it) = mask.take("wireguard.dns_servers", !servers.is_empty(), servers) {
        after.dns = dns(it)?;
    }
    if let Some(it) = mask.take("wireguard.mtu", wire.mtu != 0, wire.mtu) {
        after.mtu = mtu(it)?;
    }
    let seconds = wire.persistent_keepalive_seconds;
    let field = "wireguard.persistent_keepalive_seconds";
    if let Some(it) = mask.take(field, seconds != 0, seconds) {
        after.keepalive_seconds = keepalive(it)?;
    }
    let networks = &wire.client_allowed_ips;
    let field = "wireguard.client_allowed_ips";
    if let Some(it) = mask.take(field, !networks.is_empty(), networks) {
        after.client_allowed_ips = allowed_ips(it)?;
    }
    if after == *before {
        return Ok(None);
    }
    checked(after).map(Some)
}

/// What a client is shown.
pub(crate) fn into_wire(settings: WireGuard) -> WireGuardSettings {
    let texts = |items: &[IpNet]| items.iter().map(ToString::to_string).collect();
    WireGuardSettings {
        port: settings.port.into(),
        ipv4_pool: settings.ipv4_pool.to_string(),
        ipv6_pool: settings
            .ipv6_pool
            .map(|pool| pool.to_string())
            .unwrap_or_default(),
        dns_servers: settings.dns.iter().map(ToString::to_string).collect(),
        mtu: settings.mtu.into(),
        persistent_keepalive_seconds: settings.keepalive_seconds.into(),
        client_allowed_ips: texts(&settings.client_allowed_ips),
    }
}

/// What concerns more than one field.
fn checked(settings: WireGuard) -> Result<WireGuard, Error> {
    if settings.ipv6_pool.is_some() && settings.mtu < MIN_MTU_IPV6 {
        return Err(Error::field(
            "inbound.wireguard.mtu",
            format!("must be at least {MIN_MTU_IPV6} with IPv6"),
        ));
    }
    Ok(settings)
}

fn port(port: u32) -> Result<u16, Error> {
    if port == 0 {
        return Ok(DEFAULT_PORT);
    }
    u16::try_from(port).map_err(|_| Error::field("inbound.wireguard.port", "must be at most 65535"))
}

/// An empty text leaves the choice to the store, which knows the pools in use.
fn ipv4_pool(text: &str) -> Result<Ipv4Net, Error> {
    if text.is_empty() {
        return Ok(Ipv4Net::default());
    }
    network("inbound.wireguard.ipv4_pool", text)
}

fn ipv6_pool(text: &str) -> Result<Option<Ipv6Net>, Error> {
    if text.is_empty() {
        return Ok(None);
    }
    network("inbound.wireguard.ipv6_pool", text).map(Some)
}

fn dns(texts: &[String]) -> Result<Vec<IpAddr>, Error> {
    let parse = |(index, text): (usize, &String)| {
        let field = format!("inbound.wireguard.dns_servers[{index}]");
        text.trim()
            .parse()
            .map_err(|_| Error::field(field, "must be an IP address"))
    };
    texts.iter().enumerate().map(parse).collect()
}

fn mtu(mtu: u32) -> Result<u16, Error> {
    match u16::try_from(mtu) {
        Ok(0) => Ok(DEFAULT_MTU),
        Ok(mtu) if mtu >= MIN_MTU => Ok(mtu),
        _ => Err(Error::field(
            "inbound.wireguard.mtu",
            format!("must be at least {MIN_MTU}"),
        )),
    }
}

fn keepalive(seconds: u32) -> Result<u16, Error> {
    u16::try_from(seconds).map_err(|_| {
        Error::field(
            "inbound.wireguard.persistent_keepalive_seconds",
            "must be at most 65535",
        )
    })
}

/// Everything, where nothing is said: IPv6 too, also where the tunnel has none, because what
/// does not go through it would go around it.
fn allowed_ips(texts: &[String]) -> Result<Vec<IpNet>, Error> {
    if texts.is_empty() {
        let everything = [
            IpNet::new(Ipv4Addr::UNSPECIFIED.into(), 0),
            IpNet::new(std::net::Ipv6Addr::UNSPECIFIED.into(), 0),
        ];
        return Ok(everything.into_iter().flatten().collect());
    }
    let parse = |(index, text): (usize, &String)| {
        network(
            &format!("inbound.wireguard.client_allowed_ips[{index}]"),
            text,
        )
    };
    texts.iter().enumerate().map(parse).collect()
}

/// A network in CIDR form, without host bits.
fn network<T: FromStr + Copy + Trunc + PartialEq>(field: &str, text: &str) -> Result<T, Error> {
    let parsed: T = text
        .trim()
        .parse()
        .map_err(|_| Error::field(field, "must be a network in CIDR form"))?;
    if parsed.without_host_bits() == parsed {
        Ok(parsed)
    } else {
        Err(Error::field(field, "must not have host bits set"))
    }
}

trait Trunc {
    fn without_host_bits(&self) -> Self;
}

impl Trunc for Ipv4Net {
    fn without_host_bits(&self) -> Self {
        self.trunc()
    }
}

impl Trunc for Ipv6Net {
    fn without_host_bits(&self) -> Self {
        self.trunc()
    }
}

impl Trunc for IpNet {
    fn without_host_bits(&self) -> Self {
        self.trunc()
    }
}

#[cfg(test)]
mod tests {
    use prost_types::FieldMask;

    use super::*;

    #[test]
    fn nothing_said_is_a_working_inbound() {
        let settings = on_create(&WireGuardSettings::default()).unwrap();
        assert_eq!((settings.port, settings.mtu), (51820, 1420));
        assert_eq!(settings.keepalive_seconds, 25);
        assert_eq!(settings.ipv4_pool.prefix_len(), 0, "the store picks one");
        let everything: Vec<String> = settings
            .client_allowed_ips
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(everything, ["0.0.0.0/0", "::/0"]);
    }

    #[test]
    fn what_is_said_round_trips() {
        let wire = WireGuardSettings {
            port: 1234,
            ipv4_pool: "10.1.0.0/16".to_owned(),
            ipv6_pool: "fd00::/64".to_owned(),
            dns_servers: vec!["1.1.1.1".to_owned()],
            mtu: 1280,
            persistent_keepalive_seconds: 15,
            client_allowed_ips: vec!["10.0.0.0/8".to_owned()],
        };
        assert_eq!(into_wire(on_create(&wire).unwrap()), wire);
    }

    #[test]
    fn junk_names_its_field() {
        let cases: [(&str, fn(&mut WireGuardSettings)); 6] = [
            ("ipv4_pool", |it| it.ipv4_pool = "10.1.2.3/16".to_owned()),
            ("ipv4_pool", |it| it.ipv4_pool = "10.1.0.0".to_owned()),
            ("ipv6_pool", |it| it.ipv6_pool = "10.0.0.0/8".to_owned()),
            ("dns_servers[0]", |it| {
                it.dns_servers = vec!["dns".to_owned()]
            }),
            ("mtu", |it| it.mtu = 100),
            ("port", |it| it.port = 70_000),
        ];
        for (field, spoil) in cases {
            let mut wire = WireGuardSettings::default();
            spoil(&mut wire);
            let error = on_create(&wire).unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("inbound.wireguard.{field}:")),
                "{error}"
            );
        }
    }

    #[test]
    fn an_update_changes_what_its_mask_names() {
        let before = on_create(&WireGuardSettings::default()).unwrap();
        let wire = WireGuardSettings {
            mtu: 1300,
            ..WireGuardSettings::default()
        };
        let mask = FieldMask {
            paths: vec![
                "wireguard.mtu".to_owned(),
                "wireguard.persistent_keepalive_seconds".to_owned(),
            ],
        };
        let mask = Mask::read(Some(&mask), FIELDS).unwrap();
        let after = on_update(&mask, Some(&wire), &before).unwrap().unwrap();
        assert_eq!((after.mtu, after.keepalive_seconds), (1300, 0));
        assert_eq!(after.client_allowed_ips, before.client_allowed_ips);
        let nothing = Mask::read(None, FIELDS).unwrap();
        assert_eq!(on_update(&nothing, None, &before).unwrap(), None);
    }
}
