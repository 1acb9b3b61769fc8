//! Usage as ingest writes it, for tests that are not about how it came.

use vpnpanel_domain::{MicroBytes, NodeId};
use vpnpanel_link::Bucket;
use vpnpanel_link::collector::ingest::{BucketCredit, Effects};

use super::TestStore;
use crate::ledger::first_use::Clocks;
use crate::ledger::write;
use crate::users::User;

impl TestStore {
    /// Writes that a node counted `bytes` each way for a user at `at_ms`.
    pub async fn count_usage(&self, user: &User, node: NodeId, at_ms: i64, bytes: u64) {
        let effects = Effects {
            buckets: vec![BucketCredit {
                tenant: user.tenant_id,
                user: user.id,
                period: user.period.id,
                node,
                bucket: Bucket::at(at_ms),
                up: bytes,
                down: bytes,
                billed: MicroBytes::from_bytes(2 * bytes),
            }],
            ..Effects::default()
        };
        let mut tx = self.store.begin().await.expect("a transaction");
        write::write(&mut tx, &effects, &Clocks::new())
            .await
            .expect("usage");
        tx.commit().await.expect("a commit");
    }
}
