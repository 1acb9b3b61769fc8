//! Which form a program reads: what it asks for by name, what it is known to read, or what it says to
//! accept.

use crate::Error;

/// A form of a subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// Share links in base64.
    Links,
    /// Share links as they are.
    Uris,
    /// For Xray-core.
    Xray,
    /// For sing-box.
    SingBox,
    /// For mihomo and others of Clash's family.
    Clash,
    /// For wg-quick and WireGuard's apps.
    WireGuard,
    /// Shadowsocks' online configuration.
    Sip008,
    /// Everything.
    Json,
    /// A page for people.
    Html,
}

/// Names by which forms are asked for.
const NAMES: [(&str, Format); 9] = [
    ("links", Format::Links),
    ("uris", Format::Uris),
    ("xray", Format::Xray),
    ("sing-box", Format::SingBox),
    ("clash", Format::Clash),
    ("wireguard", Format::WireGuard),
    ("sip008", Format::Sip008),
    ("json", Format::Json),
    ("html", Format::Html),
];

/// What is part of programs' user agents, in lower case, and what they read. The first that is there
/// counts: some say to be like others, and read share links better than those others' files.
const CLIENTS: [(&str, Format); 25] = [
    ("hiddify", Format::Links),
    ("karing", Format::Links),
    ("v2rayn", Format::Links),
    ("v2raytun", Format::Links),
    ("v2box", Format::Links),
    ("happ/", Format::Links),
    ("streisand", Format::Links),
    ("shadowrocket", Format::Links),
    ("foxray", Format::Links),
    ("npv tunnel", Format::Links),
    ("sing-box", Format::SingBox),
    ("sfa/", Format::SingBox),
    ("sfi/", Format::SingBox),
    ("sfm/", Format::SingBox),
    ("sft/", Format::SingBox),
    // Clash Verge, ClashX, FlClash, Clash Meta for Android, and those that prefer its files.
    ("clash", Format::Clash),
    ("mihomo", Format::Clash),
    ("stash", Format::Clash),
    ("koala", Format::Clash),
    ("nekobox", Format::Links),
    ("nekoray", Format::Links),
    ("throne", Format::Links),
    ("shadowsocks", Format::Sip008),
    ("sip008", Format::Sip008),
    ("wireguard", Format::WireGuard),
];

/// What may be accepted, and the form that it is.
const ACCEPTED: [(&str, Format); 7] = [
    ("text/html", Format::Html),
    ("application/json", Format::Json),
    ("application/yaml", Format::Clash),
    ("application/x-yaml", Format::Clash),
    ("text/yaml", Format::Clash),
    ("application/zip", Format::WireGuard),
    ("text/plain", Format::Links),
];

/// The form to answer with.
///
/// # Errors
/// [`Error::Field`] for a name that is none.
pub(crate) fn choose(name: &str, user_agent: &str, accept: &str) -> Result<Format, Error> {
    if !name.is_empty() {
        return named(name);
    }
    Ok(known(user_agent)
        .or_else(|| accepted(accept))
        .unwrap_or(Format::Links))
}

fn named(name: &str) -> Result<Format, Error> {
    let found = NAMES.iter().find(|(it, _)| *it == name);
    found.map(|(_, format)| *format).ok_or_else(|| {
        let names: Vec<&str> = NAMES.iter().map(|(it, _)| *it).collect();
        Error::field("format", format!("must be one of {}", names.join(", ")))
    })
}

fn known(user_agent: &str) -> Option<Format> {
    let user_agent = user_agent.to_ascii_lowercase();
    let found = CLIENTS.iter().find(|(it, _)| user_agent.contains(it));
    found.map(|(_, format)| *format)
}

/// The first that is known of those that a program names.
fn accepted(accept: &str) -> Option<Format> {
    accept.split(',').find_map(|range| {
        let range = range.split(';').next().unwrap_or_default().trim();
        let found = ACCEPTED
            .iter()
            .find(|(it, _)| range.eq_ignore_ascii_case(it));
        found.map(|(_, format)| *format)
    })
}

impl Format {
    /// The name by which it is asked for.
    pub(crate) fn name(self) -> &'static str {
        let found = NAMES.iter().find(|(_, format)| *format == self);
        found.map_or("", |(name, _)| name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHROME: &str = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) \
        Chrome/142.0.0.0 Safari/537.36";
    const BROWSERS: &str = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";

    #[test]
    fn programs_get_what_they_read() {
        for (user_agent, expected) in [
            ("v2rayN/7.15.4", Format::Links),
            ("v2rayNG/1.10.24", Format::Links),
            ("Happ/3.2.1/ios", Format::Links),
            ("Streisand/1.6 CFNetwork/1568 Darwin/24.0.0", Format::Links),
            ("v2raytun/ios", Format::Links),
            (
                "HiddifyNext/2.5.7 (windows) like ClashMeta v2ray sing-box",
                Format::Links,
            ),
            (
                "Shadowrocket/2678 CFNetwork/1568.300.101 Darwin/24.2.0",
                Format::Links,
            ),
            (
                "SFA/1.12.12 (Build 601; sing-box 1.12.12; language en_US)",
                Format::SingBox,
            ),
            ("SFI/1.12.9 (Build 1; sing-box 1.12.9)", Format::SingBox),
            ("sing-box 1.12.12", Format::SingBox),
            ("clash-verge/v2.4.3", Format::Clash),
            ("ClashMetaForAndroid/2.11.20.Meta", Format::Clash),
            ("mihomo/1.19.16", Format::Clash),
            (
                "FlClash/v0.8.90 clash-verge Platform/android",
                Format::Clash,
            ),
            ("Stash/3.1.0 Clash/1.9.0", Format::Clash),
            (
                "NekoBox/Android/1.4.1 (Prefer ClashMeta Format)",
                Format::Clash,
            ),
            ("shadowsocks-android/5.3.5", Format::Sip008),
        ] {
            let chosen = choose("", user_agent, "*/*").unwrap();
            assert_eq!(chosen, expected, "{user_agent}");
            // Whatever else it accepts.
            assert_eq!(choose("", user_agent, BROWSERS).unwrap(), expected);
        }
    }

    #[test]
    fn a_browser_gets_the_page_and_a_program_that_nobody_knows_what_it_accepts() {
        for (user_agent, accept, expected) in [
            (CHROME, BROWSERS, Format::Html),
            ("curl/8.14.1", "*/*", Format::Links),
            ("curl/8.14.1", "application/json", Format::Json),
            ("a script", "image/png, Text/YAML;q=0.5", Format::Clash),
            ("", "", Format::Links),
        ] {
            let chosen = choose("", user_agent, accept).unwrap();
            assert_eq!(chosen, expected, "{user_agent} {accept}");
        }
    }

    #[test]
    fn what_is_asked_for_by_name_goes_before_everything_else() {
        for (name, format) in NAMES {
            let chosen = choose(name, "clash-verge/v2.4.3", BROWSERS).unwrap();
            assert_eq!(chosen, format);
            assert_eq!(chosen.name(), name);
        }
        for wrong in ["none", "Links", "singbox"] {
            let refused = choose(wrong, "", "").unwrap_err().to_string();
            assert!(refused.contains("links, uris, xray"), "{refused}");
        }
    }
}
