//! Certificates of nodes that come to their end without a renewal. Agents renew at half of a life, so
//! that there is time to find out why one does not. Certificates of the services are in the metric
//! `certificate_expiry_timestamp_seconds` of each.

use std::time::Duration;

use async_trait::async_trait;
use tracing::warn;

use super::{Job, Run};
use crate::error::Error;

const EVERY: Duration = Duration::from_secs(60);
/// Certificates that one transaction warns of.
const BATCH: u32 = 500;

/// Warns of certificates that should have been renewed, of each once.
#[derive(Debug)]
pub struct WatchCertificates;

#[async_trait]
impl Job for WatchCertificates {
    fn name(&self) -> &'static str {
        "watch-certificates"
    }

    fn description(&self) -> &'static str {
        "Warns of certificates of nodes that will end soon and were not renewed"
    }

    fn every(&self) -> Duration {
        EVERY
    }

    async fn run(&self, run: &Run<'_>) -> Result<u64, Error> {
        let mut warned = 0;
        while !run.cancelled.is_cancelled() {
            let overdue = run.store.overdue_certificates(run.lease, BATCH).await?;
            for certificate in &overdue {
                let left_ms = certificate.not_after_ms - run.store.now_ms();
                warn!(
                    event = "node.certificate_overdue",
                    node_id = %certificate.node_id,
                    hours_left = left_ms / 3_600_000,
                    "a node has not renewed its certificate: see whether its agent runs and reaches \
                     the control plane"
                );
            }
            let batch = overdue.len() as u64;
            warned += batch;
            run.metrics.effects(self.name(), batch);
            if batch < u64::from(BATCH) {
                break;
            }
        }
        Ok(warned)
    }
}
