//! The kinds of values that settings have, each with one spelling and an error that says which.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;
use secrecy::{ExposeSecret, SecretString};

/// Why a text is not a value of the kind; the words follow "… is not valid: ".
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected {0}")]
pub struct Expected(&'static str);

/// An address to listen on. Port 0 lets the system choose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ListenAddr(pub SocketAddr);

impl ListenAddr {
    /// A free port on the loopback interface, for tests.
    pub fn any_loopback() -> Self {
        Self(SocketAddr::from(([127, 0, 0, 1], 0)))
    }
}

impl FromStr for ListenAddr {
    type Err = Expected;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse()
            .map(Self)
            .map_err(|_| Expected("address:port, such as 127.0.0.1:50051 or [::]:50051"))
    }
}

impl fmt::Display for ListenAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A duration with its unit: `250ms`, `30s`, `15m`, `12h`, `7d`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct HumanDuration(pub Duration);

impl FromStr for HumanDuration {
    type Err = Expected;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const EXPECTED: Expected =
            Expected("a duration with a unit, such as 250ms, 30s, 15m, 12h or 7d");
        let (number, unit) = split_unit(text).ok_or(EXPECTED)?;
        let millis_per_unit: u64 = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(EXPECTED),
        };
        number
            .checked_mul(millis_per_unit)
            .map(Duration::from_millis)
            .map(Self)
            .ok_or(EXPECTED)
    }
}

impl fmt::Display for HumanDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.as_millis();
        for (unit, millis_per_unit) in [
            ("d", 86_400_000),
            ("h", 3_600_000),
            ("m", 60_000),
            ("s", 1_000),
        ] {
            if millis > 0 && millis.is_multiple_of(millis_per_unit) {
                return write!(f, "{}{unit}", millis / millis_per_unit);
            }
        }
        write!(f, "{millis}ms")
    }
}

/// A number of bytes: `65536`, `64KiB`, `10MB`, `2GiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

impl FromStr for ByteSize {
    type Err = Expected;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const EXPECTED: Expected = Expected("a size in bytes, such as 65536, 64KiB, 10MB or 2GiB");
        let (number, unit) = split_unit(text).ok_or(EXPECTED)?;
        let bytes_per_unit: u64 = match unit {
            "" | "B" => 1,
            "kB" | "KB" => 1_000,
            "MB" => 1_000_000,
            "GB" => 1_000_000_000,
            "TB" => 1_000_000_000_000,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            "TiB" => 1 << 40,
            _ => return Err(EXPECTED),
        };
        number.checked_mul(bytes_per_unit).map(Self).ok_or(EXPECTED)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, shift) in [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)] {
            if self.0 > 0 && self.0.is_multiple_of(1 << shift) {
                return write!(f, "{}{unit}", self.0 >> shift);
            }
        }
        write!(f, "{}", self.0)
    }
}

/// A secret: never shown by `Debug`, wiped from memory when dropped.
#[derive(Clone)]
pub struct Secret(SecretString);

impl Secret {
    /// Wraps a secret.
    pub fn new(text: impl Into<String>) -> Self {
        Self(SecretString::from(text.into()))
    }

    /// The secret itself; keep the borrow short.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

impl FromStr for Secret {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self::new(text))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(redacted)")
    }
}

/// Networks, separated by commas: `10.0.0.0/8,2001:db8::/32`. A bare address is a network of one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CidrList(pub Vec<IpNet>);

impl CidrList {
    /// Whether one of the networks holds `address`; an IPv4-mapped IPv6 address counts as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(&address))
    }

    /// Whether the list is empty.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromStr for CidrList {
    type Err = Expected;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty())
            .map(|part| {
                let bare = |_| part.parse::<IpAddr>().map(IpNet::from);
                part.parse::<IpNet>().or_else(bare).map(canonical)
            })
            .collect::<Result<Vec<_>, _>>()
            .map(Self)
            .map_err(|_| Expected("networks separated by commas, such as 10.0.0.0/8,2001:db8::/32"))
    }
}

