//! Structured logs: one JSON object per line with the keys that every service shares (ADR 0002), or
//! text for people on a developer's terminal.

mod json;
mod recent;

use std::io::IsTerminal as _;

use tracing::Subscriber;
use tracing_subscriber::fmt::writer::BoxMakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer, Registry};

pub use json::JsonLayer;
pub use recent::{Follower, Lines, follow, recent};

use self::recent::Remember;
use crate::settings::{LogFormat, ProcessSettings};
use crate::traces::Traces;

/// Why logging cannot start.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter does not parse.
    #[error("log filter: {0}")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// Something else logs in this process already.
    #[error("logging is set up already")]
    Installed(#[from] tracing_subscriber::util::TryInitError),
}

/// Where a process logs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// Services.
    Stdout,
    /// Processes whose stdout is what they were run for.
    Stderr,
}

impl Output {
    fn is_terminal(self) -> bool {
        match self {
            Self::Stdout => std::io::stdout().is_terminal(),
            Self::Stderr => std::io::stderr().is_terminal(),
        }
    }

    fn writer(self) -> BoxMakeWriter {
        match self {
            Self::Stdout => BoxMakeWriter::new(|| Remember(std::io::stdout())),
            Self::Stderr => BoxMakeWriter::new(|| Remember(std::io::stderr())),
        }
    }
}

/// Makes this process log to `output`, and send spans to `traces` when it exports.
///
/// # Errors
/// When logging is set up already, or the filter does not parse.
pub fn install(
    process: &'static str,
    settings: &ProcessSettings,
    traces: &Traces,
    output: Output,
) -> Result<(), LogError> {
    let terminal = output.is_terminal();
    let text = match settings.logs.format {
        LogFormat::Text => true,
        LogFormat::Json => false,
        LogFormat::Auto => terminal,
    };
    let lines: Box<dyn Layer<Registry> + Send + Sync> = if text {
        Box::new(
            tracing_subscriber::fmt::layer()
                .with_writer(output.writer())
                .with_ansi(terminal)
                .with_target(false),
        )
    } else {
        Box::new(JsonLayer::new(process, output.writer()))
    };
    let filter = EnvFilter::try_new(&settings.logs.filter)?;
    tracing_subscriber::registry()
        .with(lines.with_filter(filter))
        .with(traces.layer())
        .try_init()?;
    Ok(())
}

/// Puts the tenant of the request at hand on every further line about it.
pub fn record_tenant(tenant: impl std::fmt::Display) {
    tracing::Span::current().record("tenant_id", tracing::field::display(tenant));
}

/// Puts the node of the request or stream at hand on every further line about it.
pub fn record_node(node: impl std::fmt::Display) {
    tracing::Span::current().record("node_id", tracing::field::display(node));
}

/// The span of everything that a service does: its name becomes the `service` of each line.
pub fn service_span(service: &'static str) -> tracing::Span {
    tracing::info_span!("service", service)
}

/// What a layer of this module needs of the subscriber below it.
pub trait Spans: Subscriber + for<'a> LookupSpan<'a> {}
impl<S: Subscriber + for<'a> LookupSpan<'a>> Spans for S {}

#[cfg(test)]
mod tests;
