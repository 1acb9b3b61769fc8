//! Where Redis is.

use std::path::PathBuf;

use vpnpanel_runtime::settings::{HumanDuration, Secret};

/// Settings of what replicas share.
#[derive(Debug, Clone, clap::Args)]
#[group(skip)]
pub struct CacheSettings {
    /// Redis or Valkey, for more than one replica: redis://, rediss:// (TLS), redis-sentinel:// or
    /// redis-cluster://, see docs/redis.md. Everything is kept in process when unset.
    #[arg(
        long,
        env = "VPNPANEL_REDIS_URL",
        hide_env_values = true,
        value_name = "URL"
    )]
    pub redis_url: Option<Secret>,

    /// What every key begins with: installations that share a server need different ones.
    #[arg(
        long,
        env = "VPNPANEL_REDIS_PREFIX",
        default_value = "vpnpanel",
        value_name = "TEXT"
    )]
    pub redis_prefix: String,

    /// How long an answer is waited for. After that the call goes on without Redis.
    #[arg(
        long,
        env = "VPNPANEL_REDIS_TIMEOUT",
        default_value = "100ms",
        value_name = "DURATION"
    )]
    pub redis_timeout: HumanDuration,

    /// PEM file of the authorities that may have signed the certificate of a rediss:// server; the
    /// system's when unset.
    #[arg(long, env = "VPNPANEL_REDIS_CA", value_name = "FILE")]
    pub redis_ca: Option<PathBuf>,
}
