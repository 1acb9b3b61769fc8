//! What a browser gets: what was used and what is left, the link, how to connect. Made here, without a
//! script; the style is the one that the content security policy names by its hash.

pub(super) mod amounts;
mod apps;
mod language;
mod texts;

use std::sync::LazyLock;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use maud::{DOCTYPE, Markup, PreEscaped, html};
use sha2::{Digest, Sha256};
use vpnpanel_domain::UserStatus;

use self::{amounts::amount, apps::Platform, texts::Texts};
use super::{
    Access, Endpoint, Profile, Quota, format::Format, presented::protocol, share_link::share_link,
};
use crate::wireguard::config::qr_svg;

pub(crate) use language::Language;

const STYLE: &str = include_str!("style.css");
/// Most connections that have a QR code: each is some ten kilobytes of the page.
const MAX_CODES: usize = 24;

/// The content security policy: nothing is loaded, nothing runs, and the style is ours.
pub(super) fn policy() -> &'static str {
    static POLICY: LazyLock<String> = LazyLock::new(|| {
        let hash = STANDARD.encode(Sha256::digest(STYLE));
        format!(
            "default-src 'none'; style-src 'sha256-{hash}'; base-uri 'none'; \
             form-action 'none'; frame-ancestors 'none'"
        )
    });
    &POLICY
}

/// The page.
pub(super) fn page(profile: &Profile) -> String {
    let texts = profile.language.texts();
    let page = html! {
        (DOCTYPE)
        html lang=(profile.language.code()) dir=(texts.direction) {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                meta name="robots" content="noindex, nofollow";
                title { (profile.title) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                main {
                    (head(profile, texts))
                    (usage(&profile.quota, texts, profile.now_ms))
                    (link(profile, texts))
                    (connections(&profile.endpoints, texts))
                    (instructions(profile, texts))
                    @if let Some(support) = &profile.support_url {
                        footer {
                            a href=(support) rel="noreferrer noopener" { (texts.support) }
                        }
                    }
                }
            }
        }
    };
    page.into_string()
}

fn head(profile: &Profile, texts: &Texts) -> Markup {
    html! {
        header {
            div {
                h1 { bdi { (profile.title) } }
                p.quiet { bdi { (profile.username) } }
            }
            nav aria-label=(texts.language) {
                @for language in Language::ALL {
                    @let code = language.code();
                    @let current = (language == profile.language).then_some("page");
                    a href={ "?lang=" (code) } lang=(code) aria-current=[current] {
                        (language.texts().name)
                    }
                }
            }
        }
    }
}

fn usage(quota: &Quota, texts: &Texts, now_ms: i64) -> Markup {
    let used = amount(quota.used(), texts);
    html! {
        section.usage aria-label=(texts.usage) {
            (status(quota.status, texts))
            dl.figures {
                div { dt { (texts.used) } dd { (used) } }
                @if let Some(left) = quota.left() {
                    div { dt { (texts.left) } dd { (amount(left, texts)) } }
                } @else {
                    div { dt { (texts.left) } dd { (texts.unlimited) } }
                }
                @if let Some(days) = quota.days_left(now_ms) {
                    div { dt { (texts.days_left) } dd { (days) } }
                }
            }
            @if let Some(limit) = quota.limit {
                progress max=(limit) value=(quota.used().min(limit)) aria-label=(texts.used) {}
            }
            dl.facts {
                @if let Some(limit) = quota.limit {
                    div { dt { (texts.limit) } dd { (amount(limit, texts)) } }
                }
                @if let Some(time) = quota.renews_at_ms.and_then(amounts::moment) {
                    div { dt { (texts.renews) } dd dir="ltr" { (time) } }
                }
                @if let Some(time) = quota.expires_at_ms.and_then(amounts::moment) {
                    div { dt { (texts.expires) } dd dir="ltr" { (time) } }
                }
            }
        }
    }
}

fn status(status: UserStatus, texts: &Texts) -> Markup {
    let (class, icon, word) = match status {
        UserStatus::Active => ("active", "✓", texts.active),
        UserStatus::OnHold => ("waiting", "…", texts.on_hold),
        UserStatus::Limited => ("limited", "!", texts.limited),
        UserStatus::Expired => ("over", "×", texts.expired),
        UserStatus::Disabled | UserStatus::Deleted => ("over", "×", texts.disabled),
    };
    html! {
        p class={ "status " (class) } { span aria-hidden="true" { (icon) } (word) }
    }
}

fn link(profile: &Profile, texts: &Texts) -> Markup {
    html! {
        section {
            h2 { (texts.your_link) }
            p.quiet { (texts.link_hint) }
            (copied(&profile.url))
            (code(&profile.url, texts))
        }
    }
}

