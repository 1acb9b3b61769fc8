//! The gateway's settings.

use std::path::PathBuf;

use vpnpanel_runtime::TrustDomain;
use vpnpanel_runtime::rpc::{BodyBudget, ForwardedHeader, TrustedProxies};
use vpnpanel_runtime::settings::{ByteSize, CidrList, HttpEndpoint, HumanDuration, ListenAddr};

use crate::transcoder::Limits;

/// What the gateway listens on and how much it lets through.
#[derive(Debug, Clone, clap::Args)]
#[group(skip)]
pub struct GatewaySettings {
    /// Where REST and the panel are served.
    #[arg(
        id = "gateway_listen",
        long = "gateway-listen",
        env = "VPNPANEL_GATEWAY_LISTEN",
        default_value = "127.0.0.1:8080"
    )]
    pub listen: ListenAddr,

    /// Where the gateway's /health, /health/live and /metrics are served.
    #[arg(
        id = "gateway_admin_listen",
        long = "gateway-admin-listen",
        env = "VPNPANEL_GATEWAY_ADMIN_LISTEN",
        default_value = "127.0.0.1:9104"
    )]
    pub admin_listen: ListenAddr,

    /// Certificate chain (PEM) of the listener, which then speaks TLS; taken into use again
    /// whenever the file changes.
    #[arg(
        id = "gateway_tls_cert",
        long = "gateway-tls-cert",
        env = "VPNPANEL_GATEWAY_TLS_CERT"
    )]
    pub tls_certificate: Option<PathBuf>,

    /// Private key (PEM) of that certificate.
    #[arg(
        id = "gateway_tls_key",
        long = "gateway-tls-key",
        env = "VPNPANEL_GATEWAY_TLS_KEY"
    )]
    pub tls_key: Option<PathBuf>,

    /// How long browsers remember to come by https alone (HSTS): said over TLS, own or that of a
    /// trusted proxy, never over plain HTTP. 0s says nothing.
    #[arg(
        id = "gateway_hsts",
        long = "gateway-hsts",
        env = "VPNPANEL_GATEWAY_HSTS",
        default_value = "180d"
    )]
    pub hsts: HumanDuration,

    /// Largest body of a REST request.
    #[arg(
        id = "gateway_max_body",
        long = "gateway-max-body",
        env = "VPNPANEL_GATEWAY_MAX_BODY",
        default_value = "1MiB"
    )]
    pub max_body: ByteSize,

    /// What the bodies of all REST requests may hold together, beyond the first 64 KiB of each.
    #[arg(
        id = "gateway_body_memory",
        long = "gateway-body-memory",
        env = "VPNPANEL_GATEWAY_BODY_MEMORY",
        default_value = "64MiB"
    )]
    pub body_memory: ByteSize,

    /// Time within which the body of a REST request must have arrived.
    #[arg(
        id = "gateway_body_timeout",
        long = "gateway-body-timeout",
        env = "VPNPANEL_GATEWAY_BODY_TIMEOUT",
        default_value = "10s"
    )]
    pub body_timeout: HumanDuration,

    /// Bodies of REST requests that one address (of IPv6, a network of 64 bits) may have on their
    /// way at once; more are answered with 503.
    #[arg(
        id = "gateway_max_waiting_bodies",
        long = "gateway-max-waiting-bodies",
        env = "VPNPANEL_GATEWAY_MAX_WAITING_BODIES",
        default_value_t = 128,
        value_parser = clap::value_parser!(u32).range(1..=1_000_000)
    )]
    pub max_waiting_bodies: u32,

    /// Deadline of a REST call that asks for none by x-request-timeout.
    #[arg(
        id = "gateway_default_timeout",
        long = "gateway-default-timeout",
        env = "VPNPANEL_GATEWAY_DEFAULT_TIMEOUT",
        default_value = "15s"
    )]
    pub default_timeout: HumanDuration,

    /// Longest deadline that a REST call may ask for, and longest time to a stream's beginning; a
    /// stream as a whole may ask for 24 hours.
    #[arg(
        id = "gateway_max_timeout",
        long = "gateway-max-timeout",
        env = "VPNPANEL_GATEWAY_MAX_TIMEOUT",
        default_value = "60s"
    )]
    pub max_timeout: HumanDuration,

    /// REST calls under way at once; more are answered with 503.
    #[arg(
        id = "gateway_max_calls",
        long = "gateway-max-calls",
        env = "VPNPANEL_GATEWAY_MAX_CALLS",
        default_value_t = 1024,
        value_parser = clap::value_parser!(u32).range(1..=1_000_000)
    )]
    pub max_calls: u32,

    /// Streams to REST clients under way at once; more are answered with 503.
    #[arg(
        id = "gateway_max_streams",
        long = "gateway-max-streams",
        env = "VPNPANEL_GATEWAY_MAX_STREAMS",
        default_value_t = 1024,
        value_parser = clap::value_parser!(u32).range(1..=1_000_000)
    )]
    pub max_streams: u32,

    /// Streams that one address (of IPv6, a network of 64 bits) may have under way at once; more are
    /// answered with 503.
    #[arg(
        id = "gateway_max_streams_per_address",
        long = "gateway-max-streams-per-address",
        env = "VPNPANEL_GATEWAY_MAX_STREAMS_PER_ADDRESS",
        default_value_t = 64,
        value_parser = clap::value_parser!(u32).range(1..=1_000_000)
    )]
    pub max_streams_per_address: u32,

    /// Origins whose pages may call the API from a browser, separated by commas; none by default.
    /// Each is named whole, such as https://panel.example.com.
    #[arg(
        id = "gateway_cors_origins",
        long = "gateway-cors-origins",
        env = "VPNPANEL_GATEWAY_CORS_ORIGINS",
        value_delimiter = ','
    )]
    pub cors_origins: Vec<String>,

    /// Networks of proxies whose word about a client's address is taken: load balancers in front,
    /// and, for the other services, gateways in processes of their own.
    #[arg(
        long,
        env = "VPNPANEL_TRUSTED_PROXIES",
        default_value = "",
        value_name = "NETWORKS"
    )]
    pub trusted_proxies: CidrList,

    /// The header that they append the client's address to: x-forwarded-for or forwarded.
    #[arg(
        long,
        env = "VPNPANEL_FORWARDED_HEADER",
        default_value_t = ForwardedHeader::XForwardedFor,
        value_name = "NAME"
    )]
    pub forwarded_header: ForwardedHeader,
}

