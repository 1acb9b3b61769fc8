//! What has changed for nodes that all wait for the same: it is read and encoded once for all of them.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use tokio_util::sync::CancellationToken;
use tracing::warn;
use vpnpanel_domain::NodeId;
use vpnpanel_link::{Generation, Revision};
use vpnpanel_pki::Sealer;
use vpnpanel_store::{ChangesWanted, DesiredChanges, Removals, Store, StoreError};

use super::snapshot;
use crate::{
    error::Error,
    gather::{Gathered, Gatherer, gatherer},
};

/// Nodes that are looked at together.
const TOGETHER: usize = 256;

/// What a node is told.
#[derive(Debug, Clone)]
pub(crate) enum Delta {
    /// What has changed, and nothing else.
    Changes {
        /// Up to where.
        revision: Revision,
        /// `wire::encode_delta` of it; `None` where nothing of it concerns the node.
        data: Option<Bytes>,
        /// How many users may go.
        removals: Removals,
    },
    /// The node is to be looked at by itself.
    Apart,
}

type Answer = Result<Delta, StoreError>;

/// The streams' end.
#[derive(Debug, Clone)]
pub(crate) struct Deltas(Gatherer<ChangesWanted, Answer>);

/// The end of the task that reads.
#[derive(Debug)]
pub(crate) struct Reader {
    wanted: Gathered<ChangesWanted, Answer>,
    store: Store,
    sealer: Arc<Sealer>,
}

impl Deltas {
    pub(crate) fn new(store: Store, sealer: Arc<Sealer>) -> (Self, Reader) {
        let (gatherer, wanted) = gatherer(TOGETHER, |_| 1);
        let reader = Reader {
            wanted,
            store,
            sealer,
        };
        (Self(gatherer), reader)
    }

    /// What has changed for a node since what it has was right.
    ///
    /// # Errors
    /// [`StoreError::StreamSuperseded`], [`Error::Stopping`], and those of the database.
    pub(super) async fn read(
        &self,
        node: NodeId,
        generation: Generation,
        since: Revision,
    ) -> Result<Delta, Error> {
        let wanted = ChangesWanted {
            node,
            generation,
            since,
        };
        Ok(self.0.submit(wanted).await??)
    }
}

impl Reader {
    /// Runs until `stop`.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let Self {
            wanted,
            store,
            sealer,
        } = self;
        let work = |wanted: Vec<ChangesWanted>| {
            let (store, sealer) = (store.clone(), Arc::clone(&sealer));
            async move {
                match store.desired_changes_together(&wanted).await {
                    Ok(read) => encode(read, &sealer),
                    Err(error) => vec![Err(error); wanted.len()],
                }
            }
        };
        wanted.run(stop, work).await;
    }
}

/// What several nodes share is encoded once.
fn encode(read: Vec<Result<Arc<DesiredChanges>, StoreError>>, sealer: &Sealer) -> Vec<Answer> {
    let mut encoded: HashMap<*const DesiredChanges, Delta> = HashMap::new();
    // `read` holds all of them until the end, so that no address is given to another meanwhile.
    read.iter()
        .map(|changes| {
            let changes = changes.as_ref().map_err(Clone::clone)?;
            let delta = encoded
                .entry(Arc::as_ptr(changes))
                .or_insert_with(|| delta(changes, sealer));
            Ok(delta.clone())
        })
        .collect()
}

fn delta(changes: &DesiredChanges, sealer: &Sealer) -> Delta {
    let DesiredChanges::Users {
        position,
        users,
        removed,
        removals,
    } = changes
    else {
        return Delta::Apart;
    };
    match snapshot::encode_changes(users.clone(), removed.clone(), sealer) {
        Ok(data) => Delta::Changes {
            revision: Revision(position.revision()),
            data,
            removals: *removals,
        },
        // Which node cannot be told, and why, shows where it is looked at by itself.
        Err(error) => {
            warn!(event = "changes.not_encoded", %error, "nodes are looked at one by one");
            Delta::Apart
        }
    }
}
