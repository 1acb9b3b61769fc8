//! Looks now and then where the installation stands with restores of older databases. Streams that
//! the database does not know (any more) end; while the barrier is up it shows in the metrics; when
//! it has come down, every node is told what it may have.

use std::{sync::Arc, time::Duration};

use rand::RngExt;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use vpnpanel_link::{Generation, StateEpoch};
use vpnpanel_store::{RestoreLook, Store, StoreError};

use crate::{metrics::Metrics, stream::Hub};

/// Between two looks.
const EVERY: Duration = Duration::from_secs(2);

/// Streams looked up by one query.
const CHUNK: usize = 1_000;

/// Watches for one process.
#[derive(Debug)]
pub(crate) struct Watch {
    pub(crate) store: Store,
    pub(crate) hub: Arc<Hub>,
    pub(crate) metrics: Metrics,
}

/// What the last look has found.
#[derive(Debug, Default)]
struct Seen {
    held: bool,
    /// The database could not be reached.
    away: bool,
    epoch: Option<StateEpoch>,
}

impl Watch {
    /// Looks until `stop`.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut seen = Seen::default();
        loop {
            if let Err(error) = self.look(&mut seen).await {
                seen.away |= matches!(error, StoreError::Unavailable(_));
                warn!(event = "restore.unread", %error, "it could not be read whether the database was restored");
            }
            let wait = EVERY.mul_f64(rand::rng().random_range(0.8..1.2));
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    async fn look(&self, seen: &mut Seen) -> Result<(), StoreError> {
        let streams = self.hub.generations();
        let mut chunks = streams.chunks(CHUNK);
        let first = chunks.next().unwrap_or_default();
        let look = self.look_at(first).await?;
        for chunk in chunks {
            self.look_at(chunk).await?;
        }
        if std::mem::take(&mut seen.away) {
            // It may be another one than before: each node says what it knows of it.
            info!(
                event = "restore.database_back",
                "the database was away: streams are opened anew"
            );
            self.hub.renew_all();
        }
        let since = look.held_since_ms;
        let open_ms = since.map_or(0, |since| {
            self.store.now_ms().saturating_sub(since).max(1_000)
        });
        self.metrics.restore(open_ms / 1_000, look.awaited);
        if since.is_some() && seen.epoch != Some(look.state_epoch) {
            warn!(
                event = "restore.barrier",
                state_epoch = look.state_epoch.get(),
                awaited = look.awaited,
                "the database was restored: nothing is granted until every node has reported or was \
                 written off (GetRestore)"
            );
        }
        seen.epoch = Some(look.state_epoch);
        if std::mem::replace(&mut seen.held, since.is_some()) && since.is_none() {
            let nodes = self.hub.generations();
            self.hub.allowances(nodes.into_iter().map(|(node, _)| node));
        }
        Ok(())
    }

    /// Ends streams that are not their node's newest, and those that have reported to what was lost.
    async fn look_at(
        &self,
        streams: &[(vpnpanel_domain::NodeId, Generation)],
    ) -> Result<RestoreLook, StoreError> {
        let nodes: Vec<_> = streams.iter().map(|(node, _)| *node).collect();
        let look = self.store.look_at_restore(&nodes).await?;
        let floor = look.state_epoch.floor();
        for (node, here) in streams {
            let known = look.streams.iter().find(|(known, _, _)| known == node);
            match known {
                Some((_, newest, awaited)) if newest == here && here.get() >= floor => {
                    if *awaited {
                        self.hub.awaited(*node);
                    }
                }
                _ => self.hub.supersede(*node, *here),
            }
        }
        Ok(look)
    }
}
