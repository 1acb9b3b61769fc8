//! What browsers are told about every answer, so that a page of somebody else can do little with it,
//! and a fault in one of ours does little harm.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::middleware::Next;
use axum::response::Response;
use http::header::STRICT_TRANSPORT_SECURITY;
use http::{HeaderValue, Request};
use vpnpanel_runtime::serve::{BROWSER_HEADERS, ConnectionInfo, OverTls};
use vpnpanel_runtime::settings::CidrList;

/// The content security policy of pages: everything from here, and nothing written into the page
/// itself.
pub(crate) const PAGE_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
    img-src 'self' data:; font-src 'self'; connect-src 'self'; manifest-src 'self'; \
    base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

/// What is said about answers. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Hardening {
    hsts: Option<HeaderValue>,
    trusted_proxies: Arc<CidrList>,
}

impl Hardening {
    /// Browsers that come over TLS remember that for `hsts`; not at all when it is zero. Of proxies
    /// in `trusted_proxies` it is believed that their client came over TLS.
    pub fn new(hsts: Duration, trusted_proxies: CidrList) -> Self {
        let seconds = Some(hsts.as_secs()).filter(|seconds| *seconds > 0);
        Self {
            hsts: seconds.and_then(|s| HeaderValue::from_str(&format!("max-age={s}")).ok()),
            trusted_proxies: Arc::new(trusted_proxies),
        }
    }

    /// Whether the client came over TLS, as far as can be believed. Said over plain HTTP, anybody
    /// on the way could lock browsers out of a panel that has no TLS.
    fn over_tls(&self, request: &Request<Body>) -> bool {
        let extensions = request.extensions();
        if extensions.get::<OverTls>().is_some() {
            return true;
        }
        let trusted = extensions
            .get::<ConnectionInfo>()
            .is_some_and(|from| self.trusted_proxies.contains(from.remote.ip()));
        let mut said = request.headers().get_all("x-forwarded-proto").iter();
        // More than one say is one too many: a proxy that appends passes on what a client wrote.
        let said = said.next().filter(|_| said.next().is_none());
        trusted && said.is_some_and(|said| said.as_bytes().eq_ignore_ascii_case(b"https"))
    }
}

pub(crate) async fn harden(
    State(hardening): State<Hardening>,
    request: Request<Body>,
    next: Next,
) -> Response {
    let hsts = hardening
        .hsts
        .clone()
        .filter(|_| hardening.over_tls(&request));
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    for (name, value) in BROWSER_HEADERS {
        headers
            .entry(name)
            .or_insert(HeaderValue::from_static(value));
    }
    if let Some(hsts) = hsts {
        headers.insert(STRICT_TRANSPORT_SECURITY, hsts);
    }
    response
}
