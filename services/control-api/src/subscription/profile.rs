//! A subscription in one of its formats: the bytes, and what is said about them.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use zeroize::Zeroizing;

use super::{
    Endpoint, Quota, clash,
    format::Format,
    listing::listing,
    page::{self, Language},
    share_link::{encoded, share_link},
    sing_box::sing_box,
    sip008::sip008,
    wireguard_files::{Files, wireguard_files},
    xray_config::xray_profile,
};
use crate::Error;

/// Everything that is told to whoever fetches.
#[derive(Debug)]
pub(crate) struct Profile {
    /// Of the user.
    pub(crate) username: String,
    /// What programs call it: the tenant's name.
    pub(crate) title: String,
    pub(crate) endpoints: Vec<Endpoint>,
    pub(crate) quota: Quota,
    /// Where it is fetched.
    pub(crate) url: Zeroizing<String>,
    /// Where subscribers find help.
    pub(crate) support_url: Option<String>,
    /// Of the page.
    pub(crate) language: Language,
    /// When it was fetched.
    pub(crate) now_ms: i64,
}

/// What is answered.
pub(crate) struct Rendered {
    pub(crate) media_type: &'static str,
    pub(crate) body: Vec<u8>,
    /// The header that names the file.
    pub(crate) disposition: Option<String>,
    /// The content security policy, of a page.
    pub(crate) policy: Option<&'static str>,
}

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
const YAML: &str = "application/yaml; charset=utf-8";

impl Profile {
    /// In a format.
    ///
    /// # Errors
    /// [`Error::FormatUnavailable`] when the format has no place for any of the connections.
    pub(crate) fn render(&self, format: Format) -> Result<Rendered, Error> {
        let endpoints = &self.endpoints;
        let unavailable = || Error::FormatUnavailable(format.name());
        Ok(match format {
            Format::Links => {
                let links = STANDARD.encode(self.links().as_bytes());
                self.file(TEXT, ".txt", links.into_bytes())
            }
            Format::Uris => self.text(TEXT, ".txt", &self.links()),
            Format::Xray => {
                let config = xray_profile(endpoints).ok_or_else(unavailable)?;
                self.text(JSON, ".json", &config)
            }
            Format::SingBox => self.text(JSON, ".json", &sing_box(endpoints)),
            Format::Clash => Rendered {
                // Apps call the profile by the file's name.
                disposition: Some(format!(
                    "attachment; filename*=UTF-8''{}",
                    encoded(&self.title)
                )),
                ..self.text(YAML, "", &clash(endpoints))
            },
            Format::WireGuard => match wireguard_files(endpoints)?.ok_or_else(unavailable)? {
                Files::One { name, text } => Rendered {
                    disposition: Some(format!("attachment; filename=\"{name}\"")),
                    ..self.text(TEXT, "", &text)
                },
                Files::Archive(bytes) => self.file("application/zip", ".zip", bytes),
            },
            Format::Sip008 => {
                let document = sip008(endpoints, &self.quota).ok_or_else(unavailable)?;
                self.text(JSON, ".json", &document)
            }
            Format::Json => {
                let document = listing(&self.username, endpoints, &self.quota);
                self.text(JSON, ".json", &document)
            }
            Format::Html => Rendered {
                media_type: "text/html; charset=utf-8",
                body: page::page(self).into_bytes(),
                disposition: None,
                policy: Some(page::policy()),
            },
        })
    }

    /// Share links, one in a line.
    fn links(&self) -> Zeroizing<String> {
        let mut links = Zeroizing::new(String::new());
        for link in self.endpoints.iter().filter_map(share_link) {
            links.push_str(&link);
            links.push('\n');
        }
        links
    }

    fn text(&self, media_type: &'static str, ending: &str, text: &str) -> Rendered {
        self.file(media_type, ending, text.as_bytes().to_vec())
    }

    /// A file by the user's name, which needs no escaping.
    fn file(&self, media_type: &'static str, ending: &str, body: Vec<u8>) -> Rendered {
        let name = &self.username;
        Rendered {
            media_type,
            body,
            disposition: Some(format!("attachment; filename=\"{name}{ending}\"")),
            policy: None,
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::subscription::{
        endpoint::tests::{all, subscribed, wireguard},
        quota::tests::{NOW_MS, quota},
    };

    pub(crate) fn profile(endpoints: Vec<Endpoint>) -> Profile {
        Profile {
            username: "ada@example.com".to_owned(),
            title: "Zürich VPN".to_owned(),
            endpoints,
            quota: quota(),
            url: Zeroizing::new("https://panel.example.com/sub/TOKEN".to_owned()),
            support_url: None,
            language: Language::English,
            now_ms: NOW_MS,
        }
    }

    #[test]
    fn links_are_one_in_a_line_in_base64() {
        let rendered = profile(all()).render(Format::Links).unwrap();
        let links = STANDARD.decode(rendered.body).unwrap();
        let plain = profile(all()).render(Format::Uris).unwrap();
        assert_eq!(links, plain.body);
        let text = String::from_utf8(links).unwrap();
        assert_eq!(text.lines().count(), all().len());
        assert!(text.starts_with("vless://"));
    }

    #[test]
    fn a_file_is_named_by_the_user_and_a_profile_of_clash_by_its_title() {
        let named = |format| profile(subscribed()).render(format).unwrap().disposition;
        let sing_box = "attachment; filename=\"ada@example.com.json\"";
        assert_eq!(named(Format::SingBox).as_deref(), Some(sing_box));
        let clash = "attachment; filename*=UTF-8''Z%C3%BCrich%20VPN";
        assert_eq!(named(Format::Clash).as_deref(), Some(clash));
        let wireguard = "attachment; filename=\"wire-berlin-9.conf\"";
        assert_eq!(named(Format::WireGuard).as_deref(), Some(wireguard));
        assert_eq!(named(Format::Html), None);
    }

    #[test]
    fn a_format_without_a_place_for_any_connection_is_not_available() {
        let refused = |endpoints, format| {
            let rendered = profile(endpoints).render(format);
            matches!(rendered, Err(Error::FormatUnavailable(_)))
        };
        assert!(refused(vec![wireguard()], Format::Xray));
        assert!(refused(vec![wireguard()], Format::Sip008));
        assert!(refused(all(), Format::WireGuard));
        for format in [Format::Links, Format::SingBox, Format::Clash, Format::Json] {
            assert!(!refused(Vec::new(), format));
        }
    }
}
