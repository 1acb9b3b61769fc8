//! Traces: exported by OTLP when an endpoint is set. The W3C context travels with every call, so
//! that gateway, service, store and node stream show up as one trace.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::propagation::{Extractor, Injector, TextMapPropagator as _};
use opentelemetry::trace::{Link, SpanKind, TraceContextExt as _, TraceId, TracerProvider as _};
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::WithExportConfig as _;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{
    IdGenerator as _, RandomIdGenerator, Sampler, SamplingResult, SdkTracerProvider, ShouldSample,
};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::Layer;

use crate::logs::Spans;
use crate::settings::{Ratio, TraceSettings};

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
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .with_sampler(Recording::of(settings.trace_ratio))
            .with_resource(
                Resource::builder()
                    .with_service_name(process)
                    .with_attribute(KeyValue::new("service.version", crate::VERSION))
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

/// Who names the span that a call belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caller {
    /// A service of ours: what it has decided about recording holds for the whole trace.
    Service,
    /// Anybody else, who may say what to call a trace, and not whether it is recorded.
    Stranger,
}

/// Makes `span` a child of the caller's span named in `headers`, if there is one.
pub fn adopt_caller(span: &tracing::Span, headers: &HeaderMap, caller: Caller) {
    if headers.contains_key("traceparent") {
        let mut context = TraceContextPropagator::new().extract(&Headers(headers));
        if caller == Caller::Stranger {
            context = context.with_value(Caller::Stranger);
        }
        // Refused only where no exporter listens, and then nothing is lost.
        let _untraced = span.set_parent(context);
    }
}

/// Which traces are recorded: a share of the new ones and of those that strangers name, and what was
/// decided for all others.
#[derive(Debug, Clone)]
struct Recording {
    share: Sampler,
    decided: Sampler,
}

impl Recording {
    fn of(share: Ratio) -> Self {
        let share = Sampler::TraceIdRatioBased(share.get());
        Self {
            decided: Sampler::ParentBased(Box::new(share.clone())),
            share,
        }
    }
}

impl ShouldSample for Recording {
    fn should_sample(
        &self,
        parent: Option<&Context>,
        trace_id: TraceId,
        name: &str,
        kind: &SpanKind,
        attributes: &[KeyValue],
        links: &[Link],
    ) -> SamplingResult {
        // The spans below have the context too, and a parent of ours.
        let stranger = parent.is_some_and(|parent| {
            parent.get::<Caller>() == Some(&Caller::Stranger)
                && parent.span().span_context().is_remote()
        });
        let (sampler, trace_id) = if stranger {
            // The share is taken by the id, which a stranger chooses as well.
            (&self.share, RandomIdGenerator::default().new_trace_id())
        } else {
            (&self.decided, trace_id)
        };
        sampler.should_sample(parent, trace_id, name, kind, attributes, links)
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

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    /// What a call tells the next service, when its caller has told that much.
    fn passed_on(share: &str, flag: &str, caller: Caller) -> String {
        let provider = SdkTracerProvider::builder()
            .with_sampler(Recording::of(share.parse().unwrap()))
            .build();
        let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
        let subscriber = tracing_subscriber::registry().with(layer);
        tracing::subscriber::with_default(subscriber, || {
            let mut headers = HeaderMap::new();
            let said = format!("00-00000000000000000000000000000001-b7ad6b7169203331-{flag}");
            headers.insert("traceparent", said.parse().unwrap());
            let span = tracing::error_span!(parent: None, "call");
            adopt_caller(&span, &headers, caller);
            let _call = span.enter();
            let below = tracing::error_span!("below");
            let _below = below.enter();
            let mut headers = HeaderMap::new();
            inject_current(&mut headers);
            headers["traceparent"].to_str().unwrap().to_owned()
        })
    }

    #[test]
    fn a_stranger_names_a_trace_and_does_not_decide_that_it_is_recorded() {
        for (share, flag, caller, recorded) in [
            ("0", "01", Caller::Stranger, "00"),
            ("1", "00", Caller::Stranger, "01"),
            ("0", "01", Caller::Service, "01"),
            ("1", "00", Caller::Service, "00"),
        ] {
            let passed_on = passed_on(share, flag, caller);
            let id = "00-00000000000000000000000000000001-";
            assert!(passed_on.starts_with(id), "{passed_on}");
            assert!(passed_on.ends_with(&format!("-{recorded}")), "{passed_on}");
        }
        // Nor by an id that is always part of the share.
        let some = (0..64).filter(|_| passed_on("0.5", "01", Caller::Stranger).ends_with("-01"));
        assert!((1..64).contains(&some.count()));
    }
}
