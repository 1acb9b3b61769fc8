//! How the fleet is, in the metrics of each replica: whoever is asked says the same, whichever of them
//! runs a job.

use std::time::Duration;

use rand::RngExt;
use tokio_util::sync::CancellationToken;
use tracing::warn;
use vpnpanel_store::Store;

use crate::metrics::FleetMetrics;

/// Between two looks.
const EVERY: Duration = Duration::from_secs(15);

/// Looks until `stop`.
pub(crate) async fn watch(store: Store, metrics: FleetMetrics, stop: CancellationToken) {
    loop {
        match store.fleet_figures().await {
            Ok(figures) => metrics.show(&figures),
            Err(error) => {
                warn!(event = "fleet.unread", %error, "it could not be read how nodes are");
            }
        }
        let wait = EVERY.mul_f64(rand::rng().random_range(0.8..1.2));
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
    }
}