impl GatewaySettings {
    /// Whose word about a client's address is taken.
    pub fn trusted_proxies(&self) -> TrustedProxies {
        TrustedProxies {
            networks: self.trusted_proxies.clone(),
            header: self.forwarded_header,
        }
    }

    /// The bounds these settings ask for.
    pub fn limits(&self) -> Limits {
        let bytes = |size: ByteSize| usize::try_from(size.0).unwrap_or(usize::MAX);
        Limits {
            bodies: BodyBudget::new(bytes(self.max_body), bytes(self.body_memory)),
            body_timeout: self.body_timeout.0,
            default_timeout: self.default_timeout.0,
            max_timeout: self.max_timeout.0,
            max_waiting_bodies: self.max_waiting_bodies as usize,
            max_calls: self.max_calls as usize,
            max_streams: self.max_streams as usize,
            max_streams_per_address: self.max_streams_per_address as usize,
            trusted_proxies: self.trusted_proxies(),
            ..Limits::default()
        }
    }
}

/// Where the services are, for a gateway in a process of its own.
#[derive(Debug, Clone, clap::Args)]
#[group(skip)]
pub struct UpstreamSettings {
    /// The control-api's gRPC address. With https:// the gateway shows its certificate of the
    /// internal authority, and the address is that of VPNPANEL_CONTROL_API_SERVICES_LISTEN.
    #[arg(
        id = "control_api_endpoint",
        long = "control-api-endpoint",
        env = "VPNPANEL_CONTROL_API_ENDPOINT",
        default_value = "http://127.0.0.1:50051"
    )]
    pub control_api: HttpEndpoint,

    /// The scheduler's gRPC address; with https://, that of
    /// VPNPANEL_SCHEDULER_SERVICES_LISTEN.
    #[arg(
        id = "scheduler_endpoint",
        long = "scheduler-endpoint",
        env = "VPNPANEL_SCHEDULER_ENDPOINT",
        default_value = "http://127.0.0.1:50054"
    )]
    pub scheduler: HttpEndpoint,

    /// Trust domain of the control plane's certificates.
    #[arg(
        id = "gateway_trust_domain",
        long = "gateway-trust-domain",
        env = "VPNPANEL_TRUST_DOMAIN",
        default_value = TrustDomain::DEFAULT
    )]
    pub trust_domain: TrustDomain,
}

impl UpstreamSettings {
    /// Whether a service is called with TLS, for which the gateway needs an identity.
    pub fn needs_identity(&self) -> bool {
        [&self.control_api, &self.scheduler]
            .iter()
            .any(|endpoint| endpoint.uri().scheme_str() == Some("https"))
    }
}
