//! What an operator may set on the collector. Every bound has a default that holds for ten thousand
//! streams on two cores; nothing here is unlimited.

use std::time::Duration;

use clap::{Args, value_parser};
use tokio::sync::Semaphore;
use vpnpanel_link::{MAX_PAYLOAD_BYTES, Pace, RemovalBound, collector::Policy};
use vpnpanel_runtime::settings::{ByteSize, HumanDuration, ListenAddr};

/// Settings of node streams, ingest and desired state.
#[derive(Debug, Clone, Args)]
#[group(skip)]
pub struct Settings {
    /// Where node agents open their links (mutual TLS).
    #[arg(
        id = "collector_listen",
        long = "collector-listen",
        env = "VPNPANEL_COLLECTOR_LISTEN",
        default_value = "127.0.0.1:50052"
    )]
    pub listen: ListenAddr,

    /// Where hosts enrol (server TLS).
    #[arg(
        id = "collector_enrolment_listen",
        long = "collector-enrolment-listen",
        env = "VPNPANEL_COLLECTOR_ENROLMENT_LISTEN",
        default_value = "127.0.0.1:50053"
    )]
    pub enrolment_listen: ListenAddr,

    /// Where `/health` and `/metrics` are.
    #[arg(
        id = "collector_admin_listen",
        long = "collector-admin-listen",
        env = "VPNPANEL_COLLECTOR_ADMIN_LISTEN",
        default_value = "127.0.0.1:9102"
    )]
    pub admin_listen: ListenAddr,

    /// Most node streams at a time in this process; more are refused with UNAVAILABLE.
    #[arg(
        id = "collector_max_streams",
        long = "collector-max-streams",
        env = "VPNPANEL_COLLECTOR_MAX_STREAMS",
        default_value_t = 20_000,
        value_parser = value_parser!(u32).range(1..=1_000_000)
    )]
    pub max_streams: u32,

    /// Most streams that are opened by one transaction.
    #[arg(
        id = "collector_max_opening",
        long = "collector-max-opening",
        env = "VPNPANEL_COLLECTOR_MAX_OPENING",
        default_value_t = 256,
        value_parser = value_parser!(u32).range(1..=10_000)
    )]
    pub max_opening: u32,

    /// How long an agent may take to say Hello.
    #[arg(
        id = "collector_hello_timeout",
        long = "collector-hello-timeout",
        env = "VPNPANEL_COLLECTOR_HELLO_TIMEOUT",
        default_value = "10s"
    )]
    pub hello_timeout: HumanDuration,

    /// Most usage rows that wait for the database; agents keep theirs on disk meanwhile.
    #[arg(
        id = "collector_ingest_queue_rows",
        long = "collector-ingest-queue-rows",
        env = "VPNPANEL_COLLECTOR_INGEST_QUEUE_ROWS",
        default_value_t = 65_536,
        value_parser = value_parser!(u32).range(8_192..=4_194_304)
    )]
    pub ingest_queue_rows: u32,

    /// Most usage rows that one transaction commits.
    #[arg(
        id = "collector_ingest_commit_rows",
        long = "collector-ingest-commit-rows",
        env = "VPNPANEL_COLLECTOR_INGEST_COMMIT_ROWS",
        default_value_t = 16_384,
        value_parser = value_parser!(u32).range(1..=262_144)
    )]
    pub ingest_commit_rows: u32,

    /// On PostgreSQL, how many transactions commit usage at the same time.
    #[arg(
        id = "collector_ingest_writers",
        long = "collector-ingest-writers",
        env = "VPNPANEL_COLLECTOR_INGEST_WRITERS",
        default_value_t = 2,
        value_parser = value_parser!(u32).range(1..=16)
    )]
    pub ingest_writers: u32,

    /// On SQLite, the longest that one ingest transaction should hold the only writer; the collector makes its transactions smaller until they fit.
    #[arg(
        id = "collector_ingest_slice",
        long = "collector-ingest-slice",
        env = "VPNPANEL_COLLECTOR_INGEST_SLICE",
        default_value = "50ms"
    )]
    pub ingest_slice: HumanDuration,

    /// How often the change log is read when no bell rings; jittered by ± 20 %.
    #[arg(
        id = "collector_change_poll",
        long = "collector-change-poll",
        env = "VPNPANEL_COLLECTOR_CHANGE_POLL",
        default_value = "250ms"
    )]
    pub change_poll: HumanDuration,

    /// Most snapshots of desired state that are built or under way at the same time.
    #[arg(
        id = "collector_max_snapshots",
        long = "collector-max-snapshots",
        env = "VPNPANEL_COLLECTOR_MAX_SNAPSHOTS",
        default_value_t = 8,
        value_parser = value_parser!(u32).range(1..=1_000)
    )]
    pub max_snapshots: u32,

    /// How often agents read their counters.
    #[arg(
        id = "collector_poll_interval",
        long = "collector-poll-interval",
        env = "VPNPANEL_COLLECTOR_POLL_INTERVAL",
        default_value = "1s"
    )]
    pub poll_interval: HumanDuration,

    /// How often agents report usage when no limit is near.
    #[arg(
        id = "collector_report_interval",
        long = "collector-report-interval",
        env = "VPNPANEL_COLLECTOR_REPORT_INTERVAL",
        default_value = "5s"
    )]
    pub report_interval: HumanDuration,

    /// How often agents send Health when something has changed, and every third time when not; a node
    /// that is silent for six times as long is cut.
    #[arg(
        id = "collector_health_interval",
        long = "collector-health-interval",
        env = "VPNPANEL_COLLECTOR_HEALTH_INTERVAL",
        default_value = "5s"
    )]
    pub health_interval: HumanDuration,

    /// Most batches of one node in flight without an acknowledgement.
    #[arg(
        id = "collector_window",
        long = "collector-window",
        env = "VPNPANEL_COLLECTOR_WINDOW",
        default_value_t = 16,
        value_parser = value_parser!(u32).range(1..=1_024)
    )]
    pub window: u32,

    /// How often the serials of live streams are compared with the allow-list.
    #[arg(
        id = "collector_serial_check",
        long = "collector-serial-check",
        env = "VPNPANEL_COLLECTOR_SERIAL_CHECK",
        default_value = "60s"
    )]
    pub serial_check: HumanDuration,

    /// Over how long agents spread their reconnection after a planned stop.
    #[arg(
        id = "collector_drain_spread",
        long = "collector-drain-spread",
        env = "VPNPANEL_COLLECTOR_DRAIN_SPREAD",
        default_value = "5s"
    )]
    pub drain_spread: HumanDuration,

    /// How long an agent may take to apply a desired state and answer.
    #[arg(
        id = "collector_config_timeout",
        long = "collector-config-timeout",
        env = "VPNPANEL_COLLECTOR_CONFIG_TIMEOUT",
        default_value = "2m"
    )]
    pub config_timeout: HumanDuration,

    /// How often the whole desired state of each node is compared with what it has. In between, and
    /// when it comes back, it is told what the change log says has changed.
    #[arg(
        id = "collector_compare_interval",
        long = "collector-compare-interval",
        env = "VPNPANEL_COLLECTOR_COMPARE_INTERVAL",
        default_value = "6h"
    )]
    pub compare_interval: HumanDuration,

    /// Of each hundred users of a node, how many a change may take away without somebody's
    /// confirmation (10 users always may go); 100 is all.
    #[arg(
        id = "collector_max_removals",
        long = "collector-max-removals",
        env = "VPNPANEL_COLLECTOR_MAX_REMOVALS",
        default_value_t = 50,
        value_parser = value_parser!(u32).range(0..=100)
    )]
    pub max_removals: u32,

    /// Most bytes of usage batches in memory, of all streams together; streams beyond it wait.
    #[arg(
        id = "collector_batch_memory",
        long = "collector-batch-memory",
        env = "VPNPANEL_COLLECTOR_BATCH_MEMORY",
        default_value = "128MiB"
    )]
    pub batch_memory: ByteSize,

    /// Name of this replica in the rows of its nodes; the host's name where it is not given.
    #[arg(
        id = "collector_name",
        long = "collector-name",
        env = "VPNPANEL_COLLECTOR_NAME"
    )]
    pub name: Option<String>,

    /// Where agents find the node link, `https://host:port`; told to them at enrolment.
    #[arg(
        id = "collector_link_endpoint",
        long = "collector-link-endpoint",
        env = "VPNPANEL_COLLECTOR_LINK_ENDPOINT",
        default_value = "https://127.0.0.1:50052"
    )]
    pub link_endpoint: String,
}

