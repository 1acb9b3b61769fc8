//! The address a request comes from, seen through proxies whose word is taken.
//!
//! Each proxy appends the address that it was called from, so the header is read from the right, for
//! as long as the hop in front is trusted: what stands left of the first hop that is not was
//! written by whoever called it. One header is read, and no other: a proxy that writes one of them
//! passes the other on as it came.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use http::HeaderValue;
use http::request::Parts;

use crate::identity::PeerIdentity;
use crate::serve::ConnectionInfo;
use crate::settings::CidrList;
use crate::tls::Peer;

/// The client's address, in the extensions of every request that has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientAddress(pub IpAddr);

/// Whose word about a client's address is taken, and how they say it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrustedProxies {
    /// Where they are.
    pub networks: CidrList,
    /// The header that they append to.
    pub header: ForwardedHeader,
}

/// The header in which proxies say whom they were called by.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ForwardedHeader {
    /// `x-forwarded-for: 203.0.113.5, 10.0.0.1`
    #[default]
    XForwardedFor,
    /// `forwarded: for=203.0.113.5;proto=https, for="[2001:db8::1]"` (RFC 7239)
    Forwarded,
}

impl ForwardedHeader {
    fn name(self) -> &'static str {
        match self {
            Self::XForwardedFor => "x-forwarded-for",
            Self::Forwarded => "forwarded",
        }
    }

    fn hop(self, bytes: &[u8]) -> Option<IpAddr> {
        match self {
            Self::XForwardedFor => node(bytes),
            Self::Forwarded => {
                let mut said = from_right(bytes, b';').filter_map(|pair| {
                    let at = pair.iter().position(|byte| *byte == b'=')?;
                    let is_for = pair[..at].trim_ascii().eq_ignore_ascii_case(b"for");
                    is_for.then(|| node(&pair[at + 1..]))
                });
                // Two in one element are one too many.
                said.next().flatten().filter(|_| said.next().is_none())
            }
        }
    }

    /// The hops of a line, from the right. Bytes: what a stranger wrote may be no text at all.
    fn split(self, line: &[u8]) -> Box<dyn Iterator<Item = &[u8]> + '_> {
        match self {
            Self::XForwardedFor => Box::new(line.rsplit(|byte| *byte == b',')),
            Self::Forwarded => Box::new(from_right(line, b',')),
        }
    }

    /// What a proxy of our own says about its client.
    pub fn value(self, client: IpAddr) -> Option<HeaderValue> {
        let text = match (self, client) {
            (Self::XForwardedFor, client) => client.to_string(),
            (Self::Forwarded, IpAddr::V4(client)) => format!("for={client}"),
            (Self::Forwarded, IpAddr::V6(client)) => format!("for=\"[{client}]\""),
        };
        HeaderValue::from_str(&text).ok()
    }

    /// What a proxy of our own says where its client's address could not be found out: said
    /// nothing, it would itself be taken for the client.
    pub fn unknown(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::XForwardedFor => "unknown",
            Self::Forwarded => "for=unknown",
        })
    }
}

impl FromStr for ForwardedHeader {
    type Err = UnknownHeader;

    fn from_str(text: &str) -> Result<Self, UnknownHeader> {
        [Self::XForwardedFor, Self::Forwarded]
            .into_iter()
            .find(|header| header.name().eq_ignore_ascii_case(text))
            .ok_or(UnknownHeader)
    }
}

impl fmt::Display for ForwardedHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The text names no header that proxies say addresses in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected x-forwarded-for or forwarded")]
pub struct UnknownHeader;

/// An address, some proxies write it with its port: `203.0.113.5:4711`, `"[2001:db8::1]:4711"`.
fn node(bytes: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(bytes).ok()?.trim();
    let text = text
        .strip_prefix('"')
        .and_then(|text| text.strip_suffix('"'))
        .unwrap_or(text);
    let bracketed = || text.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    text.parse::<IpAddr>()
        .ok()
        .or_else(bracketed)
        .or_else(|| text.parse::<SocketAddr>().ok().map(|found| found.ip()))
        .map(|address| address.to_canonical())
}

