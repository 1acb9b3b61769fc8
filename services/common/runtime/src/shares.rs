//! What each may have of something at once: whoever takes all of their share leaves the others
//! theirs.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Counts what each `K` has. Clones count together.
#[derive(Debug)]
pub struct Shares<K>(Arc<Counts<K>>);

#[derive(Debug)]
struct Counts<K> {
    each: usize,
    /// Of those who have something: never more than there is to be had.
    taken: Mutex<HashMap<K, usize>>,
}

/// One of what somebody has, until dropped.
pub struct Share<K: Eq + Hash> {
    counts: Arc<Counts<K>>,
    key: K,
}

impl<K: Eq + Hash + Clone> Shares<K> {
    /// `each` for everybody.
    pub fn new(each: usize) -> Self {
        Self(Arc::new(Counts {
            each,
            taken: Mutex::default(),
        }))
    }

    /// One more for `key`; nothing when it has its share already.
    pub fn take(&self, key: K) -> Option<Share<K>> {
        let mut all = self.0.lock();
        let taken = all.get(&key).copied().unwrap_or_default();
        if taken >= self.0.each {
            return None;
        }
        all.insert(key.clone(), taken + 1);
        Some(Share {
            counts: Arc::clone(&self.0),
            key,
        })
    }
}

impl<K> Clone for Shares<K> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K> Counts<K> {
    fn lock(&self) -> MutexGuard<'_, HashMap<K, usize>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Eq + Hash> Drop for Share<K> {
    fn drop(&mut self) {
        let mut all = self.counts.lock();
        if let Some(taken) = all.get_mut(&self.key) {
            *taken -= 1;
            if *taken == 0 {
                all.remove(&self.key);
            }
        }
    }
}

impl<K: Eq + Hash + fmt::Debug> fmt::Debug for Share<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Share").field(&self.key).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_has_their_share_leaves_the_others_theirs() {
        let shares = Shares::new(2);
        let (first, second) = (shares.take("a").unwrap(), shares.take("a").unwrap());
        assert!(shares.take("a").is_none());
        let other = shares.take("b").unwrap();
        drop(first);
        let third = shares.take("a").unwrap();
        drop((second, third, other));
        assert!(shares.0.lock().is_empty(), "none is forgotten");
    }
}
