//! WireGuard as an engine. The tunnel is the kernel's, or wireguard-go's where the kernel has
//! none; who may pass, how much, and what is billed is nf_tables' ([`crate::nft`]). WireGuard's
//! own counters are not used: they count outer bytes, keepalives and dropped packets, and
//! restart with it.

mod allowance;
mod cordon;
mod core;
mod device;
mod genl;
mod kernel;
mod names;
mod pacing;
mod uapi;
mod userspace;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use vpnpanel_domain::{InboundId, PeerId, UserId};

pub use allowance::QUOTA_SLACK;
pub use pacing::MOST_PACED;

use self::core::Core;
use self::pacing::Pacing;
use super::cordon::Reason;
use super::{Capabilities, Engine, Inbound, Incarnation, Listed, PeerOp, Reading, Session, Status};
use crate::Error;

const KIND: &str = "wireguard";

/// Which inbounds run.
#[derive(Debug)]
pub struct Running {
    /// The incarnation of the counters.
    pub incarnation: Incarnation,
    /// Inbounds that could not be brought up, and why.
    pub failed: Vec<(InboundId, Error)>,
}

/// How the engine is set up on its host.
#[derive(Debug, Clone)]
pub struct WireGuardOptions {
    /// What tells this agent from others on the host and stays the same: its node id or data
    /// folder. Names of interfaces and of the table come from it.
    pub identity: Vec<u8>,
    /// For the logs of wireguard-go.
    pub folder: PathBuf,
    /// Use wireguard-go even where the kernel has WireGuard.
    pub force_userspace: bool,
    /// The kernel cuts users at their allowances; otherwise they are cut when counters are read.
    pub kernel_quota: bool,
    /// Users that are held back to their speed by classes, and not by drops alone: at most
    /// [`MOST_PACED`].
    pub most_paced: usize,
}

/// The WireGuard engine. Its operations block for milliseconds, on tokio's threads for that.
#[derive(Debug, Clone)]
pub struct WireGuardEngine {
    core: Arc<Mutex<Core>>,
    kernel_quota: bool,
}

impl WireGuardEngine {
    /// An engine that has touched nothing yet.
    pub fn new(options: WireGuardOptions) -> Self {
        let names = names::Names::new(&options.identity);
        let kernel_quota = options.kernel_quota;
        let pacing = Pacing::new(&names, options.most_paced.min(MOST_PACED));
        let core = Core::new(names, options, pacing);
        Self {
            core: Arc::new(Mutex::new(core)),
            kernel_quota,
        }
    }

    /// Takes everything of this engine off the host, also what it has counted.
    ///
    /// # Errors
    /// What the host refuses.
    pub async fn destroy(&self) -> Result<(), Error> {
        self.with(Core::destroy).await?
    }

    async fn with<R: Send + 'static>(
        &self,
        function: impl FnOnce(&mut Core) -> R + Send + 'static,
    ) -> Result<R, Error> {
        let core = Arc::clone(&self.core);
        let work = move || {
            // State changes only after the host accepted them: a panic leaves nothing torn that
            // the next reconciliation would not see.
            function(&mut core.lock().unwrap_or_else(PoisonError::into_inner))
        };
        tokio::task::spawn_blocking(work)
            .await
            .map_err(|_| Error::Stopped)
    }
}

#[async_trait]
impl Engine for WireGuardEngine {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            kind: KIND,
            kernel_quota: self.kernel_quota,
            counts_delivered_only: true,
        }
    }

    async fn ensure_running(&self, inbounds: Vec<Inbound>) -> Result<Running, Error> {
        self.with(|core| core.ensure_running(inbounds)).await?
    }

    async fn apply(&self, ops: Vec<PeerOp>) -> Vec<Result<(), Error>> {
        let count = ops.len();
        self.with(|core| core.apply(ops))
            .await
            .unwrap_or_else(|_| (0..count).map(|_| Err(Error::Stopped)).collect())
    }

    async fn list(&self) -> Result<Vec<Listed>, Error> {
        self.with(|core| core.list()).await?
    }

    async fn read_counters(&self) -> Result<Reading, Error> {
        self.with(Core::read_counters).await?
    }

    async fn set_blocked(&self, peers: Vec<PeerId>, blocked: bool) -> Result<(), Error> {
        self.with(move |core| core.set_blocked(&peers, blocked))
            .await?
    }

    async fn set_allowances(&self, remainders: Vec<(UserId, u64)>) -> Result<(), Error> {
        self.with(move |core| core.set_allowances(&remainders))
            .await?
    }

    async fn sessions(&self) -> Result<Vec<Session>, Error> {
        self.with(Core::sessions).await?
    }

    async fn stop(&self) -> Result<(), Error> {
        self.with(Core::stop).await?
    }

    async fn set_cordoned(&self, on: bool) -> Result<(), Error> {
        self.with(move |core| core.cordon(Reason::Command, on))
            .await?
    }

    async fn set_draining(&self, on: bool) -> Result<(), Error> {
        self.with(move |core| core.cordon(Reason::Desired, on))
            .await?
    }

    async fn status(&self) -> Status {
        match self.with(|core| core.status()).await {
            Ok(status) => status,
            Err(error) => Status {
                kind: KIND,
                version: KIND.to_owned(),
                problem: Some(error.to_string()),
                shortfall: None,
                peers: 0,
                incarnation: None,
            },
        }
    }
}
