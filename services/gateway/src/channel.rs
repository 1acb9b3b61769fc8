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

/// The services that the settings name. Nothing is dialled before the first call. `identity` is
/// what the gateway shows to services with an https address.
pub fn upstreams(
    settings: &UpstreamSettings,
    identity: Option<&ClientTls>,
) -> Result<Upstreams, GatewayError> {
    let domain = &settings.trust_domain;
    let control_api = channel(&settings.control_api, "control-api", identity, domain)?;
    let scheduler = channel(&settings.scheduler, "scheduler", identity, domain)?;
    Ok(Upstreams::new(Upstream::new(control_api))
        .with_package(SCHEDULER_PACKAGE, Upstream::new(scheduler)))
}

fn channel(
    endpoint: &HttpEndpoint,
    service: &'static str,
    identity: Option<&ClientTls>,
    trust_domain: &TrustDomain,
) -> Result<Channel, GatewayError> {
    let uri = endpoint.uri();
    let refused = |source| GatewayError::Endpoint {
        endpoint: uri.to_string(),
        source,
    };
    if uri.scheme_str() != Some("https") {
        let endpoint = Endpoint::from_shared(uri.to_string()).map_err(refused)?;
        return Ok(tuned(endpoint).connect_lazy());
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
    dialer.channel(&authority, tuned).map_err(refused)
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
