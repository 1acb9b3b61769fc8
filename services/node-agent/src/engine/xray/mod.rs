//! Xray as an engine: VLESS, VMess, Trojan and Shadowsocks 2022 in a process of their own that
//! outlives the agent. Peers come and go while it runs; counters are its own, absolute, under an
//! incarnation that ends with the process. Limits are kept by polling, with a watchdog behind.

mod access_log;
mod api;
mod config;
mod connections;
mod core;
mod credit;
mod process;
mod types;
mod wall;
mod wire;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use vpnpanel_domain::{PeerId, UserId};

pub use types::{
    Protocol, Security, ShadowsocksMethod, Text, Transport, XrayInbound, XrayOp, XrayPeer,
    XraySession,
};

use self::core::Core;
use super::cordon::Reason;
use super::wireguard::Running;
use super::{Capabilities, Reading, Status};
use crate::Error;

const KIND: &str = "xray";
/// How often the watchdog looks.
const WATCH: Duration = Duration::from_secs(1);

/// How the engine is set up on its host.
#[derive(Debug, Clone)]
pub struct XrayOptions {
    /// What tells this agent from others on the host and stays the same: its node id or data
    /// folder. The name of the nftables table comes from it.
    pub identity: Vec<u8>,
    /// A folder of its own for the socket, the configuration and the logs.
    pub folder: PathBuf,
    /// The program; none looks for `xray` in PATH.
    pub program: Option<PathBuf>,
    /// Limited users are cut when the counters could not be read for so long.
    pub patience: Duration,
}

/// The Xray engine. Its operations block for milliseconds, on tokio's threads for that; one that
/// nobody waits for any more goes on to its end.
#[derive(Debug, Clone)]
pub struct XrayEngine {
    core: Arc<Mutex<Core>>,
}

impl XrayEngine {
    /// An engine that has touched nothing yet.
    pub fn new(options: XrayOptions) -> Self {
        Self {
            core: Arc::new(Mutex::new(Core::new(options))),
        }
    }

    /// What it can do.
    pub fn capabilities(&self) -> Capabilities {
        Capabilities {
            kind: KIND,
            kernel_quota: false,
            counts_delivered_only: false,
        }
    }

    /// Brings the inbounds up: starts Xray or adopts it, opens what is not open with the peers
    /// of it, reloads an inbound whose settings changed and closes those that are not named.
    /// Ends connections of whoever is not let in. Called before every poll.
    ///
    /// # Errors
    /// What the host lacks or refuses. An inbound that cannot be opened is named in the result,
    /// and the others are open.
    pub async fn ensure_running(&self, inbounds: Vec<XrayInbound>) -> Result<Running, Error> {
        self.with(async move |core| core.ensure_running(inbounds).await)
            .await?
    }

    /// Whether an Xray of this folder runs, of whichever agent. Starts nothing.
    ///
    /// # Errors
    /// When the engine stopped.
    pub async fn runs(&self) -> Result<bool, Error> {
        self.with(async |core| core.runs()).await
    }

    /// Takes up an Xray that runs just as it is, or starts one without inbounds. Somebody who does
    /// not know yet what should be open closes nothing so.
    ///
    /// # Errors
    /// What the host lacks or refuses.
    pub async fn adopt(&self) -> Result<(), Error> {
        self.with(async |core| core.adopt().await).await?
    }

    /// Adds, changes and removes peers; nobody else is disturbed. The results are in the order
    /// of the operations; asking for what is the case already succeeds.
    pub async fn apply(&self, ops: Vec<XrayOp>) -> Vec<Result<(), Error>> {
        let count = ops.len();
        self.with(async move |core| core.apply(ops).await)
            .await
            .unwrap_or_else(|_| (0..count).map(|_| Err(Error::Stopped)).collect())
    }

    /// The peers that were asked for or that Xray lets in, to reconcile with.
    ///
    /// # Errors
    /// Before the engine ran.
    pub async fn list(&self) -> Result<Vec<PeerId>, Error> {
        self.with(async |core| core.list()).await?
    }

