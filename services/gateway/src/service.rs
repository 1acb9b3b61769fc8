//! The gateway as a service of the house.

use prost_reflect::DescriptorPool;
use vpnpanel_runtime::tls::{CertificateFiles, ServerTls};
use vpnpanel_runtime::{Http, Service};

use crate::app::App;
use crate::error::GatewayError;
use crate::harden::Hardening;
use crate::observe::RestMetrics;
use crate::settings::GatewaySettings;
use crate::transcoder::Transcoder;
use crate::upstream::Upstreams;
use crate::{landing, openapi};

/// The gateway for the contract in `pool`, in front of `upstreams`.
pub fn build(
    settings: &GatewaySettings,
    pool: &DescriptorPool,
    upstreams: &Upstreams,
) -> Result<Service, GatewayError> {
    let mut service = Service::new("gateway");
    service.admin(settings.admin_listen);
    let transcoder = Transcoder::new(pool, upstreams, settings.limits(), service.draining())?;
    let mut documents = landing::documents();
    documents.push(("/openapi.json", openapi::document(pool)?));
    let app = App {
        transcoder,
        documents,
        cors_origins: settings.cors_origins.clone(),
        hardening: Hardening::new(settings.hsts.0, settings.trusted_proxies.clone()),
        metrics: RestMetrics::register(service.metrics()),
    };
    let mut http =
        Http::new(app.into_router()?, settings.listen).proxies(settings.trusted_proxies.clone());
    if let Some((files, tls)) = tls(settings)? {
        http = http.tls(tls.clone());
        service.certificate_files("rest", files, tls);
    }
    service.http("rest", http);
    Ok(service)
}

/// The certificate of the listener, where the settings name one: for a look at it before anything
/// else is begun.
pub fn tls(
    settings: &GatewaySettings,
) -> Result<Option<(CertificateFiles, ServerTls)>, GatewayError> {
    let (certificate, key) = (settings.tls_certificate.clone(), settings.tls_key.clone());
    let Some(files) = CertificateFiles::of(certificate, key)? else {
        return Ok(None);
    };
    let tls = ServerTls::public(files.read()?)?;
    Ok(Some((files, tls)))
}
