//! Settings of the management API, from the environment.

use std::{path::PathBuf, time::Duration};

use vpnpanel_auth::{PasswordSettings, TokenSettings};
use vpnpanel_runtime::rpc::TrustedProxies;
use vpnpanel_runtime::settings::{ByteSize, HttpEndpoint, HumanDuration, ListenAddr, Secret};

use crate::Error;

const SHORTEST_CERTIFICATE: Duration = Duration::from_secs(10);
const LONGEST_CERTIFICATE: Duration = Duration::from_secs(90 * 86_400);

/// Settings of control-api.
#[derive(Debug, Clone, clap::Args)]
#[group(skip)]
pub struct ControlApiSettings {
    /// Where the management API listens (gRPC).
    #[arg(
        id = "control_api_listen",
        long = "control-api-listen",
        env = "VPNPANEL_CONTROL_API_LISTEN",
        default_value = "127.0.0.1:50051",
        value_name = "ADDRESS"
    )]
    pub listen: ListenAddr,

    /// Where its /health, /health/live and /metrics listen.
    #[arg(
        id = "control_api_admin_listen",
        long = "control-api-admin-listen",
        env = "VPNPANEL_CONTROL_API_ADMIN_LISTEN",
        default_value = "127.0.0.1:9101",
        value_name = "ADDRESS"
    )]
    pub admin_listen: ListenAddr,

    /// Certificate chain (PEM) of the gRPC listener, which then speaks TLS; taken into use again
    /// whenever the file changes.
    #[arg(
        id = "control_api_tls_cert",
        long = "control-api-tls-cert",
        env = "VPNPANEL_CONTROL_API_TLS_CERT",
        value_name = "FILE"
    )]
    pub tls_certificate: Option<PathBuf>,

    /// Private key (PEM) of that certificate.
    #[arg(
        id = "control_api_tls_key",
        long = "control-api-tls-key",
        env = "VPNPANEL_CONTROL_API_TLS_KEY",
        value_name = "FILE"
    )]
    pub tls_key: Option<PathBuf>,

    /// Where hosts reach the collector's enrolment listener: part of the install command that
    /// comes with a join token.
    #[arg(
        id = "enrollment_url",
        long = "enrollment-url",
        env = "VPNPANEL_ENROLLMENT_URL",
        default_value = "https://127.0.0.1:50053",
        value_name = "URL"
    )]
    pub enrollment_url: HttpEndpoint,

    /// Links of subscriptions.
    #[command(flatten)]
    pub subscriptions: SubscriptionSettings,

    /// Whose word about a client's address is taken; a setting of the process.
    #[arg(skip)]
    pub trusted_proxies: TrustedProxies,

    /// The first administrator.
    #[command(flatten)]
    pub bootstrap: BootstrapSettings,

    /// Access and refresh tokens.
    #[command(flatten)]
    pub tokens: TokenArgs,

    /// Longest life of an API token; one that asks for none gets this.
    #[arg(
        long,
        env = "VPNPANEL_API_TOKEN_MAX_LIFETIME",
        default_value = "365d",
        value_name = "DURATION"
    )]
    pub api_token_max_lifetime: HumanDuration,

    /// Life of a node's certificate, from 10s to 90d; agents renew theirs at half of it.
    #[arg(
        long,
        env = "VPNPANEL_NODE_CERTIFICATE_LIFETIME",
        default_value = "7d",
        value_name = "DURATION"
    )]
    pub node_certificate_lifetime: HumanDuration,

    /// Cost of password hashes.
    #[command(flatten)]
    pub passwords: PasswordArgs,
}

impl ControlApiSettings {
    /// Life of a node's certificate.
    pub(crate) fn node_certificate_lifetime(&self) -> Result<Duration, Error> {
        let life = self.node_certificate_lifetime.0;
        match (SHORTEST_CERTIFICATE..=LONGEST_CERTIFICATE).contains(&life) {
            true => Ok(life),
            false => Err(Error::CertificateLifetime),
        }
    }
}

/// Links of subscriptions, and what is said to the programs that fetch them.
#[derive(Debug, Clone, clap::Args)]
#[group(skip)]
pub struct SubscriptionSettings {
    /// Where subscribers reach the gateway: what the links of subscriptions begin with.
    #[arg(
        long,
        env = "VPNPANEL_SUBSCRIPTION_URL",
        default_value = "http://127.0.0.1:8080",
        value_name = "URL"
    )]
    pub subscription_url: HttpEndpoint,

    /// How often subscribers' programs should fetch again; whole hours, rounded up.
    #[arg(
        long,
        env = "VPNPANEL_SUBSCRIPTION_UPDATE_INTERVAL",
        default_value = "12h",
        value_name = "DURATION"
    )]
    pub subscription_update_interval: HumanDuration,

    /// Where subscribers find help: a web page, or a chat. Programs and the page show it.
    #[arg(long, env = "VPNPANEL_SUBSCRIPTION_SUPPORT_URL", value_name = "URL")]
    pub subscription_support_url: Option<SupportUrl>,
}

