//! Names and other texts that people type.

use crate::Error;

/// A name for people: trimmed, not empty, without control characters. Its length is bounded by
/// the field's declared rule.
pub(crate) fn name(field: &'static str, text: &str) -> Result<String, Error> {
    let text = text.trim();
    if text.is_empty() {
        Err(Error::field(field, "is required"))
    } else if text.chars().any(char::is_control) {
        Err(Error::field(field, "must not hold control characters"))
    } else {
        Ok(text.to_owned())
    }
}

/// One line of free text: trimmed, without control characters; may be empty.
pub(crate) fn line(field: &'static str, text: &str) -> Result<String, Error> {
    let text = text.trim();
    if text.chars().any(char::is_control) {
        return Err(Error::field(field, "must not hold control characters"));
    }
    Ok(text.to_owned())
}

/// A name for programs: 2 to 40 lowercase letters, digits and hyphens, a letter first.
pub(crate) fn slug(field: &'static str, text: &str) -> Result<String, Error> {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let right = (2..=40).contains(&text.len())
        && text.as_bytes().first().is_some_and(u8::is_ascii_lowercase)
        && text.bytes().all(plain);
    if !right {
        return Err(Error::field(
            field,
            "must be 2 to 40 lowercase letters, digits and hyphens, a letter first",
        ));
    }
    Ok(text.to_owned())
}

/// An e-mail address, as far as its shape says: something, an `@`, something. Whether mail
/// arrives there is not asked; `admin@localhost` is one.
pub(crate) fn email(field: &'static str, text: &str) -> Result<String, Error> {
    let text = text.trim();
    let odd = |c: char| c.is_control() || c.is_whitespace();
    match text.rsplit_once('@') {
        Some((local, domain)) if !local.is_empty() && !domain.is_empty() && !text.contains(odd) => {
            Ok(text.to_owned())
        }
        _ => Err(Error::field(field, "must be an e-mail address")),
    }
}

/// A host name (RFC 1123, section 2.1) or an IP address, without a port.
pub(crate) fn host(field: impl Into<String>, text: &str) -> Result<String, Error> {
    let text = text.trim();
    if text.parse::<std::net::IpAddr>().is_ok() || is_host_name(text) {
        Ok(text.to_owned())
    } else {
        Err(Error::field(
            field,
            "must be a host name or an IP address, without a port",
        ))
    }
}

/// `host:port` with both given, an IPv6 address in brackets; or nothing.
pub(crate) fn address(field: impl Into<String>, text: &str) -> Result<String, Error> {
    let text = text.trim();
    if text.is_empty() {
        return Ok(String::new());
    }
    let is_one = |(host, port): (&str, &str)| {
        let port = port.parse::<u16>().is_ok_and(|port| port > 0);
        let bracketed = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
        port && match bracketed {
            Some(host) => host.parse::<std::net::Ipv6Addr>().is_ok(),
            None => host.parse::<std::net::Ipv4Addr>().is_ok() || is_host_name(host),
        }
    };
    match text.rsplit_once(':').is_some_and(is_one) {
        true => Ok(text.to_owned()),
        false => Err(Error::field(field, "must be host:port")),
    }
}

fn is_host_name(text: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    // All digits and dots would be a mistyped address.
    (1..=253).contains(&text.len())
        && text.split('.').all(label)
        && text.bytes().any(|b| b.is_ascii_alphabetic())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_names_or_addresses_without_a_port() {
        for text in ["vpn.example.com", "10.0.0.1", "2001:db8::1", "n1", " n1 "] {
            assert_eq!(host("a", text).unwrap(), text.trim());
        }
        for text in [
            "",
            "a:1",
            "10.0.0.256",
            "-a",
            "a..b",
            "a b",
            "https://a",
            "[::1]",
        ] {
            assert!(host("a", text).is_err(), "{text}");
        }
    }

    #[test]
    fn addresses_have_something_on_both_sides_of_the_at() {
        for text in ["a@b", " Ada@Example.COM ", "\"a@b\"@c", "ü@ü"] {
            assert_eq!(email("e", text).unwrap(), text.trim());
        }
        for text in ["", "a", "@b", "a@", "a b@c", "a@b\nc", "a@\u{0}"] {
            assert!(email("e", text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn slugs_are_lowercase_and_begin_with_a_letter() {
        for text in ["ab", "support-2", "a1"] {
            assert_eq!(slug("s", text).unwrap(), text);
        }
        for text in [
            "",
            "a",
            "1a",
            "-a",
            "Support",
            "a b",
            "a_b",
            &"a".repeat(41),
        ] {
            assert!(slug("s", text).is_err(), "{text}");
        }
    }

    #[test]
    fn names_are_trimmed_and_not_empty() {
        assert_eq!(name("n", " Acme Ltd ").unwrap(), "Acme Ltd");
        for text in ["", "  ", "a\nb", "a\u{0}"] {
            assert!(name("n", text).is_err(), "{text:?}");
        }
    }
}
