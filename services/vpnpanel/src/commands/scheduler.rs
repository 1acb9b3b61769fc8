//! The periodic jobs in a process of their own.

use vpnpanel_control_api::{Access, TokenArgs};
use vpnpanel_runtime::process::Process;
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
    #[command(flatten)]
    scheduler: vpnpanel_scheduler::Settings,
    #[command(flatten)]
    tokens: TokenArgs,
}

pub(crate) async fn run(args: Args, process: &mut Process) -> Result<(), Error> {
    let installation = Installation::open(&args.installation).await?;
    installation.wait_for_schema().await?;
    let access = Access::open(&args.tokens, &installation.store, &installation.vault()).await?;
    let store = installation.store.clone();
    let service = vpnpanel_scheduler::build(
        args.scheduler,
        store,
        access.guard(),
        args.process.development,
    )
    .await?;
    process.start(service).await?;
    Ok(())
}
