//! What an operator may set on the scheduler. Every default suits one replica on SQLite and ten on
//! Postgres alike.

use clap::{Args, value_parser};
use vpnpanel_runtime::rpc::TrustedProxies;
use vpnpanel_runtime::settings::{HumanDuration, ListenAddr};

/// Settings of the scheduler: its listeners, its loop and its jobs.
#[derive(Debug, Clone, Args)]
#[group(skip)]
pub struct Settings {
    /// Where the scheduler's gRPC server listens.
    #[arg(
        id = "scheduler_listen",
        long = "scheduler-listen",
        env = "VPNPANEL_SCHEDULER_LISTEN",
        default_value = "127.0.0.1:50054"
    )]
    pub listen: ListenAddr,

    /// Where the scheduler answers `/health` and `/metrics`.
    #[arg(
        id = "scheduler_admin_listen",
        long = "scheduler-admin-listen",
        env = "VPNPANEL_SCHEDULER_ADMIN_LISTEN",
        default_value = "127.0.0.1:9103"
    )]
    pub admin_listen: ListenAddr,

    /// Whose word about a client's address is taken; a setting of the process.
    #[arg(skip)]
    pub trusted_proxies: TrustedProxies,

    /// How often the loop looks for a due job; each wait is jittered by ± 20 %.
    #[arg(
        id = "scheduler_poll_interval",
        long = "scheduler-poll-interval",
        env = "VPNPANEL_SCHEDULER_POLL_INTERVAL",
        default_value = "1s"
    )]
    pub poll_interval: HumanDuration,

    /// How long a lease on a job lasts without renewal. A replica that dies holding one delays that
    /// job by at most this long.
    #[arg(
        id = "scheduler_lease",
        long = "scheduler-lease",
        env = "VPNPANEL_SCHEDULER_LEASE",
        default_value = "30s"
    )]
    pub lease: HumanDuration,

    /// The longest a run may take; it is then cancelled at its next batch.
    #[arg(
        id = "scheduler_run_timeout",
        long = "scheduler-run-timeout",
        env = "VPNPANEL_SCHEDULER_RUN_TIMEOUT",
        default_value = "10m"
    )]
    pub run_timeout: HumanDuration,

    /// How many jobs this replica runs at the same time.
    #[arg(
        id = "scheduler_concurrency",
        long = "scheduler-concurrency",
        env = "VPNPANEL_SCHEDULER_CONCURRENCY",
        default_value_t = 2,
        value_parser = value_parser!(u16).range(1..=64)
    )]
    pub concurrency: u16,

    /// How often users whose time has ended are expired. Nodes end them by themselves at the very
    /// moment; this makes it visible, and frees their places on the nodes.
    #[arg(
        id = "scheduler_expiry_interval",
        long = "scheduler-expiry-interval",
        env = "VPNPANEL_SCHEDULER_EXPIRY_INTERVAL",
        default_value = "5s"
    )]
    pub expiry_interval: HumanDuration,

    /// How many users one transaction expires.
    #[arg(
        id = "scheduler_expiry_batch",
        long = "scheduler-expiry-batch",
        env = "VPNPANEL_SCHEDULER_EXPIRY_BATCH",
        default_value_t = 500,
        value_parser = value_parser!(u32).range(1..=10_000)
    )]
    pub expiry_batch: u32,

    /// How often users whose period has ended are rolled over. Nodes begin the next period by
    /// themselves at the very moment; this lets go of the old one, and announces the one after it.
    #[arg(
        id = "scheduler_period_interval",
        long = "scheduler-period-interval",
        env = "VPNPANEL_SCHEDULER_PERIOD_INTERVAL",
        default_value = "5s"
    )]
    pub period_interval: HumanDuration,

    /// How many users one transaction rolls over.
    #[arg(
        id = "scheduler_period_batch",
        long = "scheduler-period-batch",
        env = "VPNPANEL_SCHEDULER_PERIOD_BATCH",
        default_value_t = 500,
        value_parser = value_parser!(u32).range(1..=10_000)
    )]
    pub period_batch: u32,

    /// How often new audit events are looked for, to be given their places in the hash chain.
    #[arg(
        id = "scheduler_audit_chain_interval",
        long = "scheduler-audit-chain-interval",
        env = "VPNPANEL_SCHEDULER_AUDIT_CHAIN_INTERVAL",
        default_value = "500ms"
    )]
    pub audit_chain_interval: HumanDuration,

    /// How long audit events are kept; older ones are removed from the beginning of their chains,
    /// behind a checkpoint. `0s` keeps them for good.
    #[arg(
        id = "scheduler_audit_retention",
        long = "scheduler-audit-retention",
        env = "VPNPANEL_SCHEDULER_AUDIT_RETENTION",
        default_value = "1095d"
    )]
    pub audit_retention: HumanDuration,

    /// How often usage of hours that are over is added up to hours and days. Series are exact
    /// without it; it makes long ones quick.
    #[arg(
        id = "scheduler_usage_roll_interval",
        long = "scheduler-usage-roll-interval",
        env = "VPNPANEL_SCHEDULER_USAGE_ROLL_INTERVAL",
        default_value = "1m"
    )]
    pub usage_roll_interval: HumanDuration,

    /// How long usage is kept in steps of 15 minutes; on PostgreSQL users' whole weeks go at once.
    /// `0s` keeps them for good.
    #[arg(
        id = "scheduler_usage_quarters_retention",
        long = "scheduler-usage-quarters-retention",
        env = "VPNPANEL_SCHEDULER_USAGE_QUARTERS_RETENTION",
        default_value = "35d"
    )]
    pub usage_quarters_retention: HumanDuration,

    /// How long usage is kept by the hour; never shorter than in steps of 15 minutes. `0s` keeps
    /// it for good. Days are kept for good.
    #[arg(
        id = "scheduler_usage_hours_retention",
        long = "scheduler-usage-hours-retention",
        env = "VPNPANEL_SCHEDULER_USAGE_HOURS_RETENTION",
        default_value = "400d"
    )]
    pub usage_hours_retention: HumanDuration,

    /// How long a key signs access tokens before the next one does.
    #[arg(
        long,
        env = "VPNPANEL_SIGNING_KEY_LIFETIME",
        default_value = "30d",
        value_name = "DURATION"
    )]
    pub signing_key_lifetime: HumanDuration,
}
