//! Allowances outside of ingest: periods that have run dry on one node while others may hold idle
//! allowance are spread anew, a few times a second and all at once; the streams concerned then look up
//! what their nodes are to be told. What is told is in the database, so that any replica can tell it.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rand::RngExt;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::warn;
use vpnpanel_domain::{NodeId, PeriodId, TenantId, UserId};
use vpnpanel_link::{Generation, Grant, collector::Policy};
use vpnpanel_store::{AheadCursor, LEASES_AHEAD_MS, Store, StoreError};

use crate::stream::Hub;

/// Least time between two rounds.
const PAUSE: Duration = Duration::from_millis(250);

/// Most periods that wait; those that do not fit starve again with the next usage.
const WAITING: usize = 10_000;

/// How often periods that begin soon are looked for.
const LOOK_AHEAD: Duration = Duration::from_secs(60);

/// Opens and spreads leases.
#[derive(Debug)]
pub(crate) struct Allowances {
    store: Store,
    hub: Arc<Hub>,
    policy: Policy,
    starved: Mutex<BTreeSet<PeriodId>>,
    bell: Notify,
}

impl Allowances {
    pub(crate) fn new(store: Store, hub: Arc<Hub>, policy: Policy) -> Self {
        Self {
            store,
            hub,
            policy,
            starved: Mutex::default(),
            bell: Notify::new(),
        }
    }

    /// Notes periods that have run dry somewhere.
    pub(crate) fn starved(&self, periods: Vec<PeriodId>) {
        if periods.is_empty() {
            return;
        }
        let mut starved = self.starved.lock().unwrap_or_else(PoisonError::into_inner);
        let room = WAITING.saturating_sub(starved.len());
        starved.extend(periods.into_iter().take(room));
        drop(starved);
        self.bell.notify_one();
    }

    /// Spreads the periods of users whose limits may have changed.
    ///
    /// # Errors
    /// Those of the database.
    pub(crate) async fn changed(&self, users: &[(TenantId, UserId)]) -> Result<(), StoreError> {
        if users.is_empty() {
            return Ok(());
        }
        let grants = self.store.rebalance_users(users, &self.policy).await?;
        self.hub
            .allowances(grants.into_iter().map(|(node, _)| node));
        Ok(())
    }

    /// Everything that a node is to be told: leases that its users lack, those that are wanted back, and
    /// those whose newest version it has not answered.
    ///
    /// # Errors
    /// [`StoreError::StreamSuperseded`], and those of the database.
    pub(crate) async fn of_node(
        &self,
        node: NodeId,
        generation: Generation,
    ) -> Result<Vec<Grant>, StoreError> {
        while !self
            .store
            .open_leases(node, generation, &self.policy)
            .await?
            .is_empty()
        {}
        while self
            .store
            .ask_back_leases(node, generation, &self.policy)
            .await?
        {}
        self.store.unanswered_grants(node).await
    }

    /// Has leases opened of periods that begin soon, until `stop`: each user's once, when its time
    /// has come. Streams that open later, and users that change, are looked at anyway.
    pub(crate) async fn look_ahead(self: Arc<Self>, stop: CancellationToken) {
        let mut cursor = AheadCursor::behind(self.store.now_ms() + LEASES_AHEAD_MS);
        loop {
            let wait = LOOK_AHEAD.mul_f64(rand::rng().random_range(0.8..1.2));
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
            if let Err(error) = self.drained().await {
                // looked for again after the next pause
                warn!(
                    event = "leases.not_asked_back",
                    %error,
                    "nodes that take no new sessions could not be read"
                );
            }
            if let Err(error) = self.ahead(&mut cursor).await {
                // the cursor stands where it stood
                warn!(
                    event = "leases.not_ahead",
                    %error,
                    "periods that begin soon could not be read"
                );
            }
        }
    }

    /// What has come to lie idle on nodes that take no new sessions is asked back.
    async fn drained(&self) -> Result<(), StoreError> {
        self.hub.allowances(self.store.draining_nodes().await?);
        Ok(())
    }

    async fn ahead(&self, cursor: &mut AheadCursor) -> Result<(), StoreError> {
        let until_ms = self.store.now_ms() + LEASES_AHEAD_MS;
        loop {
            let ahead = self.store.nodes_ahead(*cursor, until_ms).await?;
            *cursor = ahead.cursor;
            self.hub.allowances(ahead.nodes);
            if !ahead.more {
                return Ok(());
            }
        }
    }

    /// Runs until `stop`.
    pub(crate) async fn run(self: Arc<Self>, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.bell.notified() => {}
            }
            let periods: Vec<PeriodId> = {
                let mut starved = self.starved.lock().unwrap_or_else(PoisonError::into_inner);
                std::mem::take(&mut *starved).into_iter().collect()
            };
            match self.store.rebalance_leases(&periods, &self.policy).await {
                Ok(grants) => self
                    .hub
                    .allowances(grants.into_iter().map(|(node, _)| node)),
                // they starve again with the next usage
                Err(error) => warn!(
                    event = "leases.not_spread",
                    %error,
                    periods = periods.len(),
                    "allowances could not be spread anew"
                ),
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(PAUSE) => {}
            }
        }
    }
}
