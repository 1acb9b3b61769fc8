//! Bounds on calls: how many are under way, and how long each may take before it answers.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http::HeaderMap;
use http::request::Parts;
use http_body::Body as _;
use tokio::sync::Semaphore;
use vpnpanel_api::Access;

use super::body::{BodyBudget, BoundedBody};
use super::client_address::is_gateway;
use super::{ClientAddress, MAX_MESSAGE_BYTES, TrustedProxies, client_address};
use crate::serve::ConnectionInfo;
use crate::shares::Shares;
use crate::status::{ErrorCode, Failure};
use crate::subscriber;

/// The bounds of one router.
#[derive(Debug, Clone)]
pub struct RpcLimits {
    /// Calls under way that have not begun to answer; more are refused with UNAVAILABLE.
    pub max_in_flight: usize,
    /// The longest time until a call begins to answer. A client's `grpc-timeout` shortens it.
    pub deadline: Duration,
    /// The request bodies of calls that come without a node's certificate.
    pub bodies: BodyBudget,
    /// Of those, how many of one address (one network of 64 bits in IPv6) may be under way at once;
    /// more are refused with UNAVAILABLE. The gateway has the whole of a body before it calls.
    pub max_waiting_bodies: usize,
    /// Proxies whose word about a client's address is taken.
    pub trusted_proxies: TrustedProxies,
}

impl Default for RpcLimits {
    fn default() -> Self {
        Self {
            max_in_flight: 1024,
            deadline: Duration::from_secs(30),
            // A message and its frame; tonic says how large the message may be.
            bodies: BodyBudget::new(MAX_MESSAGE_BYTES + 1024, 64 << 20),
            max_waiting_bodies: 128,
            trusted_proxies: TrustedProxies::default(),
        }
    }
}

#[derive(Debug, Clone)]
pub(super) struct Admission(Arc<Bounds>);

#[derive(Debug)]
struct Bounds {
    free: Semaphore,
    deadline: Duration,
    bodies: BodyBudget,
    waiting: Shares<Option<IpAddr>>,
    trusted_proxies: TrustedProxies,
}

impl Admission {
    pub(super) fn new(limits: &RpcLimits) -> Self {
        Self(Arc::new(Bounds {
            free: Semaphore::new(limits.max_in_flight.min(Semaphore::MAX_PERMITS)),
            deadline: limits.deadline,
            bodies: limits.bodies.clone(),
            waiting: Shares::new(limits.max_waiting_bodies),
            trusted_proxies: limits.trusted_proxies.clone(),
        }))
    }
}

pub(super) async fn admit(
    State(Admission(bounds)): State<Admission>,
    request: Request,
    next: Next,
) -> Response {
    let Ok(_permit) = bounds.free.try_acquire() else {
        return overloaded("too many calls under way");
    };
    let deadline = match client_deadline(request.headers()) {
        Ok(client) => client.map_or(bounds.deadline, |client| client.min(bounds.deadline)),
        Err(Malformed) => {
            return Failure::new(
                ErrorCode::InvalidArgument,
                "INVALID_TIMEOUT",
                "grpc-timeout: expected up to 8 digits and one of H M S m u n",
            )
            .into_status()
            .into_http();
        }
    };
    let (mut parts, body) = request.into_parts();
    if let Some(address) = client_address(&parts, &bounds.trusted_proxies) {
        parts.extensions.insert(address);
    }
    let body = if streams_in(parts.uri.path()) {
        body
    } else {
        let waiting = if is_waited_for(&parts, &body) {
            let from = parts.extensions.get::<ClientAddress>();
            let Some(waiting) = bounds.waiting.take(from.map(|from| subscriber(from.0))) else {
                return overloaded("too many requests of this address wait for their bodies");
            };
            Some(waiting)
        } else {
            None
        };
        Body::new(BoundedBody::new(body, &bounds.bodies, waiting))
    };
    let request = Request::from_parts(parts, body);
    match tokio::time::timeout(deadline, next.run(request)).await {
        Ok(response) => response,
        Err(_elapsed) => Failure::new(
            ErrorCode::DeadlineExceeded,
            "DEADLINE_EXCEEDED",
            "the deadline passed before the call was answered",
        )
        .into_status()
        .into_http(),
    }
}

fn overloaded(text: &'static str) -> Response {
    Failure::new(ErrorCode::Unavailable, "OVERLOADED", text)
        .retry_after(Duration::from_secs(1))
        .into_status()
        .into_http()
}

/// Whether the body has yet to come over a connection of the client's own.
fn is_waited_for(parts: &Parts, body: &Body) -> bool {
    !body.is_end_stream()
        && parts.extensions.get::<ConnectionInfo>().is_some()
        && !is_gateway(parts)
}

/// Streams of nodes go on for days; their ends count what they hold themselves.
fn streams_in(path: &str) -> bool {
    vpnpanel_api::method(path)
        .is_some_and(|method| matches!(method.access, Access::NodeCertificate))
}

#[derive(Debug, PartialEq, Eq)]
struct Malformed;

/// `grpc-timeout`: at most 8 digits and a unit (gRPC over HTTP/2, "Requests").
fn client_deadline(headers: &HeaderMap) -> Result<Option<Duration>, Malformed> {
    let Some(value) = headers.get("grpc-timeout") else {
        return Ok(None);
    };
    let Some((unit, digits)) = value.as_bytes().split_last() else {
        return Err(Malformed);
    };
    let fits = (1..=8).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit);
    if !fits {
        return Err(Malformed);
    }
    let amount = digits
        .iter()
        .fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0'));
    Ok(Some(match unit {
        b'H' => Duration::from_secs(amount * 3600),
        b'M' => Duration::from_secs(amount * 60),
        b'S' => Duration::from_secs(amount),
        b'm' => Duration::from_millis(amount),
        b'u' => Duration::from_micros(amount),
        b'n' => Duration::from_nanos(amount),
        _ => return Err(Malformed),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Option<Duration>, Malformed> {
        let mut headers = HeaderMap::new();
        headers.insert("grpc-timeout", text.parse().unwrap());
        client_deadline(&headers)
    }

    #[test]
    fn timeouts_are_read_as_grpc_writes_them() {
        assert_eq!(client_deadline(&HeaderMap::new()), Ok(None));
        assert_eq!(parsed("250m"), Ok(Some(Duration::from_millis(250))));
        assert_eq!(
            parsed("99999999H"),
            Ok(Some(Duration::from_secs(99_999_999 * 3600)))
        );
        for text in ["", "S", "100000000S", "1.5S", "-1S", "10", "1x"] {
            assert_eq!(parsed(text), Err(Malformed), "{text}");
        }
    }
}
