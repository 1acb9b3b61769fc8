//! Whose turn it is to shake hands. Each address has few turns of its own, so that whoever begins
//! handshakes and leaves them lying waits behind itself, and not the others behind it.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::subscriber;

/// The turns of one listener.
#[derive(Debug)]
pub(super) struct Turns {
    all: Arc<Semaphore>,
    per_address: usize,
    /// Of addresses with somebody in a turn or waiting for one; as many as there are connections
    /// at most.
    queues: Mutex<HashMap<IpAddr, Arc<Semaphore>>>,
}

/// A turn, ended when dropped.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    turns: &'a Turns,
    address: IpAddr,
    queue: Option<Arc<Semaphore>>,
    _own: Option<OwnedSemaphorePermit>,
    _all: Option<OwnedSemaphorePermit>,
}

impl Turns {
    pub(super) fn new(all: usize, per_address: usize) -> Self {
        Self {
            all: Arc::new(Semaphore::new(all)),
            per_address,
            queues: Mutex::default(),
        }
    }

    pub(super) async fn take(&self, address: IpAddr) -> Turn<'_> {
        let address = subscriber(address);
        let queue = self.queue(address);
        // Made before the first wait: whoever gives up waiting leaves no queue behind.
        let mut turn = Turn {
            turns: self,
            address,
            queue: Some(Arc::clone(&queue)),
            _own: None,
            _all: None,
        };
        // Closed never: the semaphores live as long as whoever waits for them.
        turn._own = queue.acquire_owned().await.ok();
        turn._all = Arc::clone(&self.all).acquire_owned().await.ok();
        turn
    }

    fn queue(&self, address: IpAddr) -> Arc<Semaphore> {
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        let queue = queues
            .entry(address)
            .or_insert_with(|| Arc::new(Semaphore::new(self.per_address)));
        Arc::clone(queue)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self._own = None;
        let mut queues = self
            .turns
            .queues
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        self.queue = None;
        // Under the lock nobody new comes in: the map's own is the last.
        if queues
            .get(&self.address)
            .is_some_and(|queue| Arc::strong_count(queue) == 1)
        {
            queues.remove(&self.address);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_waits_behind_itself_alone() {
        let turns = Turns::new(8, 2);
        let held = [ip("2001:db8::1"), ip("2001:db8::2")]
            .map(|address| turns.take(address).now_or_never().unwrap());
        assert!(turns.take(ip("2001:db8::3")).now_or_never().is_none());
        let other = turns.take(ip("192.0.2.1")).now_or_never().unwrap();
        drop(held);
        assert!(turns.take(ip("2001:db8::3")).now_or_never().is_some());
        drop(other);
        assert!(turns.queues.lock().unwrap().is_empty(), "none is forgotten");
    }
}
