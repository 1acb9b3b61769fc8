//! Everything in one process: services call each other's routers directly, through the same layers
//! as over a socket, and listen on their public ports all the same.

use std::sync::Arc;

use vpnpanel_collector::Dependencies;
use vpnpanel_control_api::{Access, AccessArgs, ControlApiSettings};
use vpnpanel_gateway::{GatewaySettings, Upstream, Upstreams};
use vpnpanel_runtime::PeerIdentity;
use vpnpanel_runtime::clock::Clock;
use vpnpanel_runtime::process::Process;
use vpnpanel_runtime::rpc::InProcess;
use vpnpanel_runtime::settings::ProcessSettings;
use vpnpanel_runtime::tls::TrustBundle;
use vpnpanel_scheduler::SigningKeys;

use crate::certificates::{Maker, Users};
use crate::error::Error;
use crate::installation::Installation;
use crate::local_node::{self, LocalNode, LocalNodeSettings};
use crate::settings::{CertificateLogSettings, InstallationSettings};
use crate::welcome::{self, Welcome};

/// Settings of all services, of the installation, and of the node on this host.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) process: ProcessSettings,
    #[command(flatten)]
    installation: InstallationSettings,
    #[command(flatten)]
    local_node: LocalNodeSettings,
    #[command(flatten)]
    control_api: ControlApiSettings,
    #[command(flatten)]
    certificate_log: CertificateLogSettings,
    #[command(flatten)]
    access: AccessArgs,
    #[command(flatten)]
    collector: vpnpanel_collector::Settings,
    #[command(flatten)]
    scheduler: vpnpanel_scheduler::Settings,
    #[command(flatten)]
    gateway: GatewaySettings,
}

pub(crate) async fn run(args: Args, process: &mut Process) -> Result<(), Error> {
    let installation = Installation::open(&args.installation).await?;
    installation.store.migrate().await?;
    let vault = installation.vault();
    let authority = installation.authority().await?;
    let tokens = &args.control_api.tokens;
    let access = Access::shared(&args.access, tokens, &installation.store, &vault).await?;
    let trusted_proxies = args.gateway.trusted_proxies();
    let enrollment_url = args.control_api.enrollment_url.clone();
    let ca_pin = authority.signer.pin();
    let maker = Maker {
        authority: authority.signer.clone(),
        trust: TrustBundle::new(authority.signer.trust_bundle())?,
        clock: Clock::system(),
    };

    let (own, own_due_ms) = maker.make("control-api")?;
    let node_tls = own.client()?;

    // Before the first administrator is made: a start that is refused makes none.
    vpnpanel_gateway::tls(&args.gateway)?;
    let mut control_api = vpnpanel_control_api::build(
        ControlApiSettings {
            trusted_proxies: trusted_proxies.clone(),
            ..args.control_api
        },
        vpnpanel_control_api::Parts {
            store: installation.store.clone(),
            vault: vault.clone(),
            authority,
            certificates: args.certificate_log.open(&installation.data_dir)?,
            access: access.clone(),
            node_tls: Some(node_tls.clone()),
            tls: None,
            development: args.process.development,
        },
    )
    .await?;
    welcome::tell(control_api.first_administrator.as_ref());
    access.keep_in_touch(&mut control_api.service);
    control_api.service.task("certificate", {
        let maker = maker.clone();
        let users = Users {
            servers: Vec::new(),
            clients: vec![node_tls],
            metrics: control_api.service.metrics().clone(),
        }
        .began_with(&own)?;
        move |stop| maker.renew("control-api", own_due_ms, users, stop)
    });
    let api = control_api
        .service
        .router("api")
        .ok_or(Error::NoRouter("control-api"))?;

    let (bundle, due_ms) = maker.make("collector")?;
    let (link_tls, enrolment_tls) = (
        bundle.mutual(installation.trust_domain.clone())?,
        bundle.server_only()?,
    );
    let mut collector = vpnpanel_collector::build(
        args.collector,
        Dependencies {
            store: installation.store.clone(),
            sealer: installation.sealer.clone(),
            guard: access.guard(),
            signer: InProcess::of(api.clone(), PeerIdentity::control_plane("collector")?),
            link_tls: link_tls.clone(),
            reflection: Some(access.guard().layer(args.process.development)),
            enrolment_tls: enrolment_tls.clone(),
        },
    )
    .await?;
    let users = Users {
        servers: vec![link_tls, enrolment_tls],
        clients: Vec::new(),
        metrics: collector.metrics().clone(),
    }
    .began_with(&bundle)?;
    collector.task("certificates", move |stop| {
        maker.renew("collector", due_ms, users, stop)
    });

    let scheduler = vpnpanel_scheduler::build(
        vpnpanel_scheduler::Settings {
            trusted_proxies,
            ..args.scheduler
        },
        installation.store.clone(),
        access.guard(),
        SigningKeys {
            make: Arc::new(vault.clone()),
            overlap: access.key_overlap(),
        },
        args.process.development,
    )
    .await?;
    let jobs = scheduler
        .router("api")
        .ok_or(Error::NoRouter("scheduler"))?;
    let upstreams = Upstreams::new(Upstream::new(InProcess::anonymous(api))).with_package(
        "vpnpanel.scheduler",
        Upstream::new(InProcess::anonymous(jobs)),
    );
    let gateway = vpnpanel_gateway::build(&args.gateway, vpnpanel_api::pool(), &upstreams)?;

    let local_node = local_node::build(
        &args.local_node,
        &installation,
        &vault,
        &enrollment_url,
        &ca_pin,
    )
    .await?;

    // They stop in the reverse order: the node reports its last usage, then the gateway closes, …
    let grpc = process.start(control_api.service).await?.of("api");
    process.start(collector).await?;
    process.start(scheduler).await?;
    let panel = process.start(gateway).await?.of("rest");
    let node = match local_node {
        LocalNode::Runs(service) => {
            process.start(*service).await?;
            "runs".to_owned()
        }
        LocalNode::Hint(hint) => hint,
    };
    Welcome {
        panel,
        https: args.gateway.tls_certificate.is_some(),
        grpc,
        data: installation.data_dir.display().to_string(),
        node,
    }
    .print();
    Ok(())
}
