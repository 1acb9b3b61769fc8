//! The page at `/` while there is no panel: what runs here, where the API is, and the first
//! commands. One file of HTML and one of CSS, nothing from elsewhere, no script.

use vpnpanel_runtime::VERSION;

use crate::app::Document;

const PAGE: &str = include_str!("page.html");
const STYLE: &str = include_str!("style.css");

/// Only our own style sheet; nothing else may load, frame or be submitted.
const POLICY: &str = "default-src 'none'; style-src 'self'; img-src data:; base-uri 'none'; \
                      form-action 'none'; frame-ancestors 'none'";

/// The page and what it needs.
pub(crate) fn documents() -> Vec<(&'static str, Document)> {
    let page = PAGE.replace("{{version}}", VERSION);
    vec![
        ("/", Document::new(page, "text/html; charset=utf-8", POLICY)),
        (
            "/landing.css",
            Document::new(STYLE, "text/css; charset=utf-8", POLICY),
        ),
    ]
}
