//! The agent as a service: what it is made of.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tonic::service::Routes;
use vpnpanel_api::agent::v1::GetStatusResponse;
use vpnpanel_link::agent::Settings as MachineSettings;
use vpnpanel_link::{EngineKind, Entropy as _, MAX_OPEN_COMMANDS, SpoolId};
use vpnpanel_runtime::clock::Clock;
use vpnpanel_runtime::tls::{ClientTls, Dialer, ServerTls};
use vpnpanel_runtime::{Grpc, PeerIdentity, Service};

use crate::driver::{AgentMetrics, Driver, Link, Plane, StatusFacts, SystemEntropy};
use crate::engine::{MOST_PACED, WireGuardEngine, WireGuardOptions, XrayEngine, XrayOptions};
use crate::enrollment::{EnrollmentError, Identity, enroll, is_asked_again};
use crate::renewal::{Renewal, Users};
use crate::spool::{Spool, SpoolError};
use crate::{Settings, control, host};

/// Limited users of Xray are cut when its counters could not be read for so long.
const PATIENCE: Duration = Duration::from_secs(15);

const LONGEST_RETRY: Duration = Duration::from_secs(30);

/// Why the agent did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The host is not a node, or did not become one.
    #[error(transparent)]
    Enrollment(#[from] EnrollmentError),
    /// The disk.
    #[error(transparent)]
    Spool(#[from] SpoolError),
    /// The host lacks something.
    #[error(transparent)]
    Host(#[from] crate::Error),
    /// Certificates that do not fit.
    #[error(transparent)]
    Tls(#[from] vpnpanel_runtime::tls::TlsError),
    /// Reflection cannot be served.
    #[error(transparent)]
    Reflection(#[from] vpnpanel_runtime::reflection::ReflectionError),
    /// The endpoint that enrolment gave.
    #[error("{0:?} is no address of a node link: set VPNPANEL_LINK_ADDRESS to host:port")]
    LinkAddress(String),
}

impl vpnpanel_runtime::process::Fault for StartError {}

/// The identity of this host: kept, or got with the join token. A host that is a node already spends
/// a new token too, so that it can enrol again, and stays what it is where that fails. A control plane
/// that cannot be reached yet is tried again.
///
/// # Errors
/// No identity and no token, a token that is refused, a folder that cannot be written.
pub async fn identity(settings: &Settings) -> Result<Identity, StartError> {
    let mut delay = Duration::from_secs(1);
    loop {
        let kept = Identity::load(&settings.data_dir, &settings.trust_domain)?;
        let kept = match kept {
            Some(kept) if !is_asked_again(&kept, &settings.enrollment) => return Ok(kept),
            kept => kept,
        };
        match enroll(
            &settings.data_dir,
            &settings.enrollment,
            &settings.trust_domain,
        )
        .await
        {
            Ok(identity) => {
                tracing::info!(event = "enrolled", node_id = %identity.node, "this host is a node");
                return Ok(identity);
            }
            Err(error) if kept.is_some() => {
                tracing::warn!(event = "enrolment_refused", %error,
                    "the host stays the node that it is");
                if let Some(kept) = kept {
                    return Ok(kept);
                }
            }
            Err(error) if error.is_temporary() => {
                tracing::warn!(event = "enrolment_delayed", %error, retry_in = ?delay);
                tokio::time::sleep(delay).await;
                delay = (delay * 2).min(LONGEST_RETRY);
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Builds the agent of an enrolled host.
///
/// # Errors
/// What the host lacks, a spool that cannot be opened, an identity that cannot be used.
pub async fn build(settings: Settings, identity: Identity) -> Result<Service, StartError> {
    host::preflight()?;
    let mut service = Service::new("node-agent");
    service.admin(settings.admin_listen);
    service
        .metrics()
        .certificate_expiry("control", identity.not_after_unix);

    let path = settings.data_dir.join("spool.redb");
    let mut name = [0; 16];
    SystemEntropy.fill(&mut name);
    let spool = Arc::new(Spool::of_node(&path, identity.node, SpoolId(name))?);
    let engine = WireGuardEngine::new(WireGuardOptions {
        identity: identity.node.to_string().into_bytes(),
        folder: settings.data_dir.clone(),
        force_userspace: false,
        kernel_quota: settings.kernel_quota,
        most_paced: MOST_PACED,
    });
    let xray = XrayEngine::new(XrayOptions {
        identity: identity.node.to_string().into_bytes(),
        folder: settings.data_dir.join("xray"),
        program: settings.xray.clone(),
        patience: PATIENCE,
    });
    let clock = Clock::system();
    let (status, answers) = watch::channel(GetStatusResponse::default());
    let (asked, commands) = mpsc::channel(MAX_OPEN_COMMANDS);
    let users = Users {
        link: ClientTls::new(&identity.trust_bundle, Some(identity.credentials.clone()))?,
        control: ServerTls::mutual(
            identity.credentials.clone(),
            &identity.trust_bundle,
            settings.trust_domain.clone(),
        )?,
        metrics: service.metrics().clone(),
    };
    let tls = users.control.clone();
    let driver = Driver {
        settings: machine_settings(settings.kernel_quota),
        spool,
        plane: Plane::new(Arc::new(engine)).with_xray(xray),
        link: link(&settings, &identity, users.link.clone())?,
        facts: StatusFacts {
            node: identity.node,
            started_unix: clock.unix_millis() / 1000,
            not_after_unix: identity.not_after_unix,
        },
        renewal: Renewal::new(
            identity,
            settings.data_dir.clone(),
            settings.trust_domain.clone(),
            settings.enrollment.url.clone(),
            users,
            clock.clone(),
        ),
        clock,
        status,
        commands,
        metrics: AgentMetrics::register(service.metrics()),
    };
    service.task("link", move |stop| driver.run(stop));

    let routes = Routes::new(control::server(answers, asked));
    service.grpc(
        "control",
        Grpc::new(routes)
            .reflection()?
            .listen(settings.listen)
            .tls(tls),
    );
    Ok(service)
}

/// Dials the collector's identity, wherever it is.
fn link(settings: &Settings, identity: &Identity, tls: ClientTls) -> Result<Link, StartError> {
    let given = settings
        .link_address
        .as_ref()
        .unwrap_or(&identity.link_endpoint);
    let address = given
        .trim_start_matches("https://")
        .trim_end_matches('/')
        .to_owned();
    let named = |_| StartError::LinkAddress(given.clone());
    address
        .parse::<tonic::codegen::http::uri::Authority>()
        .map_err(named)?;
    let collector = PeerIdentity::control_plane("collector")
        .map_err(|_| StartError::LinkAddress(given.clone()))?;
    let dialer = Dialer::new(tls, collector, settings.trust_domain.clone())?;
    Ok(Link { dialer, address })
}

fn machine_settings(kernel_quota: bool) -> MachineSettings {
    let mut capabilities = EngineKind::ALL
        .map(|kind| kind.as_str().to_owned())
        .to_vec();
    if kernel_quota {
        capabilities.push("kernel-quota".to_owned());
    }
    MachineSettings {
        agent_version: vpnpanel_runtime::VERSION.to_owned(),
        capabilities,
        host_boot: host_boot(),
        ..MachineSettings::default()
    }
}

/// The kernel's boot id; a host without one counts as booted anew at each start of the agent, which
/// makes its times cautious and nothing else.
fn host_boot() -> [u8; 16] {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    uuid::Uuid::parse_str(text.trim()).map_or_else(
        |_| {
            let mut drawn = [0; 16];
            SystemEntropy.fill(&mut drawn);
            drawn
        },
        uuid::Uuid::into_bytes,
    )
}