/// What stands between separators that are not part of a quoted string (RFC 9110, section 5.6.4).
/// Proxies quote what clients write: `host="a,for=10.0.0.1"`. From the right: a quote that somebody
/// left open further left changes nothing about what trusted proxies wrote after it.
fn from_right(bytes: &[u8], separator: u8) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(bytes);
    std::iter::from_fn(move || {
        let bytes = rest?;
        let mut quoted = false;
        for at in (0..bytes.len()).rev() {
            if bytes[at] == b'"' {
                let before = bytes[..at].iter().rev();
                let escaped = before.take_while(|byte| **byte == b'\\').count() % 2 == 1;
                // Outside of a quoted string a backslash stands for nothing.
                quoted = !quoted || escaped;
            } else if bytes[at] == separator && !quoted {
                rest = Some(&bytes[..at]);
                return Some(&bytes[at + 1..]);
            }
        }
        rest = None;
        Some(bytes)
    })
}

/// Finds out where a request comes from; nothing when a proxy says what is no address: its own would
/// be let in where strangers are not. The gateway's word is taken when it is in this very
/// process, where there is no connection, or shows its certificate; it says one address, which is
/// the client's.
pub fn client_address(parts: &Parts, trusted: &TrustedProxies) -> Option<ClientAddress> {
    let connection = parts.extensions.get::<ConnectionInfo>();
    let remote = connection.map(|connection| connection.remote.ip().to_canonical());
    let Some(remote) = remote.filter(|_| !is_gateway(parts)) else {
        let said = hops(parts, ForwardedHeader::XForwardedFor).next();
        return said.unwrap_or(remote).map(ClientAddress);
    };
    let mut address = remote;
    let mut hops = hops(parts, trusted.header);
    while trusted.networks.contains(address) {
        match hops.next() {
            Some(Some(hop)) => address = hop,
            // What is left of a malformed hop was not written by anybody trusted.
            Some(None) => return None,
            None => break,
        }
    }
    Some(ClientAddress(address))
}

pub(super) fn is_gateway(parts: &Parts) -> bool {
    let peer = parts.extensions.get::<Peer>().map(Peer::identity);
    matches!(peer, Some(PeerIdentity::ControlPlane { service }) if service == "gateway")
}

