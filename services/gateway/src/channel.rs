//! Channels to services in other processes: plain HTTP/2 on a host or in a private network, or
//! TLS where the certificate must name the very service.

use std::time::Duration;

use tonic::transport::{Channel, Endpoint};
use vpnpanel_runtime::settings::HttpEndpoint;
use vpnpanel_runtime::tls::{ClientTls, Dialer};
use vpnpanel_runtime::{PeerIdentity, TrustDomain};

use crate::error::GatewayError;
use crate::settings::UpstreamSettings;
use crate::upstream::{Upstream, Upstreams};

/// The package that the scheduler serves; control-api has all others.
const SCHEDULER_PACKAGE: &str = "vpnpanel.scheduler";

/// Connections for streams to one service: it lets each have no more than some hundreds under way
/// (VPNPANEL_MAX_REQUESTS_PER_CONNECTION).
const STREAM_CHANNELS: usize = 4;
/// What may be under way of one answer to a call. The gateway takes it at once, whatever its own
/// client does.
const CALL_WINDOW: u32 = 1 << 20;
/// The same for all calls of a connection.
const CALLS_WINDOW: u32 = 16 << 20;
/// What a stream may send that nobody has read yet: all that one stream holds of the gateway's memory
/// before it reaches the queue to its client.
const STREAM_WINDOW: u32 = 64 << 10;
/// More than all streams of a connection together, so that none waits for what others do not read.
const STREAMS_WINDOW: u32 = 1 << 30;

/// The services that the settings name. Nothing is dialled before the first call. `identity` is
/// what the gateway shows to services with an https address.
pub fn upstreams(
    settings: &UpstreamSettings,
    identity: Option<&ClientTls>,
) -> Result<Upstreams, GatewayError> {
    let domain = &settings.trust_domain;
    let control_api = upstream(&settings.control_api, "control-api", identity, domain)?;
    let scheduler = upstream(&settings.scheduler, "scheduler", identity, domain)?;
    Ok(Upstreams::new(control_api).with_package(SCHEDULER_PACKAGE, scheduler))
}

fn upstream(
    endpoint: &HttpEndpoint,
    service: &'static str,
    identity: Option<&ClientTls>,
    trust_domain: &TrustDomain,
) -> Result<Upstream, GatewayError> {
    let channel = |tune| channel(endpoint, service, identity, trust_domain, tune);
    let streams: Vec<Channel> = (0..STREAM_CHANNELS)
        .map(|_| channel(for_streams))
        .collect::<Result<_, _>>()?;
    Ok(Upstream::new(channel(for_calls)?).streams_over(streams))
}

fn channel(
    endpoint: &HttpEndpoint,
    service: &'static str,
    identity: Option<&ClientTls>,
    trust_domain: &TrustDomain,
    tune: fn(Endpoint) -> Endpoint,
) -> Result<Channel, GatewayError> {
    let uri = endpoint.uri();
    let refused = |source| GatewayError::Endpoint {
        endpoint: uri.to_string(),
        source,
    };
    if uri.scheme_str() != Some("https") {
        let endpoint = Endpoint::from_shared(uri.to_string()).map_err(refused)?;
        return Ok(tune(endpoint).connect_lazy());
    }
    let tls = |problem: String| GatewayError::Tls { service, problem };
    let client = identity
        .cloned()
        .ok_or_else(|| tls("an https address needs an identity to show".to_owned()))?;
    let identity = PeerIdentity::control_plane(service).map_err(|e| tls(e.to_string()))?;
    let dialer =
        Dialer::new(client, identity, trust_domain.clone()).map_err(|e| tls(e.to_string()))?;
    let authority = match (uri.host(), uri.port_u16()) {
        (Some(host), port) => format!("{host}:{}", port.unwrap_or(443)),
        (None, _) => return Err(tls("the address has no host".to_owned())),
    };
    dialer.channel(&authority, tune).map_err(refused)
}

fn for_calls(endpoint: Endpoint) -> Endpoint {
    tuned(endpoint)
        .initial_stream_window_size(CALL_WINDOW)
        .initial_connection_window_size(CALLS_WINDOW)
}

fn for_streams(endpoint: Endpoint) -> Endpoint {
    tuned(endpoint)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(STREAMS_WINDOW)
}

fn tuned(endpoint: Endpoint) -> Endpoint {
    endpoint
        .tcp_nodelay(true)
        .connect_timeout(Duration::from_secs(5))
        .http2_keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(10))
        .keep_alive_while_idle(true)
        // A lost machine is noticed at the next call, not after the kernel's many minutes.
        .tcp_keepalive(Some(Duration::from_secs(30)))
}
