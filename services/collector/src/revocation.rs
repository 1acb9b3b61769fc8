//! Cuts live streams whose certificate is no longer on the allow-list: revoked, replaced, or of a node
//! that was deleted or disabled. The handshake checks the same; this is for those already inside.

use std::{sync::Arc, time::Duration};

use rand::RngExt;
use tokio_util::sync::CancellationToken;
use tracing::warn;
use vpnpanel_store::{Store, StoreError};

use crate::stream::Hub;

/// Serials looked up by one query.
const CHUNK: usize = 1_000;

/// Looks until `stop`, every so often with jitter.
pub(crate) async fn watch(store: Store, hub: Arc<Hub>, every: Duration, stop: CancellationToken) {
    loop {
        let wait = every.mul_f64(rand::rng().random_range(0.8..1.2));
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
        if let Err(error) = look(&store, &hub).await {
            warn!(
                event = "revocation.unread",
                %error,
                "certificates of live streams could not be checked"
            );
        }
    }
}

async fn look(store: &Store, hub: &Hub) -> Result<(), StoreError> {
    for streams in hub.serials().chunks(CHUNK) {
        let good = store
            .good_serials(streams.iter().map(|(_, serial)| &**serial))
            .await?;
        for (node, serial) in streams {
            if !good.contains(&**serial) {
                hub.refuse(
                    *node,
                    serial,
                    "it was replaced or revoked, or the node is disabled",
                );
            }
        }
    }
    Ok(())
}
