//! Which headers pass the gateway. Towards the service: a short list, everything else stays
//! outside. Towards the client: what a service may say about a response, by name.

use std::time::Duration;

use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue, Method};
use tonic::metadata::MetadataMap;
use vpnpanel_runtime::rpc::{ClientAddress, ForwardedHeader, TrustedProxies, client_address};
use vpnpanel_runtime::status::{ErrorCode, Failure};
use vpnpanel_runtime::traces;

use crate::problem::Problem;

/// The address of the client as the gateway knows it, for the services' limits and audit.
pub(crate) const CLIENT_ADDRESS: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The client's user agent; gRPC clients set `user-agent` themselves.
pub(crate) const CLIENT_USER_AGENT: HeaderName = HeaderName::from_static("x-forwarded-user-agent");

const REQUEST_TIMEOUT: &str = "x-request-timeout";
const GRPC_TIMEOUT: &str = "grpc-timeout";

/// Passed on as they are.
const FORWARDED: [HeaderName; 4] = [
    header::AUTHORIZATION,
    header::ACCEPT,
    header::ACCEPT_LANGUAGE,
    HeaderName::from_static("x-request-id"),
];

/// Response metadata that becomes headers.
const RETURNED: [&str; 14] = [
    "cache-control",
    "content-disposition",
    "content-language",
    // Of a page that a service makes: narrower than what every answer gets without it.
    "content-security-policy",
    "etag",
    "last-modified",
    "link",
    "location",
    "profile-title",
    "profile-update-interval",
    "profile-web-page-url",
    "subscription-userinfo",
    "support-url",
    "vary",
];

/// The metadata of the gRPC call.
pub(crate) fn to_metadata(
    parts: &http::request::Parts,
    trusted: &TrustedProxies,
) -> Result<MetadataMap, Problem> {
    let headers = &parts.headers;
    let mut metadata = HeaderMap::with_capacity(8);
    for name in FORWARDED {
        let mut values = headers.get_all(&name).iter();
        let Some(value) = values.next() else { continue };
        if values.next().is_some() && name == header::AUTHORIZATION {
            let text = "more than one authorization header";
            return Err(Failure::new(ErrorCode::InvalidArgument, "MALFORMED_HEADER", text).into());
        }
        // Header values may hold bytes that gRPC metadata may not.
        if value.to_str().is_ok() {
            metadata.insert(name, value.clone());
        }
    }
    if let Some(agent) = headers
        .get(header::USER_AGENT)
        .filter(|v| v.to_str().is_ok())
    {
        metadata.insert(CLIENT_USER_AGENT, agent.clone());
    }
    let address = client_address(parts, trusted);
    // In both forms: the service reads the one that its own proxies write.
    for (name, form) in [
        (CLIENT_ADDRESS, ForwardedHeader::XForwardedFor),
        (header::FORWARDED, ForwardedHeader::Forwarded),
    ] {
        let said = address.and_then(|ClientAddress(address)| form.value(address));
        metadata.insert(name, said.unwrap_or_else(|| form.unknown()));
    }
    // Of the span here: services believe what it says about recording, as they do not of clients.
    traces::inject_current(&mut metadata);
    Ok(MetadataMap::from_headers(metadata))
}

