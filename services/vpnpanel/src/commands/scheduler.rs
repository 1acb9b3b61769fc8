//! The periodic jobs in a process of their own.

use std::sync::Arc;

use vpnpanel_control_api::{Access, AccessArgs, TokenArgs};
use vpnpanel_runtime::process::Process;
use vpnpanel_runtime::settings::{ListenAddr, ProcessSettings};
use vpnpanel_scheduler::SigningKeys;

use crate::certificates::{Folder, Users};
use crate::error::Error;
use crate::installation::Installation;
use crate::settings::{InstallationSettings, ProxySettings};

const SERVICE: &str = "scheduler";

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
    #[command(flatten)]
    access: AccessArgs,
    #[command(flatten)]
    proxies: ProxySettings,

    /// Where services of the control plane call the scheduler by their certificates (mutual TLS);
    /// nowhere when unset. The other listener is for people, and for a gateway on the same host.
    #[arg(
        long,
        env = "VPNPANEL_SCHEDULER_SERVICES_LISTEN",
        value_name = "ADDRESS"
    )]
    services_listen: Option<ListenAddr>,
}

pub(crate) async fn run(args: Args, process: &mut Process) -> Result<(), Error> {
    let installation = Installation::open(&args.installation).await?;
    installation.wait_for_schema().await?;
    let store = installation.store.clone();
    let vault = installation.vault();
    let access = Access::shared(&args.access, &args.tokens, &store, &vault).await?;
    let settings = vpnpanel_scheduler::Settings {
        trusted_proxies: args.proxies.trusted(),
        ..args.scheduler
    };
    let keys = SigningKeys {
        make: Arc::new(vault),
        overlap: access.key_overlap(),
    };
    let development = args.process.development;
    let mut service =
        vpnpanel_scheduler::build(settings, store, access.guard(), keys, development).await?;
    access.keep_in_touch(&mut service);
    if let Some(address) = args.services_listen {
        let folder = Folder::of(&installation.data_dir);
        let bundle = folder.wait_for(SERVICE).await?;
        let tls = bundle.services(installation.trust_domain.clone())?;
        if !service.listen_also("services", "api", address, tls.clone()) {
            return Err(Error::NoRouter(SERVICE));
        }
        let users = Users {
            servers: vec![tls],
            clients: Vec::new(),
            metrics: service.metrics().clone(),
        }
        .began_with(&bundle)?;
        service.task("certificates", move |stop| {
            folder.reload(SERVICE, users, stop)
        });
    }
    process.start(service).await?;
    Ok(())
}
