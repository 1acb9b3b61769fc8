//! A tenant with users, and replicas of the scheduler over one database.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use vpnpanel_domain::{Limit, ResetStrategy, SpeedLimit, TenantId, UserId, UserStatus, Zone};
use vpnpanel_runtime::{
    metrics,
    settings::{self, MapEnvironment},
};
use vpnpanel_scheduler::{Metrics, Runner, Settings, SigningKeys, jobs};
use vpnpanel_store::{
    ChangeKind, LogPosition, MakeSigningKey, NewSigningKey, NewTenant, NewUser, Page, Store,
    StoreError, TenantLimits, UserFilter, fresh_id,
};

pub(crate) const JOB: &str = "expire-users";

/// Settings that make a test quick: short leases, small batches.
pub(crate) fn quick() -> Settings {
    let environment: MapEnvironment = [
        ("VPNPANEL_SCHEDULER_POLL_INTERVAL", "10ms"),
        ("VPNPANEL_SCHEDULER_LEASE", "600ms"),
        ("VPNPANEL_SCHEDULER_EXPIRY_INTERVAL", "20ms"),
        ("VPNPANEL_SCHEDULER_EXPIRY_BATCH", "7"),
        ("VPNPANEL_SCHEDULER_PERIOD_INTERVAL", "20ms"),
        ("VPNPANEL_SCHEDULER_PERIOD_BATCH", "7"),
        ("VPNPANEL_SCHEDULER_AUDIT_CHAIN_INTERVAL", "10ms"),
    ]
    .into_iter()
    .collect();
    settings::from_environment(&environment).unwrap()
}

/// What the rotation of signing keys stands on here: keys that sign nothing.
pub(crate) fn keys() -> SigningKeys {
    struct Hollow;
    impl MakeSigningKey for Hollow {
        fn make_signing_key(
            &self,
        ) -> Result<NewSigningKey, Box<dyn std::error::Error + Send + Sync>> {
            Ok(NewSigningKey {
                kid: fresh_id::<UserId>().to_string(),
                public_key: vec![1],
                sealed_private_key: vec![2],
            })
        }
    }
    SigningKeys {
        make: Arc::new(Hollow),
        overlap: Duration::from_secs(1000),
    }
}

/// A tenant with `count` users whose time ends at `expires_at_ms`.
pub(crate) async fn users(store: &Store, count: usize, expires_at_ms: Option<i64>) -> TenantId {
    users_with(store, count, expires_at_ms, ResetStrategy::None).await
}

/// As [`users`], whose quota begins anew.
pub(crate) async fn users_with(
    store: &Store,
    count: usize,
    expires_at_ms: Option<i64>,
    reset_strategy: ResetStrategy,
) -> TenantId {
    let tenant = NewTenant {
        id: fresh_id(),
        name: "tenant".to_owned(),
        time_zone: Zone::utc(),
        limits: TenantLimits::default(),
    };
    let id = tenant.id;
    store.create_tenant(tenant, None).await.unwrap();
    let new = (0..count).map(|_| {
        let user: UserId = fresh_id();
        NewUser {
            id: user,
            username: format!("user-{user}"),
            note: String::new(),
            group_ids: BTreeSet::new(),
            limit: Limit::None,
            speed: SpeedLimit::NONE,
            reset_strategy,
            expires_at_ms,
            on_hold_ms: None,
            plan_id: None,
            plan_version: None,
            next_plan: None,
            device_limit: 0,
            disabled: false,
            devices: Vec::new(),
            subscription: None,
        }
    });
    store.create_users(id, new.collect()).await.unwrap();
    id
}

/// A replica: its loop in a task. Aborting the task is a kill: nothing is rolled up or given back.
pub(crate) fn replica(
    store: Store,
    settings: Settings,
    stop: &CancellationToken,
) -> JoinHandle<()> {
    let metrics = Metrics::register(&metrics::Metrics::new("scheduler"));
    let runner = Runner::new(store, jobs::all(&settings, keys()), settings, metrics);
    let stop = stop.clone();
    tokio::spawn(async move {
        runner.register().await.expect("the job's row");
        runner.run(stop).await;
    })
}

/// Users whose stored status says that they have expired.
pub(crate) async fn expired(store: &Store, tenant: TenantId) -> usize {
    let filter = UserFilter {
        status: Some(UserStatus::Expired),
        ..UserFilter::default()
    };
    store
        .users(tenant, &filter, Page::first(1_000))
        .await
        .unwrap()
        .len()
}

/// Behind the log of `count` users that were made. On Postgres that is not the end of the log
/// right away: transactions of other tests on the same server hold it up.
pub(crate) async fn settled(store: &Store, count: usize) -> LogPosition {
    until(async || changes(store, LogPosition::default()).await.len() == count).await;
    let read = store.changes_since(LogPosition::default(), 1_000).await;
    read.unwrap().position
}

/// How often each user is in the change log since a position.
pub(crate) async fn changes(store: &Store, since: LogPosition) -> Vec<UserId> {
    let mut users = Vec::new();
    let mut position = since;
    loop {
        let read = store.changes_since(position, 1_000).await.unwrap();
        let changed = read
            .changes
            .iter()
            .filter(|change| change.kind == ChangeKind::User);
        users.extend(changed.filter_map(|change| change.user_id));
        position = read.position;
        if !read.more {
            return users;
        }
    }
}

/// Waits until what is looked at is as expected.
pub(crate) async fn until<F: Future<Output = bool>>(mut look: impl FnMut() -> F) {
    let looking = async {
        while !look().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), looking)
        .await
        .expect("it in time");
}

/// The sum of what all kept runs say that they changed.
pub(crate) async fn changed_by_runs(store: &Store) -> u64 {
    changed_by_runs_of(store, JOB).await
}

/// As [`changed_by_runs`], of any job.
pub(crate) async fn changed_by_runs_of(store: &Store, job: &str) -> u64 {
    match store.job_runs(job, Page::first(1_000)).await {
        Ok(runs) => runs.iter().map(|run| run.changed).sum(),
        // no replica lived long enough to make the job's row
        Err(StoreError::NotFound(_)) => 0,
        Err(error) => panic!("{error}"),
    }
}
