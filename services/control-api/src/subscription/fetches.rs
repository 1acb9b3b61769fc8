//! That a subscription was fetched is noted in memory and written down every few seconds for all users
//! at once, never by a fetch.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use vpnpanel_domain::{TenantId, UserId};
use vpnpanel_store::{Fetched, Store, SubscriptionFetch, User};

/// How long a fetch may go unwritten.
const EVERY: Duration = Duration::from_secs(10);
/// Most users whose fetch is noted at a time: some megabytes.
const MAX_NOTED: usize = 20_000;
/// From so many on they are written down at once.
const ENOUGH: usize = MAX_NOTED / 2;
/// Users in one statement.
const AT_ONCE: usize = 1_000;

/// Fetches that are not written down yet. Clones share them.
#[derive(Debug, Clone)]
pub struct SubscriptionFetches {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    store: Store,
    noted: Mutex<Noted>,
    enough: Notify,
}

#[derive(Debug, Default)]
struct Noted {
    fetches: HashMap<(TenantId, UserId), Fetched>,
    /// Fetches for which there was no room.
    dropped: u64,
}

impl SubscriptionFetches {
    pub(crate) fn new(store: Store) -> Self {
        Self {
            inner: Arc::new(Inner {
                store,
                noted: Mutex::default(),
                enough: Notify::new(),
            }),
        }
    }

    /// Notes a fetch by a program of this name.
    pub(crate) fn note(&self, user: &User, client: &str) {
        let at_ms = self.inner.store.now_ms();
        let client = client.chars().filter(|c| !c.is_control()).collect();
        let fetched = Fetched { at_ms, client };
        let mut noted = self.noted();
        let key = (user.tenant_id, user.id);
        if noted.fetches.len() >= MAX_NOTED && !noted.fetches.contains_key(&key) {
            noted.dropped += 1;
            return;
        }
        noted.fetches.insert(key, fetched);
        if noted.fetches.len() == ENOUGH {
            self.inner.enough.notify_one();
        }
    }

    /// Writes down what has been noted, again and again until `stop`, and a last time then. The
    /// database being away is no reason to end.
    pub(crate) async fn keep_writing(self, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                () = self.inner.enough.notified() => {}
                () = tokio::time::sleep(EVERY) => {}
            }
            self.write_down().await;
        }
        self.write_down().await;
    }

    /// Writes down what has been noted since the last time. What cannot be written is noted again.
    pub async fn write_down(&self) {
        let Noted { fetches, dropped } = std::mem::take(&mut *self.noted());
        if dropped > 0 {
            tracing::warn!(
                event = "subscription_fetches_dropped",
                count = dropped,
                "more users fetched their subscription at once than are noted"
            );
        }
        let fetches: Vec<SubscriptionFetch> = fetches
            .into_iter()
            .map(|((tenant_id, user_id), fetched)| SubscriptionFetch {
                tenant_id,
                user_id,
                fetched,
            })
            .collect();
        for some in fetches.chunks(AT_ONCE) {
            if let Err(error) = self.inner.store.note_subscription_fetches(some).await {
                tracing::warn!(event = "subscription_fetches_not_noted", error = %error);
                self.note_again(some);
            }
        }
    }

    /// What came meanwhile is newer.
    fn note_again(&self, fetches: &[SubscriptionFetch]) {
        let mut noted = self.noted();
        let room = MAX_NOTED.saturating_sub(noted.fetches.len());
        for fetch in fetches.iter().take(room) {
            let key = (fetch.tenant_id, fetch.user_id);
            let kept = noted.fetches.entry(key);
            kept.or_insert_with(|| fetch.fetched.clone());
        }
    }

    fn noted(&self) -> std::sync::MutexGuard<'_, Noted> {
        // A panic while the lock was held leaves a map that is right all the same.
        self.inner
            .noted
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