/// An IPv4-mapped network counts as IPv4, as addresses do.
fn canonical(network: IpNet) -> IpNet {
    let IpNet::V6(mapped) = network else {
        return network;
    };
    let length = mapped.prefix_len().checked_sub(96);
    match (mapped.addr().to_ipv4_mapped(), length) {
        (Some(address), Some(length)) => IpNet::new(address.into(), length).unwrap_or(network),
        _ => network,
    }
}

impl fmt::Display for CidrList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, network) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            network.fmt(f)?;
        }
        Ok(())
    }
}

/// A share between 0 and 1.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub struct Ratio(f64);

impl Ratio {
    /// The share, within 0..=1.
    pub fn get(self) -> f64 {
        self.0
    }
}

impl FromStr for Ratio {
    type Err = Expected;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.parse::<f64>() {
            Ok(share) if (0.0..=1.0).contains(&share) => Ok(Self(share)),
            _ => Err(Expected("a number between 0 and 1, such as 0.1")),
        }
    }
}

impl fmt::Display for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The address of another service: `http://host:port` or `https://host:port`, without a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpEndpoint(http::Uri);

impl HttpEndpoint {
    /// The address as a URI.
    pub fn uri(&self) -> &http::Uri {
        &self.0
    }
}

impl FromStr for HttpEndpoint {
    type Err = Expected;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const EXPECTED: Expected = Expected("a URL without a path, such as http://127.0.0.1:50051");
        let uri: http::Uri = text.parse().map_err(|_| EXPECTED)?;
        let scheme_fits = matches!(uri.scheme_str(), Some("http" | "https"));
        if scheme_fits && uri.host().is_some() && matches!(uri.path(), "" | "/") {
            Ok(Self(uri))
        } else {
            Err(EXPECTED)
        }
    }
}

impl fmt::Display for HttpEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Splits `30s` into 30 and `s`.
fn split_unit(text: &str) -> Option<(u64, &str)> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    Some((number.parse().ok()?, unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_need_their_unit() {
        for (text, millis) in [
            ("250ms", 250),
            ("30s", 30_000),
            ("15m", 900_000),
            ("7d", 604_800_000),
        ] {
            let value: HumanDuration = text.parse().unwrap();
            assert_eq!(value.0, Duration::from_millis(millis));
            assert_eq!(value.to_string(), text);
        }
        for text in ["", "30", "s", "-1s", "1.5h", "99999999999999999999s", "1w"] {
            assert!(text.parse::<HumanDuration>().is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_know_binary_and_decimal_units() {
        for (text, bytes) in [
            ("65536", 65_536),
            ("64KiB", 65_536),
            ("10MB", 10_000_000),
            ("2GiB", 2 << 30),
        ] {
            assert_eq!(text.parse::<ByteSize>().unwrap().0, bytes);
        }
        for text in ["", "KiB", "1kib", "99999999999TiB", "1 MB"] {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
    }

    #[test]
    fn networks_hold_mapped_addresses() {
        let list: CidrList = "10.0.0.0/8, 192.0.2.7,2001:db8::/32".parse().unwrap();
        assert!(list.contains("::ffff:10.1.2.3".parse().unwrap()));
        assert!(list.contains("192.0.2.7".parse().unwrap()));
        assert!(!list.contains("192.0.2.8".parse().unwrap()));
        assert_eq!(list.to_string(), "10.0.0.0/8,192.0.2.7/32,2001:db8::/32");
        let mapped: CidrList = "::ffff:10.0.0.0/104,::ffff:192.0.2.7,::/0".parse().unwrap();
        assert_eq!(mapped.to_string(), "10.0.0.0/8,192.0.2.7/32,::/0");
        assert!("10.0.0.0/33".parse::<CidrList>().is_err());
    }

    #[test]
    fn a_secret_is_not_shown() {
        assert_eq!(format!("{:?}", Secret::new("hunter2")), "Secret(redacted)");
    }

    #[test]
    fn endpoints_have_a_scheme_and_no_path() {
        assert!("http://127.0.0.1:4317".parse::<HttpEndpoint>().is_ok());
        for text in ["127.0.0.1:4317", "ftp://x", "http://x/y", ""] {
            assert!(text.parse::<HttpEndpoint>().is_err(), "{text}");
        }
    }
}
