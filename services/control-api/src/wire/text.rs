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

/// A host name (RFC 1123, section 2.1) or an IP address, without a port.
pub(crate) fn host(field: &'static str, text: &str) -> Result<String, Error> {
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
    fn names_are_trimmed_and_not_empty() {
        assert_eq!(name("n", " Acme Ltd ").unwrap(), "Acme Ltd");
        for text in ["", "  ", "a\nb", "a\u{0}"] {
            assert!(name("n", text).is_err(), "{text:?}");
        }
    }
}
