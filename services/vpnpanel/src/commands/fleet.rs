//! A fleet of simulated nodes against a control plane.

use vpnpanel_runtime::settings::ProcessSettings;

use crate::error::Error;

/// Settings of the process, and what to simulate.
#[derive(Debug, clap::Args)]
#[command(mut_arg("log_filter", |log| log.default_value("error")))]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) process: ProcessSettings,
    #[command(subcommand)]
    command: vpnpanel_fleet::Command,
}

pub(crate) async fn run(args: Args) -> Result<(), Error> {
    Ok(vpnpanel_fleet::run(args.command).await?)
}
