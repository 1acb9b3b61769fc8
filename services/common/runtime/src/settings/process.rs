//! The settings that every process has, whatever services run in it.

use clap::{Args, ValueEnum};

use super::listeners::ListenerSettings;
use super::values::{HttpEndpoint, HumanDuration, Ratio};

/// Settings of a process.
#[derive(Debug, Clone, Args)]
#[group(skip)]
pub struct ProcessSettings {
    /// This is a developer's machine: read ./.env, open reflection.
    #[arg(
        long,
        env = "VPNPANEL_DEVELOPMENT",
        default_value_t = false,
        action = clap::ArgAction::Set,
        value_name = "BOOL"
    )]
    pub development: bool,

    /// After a stop signal, how long streams and tasks have to end before they are cut.
    #[arg(
        long,
        env = "VPNPANEL_SHUTDOWN_DEADLINE",
        default_value = "20s",
        value_name = "DURATION"
    )]
    pub shutdown_deadline: HumanDuration,

    /// After a stop signal, how long to answer "not ready" while still serving, so that load
    /// balancers look away first.
    #[arg(
        long,
        env = "VPNPANEL_DRAIN_DELAY",
        default_value = "0s",
        value_name = "DURATION"
    )]
    pub drain_delay: HumanDuration,

    /// Bounds of each listener.
    #[command(flatten)]
    pub listeners: ListenerSettings,

    /// What is logged.
    #[command(flatten)]
    pub logs: LogSettings,

    /// Where traces go.
    #[command(flatten)]
    pub traces: TraceSettings,
}

/// What is logged, and how.
#[derive(Debug, Clone, Args)]
#[group(skip)]
pub struct LogSettings {
    /// Which events are logged: a level, or directives such as info,vpnpanel_store=debug.
    #[arg(id = "log_filter", long = "log", env = "VPNPANEL_LOG", default_value = "info",
          value_name = "FILTER", value_parser = filter)]
    pub filter: String,

    /// The lines' format; auto means text on a terminal, JSON elsewhere.
    #[arg(
        id = "log_format",
        long = "log-format",
        env = "VPNPANEL_LOG_FORMAT",
        default_value = "auto",
        value_name = "FORMAT"
    )]
    pub format: LogFormat,
}

/// The format of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    Auto,
    /// One JSON object per line.
    Json,
    /// For people.
    Text,
}

/// Where traces go.
#[derive(Debug, Clone, Args)]
#[group(skip)]
pub struct TraceSettings {
    /// OTLP/gRPC collector that receives traces, such as http://otel-collector:4317. Off when unset.
    #[arg(long, env = "VPNPANEL_OTLP_ENDPOINT", value_name = "URL")]
    pub otlp_endpoint: Option<HttpEndpoint>,

    /// The share of new traces that are recorded, and of those that callers name; what a service of
    /// ours has decided is respected where it shows its certificate.
    #[arg(
        long,
        env = "VPNPANEL_TRACE_RATIO",
        default_value = "1",
        value_name = "0..1"
    )]
    pub trace_ratio: Ratio,
}

fn filter(text: &str) -> Result<String, String> {
    match tracing_subscriber::EnvFilter::try_new(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(format!(
            "expected a level (error, warn, info, debug, trace) or directives such as \
             info,vpnpanel_store=debug ({error})"
        )),
    }
}
