//! Channels to services in other processes: plain HTTP/2 on a host or in a private network, or
//! TLS where the certificate must name the very service.

use std::time::Duration;

use tonic::transport::{Channel, Endpoint};
use vpnpanel_runtime::PeerIdentity;
use vpnpanel_runtime::settings::HttpEndpoint;
use vpnpanel_runtime::tls::{ClientTls, Credentials, Dialer, TrustBundle};

use crate::error::GatewayError;
use crate::settings::UpstreamSettings;
use crate::upstream::{Upstream, Upstreams};

/// The package that the scheduler serves; control-api has all others.
const SCHEDULER_PACKAGE: &str = "vpnpanel.scheduler";

/// The services that the settings name. Nothing is dialled before the first call.
pub fn upstreams(settings: &UpstreamSettings) -> Result<Upstreams, GatewayError> {
    let control_api = channel(&settings.control_api, "control-api", settings)?;
    let scheduler = channel(&settings.scheduler, "scheduler", settings)?;
    Ok(Upstreams::new(Upstream::new(control_api))
        .with_package(SCHEDULER_PACKAGE, Upstream::new(scheduler)))
}

fn channel(
    endpoint: &HttpEndpoint,
    service: &'static str,
    settings: &UpstreamSettings,
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
    let ca = settings
        .ca
        .as_deref()
        .ok_or_else(|| tls("an https address needs VPNPANEL_GATEWAY_UPSTREAM_CA".to_owned()))?;
    let bundle = TrustBundle::from_file(ca).map_err(|e| tls(e.to_string()))?;
    let credentials = match (&settings.certificate, &settings.key) {
        (Some(chain), Some(key)) => {
            Some(Credentials::from_files(chain, key).map_err(|e| tls(e.to_string()))?)
        }
        _ => None,
    };
    let client = ClientTls::new(&bundle, credentials).map_err(|e| tls(e.to_string()))?;
    let identity = PeerIdentity::control_plane(service).map_err(|e| tls(e.to_string()))?;
    let dialer = Dialer::new(client, identity, settings.trust_domain.clone())
        .map_err(|e| tls(e.to_string()))?;
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