impl Settings {
    /// The rhythm that agents are told.
    pub(crate) fn pace(&self) -> Pace {
        let millis =
            |duration: HumanDuration| u64::try_from(duration.0.as_millis()).unwrap_or(u64::MAX);
        Pace {
            poll_ms: millis(self.poll_interval),
            report_ms: millis(self.report_interval),
            health_ms: millis(self.health_interval),
            window: self.window,
        }
    }

    /// How many users an update may take away that nobody has confirmed.
    pub(crate) fn removal_bound(&self) -> RemovalBound {
        RemovalBound {
            users: 10,
            percent: self.max_removals,
        }
    }

    /// How allowances are sized.
    pub(crate) fn policy(&self) -> Policy {
        Policy::default()
    }

    /// After how long without a frame a stream is cut.
    pub(crate) fn silence(&self) -> Duration {
        self.health_interval.0.saturating_mul(6)
    }

    /// Permits for bytes of batches: at least one batch of the largest size.
    pub(crate) fn batch_memory(&self) -> usize {
        usize::try_from(self.batch_memory.0)
            .unwrap_or(usize::MAX)
            .clamp(MAX_PAYLOAD_BYTES, Semaphore::MAX_PERMITS)
    }

    /// What names this process in the rows of its nodes.
    pub(crate) fn name(&self) -> String {
        let host = || std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
        let name = self.name.clone().or_else(host).unwrap_or_default();
        match name.trim() {
            "" => "collector".to_owned(),
            name => name.to_owned(),
        }
    }
}
