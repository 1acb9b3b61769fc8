//! Remembers what roles permit. Any [`Policy`] can stand behind it: the database, or a cache that
//! replicas share.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;

use crate::{PermissionSet, Policy, SourceError};

/// Most roles that are remembered; names that no role has count too.
const MAX_ROLES: u64 = 1_000;

type Known = Option<Arc<PermissionSet>>;

/// A policy in front of another one, whose answers it remembers for a few seconds: the bound on
/// how long a change that nobody told of goes unnoticed. [`PolicyCache::changed`] tells.
#[derive(Clone)]
pub struct PolicyCache {
    source: Arc<dyn Policy>,
    /// By the number of changes before the answer was asked for: an answer that was under way
    /// when a change was told of is asked for again.
    known: moka::future::Cache<(u64, String), Known>,
    changes: Arc<AtomicU64>,
}

impl std::fmt::Debug for PolicyCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PolicyCache")
            .field("entries", &self.known.entry_count())
            .finish_non_exhaustive()
    }
}

impl PolicyCache {
    /// Remembers what `source` says for `time_to_live`.
    pub fn new(source: Arc<dyn Policy>, time_to_live: Duration) -> Self {
        let known = moka::future::Cache::builder()
            .max_capacity(MAX_ROLES)
            .time_to_live(time_to_live)
            .build();
        Self {
            source,
            known,
            changes: Arc::default(),
        }
    }

    /// Forgets everything: some role was made, changed or deleted, here or elsewhere.
    pub fn changed(&self) {
        self.changes.fetch_add(1, Ordering::SeqCst);
        self.known.invalidate_all();
    }
}

#[async_trait]
impl Policy for PolicyCache {
    async fn permissions(&self, role: &str) -> Result<Known, SourceError> {
        let key = (self.changes.load(Ordering::SeqCst), role.to_owned());
        self.known
            .try_get_with(key, self.source.permissions(role))
            .await
            .map_err(|error: Arc<SourceError>| error.to_string().into())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, atomic::AtomicUsize};

    use tokio::sync::Notify;

    use super::*;

    /// One role, whose permission changes.
    #[derive(Default)]
    struct Source {
        permission: Mutex<&'static str>,
        asked: AtomicUsize,
        asked_once: Notify,
        answer: Option<Arc<Notify>>,
    }

    #[async_trait]
    impl Policy for Source {
        async fn permissions(&self, role: &str) -> Result<Known, SourceError> {
            let read = *self.permission.lock().unwrap();
            if self.asked.fetch_add(1, Ordering::SeqCst) == 0 {
                self.asked_once.notify_one();
                if let Some(answer) = &self.answer {
                    answer.notified().await;
                }
            }
            match role {
                "some" => Ok(Some(Arc::new([read.to_owned()].into()))),
                "broken" => Err("no database".into()),
                _ => Ok(None),
            }
        }
    }

    async fn permitted(cache: &PolicyCache) -> String {
        let set = cache.permissions("some").await.unwrap().unwrap();
        set.iter().cloned().collect()
    }

    fn cache(source: &Arc<Source>) -> PolicyCache {
        PolicyCache::new(Arc::clone(source) as _, Duration::from_secs(3600))
    }

    #[tokio::test]
    async fn answers_are_remembered_until_a_change_is_told_of() {
        let source = Arc::new(Source::default());
        let cache = cache(&source);
        *source.permission.lock().unwrap() = "user.read";
        for _ in 0..3 {
            assert_eq!(permitted(&cache).await, "user.read");
        }
        assert_eq!(source.asked.load(Ordering::SeqCst), 1);
        *source.permission.lock().unwrap() = "user.write";
        cache.changed();
        assert_eq!(permitted(&cache).await, "user.write");
    }

    #[tokio::test]
    async fn failures_are_not_remembered_and_unknown_roles_permit_nothing() {
        let source = Arc::new(Source::default());
        let cache = cache(&source);
        for asked in 1..3 {
            assert!(cache.permissions("broken").await.is_err());
            assert_eq!(source.asked.load(Ordering::SeqCst), asked);
        }
        assert!(cache.permissions("root").await.unwrap().is_none());
    }

    #[tokio::test]
    async fn an_answer_that_was_under_way_during_a_change_is_not_kept() {
        let answer = Arc::new(Notify::new());
        let source = Arc::new(Source {
            permission: Mutex::new("user.write"),
            answer: Some(Arc::clone(&answer)),
            ..Source::default()
        });
        let cache = cache(&source);
        let reader = tokio::spawn({
            let cache = cache.clone();
            async move { permitted(&cache).await }
        });
        source.asked_once.notified().await;
        *source.permission.lock().unwrap() = "user.read";
        cache.changed();
        answer.notify_one();
        assert_eq!(reader.await.unwrap(), "user.write", "it asked before");
        assert_eq!(permitted(&cache).await, "user.read");
    }
}