/// A link for people: `https://…`, `http://…` or `mailto:…`, in ASCII.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SupportUrl(pub String);

impl std::str::FromStr for SupportUrl {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_link = ["https://", "http://", "mailto:"].iter().any(|scheme| {
            text.strip_prefix(scheme)
                .is_some_and(|rest| !rest.is_empty())
        });
        if is_link && text.bytes().all(|byte| byte.is_ascii_graphic()) {
            Ok(Self(text.to_owned()))
        } else {
            Err("a link that begins with https://, http:// or mailto:, without spaces")
        }
    }
}

/// What the first start makes.
#[derive(Debug, Clone, clap::Args)]
#[group(skip)]
pub struct BootstrapSettings {
    /// E-mail address of the administrator that the first start makes.
    #[arg(
        id = "bootstrap_email",
        long = "bootstrap-email",
        env = "VPNPANEL_BOOTSTRAP_EMAIL",
        default_value = "admin@localhost",
        value_name = "EMAIL"
    )]
    pub email: String,

    /// Its one-time password, which must not be easily guessed; made and printed when unset. It
    /// must be changed at the first sign-in either way.
    #[arg(
        id = "bootstrap_password",
        long = "bootstrap-password",
        env = "VPNPANEL_BOOTSTRAP_PASSWORD",
        hide_env_values = true,
        value_name = "SECRET"
    )]
    pub password: Option<Secret>,
}

/// Tokens.
#[derive(Debug, Clone, clap::Args)]
#[group(skip)]
pub struct TokenArgs {
    /// Issuer of access tokens (iss).
    #[arg(
        long,
        env = "VPNPANEL_TOKEN_ISSUER",
        default_value = "vpnpanel",
        value_name = "TEXT"
    )]
    pub token_issuer: String,

    /// Audience of access tokens (aud).
    #[arg(
        long,
        env = "VPNPANEL_TOKEN_AUDIENCE",
        default_value = "vpnpanel",
        value_name = "TEXT"
    )]
    pub token_audience: String,

    /// Life of an access token.
    #[arg(
        long,
        env = "VPNPANEL_ACCESS_TOKEN_LIFETIME",
        default_value = "15m",
        value_name = "DURATION"
    )]
    pub access_token_lifetime: HumanDuration,

    /// Life of a refresh token.
    #[arg(
        long,
        env = "VPNPANEL_REFRESH_TOKEN_LIFETIME",
        default_value = "30d",
        value_name = "DURATION"
    )]
    pub refresh_token_lifetime: HumanDuration,

    /// How far the clocks of two replicas may differ.
    #[arg(
        long,
        env = "VPNPANEL_TOKEN_CLOCK_SKEW",
        default_value = "30s",
        value_name = "DURATION"
    )]
    pub token_clock_skew: HumanDuration,
}

/// Argon2id.
#[derive(Debug, Clone, clap::Args)]
#[group(skip)]
pub struct PasswordArgs {
    /// Passes of Argon2id over its memory.
    #[arg(
        long,
        env = "VPNPANEL_ARGON2_TIME_COST",
        default_value_t = 2,
        value_name = "N"
    )]
    pub argon2_time_cost: u32,

    /// Memory of one password hash.
    #[arg(
        long,
        env = "VPNPANEL_ARGON2_MEMORY",
        default_value = "512MiB",
        value_name = "SIZE"
    )]
    pub argon2_memory: ByteSize,

    /// Lanes of Argon2id.
    #[arg(
        long,
        env = "VPNPANEL_ARGON2_PARALLELISM",
        default_value_t = 2,
        value_name = "N"
    )]
    pub argon2_parallelism: u32,

    /// Password hashes computed at a time; each needs the memory once.
    #[arg(
        long,
        env = "VPNPANEL_ARGON2_CONCURRENCY",
        default_value_t = 1,
        value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=64),
        value_name = "N"
    )]
    pub argon2_concurrency: usize,
}

impl From<&TokenArgs> for TokenSettings {
    fn from(args: &TokenArgs) -> Self {
        Self {
            issuer: args.token_issuer.clone(),
            audience: args.token_audience.clone(),
            access_lifetime: args.access_token_lifetime.0,
            refresh_lifetime: args.refresh_token_lifetime.0,
            clock_skew: args.token_clock_skew.0,
        }
    }
}

impl From<&PasswordArgs> for PasswordSettings {
    fn from(args: &PasswordArgs) -> Self {
        Self {
            time_cost: args.argon2_time_cost,
            // More than 4 TiB is refused by the hasher either way.
            memory_kib: u32::try_from(args.argon2_memory.0 / 1024).unwrap_or(u32::MAX),
            parallelism: args.argon2_parallelism,
            concurrency: args.argon2_concurrency,
            ..Self::default()
        }
    }
}
