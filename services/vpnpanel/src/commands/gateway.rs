//! REST and the panel in a process of their own. It needs no database, no key and no folder.

use vpnpanel_gateway::{GatewaySettings, UpstreamSettings};
use vpnpanel_runtime::process::Process;
use vpnpanel_runtime::settings::ProcessSettings;

use crate::error::Error;

/// Settings of the process.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) process: ProcessSettings,
    #[command(flatten)]
    gateway: GatewaySettings,
    #[command(flatten)]
    upstreams: UpstreamSettings,
}

pub(crate) async fn run(args: Args, process: &mut Process) -> Result<(), Error> {
    let upstreams = vpnpanel_gateway::upstreams(&args.upstreams)?;
    let service = vpnpanel_gateway::build(&args.gateway, vpnpanel_api::pool(), &upstreams)?;
    process.start(service).await?;
    Ok(())
}
