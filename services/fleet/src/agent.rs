//! A simulated node: the agent's own driver, stream, spool and machine around a made-up data plane.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use vpnpanel_api::agent::v1::GetStatusResponse;
use vpnpanel_domain::NodeId;
use vpnpanel_link::agent::Settings as MachineSettings;
use vpnpanel_node_agent::driver::{AgentMetrics, Driver, Link, Plane, StatusFacts};
use vpnpanel_node_agent::enrollment::{EnrollmentError, Identity};
use vpnpanel_node_agent::renewal::{Renewal, Users};
use vpnpanel_node_agent::spool::SpoolError;
use vpnpanel_runtime::clock::Clock;
use vpnpanel_runtime::metrics::Metrics;
use vpnpanel_runtime::tls::{ClientTls, Dialer, ServerTls};
use vpnpanel_runtime::{PeerIdentity, TrustDomain};

use crate::disk::Disk;
use crate::engine::SyntheticEngine;
use crate::error::Error;
use crate::relay::{Line, Relay};

/// A node: what outlives its agent, and the agent.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) pool: u32,
    pub(crate) engine: Arc<SyntheticEngine>,
    disk: Disk,
    /// Where its identity is kept.
    data: PathBuf,
    link: String,
    relay: Option<Relay>,
    host_boot: [u8; 16],
    life: Mutex<Option<Life>>,
}

/// An agent that runs.
#[derive(Debug)]
struct Life {
    alive: Arc<AtomicBool>,
    metrics: AgentMetrics,
    stop: CancellationToken,
    task: JoinHandle<Result<(), SpoolError>>,
}

impl Node {
    pub(crate) fn new(
        id: NodeId,
        pool: u32,
        engine: Arc<SyntheticEngine>,
        disk: Disk,
        data: PathBuf,
        link: String,
        relay: Option<Relay>,
    ) -> Self {
        Self {
            id,
            pool,
            engine,
            disk,
            data,
            link,
            relay,
            host_boot: rand::random(),
            life: Mutex::new(None),
        }
    }

    /// Starts the agent from its disk.
    pub(crate) async fn start(&self) -> Result<(), Error> {
        let domain = TrustDomain::default();
        let identity = Identity::load(&self.data, &domain)?.ok_or(EnrollmentError::NotEnrolled)?;
        let credentials = &identity.credentials;
        let users = Users {
            link: ClientTls::new(&identity.trust_bundle, Some(credentials.clone()))?,
            control: ServerTls::server_only(credentials.clone())?,
            metrics: Metrics::new("node-agent"),
        };
        let collector = PeerIdentity::control_plane("collector")?;
        let dialer = Dialer::new(users.link.clone(), collector, domain.clone())?;
        let alive = Arc::new(AtomicBool::new(true));
        let spool = self.disk.open(Arc::clone(&alive)).await?;
        let clock = Clock::system();
        let metrics = AgentMetrics::default();
        let relay = self.relay.as_ref();
        let driver = Driver {
            settings: MachineSettings {
                agent_version: vpnpanel_runtime::VERSION.to_owned(),
                capabilities: vec!["wireguard".to_owned(), "kernel-quota".to_owned()],
                host_boot: self.host_boot,
                ..MachineSettings::default()
            },
            spool: Arc::new(spool),
            plane: Plane::new(Arc::clone(&self.engine) as _),
            link: Link {
                dialer,
                address: relay.map_or_else(|| self.link.clone(), |r| r.address.to_string()),
            },
            facts: StatusFacts {
                node: self.id,
                started_unix: clock.unix_millis() / 1000,
                not_after_unix: identity.not_after_unix,
            },
            renewal: Renewal::new(
                identity,
                self.data.clone(),
                domain,
                None,
                users,
                clock.clone(),
            ),
            clock,
            status: watch::Sender::new(GetStatusResponse::default()),
            // Nobody calls a simulated agent.
            commands: mpsc::channel(1).1,
            metrics: metrics.clone(),
        };
        let stop = CancellationToken::new();
        let task = tokio::spawn(Box::pin(driver.run(stop.clone())));
        *self.life() = Some(Life {
            alive,
            metrics,
            stop,
            task,
        });
        Ok(())
    }

    /// Kills the agent: nothing is said, nothing is written any more. The data plane goes on.
    pub(crate) fn kill(&self) {
        if let Some(life) = self.life().take() {
            life.alive.store(false, Ordering::SeqCst);
            life.task.abort();
        }
    }

    /// Lets the agent say goodbye.
    pub(crate) async fn stop(&self) {
        let life = self.life().take();
        if let Some(life) = life {
            life.stop.cancel();
            // It ends by itself: what waits is bounded.
            let _ended = life.task.await;
        }
    }

    pub(crate) fn is_connected(&self) -> bool {
        let life = self.life();
        life.as_ref()
            .is_some_and(|life| life.metrics.is_connected())
    }

    /// Breaks the line, or mends it.
    pub(crate) fn set_line(&self, line: Line) {
        if let Some(relay) = &self.relay {
            relay.set(line);
        }
    }

    fn life(&self) -> MutexGuard<'_, Option<Life>> {
        self.life.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}
