//! The page at `/` while there is no panel: what runs here, where the API is, and the first
//! commands. One file of HTML and one of CSS, nothing from elsewhere, no script.

use vpnpanel_runtime::VERSION;

use crate::app::Document;
use crate::harden::PAGE_POLICY;

const PAGE: &str = include_str!("page.html");
const STYLE: &str = include_str!("style.css");

/// The page and what it needs.
pub(crate) fn documents() -> Vec<(&'static str, Document)> {
    let page = PAGE.replace("{{version}}", VERSION);
    vec![
        (
            "/",
            Document::new(page, "text/html; charset=utf-8", PAGE_POLICY),
        ),
        (
            "/landing.css",
            Document::new(STYLE, "text/css; charset=utf-8", PAGE_POLICY),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the policy of pages would not let happen.
    #[test]
    fn nothing_is_written_into_the_page_that_its_policy_forbids() {
        for forbidden in [
            "<script",
            "<style",
            " style=",
            " on",
            "javascript:",
            "http://",
            "https://",
        ] {
            let found = PAGE.match_indices(forbidden).find(|(at, _)| {
                // Within text and code it is only text; the icon's name space is a name.
                let before = &PAGE[..*at];
                before.rfind('<') > before.rfind('>') && !before.ends_with("xmlns='")
            });
            assert_eq!(found, None);
        }
    }
}