/// From the right; `None` for what is no address.
fn hops(parts: &Parts, header: ForwardedHeader) -> impl Iterator<Item = Option<IpAddr>> {
    parts
        .headers
        .get_all(header.name())
        .into_iter()
        .rev()
        .flat_map(move |line| header.split(line.as_bytes()))
        .map(move |hop| header.hop(hop))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(
        remote: Option<&str>,
        header: ForwardedHeader,
        lines: &[(&str, &str)],
        trusted: &str,
    ) -> Option<String> {
        let mut request = http::Request::builder();
        for (name, line) in lines {
            // One byte each, so that `é` is a byte that is no text.
            let line: Vec<u8> = line.chars().map(|c| u8::try_from(c).unwrap()).collect();
            request = request.header(*name, line);
        }
        let (mut parts, ()) = request.body(()).unwrap().into_parts();
        if let Some(remote) = remote {
            let remote = SocketAddr::new(remote.parse().unwrap(), 1);
            parts.extensions.insert(ConnectionInfo { remote });
        }
        let networks = trusted.parse().unwrap();
        let trusted = TrustedProxies { networks, header };
        client_address(&parts, &trusted).map(|found| found.0.to_string())
    }

    fn by_list(remote: &str, lines: &[&str], trusted: &str) -> String {
        let lines: Vec<_> = lines
            .iter()
            .map(|line| ("x-forwarded-for", *line))
            .collect();
        let header = ForwardedHeader::XForwardedFor;
        found(Some(remote), header, &lines, trusted).unwrap()
    }

    fn by_elements(remote: &str, lines: &[&str], trusted: &str) -> String {
        let lines: Vec<_> = lines.iter().map(|line| ("forwarded", *line)).collect();
        found(Some(remote), ForwardedHeader::Forwarded, &lines, trusted).unwrap()
    }

    const PROXIES: &str = "10.0.0.0/8,fd00::/8";

    #[test]
    fn a_stranger_cannot_choose_their_address() {
        for said in [
            "10.0.0.1",
            "127.0.0.1",
            "10.0.0.1, 10.0.0.2",
            "::1",
            "junk",
            "",
        ] {
            assert_eq!(by_list("198.51.100.7", &[said], PROXIES), "198.51.100.7");
        }
        assert_eq!(
            by_elements("198.51.100.7", &["for=10.0.0.1"], PROXIES),
            "198.51.100.7"
        );
        assert_eq!(by_list("198.51.100.7", &["10.0.0.1"], ""), "198.51.100.7");
    }

    #[test]
    fn a_stranger_behind_a_proxy_cannot_either() {
        // The proxy appended what it saw to what the stranger had written.
        for lines in [
            &["10.9.9.9, 203.0.113.5"][..],
            &["10.9.9.9", "203.0.113.5"],
            &["6.6.6.6, 10.9.9.9, junk, 203.0.113.5 "],
            &["for=10.9.9.9, 203.0.113.5"],
        ] {
            assert_eq!(
                by_list("10.0.0.1", lines, PROXIES),
                "203.0.113.5",
                "{lines:?}"
            );
        }
    }

    #[test]
    fn trusted_hops_are_looked_through_from_the_right() {
        let lines = ["6.6.6.6, 203.0.113.5", "10.1.1.1"];
        assert_eq!(by_list("10.0.0.1", &lines, PROXIES), "203.0.113.5");
        assert_eq!(by_list("10.0.0.1", &["10.1.1.1"], PROXIES), "10.1.1.1");
        assert_eq!(by_list("10.0.0.1", &[], PROXIES), "10.0.0.1");
    }

    #[test]
    fn nothing_is_believed_that_stands_left_of_garbage() {
        for garbage in [
            "junk",
            "",
            "203.0.113.5.6",
            "unknown",
            "1.2.3.4:x",
            "[::1",
            "\u{7f}",
        ] {
            let line = format!("203.0.113.5, {garbage}");
            let Ok(_) = HeaderValue::from_str(&line) else {
                continue;
            };
            let lines = [("x-forwarded-for", line.as_str())];
            let header = ForwardedHeader::XForwardedFor;
            let found = found(Some("10.0.0.1"), header, &lines, PROXIES);
            assert_eq!(found, None, "{garbage}");
        }
    }

    #[test]
    fn a_stranger_cannot_hide_behind_the_proxy_by_bytes_that_are_no_text() {
        for line in ["\u{e9}, 203.0.113.5", "10.9.9.9\u{ff},203.0.113.5"] {
            assert_eq!(by_list("10.0.0.1", &[line], PROXIES), "203.0.113.5");
            let line = line.replace("203.", "for=203.");
            assert_eq!(by_elements("10.0.0.1", &[&line], PROXIES), "203.0.113.5");
        }
        // Where the proxy's own hop cannot be read, it is nobody's address, least of all the
        // proxy's.
        for (header, line) in [
            (ForwardedHeader::XForwardedFor, "203.0.113.5\u{e9}"),
            (
                ForwardedHeader::XForwardedFor,
                "203.0.113.5, \u{e9}, 10.1.1.1",
            ),
            (ForwardedHeader::Forwarded, "for=\"203.0.113.5\u{e9}\""),
        ] {
            let lines = [(header.name(), line)];
            assert_eq!(found(Some("10.0.0.1"), header, &lines, PROXIES), None);
        }
    }

    #[test]
    fn a_proxy_that_knows_no_address_is_not_taken_for_its_client() {
        for header in [ForwardedHeader::XForwardedFor, ForwardedHeader::Forwarded] {
            let said = header.unknown();
            let lines = [(header.name(), said.to_str().unwrap())];
            assert_eq!(found(Some("10.0.0.1"), header, &lines, PROXIES), None);
        }
    }

    #[test]
    fn an_address_is_the_same_however_it_is_written() {
        assert_eq!(
            by_list("::ffff:10.0.0.1", &["::ffff:203.0.113.5"], PROXIES),
            "203.0.113.5"
        );
        assert_eq!(by_list("fd00::1", &["2001:db8::5"], PROXIES), "2001:db8::5");
        assert_eq!(
            by_list("10.0.0.1", &["203.0.113.5:4711"], PROXIES),
            "203.0.113.5"
        );
        assert_eq!(
            by_list("10.0.0.1", &["[2001:db8::5]:4711"], PROXIES),
            "2001:db8::5"
        );
        assert_eq!(
            by_list("10.0.0.1", &["[2001:db8::5]"], PROXIES),
            "2001:db8::5"
        );
        assert_eq!(
            by_list("10.0.0.1", &["203.0.113.5"], "::ffff:10.0.0.0/104"),
            "203.0.113.5"
        );
    }

    #[test]
    fn elements_of_rfc_7239_are_read() {
        for (line, expected) in [
            ("for=192.0.2.43, for=203.0.113.5", "203.0.113.5"),
            (
                "for=192.0.2.43, FOR=\"203.0.113.5:80\";proto=https;by=10.0.0.1",
                "203.0.113.5",
            ),
            (
                "proto=https;for=\"[2001:db8:cafe::17]:4711\"",
                "2001:db8:cafe::17",
            ),
            ("for=203.0.113.5, for=10.2.2.2", "203.0.113.5"),
        ] {
            assert_eq!(
                by_elements("10.0.0.1", &[line], PROXIES),
                expected,
                "{line}"
            );
        }
        for hop in ["for=unknown", "for=_hidden", "by=10.0.0.1"] {
            let line = format!("for=203.0.113.5, {hop}");
            let lines = [("forwarded", line.as_str())];
            let header = ForwardedHeader::Forwarded;
            assert_eq!(found(Some("10.0.0.1"), header, &lines, PROXIES), None);
        }
    }

    #[test]
    fn what_a_client_writes_into_a_quoted_string_is_no_element() {
        for line in [
            "host=\"x,for=10.9.9.9\";for=203.0.113.5",
            "for=203.0.113.5;host=\"x,for=10.9.9.9\"",
            "host=\"x;for=10.9.9.9\";for=203.0.113.5",
            "for=203.0.113.5;host=\"x;for=10.9.9.9\"",
            "for=203.0.113.5;host=\"x\\\",for=10.9.9.9;y=\\\"\"",
            "for=\"10.9.9.9, for=203.0.113.5",
            "for=\", for=203.0.113.5;host=\"a\"",
        ] {
            let found = by_elements("10.0.0.1", &[line], PROXIES);
            assert_eq!(found, "203.0.113.5", "{line}");
        }
        let twice = [("forwarded", "for=203.0.113.5;for=10.9.9.9")];
        let header = ForwardedHeader::Forwarded;
        assert_eq!(found(Some("10.0.0.1"), header, &twice, PROXIES), None);
    }

    #[test]
    fn the_header_that_the_proxies_do_not_write_is_not_read() {
        let lines = [
            ("forwarded", "for=10.9.9.9"),
            ("x-forwarded-for", "203.0.113.5"),
        ];
        let remote = Some("10.0.0.1");
        let one = found(remote, ForwardedHeader::XForwardedFor, &lines, PROXIES);
        assert_eq!(one.as_deref(), Some("203.0.113.5"));
        let lines = [
            ("x-forwarded-for", "10.9.9.9"),
            ("forwarded", "for=203.0.113.5"),
        ];
        let other = found(remote, ForwardedHeader::Forwarded, &lines, PROXIES);
        assert_eq!(other.as_deref(), Some("203.0.113.5"));
    }

    #[test]
    fn a_call_in_process_takes_the_gateways_word() {
        let header = ForwardedHeader::Forwarded;
        let said = [("x-forwarded-for", "203.0.113.5")];
        assert_eq!(
            found(None, header, &said, "").as_deref(),
            Some("203.0.113.5")
        );
        assert_eq!(found(None, header, &[], ""), None);
    }

    #[test]
    fn what_is_said_is_read() {
        for header in [ForwardedHeader::XForwardedFor, ForwardedHeader::Forwarded] {
            for client in ["203.0.113.5", "2001:db8::5"] {
                let value = header.value(client.parse().unwrap()).unwrap();
                let lines = [(header.name(), value.to_str().unwrap())];
                let read = found(Some("10.0.0.1"), header, &lines, PROXIES);
                assert_eq!(read.as_deref(), Some(client));
            }
        }
    }
}
