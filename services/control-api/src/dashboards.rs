//! Figures of dashboards, kept for as long as counting them took, thirty times over: however many look,
//! and however many users there are, they never take more than a thirtieth of a core
//! (docs/adr/0024).

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::Mutex;
use vpnpanel_domain::{TenantId, Zone, day_of};
use vpnpanel_store::{
    NodeCounts, OnlineCounts, Store, Stretch, TopNode, TopUser, Usage, UserCounts,
};

use crate::Error;

/// Shortest time for which figures are good.
const LEAST: Duration = Duration::from_secs(1);
/// For how many times as long as they took they are.
const TIMES: u32 = 30;
/// Tenants whose figures are kept.
const MOST: u64 = 1_000;
/// Figures that nobody asked for in this time are forgotten.
const IDLE: Duration = Duration::from_secs(600);
/// Rows of a list of those with most.
const TOP: u32 = 10;
const DAY_MS: i64 = 86_400_000;
const QUARTER_MS: i64 = 15 * 60_000;

/// What a dashboard shows.
#[derive(Debug, Clone)]
pub(crate) struct Figures {
    pub(crate) as_of_ms: i64,
    pub(crate) zone: Zone,
    pub(crate) users: UserCounts,
    pub(crate) online: OnlineCounts,
    pub(crate) today: Beside,
    pub(crate) week: Beside,
    pub(crate) month: Beside,
    pub(crate) top_users: Vec<TopUser>,
    pub(crate) top_nodes: Vec<TopNode>,
    pub(crate) nodes: NodeCounts,
    /// Jobs whose last run failed; of the platform alone.
    pub(crate) failed_jobs: u64,
}

/// Traffic beside that of the stretch before.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Beside {
    pub(crate) from_ms: i64,
    pub(crate) now: Usage,
    pub(crate) before: Usage,
}

#[derive(Debug)]
struct Counted {
    figures: Arc<Figures>,
    good_until: Instant,
}

/// The figures that are kept.
#[derive(Debug)]
pub(crate) struct Dashboards {
    store: Store,
    /// Whoever counts holds the lock, and others wait for what comes of it.
    kept: moka::sync::Cache<Option<TenantId>, Arc<Mutex<Option<Counted>>>>,
}

impl Dashboards {
    pub(crate) fn new(store: Store) -> Self {
        let kept = moka::sync::Cache::builder()
            .max_capacity(MOST)
            .time_to_idle(IDLE)
            .build();
        Self { store, kept }
    }

    /// Figures of a tenant, or of all.
    ///
    /// # Errors
    /// Those of the store.
    pub(crate) async fn figures(&self, tenant: Option<TenantId>) -> Result<Arc<Figures>, Error> {
        let place = self.kept.get_with(tenant, Arc::default);
        let mut place = place.lock().await;
        if let Some(counted) = &*place
            && counted.good_until > Instant::now()
        {
            return Ok(Arc::clone(&counted.figures));
        }
        let began = Instant::now();
        let figures = Arc::new(count(&self.store, tenant).await?);
        *place = Some(Counted {
            figures: Arc::clone(&figures),
            good_until: Instant::now() + (began.elapsed() * TIMES).max(LEAST),
        });
        Ok(figures)
    }
}

async fn count(store: &Store, tenant: Option<TenantId>) -> Result<Figures, Error> {
    let zone = match tenant {
        Some(tenant) => store.tenant(tenant).await?.time_zone,
        None => Zone::utc(),
    };
    let now = store.now_ms();
    let midnight = |at| {
        let day = day_of(&zone, at).map_err(|_| Error::Corrupt("a clock out of all calendars"))?;
        Ok::<_, Error>(day.starts_ms)
    };
    let today = midnight(now)?;
    let yesterday = midnight(today - 1)?;
    // Stretches that follow each other share none of the 15 minutes that usage is kept by.
    let quarter = now - now.rem_euclid(QUARTER_MS);
    let (week, month) = (quarter - 7 * DAY_MS, quarter - 30 * DAY_MS);
    let stretch = |from_ms, to_ms| Stretch { from_ms, to_ms };
    let stretches = [
        stretch(today, now),
        stretch(yesterday, yesterday + (now - today)),
        stretch(week, now),
        stretch(week - 7 * DAY_MS, week),
        stretch(month, now),
        stretch(month - 30 * DAY_MS, month),
    ];
    // One after the other: whoever waits for a dashboard takes no more than one connection.
    let sums = store.traffic(tenant, &stretches).await?;
    let beside = |at: usize| Beside {
        from_ms: stretches[at].from_ms,
        now: sums.get(at).copied().unwrap_or_default(),
        before: sums.get(at + 1).copied().unwrap_or_default(),
    };
    let failed_jobs = match tenant {
        Some(_) => 0,
        None => failed_jobs(store).await?,
    };
    Ok(Figures {
        as_of_ms: now,
        users: store.user_counts(tenant).await?,
        online: store.online_counts(tenant, today, week).await?,
        today: beside(0),
        week: beside(2),
        month: beside(4),
        top_users: store.top_users(tenant, now - 6 * DAY_MS, TOP).await?,
        top_nodes: store.top_nodes(tenant, stretches[2], TOP as usize).await?,
        nodes: store.node_counts(tenant).await?,
        failed_jobs,
        zone,
    })
}

async fn failed_jobs(store: &Store) -> Result<u64, Error> {
    let jobs = store.jobs().await?;
    let failed = jobs
        .iter()
        .filter(|job| job.last_run.as_ref().is_some_and(|run| run.error.is_some()));
    Ok(failed.count() as u64)
}
