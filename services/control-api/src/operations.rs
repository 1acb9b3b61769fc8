//! Working on operations: batches of users, each made as by CreateUser. Any replica may take any batch;
//! what makes a batch commit once is in the store.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic_types::StatusExt as _;
use tracing::{Instrument as _, info_span, warn};
use vpnpanel_api::user::v1::User;
use vpnpanel_store::{ItemFailure, NewUser, OperationItem, OperationLease, Plan, StoreError};

use crate::{Error, audit, context::Context, handlers};

/// Users that one transaction makes.
const BATCH: u32 = 100;

/// How long a batch may take. Of a replica that dies in the middle of one another takes over then.
const LEASE: Duration = Duration::from_secs(30);

/// How often operations are looked for that were begun elsewhere, or whose turn was put off.
const POLL: Duration = Duration::from_secs(1);

/// How often users are looked for that have no link of a subscription: an older replica made them, or
/// they were deleted when there were none.
const LINK_EVERY: Duration = Duration::from_secs(60);

/// How long an operation waits that could not go on.
const PUT_OFF: Duration = Duration::from_secs(5);

/// Works on operations.
#[derive(Debug, Clone)]
pub struct Operations(Arc<Context>);

impl Operations {
    pub(crate) fn new(context: Arc<Context>) -> Self {
        Self(context)
    }

    /// Works until it is stopped; a batch in hand is ended first.
    pub async fn run(self, stop: CancellationToken) {
        let mut linked = Instant::now();
        while !stop.is_cancelled() {
            match self.work().await {
                Ok(true) => continue,
                Ok(false) => {}
                Err(error) => {
                    warn!(event = "operation.claim_failed", %error, "could not look for operations");
                }
            }
            if linked.elapsed() >= LINK_EVERY {
                linked = Instant::now();
                if let Err(error) = self.0.link_subscriptions().await {
                    warn!(event = "subscription.link_failed", %error, "users are left without a link");
                }
            }
            tokio::select! {
                () = stop.cancelled() => {}
                () = self.0.operations.notified() => {}
                () = tokio::time::sleep(POLL) => {}
            }
        }
    }

    /// Does the next batch of the operation that has waited the longest; answers whether there was one.
    ///
    /// # Errors
    /// When none could be looked for. An operation that cannot go on says so itself.
    pub async fn work(&self) -> Result<bool, Error> {
        let store = &self.0.store;
        let Some(lease) = store.claim_operation(LEASE, audit::describe).await? else {
            return Ok(false);
        };
        let span = info_span!("operation", operation_id = %lease.id, tenant_id = %lease.tenant);
        async {
            let put_off = match self.batch(&lease).await {
                Ok(()) => None,
                Err(Error::Store(StoreError::LeaseLost)) => return Ok(()),
                Err(error) => {
                    warn!(event = "operation.put_off", %error, "an operation could not go on");
                    Some((Status::from(error).message().to_owned(), PUT_OFF))
                }
            };
            let waiting = put_off.as_ref().map(|(why, wait)| (why.as_str(), *wait));
            store.release_operation(&lease, waiting).await
        }
        .instrument(span)
        .await?;
        Ok(true)
    }

    async fn batch(&self, lease: &OperationLease) -> Result<(), Error> {
        let store = &self.0.store;
        let items = store.waiting_items(lease, BATCH).await?;
        let plan = store.plan(lease.tenant, lease.plan_id).await?;
        let mut failures = Vec::new();
        let mut new = Vec::with_capacity(items.len());
        for item in items {
            let number = item.number;
            match self.user(item, &plan) {
                Ok(user) => new.push((number, user)),
                Err(error) => failures.push(failure(number, error)),
            }
        }
        if !new.is_empty() {
            match store.make_operation_users(lease, new.clone()).await {
                Ok(()) => {}
                Err(error) if puts_off(&error) => return Err(error.into()),
                Err(_) => self.one_by_one(lease, new, &mut failures).await?,
            }
        }
        Ok(store.fail_operation_items(lease, &failures).await?)
    }

    /// Finds out which of a batch cannot be made. What keeps one user from being made for a reason
    /// that has nothing to do with it keeps all others too: they are not tried.
    async fn one_by_one(
        &self,
        lease: &OperationLease,
        new: Vec<(u32, NewUser)>,
        failures: &mut Vec<ItemFailure>,
    ) -> Result<(), Error> {
        let mut of_all: Option<StoreError> = None;
        for (number, user) in new {
            if let Some(error) = &of_all {
                failures.push(failure(number, error.clone().into()));
                continue;
            }
            let made = self
                .0
                .store
                .make_operation_users(lease, vec![(number, user)]);
            match made.await {
                Ok(()) => {}
                Err(error) if puts_off(&error) => return Err(error.into()),
                Err(error) => {
                    if concerns_all(&error) {
                        of_all = Some(error.clone());
                    }
                    failures.push(failure(number, error.into()));
                }
            }
        }
        Ok(())
    }

    fn user(&self, item: OperationItem, plan: &Plan) -> Result<NewUser, Error> {
        let user = User {
            username: item.name,
            note: item.note,
            ..User::default()
        };
        let id = item.resource_id.into();
        handlers::user::new_user(&self.0, id, user, Some(plan))
    }
}

/// It may be done later: by whoever has the lease then.
fn puts_off(error: &StoreError) -> bool {
    // StaleVersion: the plan was changed since it was read.
    error.is_transient() || matches!(error, StoreError::LeaseLost | StoreError::StaleVersion)
}

fn concerns_all(error: &StoreError) -> bool {
    matches!(
        error,
        StoreError::LimitReached { .. }
            | StoreError::PlanArchived
            | StoreError::PoolExhausted { .. }
            | StoreError::InvalidReference { .. }
    )
}

/// An error in the words in which CreateUser would have answered it.
fn failure(number: u32, error: Error) -> ItemFailure {
    let status = Status::from(error);
    let reason = status
        .get_error_details()
        .error_info()
        .map(|info| info.reason.clone());
    ItemFailure {
        number,
        reason: reason.unwrap_or_default(),
        message: status.message().to_owned(),
    }
}
