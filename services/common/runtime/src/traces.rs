//! Traces: exported by OTLP when an endpoint is set. The W3C context travels with every call, so
//! that gateway, service, store and node stream show up as one trace.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::propagation::{Extractor, Injector, TextMapPropagator as _};
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::WithExportConfig as _;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::Layer;

use crate::logs::Spans;
use crate::settings::TraceSettings;

/// How long the last spans have to leave the process.
const FLUSH_DEADLINE: Duration = Duration::from_secs(3);

/// The exporter cannot be built.
#[derive(Debug, thiserror::Error)]
#[error("VPNPANEL_OTLP_ENDPOINT: {0}")]
pub struct TraceError(#[from] opentelemetry_otlp::ExporterBuildError);

/// The process's traces; does nothing unless an endpoint is set.
#[derive(Debug, Clone, Default)]
pub struct Traces(Option<SdkTracerProvider>);

impl Traces {
    /// Starts the exporter; call it inside the async runtime.
    ///
    /// # Errors
    /// When the endpoint cannot be used.
    pub fn start(process: &'static str, settings: &TraceSettings) -> Result<Self, TraceError> {
        let Some(endpoint) = &settings.otlp_endpoint else {
            return Ok(Self(None));
        };
        let exporter = opentelemetry_otlp::SpanExporter::builder()
            .with_tonic()
            .with_endpoint(endpoint.to_string())
            .build()?;
        let new_traces = Sampler::TraceIdRatioBased(settings.trace_ratio.get());
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .with_sampler(Sampler::ParentBased(Box::new(new_traces)))
            .with_resource(
                Resource::builder()
                    .with_service_name(process)
                    .with_attribute(opentelemetry::KeyValue::new(
                        "service.version",
                        crate::VERSION,
                    ))
                    .build(),
            )
            .build();
        Ok(Self(Some(provider)))
    }

    pub(crate) fn layer<S: Spans + Send + Sync>(&self) -> Option<impl Layer<S> + use<S>> {
        let tracer = self.0.as_ref()?.tracer("vpnpanel");
        Some(
            tracing_opentelemetry::layer()
                .with_tracer(tracer)
                .with_filter(tracing_subscriber::filter::LevelFilter::INFO),
        )
    }

    /// Sends what is left; blocks for at most a few seconds.
    pub fn finish(&self) {
        if let Some(provider) = &self.0
            && let Err(error) = provider.shutdown_with_timeout(FLUSH_DEADLINE)
        {
            tracing::warn!(%error, "traces were not flushed");
        }
    }
}

/// Makes `span` a child of the caller's span named in `headers`, if there is one.
pub fn adopt_caller(span: &tracing::Span, headers: &HeaderMap) {
    if headers.contains_key("traceparent") {
        let context = TraceContextPropagator::new().extract(&Headers(headers));
        // Refused only where no exporter listens, and then nothing is lost.
        let _untraced = span.set_parent(context);
    }
}

/// Writes the current span into the headers (or `metadata.as_mut()`) of an outgoing call.
pub fn inject_current(headers: &mut HeaderMap) {
    let context = tracing::Span::current().context();
    TraceContextPropagator::new().inject_context(&context, &mut HeadersMut(headers));
}

struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).and_then(|value| value.to_str().ok())
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(HeaderName::as_str).collect()
    }
}

struct HeadersMut<'a>(&'a mut HeaderMap);

impl Injector for HeadersMut<'_> {
    fn set(&mut self, key: &str, value: String) {
        if let (Ok(name), Ok(value)) = (
            HeaderName::try_from(key),
            HeaderValue::try_from(value.as_str()),
        ) {
            self.0.insert(name, value);
        }
    }
}
