//! The management API in a process of its own. It brings the schema up to date, holds the
//! certificate authority, and provides the other services with their certificates.

use vpnpanel_control_api::{Access, AccessArgs, ControlApiSettings, Parts};
use vpnpanel_runtime::clock::Clock;
use vpnpanel_runtime::process::Process;
use vpnpanel_runtime::settings::{ListenAddr, ProcessSettings};
use vpnpanel_runtime::tls::TrustBundle;

use crate::certificates::{Folder, Maker, Users};
use crate::error::Error;
use crate::installation::Installation;
use crate::settings::{CertificateLogSettings, InstallationSettings, ProxySettings};
use crate::welcome::{self, Welcome};

/// Whom certificates are provided for.
const SERVICES: &[&str] = &["collector", "scheduler", "gateway"];

/// Settings of the process.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) process: ProcessSettings,
    #[command(flatten)]
    installation: InstallationSettings,
    #[command(flatten)]
    control_api: ControlApiSettings,
    #[command(flatten)]
    certificate_log: CertificateLogSettings,
    #[command(flatten)]
    access: AccessArgs,
    #[command(flatten)]
    proxies: ProxySettings,

    /// Where services of the control plane call the management API by their certificates (mutual
    /// TLS); the other listener is for people and the gateway.
    #[arg(
        long,
        env = "VPNPANEL_CONTROL_API_SERVICES_LISTEN",
        default_value = "127.0.0.1:50055",
        value_name = "ADDRESS"
    )]
    services_listen: ListenAddr,

    /// Bring the schema up to date at the start; otherwise wait until `vpnpanel migrate up` has.
    #[arg(
        long,
        env = "VPNPANEL_MIGRATE",
        default_value_t = true,
        action = clap::ArgAction::Set,
        value_name = "BOOL"
    )]
    migrate: bool,
}

pub(crate) async fn run(args: Args, process: &mut Process) -> Result<(), Error> {
    let installation = Installation::open(&args.installation).await?;
    if args.migrate {
        installation.store.migrate().await?;
    } else {
        installation.wait_for_schema().await?;
    }
    let vault = installation.vault();
    let authority = installation.authority().await?;
    let tokens = &args.control_api.tokens;
    let access = Access::shared(&args.access, tokens, &installation.store, &vault).await?;
    let maker = Maker {
        authority: authority.signer.clone(),
        trust: TrustBundle::new(authority.signer.trust_bundle())?,
        clock: Clock::system(),
    };

    let (bundle, due_ms) = maker.make("control-api")?;
    let node_tls = bundle.client()?;
    let parts = Parts {
        store: installation.store.clone(),
        vault,
        authority,
        certificates: args.certificate_log.open(&installation.data_dir)?,
        access: access.clone(),
        node_tls: Some(node_tls.clone()),
        tls: None,
        development: args.process.development,
    };
    let settings = ControlApiSettings {
        trusted_proxies: args.proxies.trusted(),
        ..args.control_api
    };
    let control_api = vpnpanel_control_api::build(settings, parts).await?;
    welcome::tell(control_api.first_administrator.as_ref());
    let mut service = control_api.service;
    access.keep_in_touch(&mut service);

    let tls = bundle.services(installation.trust_domain.clone())?;
    if !service.listen_also("services", "api", args.services_listen, tls.clone()) {
        return Err(Error::NoRouter("control-api"));
    }
    service.task("certificate", {
        let maker = maker.clone();
        let users = Users {
            servers: vec![tls],
            clients: vec![node_tls],
            metrics: service.metrics().clone(),
        }
        .began_with(&bundle)?;
        move |stop| maker.renew("control-api", due_ms, users, stop)
    });
    let folder = Folder::of(&installation.data_dir);
    service.task("certificates", move |stop| {
        maker.provide(folder, SERVICES, stop)
    });

    let grpc = process.start(service).await?.of("api");
    if control_api.first_administrator.is_some() {
        Welcome {
            grpc,
            data: installation.data_dir.display().to_string(),
            ..Welcome::default()
        }
        .print();
    }
    Ok(())
}
