//! The cost of password hashes, measured on this host: printed as the settings that a service takes.

use std::io::Write as _;
use std::time::Duration;

use vpnpanel_auth::tuning::{self, Cost};
use vpnpanel_runtime::settings::{ByteSize, HumanDuration, ProcessSettings};

use crate::error::Error;

/// Settings of the process.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) process: ProcessSettings,

    /// How long one password hash may take.
    #[arg(long, default_value = "500ms", value_name = "DURATION")]
    target: HumanDuration,

    /// Most memory of one hash; each that is computed at a time needs it once.
    #[arg(long, default_value = "512MiB", value_name = "SIZE")]
    memory: ByteSize,

    /// Lanes; as many as processors, at most 4, when unset.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    parallelism: Option<u32>,
}

pub(crate) async fn run(args: Args) -> Result<(), Error> {
    let most = Cost {
        time_cost: 0,
        memory_kib: u32::try_from(args.memory.0 / 1024).unwrap_or(u32::MAX),
        parallelism: args.parallelism.unwrap_or_else(lanes),
    };
    let tuned = tuning::tune(args.target.0, most, tuning::measure)?;
    let mut stdout = std::io::stdout();
    let takes = Duration::from_millis(u64::try_from(tuned.takes.as_millis()).unwrap_or(u64::MAX));
    writeln!(stdout, "# one hash takes {takes:?} on this host")?;
    if tuned.takes > args.target.0 {
        let target = args.target;
        writeln!(
            stdout,
            "# {target} are too little for a safe hash here: this is the least"
        )?;
    }
    let memory = ByteSize(u64::from(tuned.cost.memory_kib) * 1024);
    writeln!(stdout, "VPNPANEL_ARGON2_MEMORY={memory}")?;
    writeln!(stdout, "VPNPANEL_ARGON2_TIME_COST={}", tuned.cost.time_cost)?;
    let lanes = tuned.cost.parallelism;
    writeln!(stdout, "VPNPANEL_ARGON2_PARALLELISM={lanes}")?;
    Ok(())
}

fn lanes() -> u32 {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    u32::try_from(processors.min(4)).unwrap_or(1)
}
