//! The node link in a process of its own.

use std::time::Duration;

use vpnpanel_collector::Dependencies;
use vpnpanel_control_api::{Access, AccessArgs, TokenArgs};
use vpnpanel_runtime::PeerIdentity;
use vpnpanel_runtime::process::Process;
use vpnpanel_runtime::settings::ProcessSettings;
use vpnpanel_runtime::tls::Dialer;

use crate::certificates::{Folder, Users};
use crate::error::Error;
use crate::installation::Installation;
use crate::settings::InstallationSettings;

const SERVICE: &str = "collector";

/// Settings of the process.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) process: ProcessSettings,
    #[command(flatten)]
    installation: InstallationSettings,
    #[command(flatten)]
    collector: vpnpanel_collector::Settings,
    #[command(flatten)]
    tokens: TokenArgs,
    #[command(flatten)]
    access: AccessArgs,

    /// Where control-api answers services of the control plane, host:port.
    #[arg(
        long,
        env = "VPNPANEL_SIGNER_ADDRESS",
        default_value = "127.0.0.1:50055",
        value_name = "ADDRESS"
    )]
    signer_address: String,
}

pub(crate) async fn run(args: Args, process: &mut Process) -> Result<(), Error> {
    let installation = Installation::open(&args.installation).await?;
    installation.wait_for_schema().await?;
    let folder = Folder::of(&installation.data_dir);
    let bundle = folder.wait_for(SERVICE).await?;
    let domain = installation.trust_domain.clone();
    let (link_tls, enrolment_tls, client) = (
        bundle.mutual(domain.clone())?,
        bundle.server_only()?,
        bundle.client()?,
    );
    let vault = installation.vault();
    let access = Access::shared(&args.access, &args.tokens, &installation.store, &vault).await?;
    let signer = Dialer::new(
        client.clone(),
        PeerIdentity::control_plane("control-api")?,
        domain,
    )?
    .channel(&args.signer_address, |endpoint| {
        endpoint
            .http2_keep_alive_interval(Duration::from_secs(30))
            .keep_alive_timeout(Duration::from_secs(10))
            .timeout(Duration::from_secs(30))
    })?;
    let mut service = vpnpanel_collector::build(
        args.collector,
        Dependencies {
            store: installation.store.clone(),
            sealer: installation.sealer.clone(),
            guard: access.guard(),
            signer,
            link_tls: link_tls.clone(),
            reflection: Some(access.guard().layer(args.process.development)),
            enrolment_tls: enrolment_tls.clone(),
        },
    )
    .await?;
    access.keep_in_touch(&mut service);
    let users = Users {
        servers: vec![link_tls, enrolment_tls],
        clients: vec![client],
        metrics: service.metrics().clone(),
    }
    .began_with(&bundle)?;
    service.task("certificates", move |stop| {
        folder.reload(SERVICE, users, stop)
    });
    process.start(service).await?;
    Ok(())
}
