//! Whether an inbound has a place for what a template says of it.

use vpnpanel_domain::{Alpn, XrayTransport};
use vpnpanel_store::{InboundSettings, Presentation, XraySecurity};

use crate::Error;

/// Refuses what clients of the inbound could not be told, or could not connect with.
pub(crate) fn check(said: &Presentation, settings: &InboundSettings) -> Result<(), Error> {
    let plain = (&XrayTransport::Tcp, &XraySecurity::None);
    let (transport, security) = match settings {
        InboundSettings::WireGuard(_) => plain,
        InboundSettings::Xray(xray) => (&xray.transport, &xray.security),
    };
    let refuse = |name: &str, why: &str| {
        let field = format!("endpoint_template.{name}");
        Err(Error::field(field, why))
    };
    let without_tls = matches!(security, XraySecurity::None);
    if said.fingerprint.is_some() && without_tls {
        return refuse("fingerprint", "needs an inbound with TLS or REALITY");
    }
    if said.host.is_some() && !matches!(transport, XrayTransport::WebSocket { .. }) {
        return refuse("host", "needs an inbound with a WebSocket");
    }
    match (&said.server_name, security) {
        (Some(_), XraySecurity::None) => {
            return refuse("server_name", "needs an inbound with TLS or REALITY");
        }
        (Some(name), XraySecurity::Reality(reality)) if !reality.server_names.contains(name) => {
            let names = reality.server_names.join(", ");
            let why = format!("has to be one of the inbound's server_names: {names}");
            return refuse("server_name", &why);
        }
        _ => {}
    }
    if said.alpn.is_empty() {
        return Ok(());
    }
    if !matches!(security, XraySecurity::Tls(_)) {
        return refuse("alpn", "needs an inbound with TLS");
    }
    match transport {
        XrayTransport::WebSocket { .. } if said.alpn != [Alpn::Http11] => {
            refuse("alpn", "is \"http/1.1\" alone with a WebSocket")
        }
        XrayTransport::Grpc { .. } if !said.alpn.contains(&Alpn::H2) => {
            refuse("alpn", "has to hold \"h2\" with gRPC")
        }
        _ => Ok(()),
    }
}
