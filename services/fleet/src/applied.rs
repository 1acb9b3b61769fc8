//! When a change of a user reaches the data planes: one change is watched at a time.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use vpnpanel_domain::UserId;

/// What all engines of the fleet tell of.
#[derive(Debug, Default)]
pub(crate) struct Applied(Mutex<Option<Watched>>);

#[derive(Debug)]
struct Watched {
    user: UserId,
    passes: bool,
    since: Instant,
    seen: Vec<Duration>,
}

impl Applied {
    /// Watches for a user to pass, or to be stopped, from now on.
    pub(crate) fn watch(&self, user: UserId, passes: bool) {
        *self.lock() = Some(Watched {
            user,
            passes,
            since: Instant::now(),
            seen: Vec::new(),
        });
    }

    /// A data plane lets the user pass, or no longer.
    pub(crate) fn saw(&self, user: UserId, passes: bool) {
        if let Some(watched) = &mut *self.lock()
            && watched.user == user
            && watched.passes == passes
        {
            watched.seen.push(watched.since.elapsed());
        }
    }

    /// How many data planes did.
    pub(crate) fn count(&self) -> usize {
        self.lock().as_ref().map_or(0, |watched| watched.seen.len())
    }

    /// Ends the watch; how long each took.
    pub(crate) fn end(&self) -> Vec<Duration> {
        self.lock()
            .take()
            .map_or(Vec::new(), |watched| watched.seen)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Watched>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
