//! Settings of every process that decides who may call what: what replicas share, limits, and the
//! networks of administration.

use vpnpanel_auth::{LimitSettings, QuotaSetting, limits::Quota};
use vpnpanel_cache::CacheSettings;
use vpnpanel_runtime::settings::CidrList;

/// Settings of [`crate::Access`].
#[derive(Debug, Clone, clap::Args)]
#[group(skip)]
pub struct AccessArgs {
    /// What replicas share.
    #[command(flatten)]
    pub cache: CacheSettings,

    /// Networks that roles held on the platform act from, separated by commas; everywhere when
    /// empty. From elsewhere, such a role permits nothing, in no tenant.
    #[arg(
        long,
        env = "VPNPANEL_ADMIN_CIDRS",
        default_value = "",
        value_name = "NETWORKS"
    )]
    pub admin_cidrs: CidrList,

    /// Whether callers are limited at all.
    #[arg(
        long,
        env = "VPNPANEL_RATE_LIMITS",
        default_value_t = true,
        action = clap::ArgAction::Set,
        value_name = "BOOL"
    )]
    pub rate_limits: bool,

    /// Calls without right credentials from one address (IPv6: one /64), as many as may come at once
    /// and within which time they may come again; or off.
    #[arg(
        long,
        env = "VPNPANEL_LIMIT_ANONYMOUS",
        default_value = "600/1m",
        value_name = "QUOTA"
    )]
    pub limit_anonymous: QuotaSetting,

    /// Calls of one session or API token.
    #[arg(
        long,
        env = "VPNPANEL_LIMIT_CREDENTIAL",
        default_value = "6000/1m",
        value_name = "QUOTA"
    )]
    pub limit_credential: QuotaSetting,

    /// Sign-ins from one address, right or wrong.
    #[arg(
        long,
        env = "VPNPANEL_LIMIT_SIGN_IN_ADDRESS",
        default_value = "30/1m",
        value_name = "QUOTA"
    )]
    pub limit_sign_in_address: QuotaSetting,

    /// Sign-ins to one account from one network (IPv4: /24, IPv6: /56), right or wrong.
    #[arg(
        long,
        env = "VPNPANEL_LIMIT_SIGN_IN_ACCOUNT",
        default_value = "10/5m",
        value_name = "QUOTA"
    )]
    pub limit_sign_in_account: QuotaSetting,

    /// Passwords and codes that one session is asked for once more, right or wrong.
    #[arg(
        long,
        env = "VPNPANEL_LIMIT_CONFIRMATION",
        default_value = "10/5m",
        value_name = "QUOTA"
    )]
    pub limit_confirmation: QuotaSetting,
}

impl AccessArgs {
    /// The limits that these settings ask for.
    pub fn limits(&self) -> LimitSettings {
        let on =
            |setting: QuotaSetting| -> Option<Quota> { setting.0.filter(|_| self.rate_limits) };
        LimitSettings {
            anonymous: on(self.limit_anonymous),
            credential: on(self.limit_credential),
            sign_in_address: on(self.limit_sign_in_address),
            sign_in_account: on(self.limit_sign_in_account),
            confirmation: on(self.limit_confirmation),
        }
    }
}
