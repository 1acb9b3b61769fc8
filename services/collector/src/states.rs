//! How nodes are, on its way into the database. Streams say it as often as they like; twice a second
//! the newest of each node is written, for all nodes together. What is lost with the process is said
//! again by the next Health.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio_util::sync::CancellationToken;
use tracing::warn;
use vpnpanel_domain::NodeId;
use vpnpanel_link::{AppliedState, ConfigError, EngineStatus, Generation, Health, Pace, Revision};
use vpnpanel_store::{
    Answered, Engine, Liveness, Progress, ResourceError, Store, StoreError, good_for_ms,
};

/// Between two writes.
const FLUSH: Duration = Duration::from_millis(500);
/// How often it is written of a node that it is still as it was.
const STILL_MS: i64 = 15_000;

/// Collects states of nodes; clones share what they collect.
#[derive(Debug, Clone)]
pub(crate) struct States {
    collector: Arc<str>,
    /// How long a sign of life is good.
    good_for_ms: i64,
    pending: Arc<Mutex<HashMap<NodeId, Pending>>>,
    /// What was noted last of the nodes that have a stream here.
    noted: Arc<Mutex<HashMap<NodeId, Noted>>>,
}

#[derive(Debug, Clone, Copy)]
struct Noted {
    generation: Generation,
    /// Of its health.
    hash: u64,
    at_ms: i64,
}

/// What is new of a node since the last write.
#[derive(Debug, Default)]
struct Pending {
    generation: Generation,
    alive: Option<Liveness>,
    told: Option<Revision>,
    applied: Option<Answered>,
    gone: bool,
}

/// The newer answer, with what still stands of the one before.
fn after(before: Option<Answered>, newer: Answered) -> Answered {
    let stands = before.filter(|before| before.state.digest == newer.state.digest);
    let errors = newer.errors.or_else(|| stands?.errors);
    Answered { errors, ..newer }
}

impl States {
    /// `collector` names this process in the rows of its nodes; `pace` is how often they speak.
    pub(crate) fn new(collector: &str, pace: Pace) -> Self {
        Self {
            collector: Arc::from(collector),
            good_for_ms: good_for_ms(pace),
            pending: Arc::default(),
            noted: Arc::default(),
        }
    }

    pub(crate) fn collector(&self) -> Arc<str> {
        Arc::clone(&self.collector)
    }

    /// The node is alive and well, or not so well.
    pub(crate) fn alive(
        &self,
        node: NodeId,
        generation: Generation,
        agent_version: &str,
        health: Health,
        now_ms: i64,
    ) {
        let noted = Noted {
            generation,
            hash: hash(&health),
            at_ms: now_ms,
        };
        if !self.is_news(node, noted) {
            return;
        }
        self.note(node, generation, |pending| {
            pending.alive = Some(Liveness {
                node_id: node,
                generation,
                seen_at_ms: now_ms,
                good_until_ms: now_ms.saturating_add(self.good_for_ms),
                agent_version: agent_version.to_owned(),
                engines: health.engines.into_iter().map(engine).collect(),
                unacked_batches: health.unacked_batches,
                unacked_bytes: health.unacked_bytes,
            });
        });
    }

    /// The node was sent a desired state.
    pub(crate) fn told(&self, node: NodeId, generation: Generation, revision: Revision) {
        self.note(node, generation, |pending| pending.told = Some(revision));
    }

    /// The node answered one; without `errors`, what it answered to the same content stands.
    pub(crate) fn applied(
        &self,
        node: NodeId,
        generation: Generation,
        state: AppliedState,
        settled: bool,
        errors: Option<Vec<ConfigError>>,
    ) {
        let errors = errors.map(|errors| {
            let errors = errors.into_iter().map(|error| ResourceError {
                kind: error.kind,
                id: error.id,
                message: error.message,
            });
            errors.collect()
        });
        self.note(node, generation, |pending| {
            let answered = Answered {
                state,
                settled,
                errors,
            };
            pending.applied = Some(after(pending.applied.take(), answered));
        });
    }

    /// The node's stream has ended.
    pub(crate) fn gone(&self, node: NodeId, generation: Generation) {
        let mut all = lock(&self.noted);
        if all
            .get(&node)
            .is_some_and(|noted| noted.generation <= generation)
        {
            all.remove(&node);
        }
        drop(all);
        self.note(node, generation, |pending| pending.gone = true);
    }

