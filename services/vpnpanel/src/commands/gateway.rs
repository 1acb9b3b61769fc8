//! REST and the panel in a process of their own. It needs no database and no key; where it calls the
//! other services by mutual TLS it takes its certificate from the folder that control-api fills.

use std::path::PathBuf;

use vpnpanel_gateway::{GatewaySettings, UpstreamSettings};
use vpnpanel_runtime::process::Process;
use vpnpanel_runtime::settings::ProcessSettings;

use crate::certificates::{Folder, Users};
use crate::error::Error;

const SERVICE: &str = "gateway";

/// Settings of the process.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) process: ProcessSettings,
    #[command(flatten)]
    gateway: GatewaySettings,
    #[command(flatten)]
    upstreams: UpstreamSettings,

    /// The folder in whose certificates/gateway the gateway's identity lies; looked at only when a
    /// service has an https address.
    #[arg(
        id = "gateway_data_dir",
        long = "data-dir",
        env = "VPNPANEL_DATA_DIR",
        default_value = "./data",
        value_name = "FOLDER"
    )]
    data_dir: PathBuf,
}

pub(crate) async fn run(args: Args, process: &mut Process) -> Result<(), Error> {
    if !args.upstreams.needs_identity() {
        let upstreams = vpnpanel_gateway::upstreams(&args.upstreams, None)?;
        let service = vpnpanel_gateway::build(&args.gateway, vpnpanel_api::pool(), &upstreams)?;
        process.start(service).await?;
        return Ok(());
    }
    let folder = Folder::of(&args.data_dir);
    let bundle = folder.wait_for(SERVICE).await?;
    let identity = bundle.client()?;
    let upstreams = vpnpanel_gateway::upstreams(&args.upstreams, Some(&identity))?;
    let mut service = vpnpanel_gateway::build(&args.gateway, vpnpanel_api::pool(), &upstreams)?;
    let users = Users {
        servers: Vec::new(),
        clients: vec![identity],
        metrics: service.metrics().clone(),
    }
    .began_with(&bundle)?;
    service.task("certificates", move |stop| {
        folder.reload(SERVICE, users, stop)
    });
    process.start(service).await?;
    Ok(())
}