fn connections(endpoints: &[Endpoint], texts: &Texts) -> Markup {
    html! {
        section {
            h2 { (texts.connections) }
            @if endpoints.is_empty() {
                p.quiet { (texts.no_connections) }
            } @else {
                p.quiet { (texts.connections_hint) }
            }
            @for (number, endpoint) in endpoints.iter().enumerate() {
                @let text = text_of(endpoint);
                details {
                    summary { bdi { (endpoint.name) } span.quiet { (protocol(&endpoint.access)) } }
                    (copied(&text))
                    @if number < MAX_CODES { (code(&text, texts)) }
                }
            }
        }
    }
}

/// What a device is given of one connection.
fn text_of(endpoint: &Endpoint) -> zeroize::Zeroizing<String> {
    match &endpoint.access {
        Access::WireGuard(config) => config.text(&endpoint.address, endpoint.port),
        Access::Xray(_) => share_link(endpoint).unwrap_or_default(),
    }
}

fn instructions(profile: &Profile, texts: &Texts) -> Markup {
    let has = |wanted: fn(&Access) -> bool| profile.endpoints.iter().any(|it| wanted(&it.access));
    let wireguard = has(|access| matches!(access, Access::WireGuard(_)));
    let xray = has(|access| matches!(access, Access::Xray(_)));
    html! {
        section {
            h2 { (texts.how_to) }
            @if xray {
                ol { @for step in texts.steps { li { (step) } } }
            }
            @if wireguard {
                h3 { "WireGuard" }
                ol { @for step in texts.wireguard_steps { li { (step) } } }
                p { a.button href={ "?format=" (Format::WireGuard.name()) } { (texts.download) } }
            }
            @for platform in Platform::all() {
                details {
                    summary { (platform.name) }
                    ul.apps {
                        @for app in platform.apps(xray, wireguard) {
                            li {
                                a href=(app.site) rel="noreferrer noopener" { (app.name) }
                                @if let Some(import) = app.import_link(&profile.url, &profile.title) {
                                    a.button href=(import) { (texts.add) }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// A text that one touch selects as a whole.
fn copied(text: &str) -> Markup {
    html! { pre.copied dir="ltr" tabindex="0" { (text) } }
}

/// Its QR code, where one can hold it.
fn code(text: &str, texts: &Texts) -> Markup {
    let Some(svg) = qr_svg(text) else {
        return Markup::default();
    };
    // The declaration before it belongs to a file of its own.
    let svg = svg
        .find("<svg")
        .and_then(|at| svg.get(at..))
        .unwrap_or_default();
    html! {
        details.code {
            summary { (texts.code) }
            div role="img" aria-label=(texts.code) { (PreEscaped(svg)) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::subscription::{
        endpoint::tests::{subscribed, wireguard},
        profile::tests::profile,
    };

    #[test]
    fn the_page_shows_everything_in_each_language() {
        for language in Language::ALL {
            let page = page(&Profile {
                language,
                ..profile(subscribed())
            });
            let texts = language.texts();
            for shown in [
                format!(
                    "<html lang=\"{}\" dir=\"{}\">",
                    language.code(),
                    texts.direction
                ),
                "Zürich VPN".to_owned(),
                "ada@example.com".to_owned(),
                "https://panel.example.com/sub/TOKEN".to_owned(),
                texts.active.to_owned(),
                format!("15.0 <span class=\"unit\">{}</span>", texts.units[3]),
                "2026-10-03 14:13 UTC".to_owned(),
                "vless://".to_owned(),
                "PrivateKey = ".to_owned(),
            ] {
                assert!(page.contains(&shown), "{} in {}", shown, language.code());
            }
        }
    }

    #[test]
    fn nothing_in_the_page_runs_or_is_loaded() {
        let page = page(&profile(subscribed()));
        for absent in [
            "<script",
            "onclick",
            "style=\"",
            "src=",
            "<?xml",
            "javascript:",
        ] {
            assert!(!page.contains(absent), "{absent}");
        }
        assert!(policy().starts_with("default-src 'none'; style-src 'sha256-"));
    }

    #[test]
    fn what_people_named_is_text_and_nothing_else() {
        let mut endpoint = wireguard();
        endpoint.name = "<b>&\"'".to_owned();
        let page = page(&Profile {
            title: "<script>alert(1)</script>".to_owned(),
            support_url: Some("https://example.com/?a=\"><b>".to_owned()),
            ..profile(vec![endpoint])
        });
        for absent in ["<script", "<b>"] {
            assert!(!page.contains(absent), "{absent}");
        }
    }
}