    /// Most of what nodes say is what they have said before.
    fn is_news(&self, node: NodeId, now: Noted) -> bool {
        let mut all = lock(&self.noted);
        let is_known = all.get(&node).is_some_and(|before| {
            (before.generation, before.hash) == (now.generation, now.hash)
                && now.at_ms.saturating_sub(before.at_ms) < STILL_MS
        });
        if !is_known {
            all.insert(node, now);
        }
        !is_known
    }

    /// What an older stream says after a newer one was heard is dropped; what it said before is
    /// replaced.
    fn note(&self, node: NodeId, generation: Generation, how: impl FnOnce(&mut Pending)) {
        let mut all = self.lock();
        let pending = all.entry(node).or_default();
        if pending.generation > generation {
            return;
        }
        if pending.generation < generation {
            *pending = Pending {
                generation,
                // The newer stream does not say again what the node refused.
                applied: pending.applied.take(),
                ..Pending::default()
            };
        }
        how(pending);
    }

    /// Writes until `stop`, and once more.
    pub(crate) async fn write(self, store: Store, stop: CancellationToken) {
        loop {
            let stopping = tokio::select! {
                () = stop.cancelled() => true,
                () = tokio::time::sleep(FLUSH) => false,
            };
            if let Err(error) = self.flush(&store).await {
                warn!(event = "states.unwritten", %error, "states of nodes could not be written");
            }
            if stopping {
                return;
            }
        }
    }

    async fn flush(&self, store: &Store) -> Result<(), StoreError> {
        let pending = std::mem::take(&mut *self.lock());
        if pending.is_empty() {
            return Ok(());
        }
        let result = write_all(store, &pending).await;
        if result.is_err() {
            self.put_back(pending);
        }
        result
    }

    /// What could not be written is older than what has come meanwhile.
    fn put_back(&self, unwritten: HashMap<NodeId, Pending>) {
        let mut all = self.lock();
        for (node, older) in unwritten {
            let newer = all.entry(node).or_default();
            if newer.generation > older.generation {
                continue;
            }
            newer.generation = older.generation;
            newer.alive = newer.alive.take().or(older.alive);
            newer.told = newer.told.or(older.told);
            newer.applied = match newer.applied.take() {
                Some(answer) => Some(after(older.applied, answer)),
                None => older.applied,
            };
            newer.gone |= older.gone;
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<NodeId, Pending>> {
        lock(&self.pending)
    }
}

/// Every change leaves the maps whole.
fn lock<T>(map: &Mutex<T>) -> MutexGuard<'_, T> {
    map.lock().unwrap_or_else(PoisonError::into_inner)
}

fn hash(health: &Health) -> u64 {
    let mut hasher = DefaultHasher::new();
    health.hash(&mut hasher);
    hasher.finish()
}

async fn write_all(store: &Store, pending: &HashMap<NodeId, Pending>) -> Result<(), StoreError> {
    let alive: Vec<Liveness> = pending
        .values()
        .filter_map(|one| one.alive.clone())
        .collect();
    let progress: Vec<Progress> = pending
        .iter()
        .filter(|(_, one)| one.told.is_some() || one.applied.is_some())
        .map(|(node, one)| Progress {
            node_id: *node,
            generation: one.generation,
            told: one.told,
            applied: one.applied.clone(),
        })
        .collect();
    let gone: Vec<(NodeId, Generation)> = pending
        .iter()
        .filter(|(_, one)| one.gone)
        .map(|(node, one)| (*node, one.generation))
        .collect();
    if !alive.is_empty() {
        store.record_liveness(&alive).await?;
    }
    if !progress.is_empty() {
        store.record_progress(&progress).await?;
    }
    if !gone.is_empty() {
        store.record_disconnected(&gone).await?;
    }
    Ok(())
}

fn engine(engine: EngineStatus) -> Engine {
    Engine {
        kind: engine.kind,
        version: engine.version,
        healthy: engine.healthy,
        problem: engine.problem,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_is_still_as_it_was_is_written_now_and_then() {
        let states = States::new("here", Pace::default());
        let node = NodeId::from_parts(1, [1; 10]);
        let said = |generation: u64, unacked_batches: u64, now_ms: i64| {
            let health = Health {
                unacked_batches,
                ..Health::default()
            };
            states.alive(node, Generation(generation), "1", health, now_ms);
            std::mem::take(&mut *states.lock()).contains_key(&node)
        };
        assert!(said(1, 0, 0) && !said(1, 0, STILL_MS - 1));
        assert!(said(1, 0, STILL_MS), "now and then");
        assert!(said(1, 1, STILL_MS + 1), "what has changed at once");
        assert!(said(2, 1, STILL_MS + 2), "and a new stream");
        states.gone(node, Generation(2));
        assert!(lock(&states.noted).is_empty());
    }
}
