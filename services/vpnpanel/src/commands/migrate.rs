//! The database's schema, by hand.

use std::io::Write as _;

use clap::Subcommand;
use vpnpanel_runtime::settings::ProcessSettings;

use crate::error::Error;
use crate::installation::Installation;
use crate::settings::InstallationSettings;

/// Settings of the process.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) process: ProcessSettings,
    #[command(flatten)]
    installation: InstallationSettings,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Applies what is pending; any number of processes may try at once.
    Up,
    /// Takes the last migrations back, with the data in their tables.
    Down {
        /// How many.
        #[arg(default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
        steps: u32,
    },
    /// Lists what is pending.
    Status,
}

pub(crate) async fn run(args: Args) -> Result<(), Error> {
    let store = Installation::open(&args.installation).await?.store;
    match args.action {
        Action::Up => store.migrate().await?,
        Action::Down { steps } => store.migrate_down(steps).await?,
        Action::Status => {}
    }
    let pending = store.pending_migrations().await?;
    let mut stdout = std::io::stdout();
    if pending.is_empty() {
        writeln!(stdout, "up to date")?;
    }
    for migration in pending {
        writeln!(stdout, "pending: {migration}")?;
    }
    store.close().await;
    Ok(())
}
