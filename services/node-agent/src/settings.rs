//! What an operator may set on a node's agent.

use std::path::PathBuf;

use clap::Args;
use vpnpanel_runtime::TrustDomain;
use vpnpanel_runtime::settings::ListenAddr;

use crate::enrollment::EnrollmentSettings;

/// Settings of the agent.
#[derive(Debug, Clone, Args)]
#[group(skip)]
pub struct Settings {
    /// Where the agent keeps its identity, its spool and its last good state.
    #[arg(
        long,
        env = "VPNPANEL_AGENT_DATA_DIR",
        default_value = "/var/lib/vpnpanel-agent",
        value_name = "FOLDER"
    )]
    pub data_dir: PathBuf,

    /// The name space of identities; the same as the control plane's.
    #[arg(
        long,
        env = "VPNPANEL_TRUST_DOMAIN",
        default_value = TrustDomain::DEFAULT,
        value_name = "NAME"
    )]
    pub trust_domain: TrustDomain,

    /// Where the node link is, host:port; unset is where enrolment said.
    #[arg(long, env = "VPNPANEL_LINK_ADDRESS", value_name = "ADDRESS")]
    pub link_address: Option<String>,

    /// Where the agent's own gRPC server listens (mutual TLS).
    #[arg(
        id = "agent_listen",
        long = "listen",
        env = "VPNPANEL_AGENT_LISTEN",
        default_value = "0.0.0.0:50061",
        value_name = "ADDRESS"
    )]
    pub listen: ListenAddr,

    /// Where the agent answers /health, /health/live and /metrics.
    #[arg(
        id = "agent_admin_listen",
        long = "admin-listen",
        env = "VPNPANEL_AGENT_ADMIN_LISTEN",
        default_value = "127.0.0.1:9105",
        value_name = "ADDRESS"
    )]
    pub admin_listen: ListenAddr,

    /// Limits are kept by the kernel. Where its quotas fail, false leaves them to the reading of the
    /// counters: a user may then pass what fits between two of them beyond a limit.
    #[arg(
        long,
        env = "VPNPANEL_AGENT_KERNEL_QUOTA",
        default_value_t = true,
        action = clap::ArgAction::Set,
        value_name = "BOOL"
    )]
    pub kernel_quota: bool,

    /// The Xray program, for inbounds of VLESS, VMess, Trojan and Shadowsocks; unset looks for `xray` in
    /// PATH.
    #[arg(long = "xray", env = "VPNPANEL_AGENT_XRAY", value_name = "FILE")]
    pub xray: Option<PathBuf>,

    /// How the host enrols when it has no identity yet.
    #[command(flatten)]
    pub enrollment: EnrollmentSettings,
}
