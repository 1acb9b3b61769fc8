//! Tails the change log and tells the streams concerned. The doorbell makes it prompt, the jittered
//! poll makes it certain; the store's positions make it gapless. A log that no longer reaches back
//! means that everybody looks for themselves.

use std::{sync::Arc, time::Duration};

use rand::RngExt;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};
use vpnpanel_domain::{TenantId, UserId};
use vpnpanel_link::Revision;
use vpnpanel_store::{Change, ChangeKind, LogPosition, Store, StoreError};

use crate::{allowances::Allowances, metrics::Metrics, stream::Hub};

/// Changes read by one query.
const PAGE: u32 = 1_000;

/// Reads the change log from where it stood when the process started: every stream looks at its
/// whole desired state once, when it opens.
#[derive(Debug)]
pub(crate) struct Tail {
    store: Store,
    hub: Arc<Hub>,
    allowances: Arc<Allowances>,
    metrics: Metrics,
    every: Duration,
    position: LogPosition,
    bell: watch::Receiver<u64>,
}

impl Tail {
    /// # Errors
    /// When the end of the log cannot be read.
    pub(crate) async fn new(
        store: Store,
        hub: Arc<Hub>,
        allowances: Arc<Allowances>,
        metrics: Metrics,
        every: Duration,
    ) -> Result<Self, StoreError> {
        let bell = store.doorbell();
        let position = store.log_tail().await?;
        Ok(Self {
            store,
            hub,
            allowances,
            metrics,
            every,
            position,
            bell,
        })
    }

    /// Runs until `stop`.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            match self.read_on().await {
                Ok(true) => continue,
                Ok(false) => {}
                Err(error) => {
                    warn!(event = "changes.unread", %error, "the change log could not be read");
                }
            }
            let wait = self.every.mul_f64(rand::rng().random_range(0.8..1.2));
            tokio::select! {
                () = stop.cancelled() => return,
                rung = self.bell.changed() => if rung.is_err() {
                    // the store is closing: only the poll is left
                    tokio::time::sleep(wait).await;
                },
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// One page; `true` when there may be more right now. The position moves on only when the
    /// streams have been told, so that an error loses nothing.
    async fn read_on(&mut self) -> Result<bool, StoreError> {
        // a ring that comes while reading is heard afterwards
        self.bell.mark_unchanged();
        let read = self.store.changes_since(self.position, PAGE).await?;
        let revision = Revision(read.position.revision());
        if read.truncated {
            warn!(
                event = "changes.truncated",
                "the change log no longer reaches back: every node is looked at"
            );
            self.hub.all_changed(revision);
        } else if !read.changes.is_empty() {
            let (commands, changes): (Vec<_>, Vec<_>) = read
                .changes
                .into_iter()
                .partition(|change| change.kind == ChangeKind::Command);
            // before the streams look, so that what they find is complete
            self.allowances.changed(&users(&changes)).await?;
            let nodes = self.store.nodes_concerned(&changes).await?;
            debug!(
                event = "changes.read",
                changes = changes.len(),
                commands = commands.len(),
                nodes = nodes.len(),
                revision = revision.get(),
                "changes read"
            );
            self.hub.changed(nodes, revision);
            self.hub
                .commands(commands.iter().filter_map(|change| change.node_id));
        }
        if read.position.revision() <= self.position.revision() && self.went_back().await? {
            return Ok(true);
        }
        self.position = read.position;
        self.metrics.read_up_to(revision.get());
        Ok(read.more)
    }

    /// A log that ends before what was read of it is that of an older database.
    async fn went_back(&mut self) -> Result<bool, StoreError> {
        let tail = self.store.log_tail().await?;
        if tail.revision() >= self.position.revision() {
            return Ok(false);
        }
        error!(
            event = "changes.went_back",
            read = self.position.revision(),
            end = tail.revision(),
            "the change log ends before what was read of it: every stream is opened anew"
        );
        self.hub.supersede_all();
        self.position = tail;
        Ok(true)
    }
}

/// The users that changed themselves, each once.
fn users(changes: &[Change]) -> Vec<(TenantId, UserId)> {
    let mut users: Vec<_> = changes
        .iter()
        .filter(|change| change.kind == ChangeKind::User)
        .filter_map(|change| change.tenant_id.zip(change.user_id))
        .collect();
    users.sort_unstable();
    users.dedup();
    users
}