/// Copies the metadata that clients may see.
pub(crate) fn from_metadata(metadata: &MetadataMap, headers: &mut HeaderMap) {
    for name in RETURNED {
        if let Some(value) = metadata.get(name).and_then(|v| v.to_str().ok())
            && let Ok(value) = HeaderValue::from_str(value)
        {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
}

/// Whether the client has what an answer with these headers would give it once more (RFC 9110,
/// section 13.1.2).
pub(crate) fn is_known(request: &http::request::Parts, answer: &HeaderMap) -> bool {
    let reads = request.method == Method::GET || request.method == Method::HEAD;
    let Some(etag) = answer.get(header::ETAG).filter(|_| reads) else {
        return false;
    };
    let weak = |tag: &[u8]| tag.strip_prefix(b"W/").unwrap_or(tag).to_vec();
    let etag = weak(etag.as_bytes());
    request
        .headers
        .get_all(header::IF_NONE_MATCH)
        .iter()
        .any(|value| {
            value
                .as_bytes()
                .split(|byte| *byte == b',')
                .map(<[u8]>::trim_ascii)
                .any(|tag| tag == b"*" || weak(tag) == etag)
        })
}

/// The longest time that may be asked for, a stream's included: gRPC writes it in eight digits.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(24 * 3600);

/// The deadline that the client asks for: `x-request-timeout` in seconds (`2`, `0.5`, `2s`) or
/// milliseconds (`500ms`), or `grpc-timeout` in the form of the gRPC protocol (`500m`).
pub(crate) fn requested_timeout(headers: &HeaderMap) -> Result<Option<Duration>, Problem> {
    for (name, parse) in [
        (REQUEST_TIMEOUT, seconds as fn(&str) -> Option<Duration>),
        (GRPC_TIMEOUT, grpc_timeout),
    ] {
        let Some(value) = headers.get(name) else {
            continue;
        };
        let parsed = value.to_str().ok().and_then(parse).filter(|d| !d.is_zero());
        let Some(timeout) = parsed else {
            let text = format!("{name} is not a duration");
            return Err(Failure::new(ErrorCode::InvalidArgument, "MALFORMED_HEADER", text).into());
        };
        if timeout > LONGEST_TIMEOUT {
            let text = format!("{name} is longer than 24 hours");
            return Err(Failure::new(ErrorCode::InvalidArgument, "MALFORMED_HEADER", text).into());
        }
        return Ok(Some(timeout));
    }
    Ok(None)
}

fn seconds(text: &str) -> Option<Duration> {
    let (number, scale) = match text.strip_suffix("ms") {
        Some(number) => (number, 1e-3),
        None => (text.strip_suffix('s').unwrap_or(text), 1.0),
    };
    Duration::try_from_secs_f64(number.trim().parse::<f64>().ok()? * scale).ok()
}

/// <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>: at most eight digits and a
/// unit.
fn grpc_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let amount: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(amount * 3600),
        "M" => Duration::from_secs(amount * 60),
        "S" => Duration::from_secs(amount),
        "m" => Duration::from_millis(amount),
        "u" => Duration::from_micros(amount),
        "n" => Duration::from_nanos(amount),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use vpnpanel_runtime::serve::ConnectionInfo;

    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    fn parts(peer: &str, headers: HeaderMap) -> http::request::Parts {
        let (mut parts, ()) = http::Request::new(()).into_parts();
        let remote = format!("{peer}:4711").parse().unwrap();
        parts.extensions.insert(ConnectionInfo { remote });
        parts.headers = headers;
        parts
    }

    #[test]
    fn only_listed_headers_reach_the_service() {
        let sent = headers(&[
            ("authorization", "Bearer x"),
            ("cookie", "a=b"),
            ("x-forwarded-for", "6.6.6.6"),
            ("forwarded", "for=6.6.6.6"),
            ("x-vpnpanel-tenant", "other"),
            ("user-agent", "curl/8"),
            (
                "traceparent",
                "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            ),
        ]);
        let sent = parts("192.0.2.7", sent);
        let metadata = to_metadata(&sent, &TrustedProxies::default())
            .unwrap()
            .into_headers();
        let mut names: Vec<&str> = metadata.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(
            names,
            [
                "authorization",
                "forwarded",
                "x-forwarded-for",
                "x-forwarded-user-agent"
            ]
        );
        assert_eq!(metadata[CLIENT_ADDRESS], "192.0.2.7");
        assert_eq!(metadata["forwarded"], "for=192.0.2.7");
    }

    #[test]
    fn two_authorization_headers_are_refused() {
        let sent = headers(&[("authorization", "Bearer a"), ("authorization", "Bearer b")]);
        assert!(to_metadata(&parts("192.0.2.7", sent), &TrustedProxies::default()).is_err());
    }

    #[test]
    fn an_answer_is_known_by_one_of_the_tags_that_the_client_names() {
        let answer = headers(&[("etag", "\"a\"")]);
        let known = |method: Method, tags: &[&str]| {
            let named: Vec<_> = tags.iter().map(|tag| ("if-none-match", *tag)).collect();
            let mut asked = parts("192.0.2.7", headers(&named));
            asked.method = method;
            is_known(&asked, &answer)
        };
        assert!(known(Method::GET, &["\"a\""]));
        assert!(known(Method::HEAD, &["\"b\", W/\"a\""]));
        assert!(known(Method::GET, &["\"b\"", "*"]));
        assert!(!known(Method::GET, &[]));
        assert!(!known(Method::GET, &["\"b\"", "a"]));
        assert!(!known(Method::POST, &["\"a\""]));
        let untagged = headers(&[]);
        let asked = parts("192.0.2.7", headers(&[("if-none-match", "*")]));
        assert!(!is_known(&asked, &untagged));
    }

    #[test]
    fn timeouts_are_read_in_both_notations() {
        let asked = |name, value| requested_timeout(&headers(&[(name, value)]));
        for (name, value, millis) in [
            ("x-request-timeout", "2", 2000),
            ("x-request-timeout", "0.5s", 500),
            ("x-request-timeout", "250ms", 250),
            ("grpc-timeout", "3S", 3000),
            ("grpc-timeout", "9999999m", 9_999_999),
        ] {
            let expected = Some(Duration::from_millis(millis));
            assert_eq!(asked(name, value).unwrap(), expected, "{value}");
        }
        for (name, value) in [
            ("x-request-timeout", "-1"),
            ("x-request-timeout", "0"),
            ("x-request-timeout", "NaN"),
            ("x-request-timeout", "soon"),
            ("x-request-timeout", "1e300"),
            ("grpc-timeout", "S"),
            ("grpc-timeout", ""),
            ("grpc-timeout", "123456789S"),
            ("grpc-timeout", "5é"),
        ] {
            assert!(asked(name, value).is_err(), "{value}");
        }
    }
}
