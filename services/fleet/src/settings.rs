//! What can be asked of a simulation.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum, value_parser};
use vpnpanel_runtime::settings::{ByteSize, HttpEndpoint, HumanDuration, ListenAddr, Secret};

/// What to simulate.
#[derive(Debug, Subcommand)]
#[non_exhaustive]
pub enum Command {
    /// Lets nodes count made-up traffic, breaks what is chosen, and compares what was billed with
    /// what was counted: any difference is an exit code of 1.
    Run(Box<Run>),
    /// Opens streams that have nothing to do, and measures what each costs the control plane,
    /// beside streams of bare tonic.
    Idle(Idle),
    /// Kills the control plane under open streams, starts it again, and measures how long it takes
    /// until every node is back, beside streams of bare tonic.
    Storm(Storm),
    /// The server that bare streams are opened to.
    #[command(hide = true)]
    BareServer(BareServer),
}

/// How large the fleet is, and where it lives.
#[derive(Debug, Clone, Args)]
#[group(skip)]
pub struct Fleet {
    /// Nodes.
    #[arg(long, default_value_t = 20, value_parser = value_parser!(u32).range(1..=100_000), value_name = "N")]
    pub nodes: u32,

    /// Users on each node, with one device each.
    #[arg(long, default_value_t = 20, value_parser = value_parser!(u32).range(0..=50_000), value_name = "N")]
    pub users_per_node: u32,

    /// Nodes are parted into so many pools, each with an inbound and users of its own; every node of
    /// a pool has all of its users.
    #[arg(long, default_value_t = 1, value_parser = value_parser!(u32).range(1..=200), value_name = "N")]
    pub pools: u32,

    /// Repeats the random choices of a run; drawn and printed when unset.
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,

    /// Where simulated nodes keep their spools: files that are synced, or memory that outlives a
    /// killed agent (for thousands of nodes, whose disks this host does not have).
    #[arg(long, default_value = "auto", value_name = "WHERE")]
    pub spools: Spools,

    /// A new or empty folder for the control plane and the nodes, kept afterwards; a temporary one,
    /// removed afterwards, when unset.
    #[arg(long, value_name = "FOLDER")]
    pub folder: Option<PathBuf>,

    /// An empty database for the control plane that is started; SQLite in its folder when unset.
    #[arg(
        long,
        env = "VPNPANEL_FLEET_DATABASE_URL",
        hide_env_values = true,
        value_name = "URL"
    )]
    pub database_url: Option<Secret>,
}

/// Up to so many nodes, spools are files when nothing is said.
const FILES: u32 = 200;

impl Fleet {
    /// Whether each spool is a file.
    pub(crate) fn spools_are_files(&self) -> bool {
        match self.spools {
            Spools::Auto => self.nodes <= FILES,
            Spools::Disk => true,
            Spools::Memory => false,
        }
    }
}

/// Where spools are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Spools {
    /// Disk up to 200 nodes, memory beyond.
    Auto,
    /// A file for each node.
    Disk,
    /// Memory of this process.
    Memory,
}

/// Settings of `run`.
#[derive(Debug, Clone, Args)]
#[group(skip)]
pub struct Run {
    /// Size and place.
    #[command(flatten)]
    pub fleet: Fleet,

    /// Traffic of each user on each node, per second, both directions together.
    #[arg(long, default_value = "64KiB", value_name = "SIZE")]
    pub rate: ByteSize,

    /// How long traffic flows.
    #[arg(long = "for", default_value = "30s", value_name = "DURATION")]
    pub length: HumanDuration,

    /// A limit for every user, over all nodes; no limit when 0.
    #[arg(long, default_value = "0", value_name = "SIZE")]
    pub limit: ByteSize,

    /// What breaks meanwhile, separated by commas.
    #[arg(long, value_delimiter = ',', value_name = "FAULTS")]
    pub faults: Vec<Fault>,

    /// A fault begins about this often.
    #[arg(long, default_value = "2s", value_name = "DURATION")]
    pub fault_every: HumanDuration,

    /// A user is switched off or on this often, to see when the nodes know; never when 0s.
    #[arg(long, default_value = "250ms", value_name = "DURATION")]
    pub change_every: HumanDuration,

    /// How long the books may take to agree after the last byte; agents wait up to two minutes
    /// between attempts.
    #[arg(long, default_value = "5m", value_name = "DURATION")]
    pub settle: HumanDuration,

    /// The management API (gRPC) of a control plane that runs already, http://host:port; one is
    /// started for the run when unset. What is made there stays: a tenant, nodes, users.
    #[arg(long, value_name = "URL")]
    pub control_api: Option<HttpEndpoint>,

    /// An API token of a platform owner there.
    #[arg(
        long,
        env = "VPNPANEL_FLEET_API_TOKEN",
        hide_env_values = true,
        value_name = "SECRET"
    )]
    pub api_token: Option<Secret>,

    /// Where nodes enrol there, https://host:port.
    #[arg(long, default_value = "https://127.0.0.1:50053", value_name = "URL")]
    pub enrollment_url: HttpEndpoint,
}

/// What can break.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, ValueEnum)]
pub enum Fault {
    /// Agents are killed, and start again from their disks.
    KillAgents,
    /// Connections of nodes are cut, and refused for a while.
    Cut,
    /// Connections of nodes stay open and carry nothing, in both directions.
    HalfOpen,
    /// The control plane is killed and started again.
    KillControlPlane,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let value = self.to_possible_value();
        f.write_str(value.as_ref().map_or("", |value| value.get_name()))
    }
}

/// Settings of `idle`.
#[derive(Debug, Clone, Args)]
#[group(skip)]
pub struct Idle {
    /// Size and place.
    #[command(flatten)]
    pub fleet: Fleet,

    /// How long the streams are watched once all are open.
    #[arg(long = "for", default_value = "20s", value_name = "DURATION")]
    pub length: HumanDuration,
}

/// Settings of `storm`.
#[derive(Debug, Clone, Args)]
#[group(skip)]
pub struct Storm {
    /// Size and place.
    #[command(flatten)]
    pub fleet: Fleet,

    /// How often the control plane is killed.
    #[arg(long, default_value_t = 1, value_parser = value_parser!(u32).range(1..=100), value_name = "N")]
    pub times: u32,

    /// How long all nodes may take to come back.
    #[arg(long, default_value = "10m", value_name = "DURATION")]
    pub within: HumanDuration,
}

/// Settings of the bare server.
#[derive(Debug, Clone, Args)]
#[group(skip)]
pub struct BareServer {
    /// Where its certificates are.
    #[arg(long)]
    pub folder: PathBuf,
    /// Where it listens.
    #[arg(id = "bare_listen", long = "listen")]
    pub listen: ListenAddr,
}