    /// Reads all counters, also those of removed peers, and stops users whose allowance is used
    /// up.
    ///
    /// # Errors
    /// When they cannot be read, or their incarnation changed: there is no sample then, never a
    /// zero.
    pub async fn read_counters(&self) -> Result<Reading, Error> {
        self.with(async |core| core.read_counters().await).await?
    }

    /// Cuts these peers and keeps them out, or lets them in again. Their counters stay.
    ///
    /// # Errors
    /// What Xray or the host refuses; some of it may have been done then.
    pub async fn set_blocked(&self, peers: Vec<PeerId>, blocked: bool) -> Result<(), Error> {
        self.with(async move |core| core.set_blocked(&peers, blocked).await)
            .await?
    }

    /// Lets each of these limited users pass that many more bytes, both directions and all
    /// devices together, counted from the last reading that [`Self::read_counters`] returned.
    /// Zero stops the user. Users without a limit are ignored.
    ///
    /// # Errors
    /// What Xray or the host refuses.
    pub async fn set_allowances(&self, remainders: Vec<(UserId, u64)>) -> Result<(), Error> {
        self.with(async move |core| core.set_allowances(&remainders).await)
            .await?
    }

    /// Lets only those in who are there, or takes newcomers again, because somebody said so.
    ///
    /// # Errors
    /// What Xray or the host refuses; some of it may have been done then.
    pub async fn set_cordoned(&self, on: bool) -> Result<(), Error> {
        self.with(async move |core| core.cordon(Reason::Command, on).await)
            .await?
    }

    /// The same because the desired state says so; each holds by itself.
    ///
    /// # Errors
    /// As [`Self::set_cordoned`].
    pub async fn set_draining(&self, on: bool) -> Result<(), Error> {
        self.with(async move |core| core.cordon(Reason::Desired, on).await)
            .await?
    }

    /// Where peers are connected from, as of the last look.
    ///
    /// # Errors
    /// When the engine stopped.
    pub async fn sessions(&self) -> Result<Vec<XraySession>, Error> {
        self.with(async |core| core.sessions()).await
    }

    /// Ends Xray and every connection through it; [`Self::ensure_running`] starts it again.
    ///
    /// # Errors
    /// What the host refuses.
    pub async fn stop(&self) -> Result<(), Error> {
        self.with(async |core| core.stop()).await?
    }

    /// Ends Xray as [`Self::stop`] does, after everything that passed was counted: gives the last
    /// reading of its counters.
    ///
    /// # Errors
    /// When it does not answer, or what the host refuses; it may run then.
    pub async fn retire(&self) -> Result<Reading, Error> {
        self.with(async |core| core.retire().await).await?
    }

    /// Takes everything of this engine off the host.
    ///
    /// # Errors
    /// What the host refuses.
    pub async fn destroy(&self) -> Result<(), Error> {
        self.with(async |core| core.destroy()).await?
    }

    /// Cuts limited users whenever the counters could not be read for too long, until they are
    /// read again. Runs beside the polls for as long as they do.
    pub async fn watch(&self) {
        let mut ticks = tokio::time::interval(WATCH);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let result = self.with(async |core| core.watch().await).await;
            if let Err(error) | Ok(Err(error)) = result {
                tracing::error!(event = "watchdog_failed", %error, "limited users may not be cut");
            }
        }
    }

    /// How it is.
    pub async fn status(&self) -> Status {
        match self.with(async |core| core.status()).await {
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

    /// Runs an operation to its end on a thread that may block, with a runtime of its own: it
    /// does not end with its caller's.
    async fn with<R: Send + 'static>(
        &self,
        operation: impl AsyncFnOnce(&mut Core) -> R + Send + 'static,
    ) -> Result<R, Error> {
        let core = Arc::clone(&self.core);
        let work = move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(|_| Error::Stopped)?;
            // State changes only after Xray accepted it: a panic leaves nothing torn that the
            // next reconciliation would not see.
            let mut core = core.lock().unwrap_or_else(PoisonError::into_inner);
            Ok(runtime.block_on(operation(&mut core)))
        };
        tokio::task::spawn_blocking(work)
            .await
            .map_err(|_| Error::Stopped)?
    }
}
